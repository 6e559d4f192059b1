from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.manifest.create_options import parse_create_options
from actors.manifest.json_reader import Node, Source
from actors.manifest.module_spec import DockerSettings, ModuleSpec, spec_hash
from messaging.errors import DeploymentError
from runtime.docker.request import (
    LOG_OPTIONS,
    REQUEST_LABEL,
    ContainerRequest,
    Surroundings,
    container_names,
    create_request,
    gateway_name,
)

AROUND = Surroundings(
    "0a1b2c3d",
    "edge-actors-0a1b2c3d",
    "172.18.0.1",
    "site1.example",
    home=Path("/var/lib/edge-actors"),
    engine_socket="/var/run/docker.sock",
)
OURS = {"IOTEDGE_MODULEID": "pump", "RATE": "5"}


def request(
    options: dict[str, Any] | None = None, environment: dict[str, str] = OURS, folder: str = "/run/w/pump"
) -> ContainerRequest:
    module = ModuleSpec("pump", DockerSettings("pump:1", json.dumps(options or {})))
    return create_request(module, environment, folder, AROUND)


def test_a_module_without_options_gets_all_it_needs() -> None:
    """Source: agent.md section 8, row 72; a folder is mounted."""
    module = ModuleSpec("pump", DockerSettings("pump:1"))

    body = dict(request().body)

    labels = body.pop("Labels")
    assert len(labels.pop(REQUEST_LABEL)) == 64
    assert labels == {
        "net.edge-actors.home": "0a1b2c3d",
        "net.edge-actors.module": "pump",
        "net.edge-actors.spec": spec_hash(module),
    }
    assert body == {
        "Image": "pump:1",
        "Env": ["IOTEDGE_MODULEID=pump", "RATE=5"],
        "HostConfig": {
            "Binds": ["/run/w/pump:/var/run/iotedge"],
            "NetworkMode": "edge-actors-0a1b2c3d",
            "ExtraHosts": ["site1.example:172.18.0.1", "edgeHub:172.18.0.1", "edgeAgent:172.18.0.1"],
        },
        "NetworkingConfig": {"EndpointsConfig": {"edge-actors-0a1b2c3d": {"Aliases": ["pump"]}}},
    }


def test_a_label_of_ours_cannot_be_given_by_the_options() -> None:
    """Source: agent.md section 8, row 74; the edge itself is no container, its labels are on modules."""
    labels = dict(request({"labels": {"net.edge-actors.home": "another", "mine": "1"}}).body)["Labels"]

    assert labels["net.edge-actors.home"] == "0a1b2c3d"
    assert labels["mine"] == "1"


def test_options_are_passed_on_whatever_they_are_and_however_they_are_spelt() -> None:
    options = {
        "hostConfig": {"binds": ["/dev:/dev"], "Privileged": True, "deviceRequests": [{"count": 1}]},
        "Cmd": ["run"],
        "SomethingOfNextYear": {"a": [1]},
        "image": "other:2",
        "labels": {"mine": "1", "net.edge-actors.home": "forged"},
    }

    body = request(options).body

    assert body["HostConfig"]["Binds"] == ["/dev:/dev", "/run/w/pump:/var/run/iotedge"]
    assert body["HostConfig"]["Privileged"] is True
    assert body["HostConfig"]["deviceRequests"] == [{"count": 1}]
    assert (body["Cmd"], body["SomethingOfNextYear"]) == (["run"], {"a": [1]})
    assert body["Image"] == "pump:1"
    assert body["Labels"]["mine"] == "1"
    assert body["Labels"]["net.edge-actors.home"] == "0a1b2c3d"
    assert {name.casefold() for name in body} == {
        "hostconfig", "cmd", "somethingofnextyear", "image", "labels", "env", "networkingconfig"
    }  # fmt: skip


def test_env_of_the_options_wins_and_one_without_a_value_is_empty() -> None:
    body = request({"Env": ["RATE=9", "EMPTY", "URL=a=b"]}).body

    assert body["Env"] == ["EMPTY=", "IOTEDGE_MODULEID=pump", "RATE=9", "URL=a=b"]


