"""Who may connect: what was made here and what the cloud says, put together; who may change what."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from actors.hub.identity import HubIdentity
from messaging.envelope import Secret
from messaging.errors import ConfigError
from runtime.home import Home
from runtime.iothub.cloud_home import CloudHome, Serving
from runtime.security.hub_identities import own_identities, with_scope
from runtime.security.key_store import KeyStore
from runtime.security.leaf_rules import adopt, check_change, check_create, known_identities
from runtime.upstream.provisioning import Provisioned, remember
from runtime.upstream.scope_file import ScopeFile

NOW_S = 1_700_000_000.0
SCOPE = "ms-azure-iot-edge://edge1-77"
DEVICE_KEY = b"d" * 32
LINKED = Provisioned("hub1.azure-devices.net", "edge1", Secret(base64.b64encode(DEVICE_KEY)))


def leaf(name: str, key: bytes = b"cloud", **changes: object) -> HubIdentity:
    made = HubIdentity(
        name, keys=(Secret(key), Secret(b"second")), parent_scopes=(SCOPE,), device_scope=SCOPE
    )
    return replace(made, **changes)


EDGE = HubIdentity("edge1", keys=(Secret(DEVICE_KEY), Secret(b"2")), device_scope=SCOPE)


class Site:
    """A home of an edge, with its keys."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.keys = KeyStore.ensure(self.home.keys, "edge1", NOW_S)
        self.scope = ScopeFile(self.home.scope)

    def link(self, found: Provisioned = LINKED, *scope: HubIdentity) -> None:
        remember(self.home, found)
        self.keys.link(found.host_name)
        self.scope.replace(NOW_S, (EDGE, *scope))

    def own_stand_in(self, *scope: HubIdentity) -> None:
        place = CloudHome.in_home(self.home.path)
        place.path.mkdir()
        place.serving.write_bytes(msgspec.json.encode(Serving("127.0.0.2", [], [], 443, "0ne1")))
        self.link(replace(LINKED, host_name="127.0.0.2"), *scope)

    def known(self) -> dict[str, HubIdentity]:
        own = own_identities(self.keys.identities())
        merged = with_scope(own, self.scope.identities, LINKED, self.keys.pending())
        return {identity.id: identity for identity in merged}

    def told(self, device_id: str) -> None:
        self.keys.leaf_told(device_id, self.keys.leaf_changes()[device_id].device)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_before_the_cloud_said_anything_the_edge_has_the_key_it_was_given(site: Site) -> None:
    remember(site.home, LINKED)

    known = site.known()

    assert list(known) == ["edge1", "edge1/$edgeAgent", "edge1/$edgeHub"]
    assert known["edge1"].keys == (Secret(DEVICE_KEY),)


def test_of_modules_here_we_know_the_keys_and_of_devices_the_cloud_does(site: Site) -> None:
    site.keys.create_device("leaf1", NOW_S)
    module = site.keys.ensure_module("m1", NOW_S)
    theirs = HubIdentity("edge1/m1", keys=(Secret(b"old"),))
    site.link(LINKED, leaf("leaf1"), theirs, HubIdentity("edge1/only-there"))
    site.keys.keep_leaves_here()

    known = site.known()

    assert known["edge1"] == EDGE
    assert known["leaf1"] == leaf("leaf1")
    assert known["edge1/m1"].keys[0] == Secret(module.primary_key)
    assert known["edge1/only-there"] == HubIdentity("edge1/only-there")


def test_what_only_we_have_stands_below_the_edge_as_the_cloud_calls_it(site: Site) -> None:
    made = site.keys.create_device("old", NOW_S)
    site.link()

    known = site.known()["old"]

    assert (known.device_scope, known.parent_scopes) == (SCOPE, (SCOPE,))
    assert known.keys[0] == Secret(made.primary_key)


def test_what_went_here_is_known_no_more_even_if_the_cloud_still_has_it(site: Site) -> None:
    site.keys.ensure_module("m1", NOW_S)
    site.keys.create_device("leaf1", NOW_S)
    site.own_stand_in(leaf("leaf1"), HubIdentity("edge1/m1"))
    site.keys.register_module("m1", "9")
    site.told("leaf1")
    site.keys.remove_module("m1")
    site.keys.delete_device("leaf1")

    assert {"leaf1", "edge1/m1"}.isdisjoint(site.known())


def test_what_was_disabled_here_is_so_before_the_cloud_knows(site: Site) -> None:
    site.keys.create_device("leaf1", NOW_S)
    site.own_stand_in(leaf("leaf1"))
    site.told("leaf1")
    site.keys.follow_cloud({"leaf1": leaf("leaf1")})

    site.keys.enable_device("leaf1", False)

    assert not site.known()["leaf1"].enabled
    assert site.known()["leaf1"].keys[0] == Secret(b"cloud")


