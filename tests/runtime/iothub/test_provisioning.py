"""Who is let in by the provisioning service, as what, and what happens to a device that comes again."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from messaging.errors import IotHubError
from messaging.identity import Identity
from messaging.sas import decode_key, make_token
from runtime.iothub.enrollments import derived_key
from runtime.iothub.hub import IotHub
from runtime.iothub.provisioning import OWES_TWIN, REGISTRATION, Provisioning
from tests.integration.device_certificates import issue
from tests.runtime.iothub.fakes import HOST, LIMIT_S, FakeDevice, opened, token_of

KEY = base64.b64encode(b"k" * 32).decode()
OTHER_KEY = base64.b64encode(b"o" * 32).decode()
KEYS = {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY, "secondaryKey": OTHER_KEY}}
TWIN = {"tags": {"site": "north"}, "properties": {"desired": {"interval": 5}}}

Test = Callable[[Provisioning, IotHub], Coroutine[Any, Any, None]]


@asynccontextmanager
async def service(folder: Path) -> Any:
    async with opened(folder) as (hub, clock), asyncio.timeout(LIMIT_S):
        clock.advance(time.time() - clock.now_s())  # certificates of this test are valid today
        yield await Provisioning.open(hub, HOST, clock), hub


def run(folder: Path, test: Test) -> None:
    async def main() -> None:
        async with service(folder) as (provisioning, hub):
            await test(provisioning, hub)

    asyncio.run(main())


def token(provisioning: Provisioning, name: str, key: str, seconds: float = 60, scope: str = "") -> str:
    audience = f"{scope or provisioning.id_scope}/registrations/{name}"
    return make_token(audience, decode_key(key), int(time.time() + seconds), "registration")


async def registered(provisioning: Provisioning, name: str, key: str = KEY) -> dict[str, Any]:
    """Register by a key and return how it went."""
    registrant = provisioning.authenticate(provisioning.id_scope, name, token(provisioning, name, key), ())
    began = await provisioning.register(registrant)
    assert began["status"] == "assigning"
    ended = await provisioning.operation(registrant, began["operationId"])
    assert ended["status"] == ended["registrationState"]["status"]
    state: dict[str, Any] = ended["registrationState"]
    return state


def test_a_device_is_registered_with_the_keys_capability_and_twin_of_its_enrollment(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        body = {
            "attestation": KEYS,
            "deviceId": "pump",
            "capabilities": {"iotEdge": True},
            "initialTwin": TWIN,
        }
        await provisioning.put("enrollment", "r1", body, None)

        state = await registered(provisioning, "r1")

        assert (state["deviceId"], state["assignedHub"]) == ("pump", HOST)
        assert (state["registrationId"], state["substatus"]) == ("r1", "initialAssignment")
        device = await hub.find(Identity("pump"))
        assert (device.authentication.primary_key, device.authentication.secondary_key) == (KEY, OTHER_KEY)
        assert device.is_edge
        twin = await hub.twin(Identity("pump"))
        assert (twin["tags"], twin["properties"]["desired"]["interval"]) == ({"site": "north"}, 5)
        await hub.authenticate(Identity("pump"), await token_of(hub, Identity("pump")), None)

    run(tmp_path, test)


@pytest.mark.parametrize("which", ["primaryKey", "secondaryKey"])
def test_a_device_of_a_group_registers_with_either_derived_key(tmp_path: Path, which: str) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollmentGroup", "other", {"attestation": {"type": "symmetricKey"}}, None)
        await provisioning.put("enrollmentGroup", "fleet", {"attestation": KEYS}, None)

        state = await registered(provisioning, "Dev-1", derived_key(KEYS["symmetricKey"][which], "dev-1"))  # type: ignore[index]

        assert (state["status"], state["deviceId"]) == ("assigned", "Dev-1")
        keys = (await hub.find(Identity("Dev-1"))).authentication
        assert keys.primary_key == derived_key(KEY, "dev-1")

    run(tmp_path, test)


def test_an_individual_enrollment_counts_alone_also_a_disabled_one(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollmentGroup", "fleet", {"attestation": KEYS}, None)
        off = {"attestation": {"type": "symmetricKey"}, "provisioningStatus": "disabled"}
        own = await provisioning.put("enrollment", "dev-1", off, None)
        assert own.attestation.symmetric_key

        with pytest.raises(IotHubError, match="signed with a key") as refused:
            await registered(provisioning, "dev-1", derived_key(KEY, "dev-1"))
        state = await registered(provisioning, "dev-1", own.attestation.symmetric_key.primary_key)

        assert refused.value.code == 401002
        assert (state["status"], state["errorMessage"]) == ("disabled", "enrollment 'dev-1' is disabled")
        with pytest.raises(IotHubError):
            await hub.find(Identity("dev-1"))

    run(tmp_path, test)


REFUSED = {
    "another scope": ({"scope": "0neFFFFFFFF"}, {}, 404001),
    "no enrollment": ({"name": "nobody"}, {}, 404201),
    "no proof": ({"token": None}, {}, 401002),
    "no token": ({"token": "SharedAccessSignature nonsense"}, {}, 401002),
    "another key": ({}, {"key": base64.b64encode(b"x" * 32).decode()}, 401002),
    "expired": ({}, {"seconds": -400}, 401002),
    "token of another device": ({}, {"name": "r2"}, 401002),
    "token for another scope": ({}, {"scope": "0ne00000000"}, 401002),
    "id outside the grammar": ({"name": "a b"}, {}, 400004),
}


@pytest.mark.parametrize(("asked", "signed", "code"), REFUSED.values(), ids=list(REFUSED))
def test_who_has_no_proof_is_refused(
    tmp_path: Path, asked: dict[str, Any], signed: dict[str, Any], code: int
) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollment", "r1", {"attestation": KEYS}, None)
        text = token(provisioning, **{"name": "r1", "key": KEY, **signed})

        with pytest.raises(IotHubError) as refused:
            provisioning.authenticate(
                asked.get("scope", provisioning.id_scope),
                asked.get("name", "r1"),
                asked.get("token", text),
                (),
            )

        assert refused.value.code == code
        assert KEY not in str(refused.value)

    run(tmp_path, test)


AGAIN = {
    "migrate keeps the twin": (
        {"updateHubAssignment": True, "migrateDeviceData": True},
        ("deviceDataMigrated", {"interval": 9}, {"site": "south"}),
    ),
    "reset starts it anew": (
        {"updateHubAssignment": True, "migrateDeviceData": False},
        ("deviceDataReset", {"interval": 5}, {"site": "north"}),
    ),
    "never leaves all as it is": (
        {"updateHubAssignment": False, "migrateDeviceData": False},
        ("initialAssignment", {"interval": 9}, {"site": "south"}),
    ),
}


@pytest.mark.parametrize(("policy", "expected"), AGAIN.values(), ids=list(AGAIN))
def test_a_device_that_registers_again_is_treated_by_its_policy(
    tmp_path: Path, policy: dict[str, bool], expected: tuple[str, dict[str, Any], dict[str, Any]]
) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        body = {"attestation": KEYS, "initialTwin": TWIN, "reprovisionPolicy": policy}
        await provisioning.put("enrollment", "r1", body, None)
        first = await registered(provisioning, "r1")
        change = {"tags": {"site": "south"}, "properties": {"desired": {"interval": 9}}}
        await hub.patch_twin(Identity("r1"), change)
        rolled = {"type": "symmetricKey", "symmetricKey": {"primaryKey": OTHER_KEY, "secondaryKey": KEY}}
        await provisioning.put("enrollment", "r1", body | {"attestation": rolled}, "*")

        second = await registered(provisioning, "r1", OTHER_KEY)

        twin = await hub.twin(Identity("r1"))
        desired = {name: value for name, value in twin["properties"]["desired"].items() if name[0] != "$"}
        assert (second["substatus"], desired, twin["tags"]) == expected
        assert second["createdDateTimeUtc"] == first["createdDateTimeUtc"]
        key = (await hub.find(Identity("r1"))).authentication.primary_key
        assert key == (OTHER_KEY if policy["updateHubAssignment"] else KEY)

    run(tmp_path, test)


def test_a_device_that_was_deleted_in_the_hub_is_made_anew_with_its_initial_twin(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        never = {"updateHubAssignment": False, "migrateDeviceData": False}
        body = {"attestation": KEYS, "initialTwin": TWIN, "reprovisionPolicy": never}
        await provisioning.put("enrollment", "r1", body, None)
        await registered(provisioning, "r1")
        await hub.delete(Identity("r1"))

        state = await registered(provisioning, "r1")

        assert state["substatus"] == "initialAssignment"
        assert (await hub.twin(Identity("r1")))["tags"] == {"site": "north"}

    run(tmp_path, test)


def test_a_registration_that_was_cut_short_still_brings_the_initial_twin(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollment", "r1", {"attestation": KEYS, "initialTwin": TWIN}, None)
        await registered(provisioning, "r1")
        # As it is on disk when the power goes between device and twin.
        await hub.replace_twin(Identity("r1"), {"tags": {}, "properties": {"desired": {}}})
        record = await hub.document(REGISTRATION, "r1")
        assert record is not None
        for name in ("assignedHub", "substatus"):
            del record[name]
        await hub.save_document(REGISTRATION, "r1", {**record, "status": "assigning", OWES_TWIN: True})

        await registered(provisioning, "r1")

        assert (await hub.twin(Identity("r1")))["tags"] == {"site": "north"}

    run(tmp_path, test)


def test_a_device_that_was_there_before_keeps_its_twin(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await hub.put(Identity("r1"), {})
        await hub.patch_twin(Identity("r1"), {"tags": {"site": "mine"}})
        await provisioning.put("enrollment", "r1", {"attestation": KEYS, "initialTwin": TWIN}, None)

        state = await registered(provisioning, "r1")

        assert state["substatus"] == "initialAssignment"
        assert (await hub.twin(Identity("r1")))["tags"] == {"site": "mine"}
        assert (await hub.find(Identity("r1"))).authentication.primary_key == KEY

    run(tmp_path, test)


def test_what_the_hub_refuses_is_a_failed_registration(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollment", "r1", {"attestation": KEYS}, None)
        original = hub.put

        async def refuse(*arguments: Any, **settings: Any) -> Any:
            raise IotHubError(403002, "IotHubQuotaExceeded", "the hub is full")

        hub.put = refuse  # type: ignore[method-assign]
        state = await registered(provisioning, "r1")
        hub.put = original  # type: ignore[method-assign]

        assert (state["status"], state["errorCode"]) == ("failed", 403002)
        assert (await registered(provisioning, "r1"))["status"] == "assigned"

    run(tmp_path, test)


def test_enrollments_scope_and_operations_outlive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path) as (provisioning, _):
            await provisioning.put("enrollment", "R1", {"attestation": KEYS}, None)
            scope = provisioning.id_scope
            registrant = provisioning.authenticate(scope, "r1", token(provisioning, "r1", KEY), ())
            operation_id = (await provisioning.register(registrant))["operationId"]
        async with service(tmp_path) as (provisioning, _):
            assert provisioning.id_scope == scope
            again = provisioning.authenticate(scope, "r1", token(provisioning, "r1", KEY), ())
            assert (await provisioning.operation(again, operation_id))["status"] == "assigned"
            with pytest.raises(IotHubError) as unknown:
                await provisioning.operation(again, "4.nonsense")
            assert unknown.value.code == 404202

    asyncio.run(main())


def test_an_enrollment_changes_only_for_who_has_seen_it(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        body = {"attestation": KEYS}
        first = await provisioning.put("enrollment", "r1", body, None)

        codes = []
        for name, if_match in (("r1", None), ("r1", '"old"'), ("r2", '"old"')):
            with pytest.raises(IotHubError) as refused:
                await provisioning.put("enrollment", name, body, if_match)
            codes.append(refused.value.code)
        with pytest.raises(IotHubError) as kept:
            await provisioning.delete("enrollment", "r1", '"old"')
        await provisioning.put("enrollment", "r1", body, first.etag)

        assert codes == [409201, 412001, 404201]
        assert kept.value.code == 412001

    run(tmp_path, test)


def test_a_deleted_enrollment_takes_its_records_along_and_leaves_the_device(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollmentGroup", "fleet", {"attestation": KEYS}, None)
        await registered(provisioning, "dev-1", derived_key(KEY, "dev-1"))

        await provisioning.delete("enrollmentGroup", "FLEET", "*")

        assert provisioning.list("enrollmentGroup") == []
        with pytest.raises(IotHubError, match="has not registered"):
            await provisioning.registration("dev-1")
        assert (await hub.find(Identity("dev-1"))).status == "enabled"

    run(tmp_path, test)


ROOT = issue("root", is_ca=True)
OLD_ROOT = issue("old root", is_ca=True, days=(-30, -1))
MIDDLE = issue("middle", ROOT, is_ca=True)
OWN = issue("dev-1")

CHAINS = {
    "its own": ([OWN], "enrollment", OWN, ""),
    "its own, twice": ([issue("dev-1")], "enrollment", OWN, "not the one enrolled"),
    "another name": ([issue("dev-2", ROOT)], "enrollmentGroup", ROOT, "common name is 'dev-2'"),
    "of the root": ([issue("DEV-1", ROOT)], "enrollmentGroup", ROOT, ""),
    "of the middle": ([issue("dev-1", MIDDLE), MIDDLE], "enrollmentGroup", ROOT, ""),
    "of the middle, enrolled": ([issue("dev-1", MIDDLE)], "enrollmentGroup", MIDDLE, ""),
    "of the middle, not sent": ([issue("dev-1", MIDDLE)], "enrollmentGroup", ROOT, "not issued"),
    "of one that is no authority": (
        [issue("dev-1", OWN), OWN], "enrollmentGroup", ROOT, "not issued"
    ),
    "through one that is no authority": (
        [issue("dev-1", leaf := issue("leaf", ROOT)), leaf], "enrollmentGroup", ROOT, "not issued"
    ),
    "of a stranger": ([issue("dev-1", issue("stranger", is_ca=True))], "enrollmentGroup", ROOT, "not issued"),
    "of a namesake": ([issue("dev-1", issue("root", is_ca=True))], "enrollmentGroup", ROOT, "not issued"),
    "expired": ([issue("dev-1", ROOT, days=(-9, -1))], "enrollmentGroup", ROOT, "set the clock"),
    "not yet valid": ([issue("dev-1", ROOT, days=(2, 9))], "enrollmentGroup", ROOT, "set the clock"),
    "of an expired root": ([issue("dev-1", OLD_ROOT)], "enrollmentGroup", OLD_ROOT, "set the clock"),
}  # fmt: skip


@pytest.mark.parametrize(("chain", "kind", "enrolled", "problem"), CHAINS.values(), ids=list(CHAINS))
def test_a_certificate_proves_what_its_chain_says(
    tmp_path: Path, chain: list[Any], kind: Any, enrolled: Any, problem: str
) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        member = "clientCertificates" if kind == "enrollment" else "signingCertificates"
        x509 = {member: {"primary": {"certificate": enrolled.pem}}}
        name = "dev-1" if kind == "enrollment" else "line"
        await provisioning.put(kind, name, {"attestation": {"type": "x509", "x509": x509}}, None)
        ders = [pair.der for pair in chain]

        if problem:
            with pytest.raises(IotHubError, match=problem) as refused:
                provisioning.authenticate(provisioning.id_scope, "dev-1", "", ders)
            assert refused.value.code == 401002
            return
        registrant = provisioning.authenticate(provisioning.id_scope, "dev-1", "", ders)
        await provisioning.register(registrant)

        grant = await hub.authenticate(Identity("dev-1"), None, ders[0])
        assert grant.identity == Identity("dev-1")

    run(tmp_path, test)


BAD_CERTIFICATES = {
    "a leaf as a group's authority": (
        "enrollmentGroup",
        "line",
        OWN.pem,
        "not the certificate of an authority",
    ),
    "another device's": ("enrollment", "dev-2", OWN.pem, "common name is 'dev-1'"),
    "rubbish": ("enrollment", "dev-1", base64.b64encode(b"rubbish").decode(), "damaged"),
}


@pytest.mark.parametrize(
    ("kind", "name", "certificate", "problem"), BAD_CERTIFICATES.values(), ids=list(BAD_CERTIFICATES)
)
def test_a_certificate_that_could_let_nobody_in_is_not_enrolled(
    tmp_path: Path, kind: Any, name: str, certificate: str, problem: str
) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        member = "clientCertificates" if kind == "enrollment" else "signingCertificates"
        x509 = {member: {"primary": {"certificate": certificate}}}

        with pytest.raises(IotHubError, match=problem) as refused:
            await provisioning.put(kind, name, {"attestation": {"type": "x509", "x509": x509}}, None)

        assert refused.value.status == 400

    run(tmp_path, test)


def test_a_connected_device_whose_key_was_rolled_is_cut_off_by_its_next_registration(tmp_path: Path) -> None:
    async def test(provisioning: Provisioning, hub: IotHub) -> None:
        await provisioning.put("enrollment", "r1", {"attestation": KEYS}, None)
        await registered(provisioning, "r1")
        device = await FakeDevice.connect(hub, "r1")
        rolled = {"type": "symmetricKey", "symmetricKey": {"primaryKey": OTHER_KEY, "secondaryKey": KEY}}
        await provisioning.put("enrollment", "r1", {"attestation": rolled}, "*")

        await registered(provisioning, "r1", OTHER_KEY)

        assert (await device.next())[0] == "cut off"

    run(tmp_path, test)
