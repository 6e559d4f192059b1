"""Registry and scope, over HTTPS with the IoT Hub stand-in."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actors.hub.identity import HubIdentity
from actors.ports.security import SyncOutcome
from actors.upstream.connection import Fault
from messaging.envelope import Secret
from messaging.errors import IotHubError
from messaging.identity import Identity
from runtime.home import Home
from runtime.iothub.records import Registered
from runtime.net.https_client import HttpsClient, Service
from runtime.security.hub_identities import own_identities, with_scope
from runtime.security.key_store import KeyStore
from runtime.upstream.provisioning import Provisioned
from runtime.upstream.registry_client import RegistryClient
from runtime.upstream.registry_sync import RegistrySync
from runtime.upstream.scope_file import ScopeFile
from tests.integration.cloud_server import CloudServer, cloud_server

EDGE = "edge1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    with cloud_server(tmp_path_factory.mktemp("cloud")) as running:
        yield running


class Site:
    """The cloud with one edge device in it, and the home of that edge."""

    def __init__(self, server: CloudServer, folder: Path) -> None:
        self.server = server
        self.hub = server.hub
        self.now_s = time.time
        made = server.run(self.hub.put(Identity(EDGE), {"capabilities": {"iotEdge": True}}))
        self.scope_id = made.device_scope
        self.provisioned = Provisioned(
            server.address,
            EDGE,
            Secret(made.authentication.primary_key.encode()),
            server.port,
            server.ca_file.read_text(),
        )
        self.home = Home(folder)
        self.start()

    def start(self) -> None:
        """As a start of the edge does."""
        self.keys = KeyStore.ensure(self.home.keys, EDGE, time.time())
        self.keys.link(self.provisioned.host_name)
        self.scope = ScopeFile(self.home.scope)

    def sync(self, provisioned: Provisioned | None = None) -> SyncOutcome:
        return RegistrySync(
            provisioned or self.provisioned, self.home, self.keys, self.scope, self.now_s
        ).run()

    def registered(self, module_id: str) -> dict[str, Any]:
        return self.server.run(self.hub.service.describe(Identity(EDGE, module_id)))

    def keys_here(self, module_id: str) -> tuple[str, str]:
        found = next(one for one in self.keys.identities() if one.module_id == module_id)
        return (
            base64.b64encode(found.primary_key).decode(),
            base64.b64encode(found.secondary_key).decode(),
        )

    def keys_there(self, module_id: str) -> tuple[str, str]:
        keys = self.registered(module_id)["authentication"]["symmetricKey"]
        return keys["primaryKey"], keys["secondaryKey"]

    def leaf(self, device_id: str, **wanted: object) -> Registered:
        return self.server.run(self.hub.put(Identity(device_id), {"parentScopes": [self.scope_id], **wanted}))

    def may_connect(self) -> dict[str, HubIdentity]:
        known = with_scope(
            own_identities(self.keys.identities()),
            self.scope.identities,
            self.provisioned,
            self.keys.pending(),
        )
        return {identity.id: identity for identity in known}

    def close(self) -> None:
        devices = self.server.run(self.hub.service.devices(1000))
        for device in devices:
            self.server.run(self.hub.delete(Identity(device["deviceId"])))


@pytest.fixture
def site(server: CloudServer, tmp_path: Path) -> Iterator[Site]:
    made = Site(server, tmp_path)
    yield made
    made.close()


def test_the_modules_of_the_edge_itself_get_their_keys_and_generations(site: Site) -> None:
    outcome = site.sync()

    assert outcome == SyncOutcome(None, (), 3)
    for module in ("$edgeAgent", "$edgeHub"):
        assert site.keys_there(module) == site.keys_here(module)
        here = next(one for one in site.keys.identities() if one.module_id == module)
        assert here.generation_id == site.registered(module)["generationId"]


def test_a_module_that_nobody_was_told_of_takes_the_generation_of_the_cloud(site: Site) -> None:
    site.keys.ensure_module("m1", time.time())

    site.sync()

    assert site.keys.use_module("m1").generation_id == site.registered("m1")["generationId"]
    assert site.keys_there("m1") == site.keys_here("m1")


def test_a_module_that_started_offline_keeps_its_keys_when_the_cloud_gets_it(site: Site) -> None:
    site.keys.ensure_module("m1", time.time())
    before = site.keys.use_module("m1")

    site.sync()

    assert site.keys.use_module("m1") == before
    assert site.keys_there("m1") == site.keys_here("m1")


def test_a_module_that_the_deployment_made_in_the_cloud_gets_our_keys(site: Site) -> None:
    site.server.run(site.hub.put(Identity(EDGE, "m1"), {"managedBy": "IotEdge"}))
    site.keys.ensure_module("m1", time.time())

    site.sync()

    assert site.keys_there("m1") == site.keys_here("m1")


def test_keys_that_somebody_changed_in_the_cloud_are_put_right(site: Site) -> None:
    site.keys.ensure_module("m1", time.time())
    site.sync()
    site.server.run(site.hub.put(Identity(EDGE, "m1"), {"authentication": {"type": "none"}}, "*"))

    site.sync()

    assert site.keys_there("m1") == site.keys_here("m1")


def test_a_module_that_went_is_deleted_in_the_cloud_also_when_it_went_offline(site: Site) -> None:
    site.keys.ensure_module("m1", time.time())
    site.sync()
    site.keys.remove_module("m1")
    site.start()

    assert f"{EDGE}/m1" not in site.may_connect()
    site.sync()

    with pytest.raises(IotHubError, match="m1"):
        site.registered("m1")
    assert site.keys.cloud_deletes() == {}


def test_a_module_that_went_and_came_back_has_other_keys_and_another_generation(site: Site) -> None:
    site.keys.ensure_module("m1", time.time())
    site.sync()
    before, generation_id = site.keys_here("m1"), site.registered("m1")["generationId"]
    site.keys.remove_module("m1")
    site.keys.ensure_module("m1", time.time())

    site.sync()

    assert site.keys_here("m1") != before
    assert site.keys_there("m1") == site.keys_here("m1")
    assert site.registered("m1")["generationId"] != generation_id


def test_modules_of_others_are_left_alone(site: Site) -> None:
    site.server.run(site.hub.put(Identity(EDGE, "theirs"), {}))

    site.sync()

    assert site.registered("theirs")["authentication"]["type"] == "sas"
    assert f"{EDGE}/theirs" in site.may_connect()


def test_one_module_that_the_cloud_does_not_take_holds_up_no_other(site: Site) -> None:
    for number in range(47):
        site.server.run(site.hub.put(Identity(EDGE, f"x{number}"), {}))
    for name in ("m1", "m2", "m3"):
        site.keys.ensure_module(name, time.time())

    outcome = site.sync()

    assert outcome.fault is None
    assert [name for name, _ in outcome.problems] == ["m2", "m3"]
    assert "50" in outcome.problems[0][1]
    assert site.keys_there("m1") == site.keys_here("m1")


def test_all_devices_in_the_scope_may_connect_with_what_they_have(site: Site) -> None:
    made = site.leaf("leaf1")
    site.leaf("leaf2", status="disabled")
    site.leaf(
        "leaf3", authentication={"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "a" * 40}}
    )
    site.leaf("leaf4", authentication={"type": "certificateAuthority"})
    site.server.run(site.hub.put(Identity("elsewhere"), {}))

    site.sync()

    known = site.may_connect()
    assert [name for name in known if "/" not in name] == [EDGE, "leaf1", "leaf2", "leaf3", "leaf4"]
    keys = (made.authentication.primary_key, made.authentication.secondary_key)
    assert known["leaf1"].keys == tuple(Secret(base64.b64decode(key)) for key in keys)
    assert known["leaf1"].parent_scopes == (site.scope_id,)
    assert known["leaf2"].enabled is False
    assert known["leaf3"].thumbprints == ("A" * 40,)
    assert known["leaf4"].auth_type == "certificateAuthority"
    assert known[EDGE].keys[0] == Secret(base64.b64decode(site.provisioned.device_key.reveal()))


@pytest.mark.parametrize("is_nested", [True, False], ids=["nested API", "flat API"])
def test_a_scope_comes_in_pages(site: Site, monkeypatch: pytest.MonkeyPatch, is_nested: bool) -> None:
    names = [f"leaf{number:03}" for number in range(7)]
    for name in names:
        site.leaf(name)
    site.sync()
    monkeypatch.setattr("runtime.upstream.registry_client.PAGE", 3)
    key = next(one for one in site.keys.identities() if one.module_id == "$edgeHub").primary_key
    found = site.provisioned
    if not is_nested:
        monkeypatch.setattr("runtime.upstream.registry_client.NESTED_CALL", "noSuchCall")

    with HttpsClient(Service(found.host_name, found.https_port, found.ca_pem)) as client:
        scope = RegistryClient(client, client, found.host_name, EDGE, found.device_key, time.time).scope(key)

    assert sorted(identity.id for identity in scope) == [
        EDGE,
        f"{EDGE}/$edgeAgent",
        f"{EDGE}/$edgeHub",
        *names,
    ]


def test_the_scope_is_known_after_a_restart_without_the_cloud(site: Site) -> None:
    site.leaf("leaf1")
    site.sync()
    before = site.may_connect()

    site.start()

    assert site.may_connect() == before
    assert site.home.scope.stat().st_mode & 0o077 == 0


def test_a_damaged_scope_is_no_reason_not_to_start(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.leaf("leaf1")
    site.sync()
    site.home.scope.write_bytes(site.home.scope.read_bytes()[:-5])

    site.start()

    assert "scope.json cannot be read" in caplog.text
    assert EDGE in site.may_connect()
    site.sync()
    assert "leaf1" in site.may_connect()


def test_a_device_made_here_before_there_was_a_cloud_goes_on_to_work(site: Site) -> None:
    site.keys.create_device("old-leaf", time.time())

    site.sync()

    assert site.may_connect()["old-leaf"].parent_scopes == (site.scope_id,)


# what can be wrong


def faults(site: Site, **changes: object) -> tuple[str, str]:
    """Return what a sync with something changed says."""
    site.leaf("leaf1")
    assert site.sync().fault is None
    before = site.may_connect()

    fault = site.sync(replace(site.provisioned, **changes)).fault

    assert fault is not None
    assert site.provisioned.device_key.reveal().decode() not in fault.reason
    assert site.may_connect() == before
    return fault.kind.value, fault.reason


def test_a_wrong_key_is_told(site: Site) -> None:
    kind, reason = faults(site, device_key=Secret(base64.b64encode(b"w" * 32)))

    assert kind == Fault.UNAUTHORIZED.value
    assert "signed with a key that is not the identity's" in reason


def test_an_untrusted_certificate_is_told(site: Site) -> None:
    kind, reason = faults(site, ca_pem="")

    assert kind == Fault.UNTRUSTED.value
    assert "name its ca.pem with the setting cloud.ca" in reason


def test_a_wrong_host_is_told(site: Site) -> None:
    assert faults(site, host_name="localhost")[0] in (Fault.UNTRUSTED.value, Fault.UNREACHABLE.value)


def test_a_hub_that_is_away_is_told(site: Site) -> None:
    kind, reason = faults(site, https_port=1)

    assert kind == Fault.UNREACHABLE.value
    assert f"{site.provisioned.host_name}:1 cannot be reached: Connection refused" in reason


def test_a_name_that_nobody_knows_is_told(site: Site) -> None:
    kind, reason = faults(site, host_name="no-such-hub.invalid")

    assert kind == Fault.UNREACHABLE.value
    assert "its name is not known here" in reason


def test_a_deleted_device_is_told(site: Site) -> None:
    site.sync()
    site.server.run(site.hub.delete(Identity(EDGE)))

    fault = site.sync().fault

    assert fault is not None
    assert fault.status in (401, 404)


def test_a_disabled_device_is_told(site: Site) -> None:
    site.sync()
    site.server.run(site.hub.put(Identity(EDGE), {"status": "disabled"}, "*"))

    fault = site.sync().fault

    assert fault is not None
    assert fault.kind is Fault.UNAUTHORIZED
    assert "disabled" in fault.reason


def test_a_clock_a_day_behind_is_told(site: Site) -> None:
    site.sync()
    site.now_s = lambda: time.time() - 86_400

    fault = site.sync().fault

    assert fault is not None
    assert fault.kind is Fault.CLOCK
    assert "expired" in fault.reason
