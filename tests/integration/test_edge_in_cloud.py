"""An edge and the registry of its IoT Hub: identities made on either side, seen on both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient

from tests.integration.cloud_program import CloudProgram
from tests.integration.edge_program import EdgeProgram
from tests.waiting import wait_until

EDGE = "edge1"


def in_stand_in(edge: EdgeProgram) -> dict[str, str]:
    """Return the devices of the edge's own stand-in with their status."""
    return {device["deviceId"]: device["status"] for device in edge.json("cloud", "device", "list")}


def identities(edge: EdgeProgram) -> dict[str, str]:
    return {found["id"]: found["status"] for found in edge.json("identity", "list")}


def upstream_device(edge: EdgeProgram) -> dict[str, Any]:
    device: dict[str, Any] = edge.json("upstream", "status")["device"]
    return device


def is_linked(edge: EdgeProgram) -> Callable[[], bool]:
    return lambda: upstream_device(edge)["state"] == "linked"


def connect(connection_string: str, ca_pem: str) -> IoTHubDeviceClient:
    client = IoTHubDeviceClient.create_from_connection_string(
        connection_string, server_verification_cert=ca_pem, connection_retry=False
    )
    client.connect()
    return client


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path / "home")
    edge.environment["EDGE_ACTORS_DEVICE_ID"] = EDGE
    yield edge
    edge.close()


def test_what_identity_makes_is_in_the_stand_in_and_what_that_makes_may_connect(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    edge.start()
    wait_until(is_linked(edge), "the edge is linked")

    edge.json("identity", "create", "leaf1", "--out", str(tmp_path / "leaf1"))
    wait_until(lambda: in_stand_in(edge).get("leaf1") == "enabled", "leaf1 is in the stand-in")
    edge.json("identity", "disable", "leaf1")
    wait_until(lambda: in_stand_in(edge)["leaf1"] == "disabled", "leaf1 is disabled there")
    made = edge.json("cloud", "device", "create", "leaf2", "--parent", EDGE)
    ca_pem = (tmp_path / "leaf1" / "ca.pem").read_text()
    client = connect(f"{made['connectionString']};GatewayHostName={edge.address}", ca_pem)

    assert client.connected
    client.shutdown()
    shown = edge.json("identity", "show", "leaf2")
    assert shown["primaryKey"] == made["authentication"]["symmetricKey"]["primaryKey"]
    edge.json("identity", "delete", "leaf2")
    wait_until(lambda: "leaf2" not in in_stand_in(edge), "leaf2 is gone from the stand-in")
    assert set(identities(edge)) == {EDGE, "$edgeAgent", "$edgeHub", "filter", "sensor", "leaf1"}
    refused = edge.run("identity", "create", "leaf1")
    assert (refused.returncode, "exists already" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_what_changed_while_the_edge_was_down_is_in_the_stand_in_after_the_start(edge: EdgeProgram) -> None:
    edge.start()
    wait_until(is_linked(edge), "the edge is linked")
    edge.json("identity", "create", "leaf1")
    edge.json("cloud", "device", "create", "leaf2", "--parent", EDGE)
    wait_until(lambda: "leaf1" in in_stand_in(edge), "leaf1 is in the stand-in")
    edge.run("down")
    edge.wait()
    edge.json("identity", "delete", "leaf1")
    edge.json("identity", "create", "leaf3")

    edge.start()

    wait_until(lambda: set(in_stand_in(edge)) == {EDGE, "leaf2", "leaf3"}, "the stand-in has what is here")
    assert {"leaf2", "leaf3"} < set(identities(edge))


def test_a_device_is_known_to_both_sides_as_soon_as_the_command_that_made_or_deleted_it_ends(
    edge: EdgeProgram,
) -> None:
    edge.start()
    wait_until(is_linked(edge), "the edge is linked")

    edge.json("identity", "create", "leaf1")
    sent = edge.run("cloud", "send", "leaf1", "hello")
    edge.json("identity", "delete", "leaf1")
    late = edge.run("cloud", "send", "leaf1", "hello")

    assert (sent.returncode, sent.stderr) == (0, "")
    assert (late.returncode, "leaf1" in late.stderr) == (2, True)


def test_a_device_that_is_deleted_in_the_cloud_is_cut_off_here(edge: EdgeProgram, tmp_path: Path) -> None:
    edge.start()
    wait_until(is_linked(edge), "the edge is linked")
    made = edge.json("cloud", "device", "create", "leaf2", "--parent", EDGE)
    client = connect(f"{made['connectionString']};GatewayHostName={edge.address}", _ca_pem(edge))

    edge.json("cloud", "device", "delete", "leaf2")
    payload = '{"deviceIds": ["leaf2"]}'
    refresh = ("RefreshDeviceScopeIdentityCache", "--module", "$edgeHub", "--payload", payload)
    assert edge.json("cloud", "method", EDGE, *refresh)["status"] == 200

    wait_until(lambda: not client.connected, "its connection has ended")
    wait_until(lambda: "leaf2" not in identities(edge), "it is known no more")
    client.shutdown()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"EDGE_ACTORS_CONNECTION_STRING": "HostName=h;DeviceId=d;SharedAccessKey=geheim!"}, "is not base64"),
        ({"EDGE_ACTORS_CLOUD_CA": "/no/such.pem", "EDGE_ACTORS_CONNECTION_STRING": "GOOD"}, "cannot be read"),
        (
            {"EDGE_ACTORS_CONNECTION_STRING": "GOOD", "EDGE_ACTORS_DEVICE_ID": "other"},
            "leave out one of them",
        ),
    ],
    ids=["key", "certificate", "another device"],
)
def test_what_cannot_be_used_ends_with_2_and_leaves_no_trace(
    edge: EdgeProgram, changes: dict[str, str], said: str
) -> None:
    good = f"HostName=h;DeviceId={EDGE};SharedAccessKey=a2V5IG9mIHRoZSBlZGdlIGRldmljZQ=="
    edge.environment |= {name: value.replace("GOOD", good) for name, value in changes.items()}

    refused = edge.run("run")

    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr
    assert "geheim" not in refused.stderr
    assert not edge.home.exists()


