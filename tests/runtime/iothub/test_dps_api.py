"""The provisioning service over HTTP: paths, statuses and error bodies, without a socket."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from messaging.sas import decode_key, make_token
from runtime.iothub.cloud_process import authorize
from runtime.iothub.dps_api import DpsApi
from runtime.iothub.hub import IotHub
from runtime.iothub.provisioning import Provisioning
from runtime.net.web_listener import WebRequest
from tests.runtime.iothub.fakes import HOST, LIMIT_S, opened

KEY = base64.b64encode(b"k" * 32).decode()
BODY = {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}}
VERSION = "?api-version=2021-10-01"


class Caller:
    """Makes requests as a service or as a device."""

    def __init__(self, service: Provisioning, hub: IotHub, api: DpsApi) -> None:
        self.service = service
        self.hub = hub
        self.api = api

    async def ask(
        self, method: str, target: str, body: object = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        sent = tuple((name.lower().replace("_", "-"), value) for name, value in headers.items())
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        response = await self.api.answer(WebRequest(method, target, sent, data, "test:1", ()))
        return response.status, json.loads(response.body) if response.body else None, dict(response.headers)

    async def serve(
        self, method: str, path: str, body: object = None, policy: str = "iothubowner", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Ask as a service."""
        key = self.hub.policies.find(policy).keys[0]
        token = make_token(HOST, key, int(self.hub.clock.now_s()) + 60, policy)
        return await self.ask(method, path + VERSION, body, Authorization=token, **headers)

    def token(self, name: str = "r1", key: str = KEY) -> str:
        audience = f"{self.service.id_scope}/registrations/{name}"
        return make_token(audience, decode_key(key), int(self.hub.clock.now_s()) + 60, "registration")

    async def register(self, name: str = "r1", **changes: Any) -> tuple[int, Any, dict[str, str]]:
        """Ask as a device."""
        request: dict[str, Any] = {
            "method": "PUT",
            "target": f"/{self.service.id_scope}/registrations/{name}/register{VERSION}",
            "body": {"registrationId": name},
            "Authorization": self.token(name),
            **changes,
        }
        return await self.ask(**request)