@pytest.mark.parametrize(
    ("host", "endpoints", "mode", "joined", "hosts"),
    [
        ({}, {}, "edge-actors-0a1b2c3d", True, True),
        ({"NetworkMode": "default"}, {}, "edge-actors-0a1b2c3d", True, True),
        ({"networkmode": ""}, {}, "edge-actors-0a1b2c3d", True, True),
        ({"NetworkMode": "host"}, {}, "host", False, True),
        ({"NetworkMode": "none"}, {}, "none", False, False),
        ({"NetworkMode": "container:x"}, {}, "container:x", False, False),
        ({}, {"mine": {}}, None, False, True),
    ],
    ids=["nothing said", "default", "empty", "host", "none", "of another container", "another network"],
)
def test_a_container_joins_our_network_unless_its_options_say_where_it_belongs(
    host: dict[str, Any], endpoints: dict[str, Any], mode: str | None, joined: bool, hosts: bool
) -> None:
    """Source: agent.md section 8, row 73."""
    body = request({"HostConfig": host, "NetworkingConfig": {"EndpointsConfig": endpoints}}).body

    assert body["HostConfig"].get("NetworkMode") == mode
    assert (AROUND.network in body["NetworkingConfig"]["EndpointsConfig"]) is joined
    assert bool(body["HostConfig"].get("ExtraHosts")) is hosts


def test_a_host_name_that_the_options_give_an_address_keeps_it() -> None:
    body = request({"HostConfig": {"ExtraHosts": ["SITE1.example:10.0.0.9"]}}).body

    assert body["HostConfig"]["ExtraHosts"] == [
        "SITE1.example:10.0.0.9",
        "edgeHub:172.18.0.1",
        "edgeAgent:172.18.0.1",
    ]


def test_a_second_keeper_of_containers_is_left_out() -> None:
    options = {"HostConfig": {"RestartPolicy": {"Name": "always"}, "autoRemove": True, "Memory": 9}}

    made = request(options)

    assert [remark.partition(" is left out")[0] for remark in made.remarks] == [
        "createOptions: HostConfig.RestartPolicy",
        "createOptions: HostConfig.AutoRemove",
    ]
    assert {"Memory", "Binds", "NetworkMode", "ExtraHosts"} == set(made.body["HostConfig"])


@pytest.mark.parametrize(
    "changed",
    [
        request({"Cmd": ["other"]}),
        request(environment=OURS | {"RATE": "6"}),
        request(folder="/run/w/other"),
    ],
    ids=["options", "environment", "socket"],
)
def test_the_digest_changes_with_all_that_is_asked_for(changed: ContainerRequest) -> None:
    assert request().digest == request().digest
    assert changed.digest != request().digest


def test_a_module_without_a_workload_socket_mounts_none() -> None:
    """Source: agent.md section 8, row 72."""
    assert "Binds" not in request(folder="").body["HostConfig"]


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("site1.example", "site1.example"),
        ("localhost", "edgeHub"),
        ("Localhost", "edgeHub"),
        ("127.0.0.1", "edgeHub"),
        ("192.168.1.5", "edgeHub"),
    ],
)
def test_the_name_of_the_hub_for_containers(hostname: str, name: str) -> None:
    assert gateway_name(hostname) == name


@pytest.mark.parametrize(
    ("module", "device", "names"),
    [
        ("pump", "edge1", ("pump", "edge1-pump", "edge1-pump-0a1b2c3d")),
        ("p", "edge1", ("edge1-p", "edge1-p-0a1b2c3d")),
        ("_pump", "edge1", ("edge1-_pump", "edge1-_pump-0a1b2c3d")),
        ("pump", "a@b:c", ("pump", "a-b-c-pump", "a-b-c-pump-0a1b2c3d")),
        ("pump", "$x", ("pump", "x-pump", "x-pump-0a1b2c3d")),
        ("pump", "(*)", ("pump", "edge-pump", "edge-pump-0a1b2c3d")),
    ],
    ids=["usual", "one letter", "underscore first", "odd device", "odd beginning", "nothing left of it"],
)
def test_names_of_a_container(module: str, device: str, names: tuple[str, ...]) -> None:
    assert container_names(module, device, "0a1b2c3d") == names