@pytest.fixture
def cloud() -> Iterator[CloudProgram]:
    with CloudProgram() as running:
        yield running


def test_an_edge_of_an_iot_hub_elsewhere_starts_offline_and_sends_users_there_for_devices(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path
) -> None:
    text = cloud.do("device", "create", EDGE, "--edge")
    file = tmp_path / "cs"
    file.write_text(text)
    edge.environment["EDGE_ACTORS_CLOUD_CA"] = str(cloud.ca_file)
    edge.start("--connection-string-file", str(file))
    wait_until(is_linked(edge), "the edge is linked")
    made = cloud.ask("device", "create", "leaf1", "--parent", EDGE)
    modules = [module["moduleId"] for module in cloud.ask("query", "SELECT * FROM devices.modules")]
    refused = edge.run("identity", "create", "leaf2")

    assert sorted(modules) == ["$edgeAgent", "$edgeHub", "filter", "sensor"]
    assert refused.returncode == 2
    assert f"`edge-actors cloud device create leaf2 --parent {EDGE}`" in refused.stderr
    ca_pem = _ca_pem(edge)
    client = connect(f"{made['connectionString']};GatewayHostName={edge.address}", ca_pem)
    client.shutdown()
    edge.run("down")
    edge.wait()
    file.unlink()
    cloud.kill()
    del edge.environment["EDGE_ACTORS_CLOUD_CA"]

    edge.start()

    wait_until(lambda: upstream_device(edge)["state"] == "unreachable", "the cloud is away")
    assert upstream_device(edge)["hostName"] == cloud.address
    client = connect(f"{made['connectionString']};GatewayHostName={edge.address}", ca_pem)
    assert client.connected
    client.shutdown()
    key = text.rpartition("SharedAccessKey=")[2]
    logs = [path.read_text() for path in (edge.home / "logs").glob("*.log")]
    assert not any(key in log for log in [*logs, edge.output.read_text()])