def run(folder: Path, test: Callable[[Caller], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with opened(folder) as (hub, clock), asyncio.timeout(LIMIT_S):
            clock.advance(time.time() - clock.now_s())
            service = await Provisioning.open(hub, HOST, clock)
            api = DpsApi(service, lambda token, path, changes: authorize(hub, token, path, changes))
            await service.put("enrollment", "r1", BODY, None)
            await test(Caller(service, hub, api))

    asyncio.run(main())


def test_a_device_registers_and_asks_how_it_went(tmp_path: Path) -> None:
    async def test(caller: Caller) -> None:
        status, began, headers = await caller.register()
        base = f"/{caller.service.id_scope}/registrations/r1"
        asked = await caller.ask(
            "GET", f"{base}/operations/{began['operationId']}{VERSION}", Authorization=caller.token()
        )
        looked_up = await caller.ask("POST", base + VERSION, {}, Authorization=caller.token())

        assert (status, began["status"], headers["Retry-After"]) == (202, "assigning", "1")
        assert (asked[0], asked[1]["status"], asked[1]["operationId"]) == (
            200,
            "assigned",
            began["operationId"],
        )
        assert asked[1]["registrationState"] == looked_up[1]
        assert looked_up[1]["assignedHub"] == HOST

    run(tmp_path, test)


DEVICE_REFUSALS: dict[str, tuple[dict[str, Any], int]] = {
    "no api-version": ({"target": "/{scope}/registrations/r1/register"}, 400),
    "another method": ({"method": "POST"}, 405),
    "another path": ({"target": f"/{{scope}}/registrations/r1/rejoice{VERSION}"}, 404),
    "another scope": ({"target": f"/0neFFFFFFFF/registrations/r1/register{VERSION}"}, 404),
    "another content type": ({"Content_Type": "text/plain"}, 415),
    "no JSON": ({"body": b"{"}, 400),
    "no object": ({"body": []}, 400),
    "another id in the body": ({"body": {"registrationId": "r2"}}, 400),
    "no token": ({"Authorization": ""}, 401),
    "no signature": ({"Authorization": "SharedAccessSignature sr=x&sig=eA%3D%3D&se=99999999999"}, 401),
    "nobody": ({"name": "nobody"}, 404),
}


@pytest.mark.parametrize(("changes", "expected"), DEVICE_REFUSALS.values(), ids=list(DEVICE_REFUSALS))
def test_what_a_device_asks_wrongly_has_its_documented_status(
    tmp_path: Path, changes: dict[str, Any], expected: int
) -> None:
    async def test(caller: Caller) -> None:
        changed = dict(changes)
        if "target" in changed:
            changed["target"] = changed["target"].replace("{scope}", caller.service.id_scope)

        status, body, _ = await caller.register(**changed)

        assert status == expected
        assert body["errorCode"] // 1000 == expected
        assert body["message"]
        assert body["trackingId"]
        assert KEY not in json.dumps(body)

    run(tmp_path, test)


def test_a_service_keeps_enrollments(tmp_path: Path) -> None:
    async def test(caller: Caller) -> None:
        made = await caller.serve("PUT", "/enrollmentGroups/fleet", {"attestation": {"type": "symmetricKey"}})
        shown = await caller.serve("GET", "/enrollmentGroups/fleet")
        keys = await caller.serve("POST", "/enrollmentGroups/fleet/attestationmechanism")
        listed = await caller.serve("POST", "/enrollmentGroups/query", {"query": "SELECT * FROM enrollments"})
        gone = await caller.serve("DELETE", "/enrollmentGroups/fleet", If_Match="*")
        left = await caller.serve(
            "POST", "/enrollmentGroups/query", {"query": "select * from enrollmentGroups"}
        )

        assert (made[0], made[1]) == (200, shown[1])
        assert "symmetricKey" not in made[1]["attestation"]
        assert keys[1]["symmetricKey"]["primaryKey"] != keys[1]["symmetricKey"]["secondaryKey"]
        assert [one["enrollmentGroupId"] for one in listed[1]] == ["fleet"]
        assert (gone[0], gone[1], left[1]) == (204, None, [])

    run(tmp_path, test)


def test_a_service_sees_and_forgets_how_a_device_registered(tmp_path: Path) -> None:
    async def test(caller: Caller) -> None:
        before = await caller.serve("GET", "/registrations/r1")
        await caller.register()
        after = await caller.serve("GET", "/registrations/R1")
        gone = await caller.serve("DELETE", "/registrations/r1")

        assert (before[0], before[1]["errorCode"]) == (404, 404202)
        assert (after[0], after[1]["status"]) == (200, "assigned")
        assert gone[0] == 204
        assert (await caller.serve("GET", "/registrations/r1"))[0] == 404

    run(tmp_path, test)


SERVICE_REFUSALS: dict[str, tuple[tuple[Any, ...], dict[str, str], int]] = {
    "reader that writes": (("PUT", "/enrollments/r2", BODY), {"policy": "registryRead"}, 401),
    "reader that wants keys": (
        ("POST", "/enrollments/r1/attestationmechanism"),
        {"policy": "registryRead"},
        401,
    ),
    "policy without the registry": (("GET", "/enrollments/r1"), {"policy": "device"}, 401),
    "unknown": (("GET", "/enrollments/r2"), {}, 404),
    "there is one": (("PUT", "/enrollments/r1", BODY), {}, 409),
    "another etag": (("PUT", "/enrollments/r1", BODY), {"If_Match": '"x"'}, 412),
    "delete with another etag": (("DELETE", "/enrollments/r1"), {"If_Match": '"x"'}, 412),
    "another method": (("PATCH", "/enrollments/r1"), {}, 405),
    "another query": (("POST", "/enrollments/query", {"query": "SELECT * FROM devices"}), {}, 400),
    "no query": (("POST", "/enrollments/query", {}), {}, 400),
    "path below": (("GET", "/enrollments/r1/x"), {}, 404),
}


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"), SERVICE_REFUSALS.values(), ids=list(SERVICE_REFUSALS)
)
def test_what_a_service_asks_wrongly_has_its_documented_status(
    tmp_path: Path, arguments: tuple[Any, ...], settings: dict[str, str], expected: int
) -> None:
    async def test(caller: Caller) -> None:
        status, body, _ = await caller.serve(*arguments, **settings)

        assert (status, body["errorCode"] // 1000) == (expected, expected)

    run(tmp_path, test)


def test_a_reader_reads(tmp_path: Path) -> None:
    async def test(caller: Caller) -> None:
        assert (await caller.serve("GET", "/enrollments/r1", policy="registryRead"))[0] == 200

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/enrollments/x?api-version=1", True),
        ("/registrations/x", True),
        ("/0neABCD/registrations/x/register", True),
        ("/devices/registrations/modules", False),
        ("/twins/registrations/methods", False),
        ("/devices/x", False),
        ("/", False),
    ],
)
def test_paths_of_the_provisioning_service_are_told_from_the_hubs(
    tmp_path: Path, target: str, expected: bool
) -> None:
    async def test(caller: Caller) -> None:
        assert caller.api.serves(target) is expected

    run(tmp_path, test)