ELEVATED = {
    "Privileged": True,
    "CapAdd": ["NET_ADMIN", "SETUID"],
    "NetworkMode": "host",
    "PidMode": "host",
    "SecurityOpt": ["seccomp=unconfined", "no-new-privileges"],
    "Devices": [{"PathOnHost": "/dev/ttyS0", "PathInContainer": "/dev/ttyS0"}],
    "Binds": ["/var/run/docker.sock:/var/run/docker.sock", "/srv/data:/data"],
    "Memory": 1_000_000,
}


def elevated(allowed: bool) -> ContainerRequest:
    networking = {"EndpointsConfig": {"host": {}}}
    options = {"HostConfig": ELEVATED, "NetworkingConfig": networking}
    module = ModuleSpec("pump", DockerSettings("pump:1", json.dumps(options)))
    return create_request(module, OURS, "/run/w/pump", replace(AROUND, allow_elevated=allowed))


def test_rights_over_this_machine_are_passed_on_where_the_device_allows_it() -> None:
    host = elevated(allowed=True).body["HostConfig"]

    assert {name: host[name] for name in ELEVATED if name != "Binds"} == {
        name: value for name, value in ELEVATED.items() if name != "Binds"
    }


def test_rights_over_this_machine_are_left_out_and_told_where_the_device_does_not_allow_it() -> None:
    request = elevated(allowed=False)

    host = request.body["HostConfig"]
    assert not {"Privileged", "CapAdd", "PidMode", "Devices"} & host.keys()
    assert host["Binds"] == ["/srv/data:/data", "/run/w/pump:/var/run/iotedge"]
    assert host["NetworkMode"] == AROUND.network
    assert request.body["NetworkingConfig"]["EndpointsConfig"] == {AROUND.network: {"Aliases": ["pump"]}}
    assert host["CapDrop"] == ["CHOWN"]  # SETUID was named
    assert host["Memory"] == 1_000_000
    assert host["SecurityOpt"] == ["no-new-privileges"]
    words = "\n".join(request.remarks)
    for name in (
        "Privileged",
        "CapAdd",
        "Devices",
        "NetworkMode host",
        "PidMode host",
        "Binds of the engine",
    ):
        assert f"HostConfig.{name}" in words
    assert "allow_elevated_docker_permissions" in words


@pytest.mark.parametrize(
    ("given", "log_config"),
    [
        (None, {"Type": "", "Config": {"max-size": "10m", "max-file": "3"}}),
        ({}, {"Type": "", "Config": {"max-size": "10m", "max-file": "3"}}),
        ({"Type": "journald"}, {"Type": "journald"}),
    ],
    ids=["nothing said", "nothing in it", "another driver"],
)
def test_a_log_is_rotated_unless_the_options_say_how_it_is_kept(given: Any, log_config: Any) -> None:
    options = {} if given is None else {"HostConfig": {"logConfig": given}}
    module = ModuleSpec("pump", DockerSettings("pump:1", json.dumps(options)))
    around = replace(AROUND, log_options=LOG_OPTIONS["json-file"])

    host = create_request(module, OURS, "", around).body["HostConfig"]

    assert next(value for name, value in host.items() if name.casefold() == "logconfig") == log_config


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
_NAMES = (
    "Binds",
    "Mounts",
    "ExtraHosts",
    "CapAdd",
    "CapDrop",
    "SecurityOpt",
    "LogConfig",
    "NetworkMode",
    "Devices",
)


@given(
    host=st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=4),
    top=st.dictionaries(st.sampled_from(("Env", "Labels", "NetworkingConfig", "Image")), _JSON, max_size=3),
)
def test_whatever_createoptions_hold_is_refused_with_its_place_or_becomes_a_request(
    host: dict[str, Any], top: dict[str, Any]
) -> None:
    text = json.dumps(top | {"HostConfig": host})
    source = Node({"createOptions": text}, (), Source("d.json"))
    try:
        options = parse_create_options(source)
    except DeploymentError:
        return

    made = create_request(
        ModuleSpec("pump", DockerSettings("pump:1", options)),
        OURS,
        "/run/w/pump",
        replace(AROUND, allow_elevated=False),
    )

    assert json.loads(json.dumps(made.body)) == made.body