def test_a_wrong_key_harms_nobody_but_the_link(edge: EdgeProgram, cloud: CloudProgram) -> None:
    text = cloud.do("device", "create", EDGE, "--edge")
    wrong = (
        text.rpartition("SharedAccessKey=")[0] + "SharedAccessKey=d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXk="
    )
    edge.environment["EDGE_ACTORS_CLOUD_CA"] = str(cloud.ca_file)
    edge.environment["EDGE_ACTORS_CONNECTION_STRING"] = wrong
    edge.start()

    wait_until(lambda: upstream_device(edge)["state"] == "unauthorized", "the cloud refuses it")

    assert "give its present connection string" in upstream_device(edge)["reason"]
    edge.run("down")
    edge.wait()
    edge.environment["EDGE_ACTORS_CONNECTION_STRING"] = text
    edge.start()
    wait_until(is_linked(edge), "the right one is taken")


def enroll(edge: EdgeProgram, cloud: CloudProgram, folder: Path, key: str) -> None:
    """Have an edge ask the provisioning service of a stand-in who it is."""
    (folder / "key").touch(0o600)
    (folder / "key").write_text(key)
    serving = json.loads((cloud.home / "cloud" / "serving.json").read_text())
    del edge.environment["EDGE_ACTORS_DEVICE_ID"]
    edge.environment |= {
        "EDGE_ACTORS_CLOUD_CA": str(cloud.ca_file),
        "EDGE_ACTORS_DPS_ENDPOINT": f"{cloud.address}:{serving['httpsPort']}",
        "EDGE_ACTORS_DPS_ID_SCOPE": serving["idScope"],
        "EDGE_ACTORS_DPS_REGISTRATION_ID": "reg-7",
        "EDGE_ACTORS_DPS_KEY_FILE": str(folder / "key"),
    }


def test_the_provisioning_service_says_which_device_an_edge_is(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path
) -> None:
    cloud.do("enrollment", "create", "reg-7", "--edge")
    shown = cloud.ask("enrollment", "show", "reg-7", "--show-secrets")
    enroll(edge, cloud, tmp_path, shown["attestation"]["symmetricKey"]["primaryKey"])

    edge.start()

    wait_until(is_linked(edge), "the edge is linked")
    assert upstream_device(edge)["deviceId"] == "reg-7"


@pytest.mark.slow
def test_a_device_that_belongs_to_another_hub_by_now_goes_there_by_itself(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path
) -> None:
    cloud.do("enrollment", "create", "line", "--group", "--edge")
    enroll(edge, cloud, tmp_path, cloud.do("enrollment", "key", "line", "reg-7"))
    edge.start()
    wait_until(is_linked(edge), "the edge is linked")
    edge.run("down")
    edge.wait()
    with CloudProgram() as former:
        both = tmp_path / "both.pem"
        both.write_text(cloud.ca_pem + former.ca_pem)
        edge.environment["EDGE_ACTORS_CLOUD_CA"] = str(both)
        kept = edge.home / "provisioned.json"
        kept.write_text(kept.read_text().replace(cloud.address, former.address))

        edge.start()

        wait_until(lambda: "starting anew" in edge.output.read_text(), "it was moved")
        edge.wait_for_modules("running", {"edgeHub", "filter", "sensor"})
        wait_until(is_linked(edge), "the edge is linked again")
        assert upstream_device(edge)["hostName"] == cloud.address


def _ca_pem(edge: EdgeProgram) -> str:
    content = (edge.home / "certificates" / "edge-ca.pem").read_text()
    return content[content.index("-----BEGIN CERTIFICATE-----") :]