def test_a_device_that_changed_while_the_stand_in_was_told_is_told_again(site: Site) -> None:
    site.own_stand_in()
    site.keys.create_device("leaf1", NOW_S)
    before = site.keys.leaf_changes()["leaf1"].device
    site.keys.enable_device("leaf1", False)

    site.keys.leaf_told("leaf1", before)

    change = site.keys.leaf_changes()["leaf1"]
    assert change.device is not None
    assert (change.device.status, change.in_cloud) == ("disabled", True)


def test_a_device_that_was_deleted_while_the_stand_in_was_told_is_deleted_there(site: Site) -> None:
    site.own_stand_in()
    site.keys.create_device("leaf1", NOW_S)
    before = site.keys.leaf_changes()["leaf1"].device
    site.keys.delete_device("leaf1")

    site.keys.leaf_told("leaf1", before)

    change = site.keys.leaf_changes()["leaf1"]
    assert (change.device, change.in_cloud) == (None, True)


def test_a_device_that_the_stand_in_deleted_is_deleted_here(site: Site) -> None:
    site.own_stand_in()
    site.keys.create_device("leaf1", NOW_S)
    site.told("leaf1")

    site.keys.follow_cloud({})

    assert "leaf1" not in site.known()


def test_a_device_that_went_and_came_back_replaces_the_one_in_the_stand_in(site: Site) -> None:
    site.own_stand_in()
    site.keys.create_device("leaf1", NOW_S)
    site.told("leaf1")
    site.keys.delete_device("leaf1")
    again = site.keys.create_device("leaf1", NOW_S)

    change = site.keys.leaf_changes()["leaf1"]

    assert (change.device, change.in_cloud, change.replaces) == (again, True, True)

    site.told("leaf1")
    site.keys.enable_device("leaf1", False)
    change = site.keys.leaf_changes()["leaf1"]
    assert (change.in_cloud, change.replaces) == (True, False)


def test_another_hub_knows_nothing_of_what_the_former_did(site: Site) -> None:
    site.keys.ensure_module("m1", NOW_S)
    site.keys.ensure_module("m2", NOW_S)
    site.link()
    site.keys.register_module("m1", "9")
    site.keys.register_module("m2", "10")
    site.keys.remove_module("m2")

    site.keys.link("hub2")

    assert site.keys.cloud_deletes() == {}
    assert site.keys.cloud_modules()["m1"] == ""


# who may change what


def test_without_a_cloud_and_with_our_own_stand_in_devices_are_made_here(site: Site) -> None:
    check_create(site.home, "leaf1")
    site.own_stand_in(leaf("leaf2"))
    check_create(site.home, "leaf1")

    with pytest.raises(ConfigError, match="device 'leaf2' exists already"):
        check_create(site.home, "leaf2")


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (
            "hub1.azure-devices.net",
            "`az iot hub device-identity create -n hub1 -d leaf1` and "
            "`az iot hub device-identity parent set -n hub1 -d leaf1 --pd edge1`",
        ),
        ("10.1.2.3", "`edge-actors cloud device create leaf1 --parent edge1`"),
    ],
    ids=["Azure", "a stand-in elsewhere"],
)
def test_devices_of_an_iot_hub_elsewhere_are_made_there(site: Site, host: str, line: str) -> None:
    site.link(replace(LINKED, host_name=host))

    with pytest.raises(ConfigError) as caught:
        check_create(site.home, "leaf1")

    assert line in str(caught.value)


def test_a_device_of_an_iot_hub_elsewhere_is_changed_there_and_one_of_ours_here(site: Site) -> None:
    site.keys.create_device("old", NOW_S)
    site.link(LINKED, leaf("leaf1"))

    check_change(site.home, "old", "delete", "")
    check_change(site.home, "nobody", "delete", "")
    with pytest.raises(ConfigError, match="`az iot hub device-identity update -n hub1 -d leaf1 --status dis"):
        check_change(site.home, "leaf1", "update --status disabled", "")


def test_a_device_of_our_own_stand_in_can_be_changed_here(site: Site) -> None:
    site.own_stand_in(leaf("leaf1"))

    check_change(site.home, "leaf1", "delete", "")
    adopt(site.home, site.keys, "leaf1")
    site.keys.enable_device("leaf1", False)

    change = site.keys.leaf_changes()["leaf1"]
    assert change.device is not None
    assert (change.device.primary_key, change.device.status) == (b"cloud", "disabled")
    assert change.in_cloud


def test_all_that_are_known_are_listed(site: Site) -> None:
    site.keys.create_device("old", NOW_S)
    site.link(LINKED, leaf("leaf1", enabled=False), leaf("leaf2", auth_type="selfSigned", keys=()))

    listed = {found.device_id: found for found in known_identities(site.home) if found.module_id is None}

    assert list(listed) == ["edge1", "old", "leaf1", "leaf2"]
    assert listed["leaf1"].status == "disabled"
    assert listed["leaf2"].auth_type == "selfSigned"
