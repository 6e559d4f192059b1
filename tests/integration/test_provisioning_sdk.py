"""The official SDKs' provisioning clients register against the running stand-in, and connect as told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.iothub.enrollments import derived_key
from tests.integration.cloud_program import CloudProgram
from tests.integration.device_certificates import KeyPair, issue
from tests.integration.node_sdk import need_node, run_scene


@pytest.fixture(scope="module")
def cloud() -> Iterator[CloudProgram]:
    with CloudProgram() as program:
        yield program


def by_key(cloud: CloudProgram, registration_id: str, key: str, **settings: Any) -> Any:
    """Register with a symmetric key by the Python SDK."""
    from azure.iot.device import ProvisioningDeviceClient

    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=cloud.address,
        registration_id=registration_id,
        id_scope=id_scope(cloud),
        symmetric_key=key,
        server_verification_cert=cloud.ca_pem,
        **settings,
    )
    return client.register()


def by_certificate(
    cloud: CloudProgram, folder: Path, registration_id: str, pair: KeyPair, *above: KeyPair
) -> tuple[Any, Any]:
    """Register with a certificate; returns the result and the certificate as the SDK has it."""
    from azure.iot.device import X509, ProvisioningDeviceClient

    cert_file, key_file = pair.write(folder, registration_id, *above)
    x509 = X509(str(cert_file), str(key_file))
    client = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=cloud.address,
        registration_id=registration_id,
        id_scope=id_scope(cloud),
        x509=x509,
        server_verification_cert=cloud.ca_pem,
    )
    return client.register(), x509


def id_scope(cloud: CloudProgram) -> str:
    return str(cloud.ask("connection-string")["idScope"])


def send_one(cloud: CloudProgram, client: Any, device_id: str) -> None:
    """Connect, send a message, and see it arrive."""
    client.connect()
    client.send_message(f"from {device_id}")
    client.shutdown()
    lines = cloud.do("monitor", "--all", "--device", device_id, "--for", "0")
    assert f"{device_id}  from {device_id}" in lines


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
def test_python_registers_by_an_individual_key_and_connects(cloud: CloudProgram, websockets: bool) -> None:
    from azure.iot.device import IoTHubDeviceClient

    name = f"single-{websockets}".lower()
    made = cloud.ask("enrollment", "create", name, "--device-id", f"{name}-device")
    key = made["attestation"]["symmetricKey"]["primaryKey"]

    result = by_key(cloud, name, key, websockets=websockets)

    assert result.status == "assigned"
    assert result.registration_state.sub_status == "initialAssignment"
    assert result.registration_state.device_id == f"{name}-device"
    assert result.registration_state.assigned_hub == cloud.address
    client = IoTHubDeviceClient.create_from_symmetric_key(
        key,
        result.registration_state.assigned_hub,
        result.registration_state.device_id,
        server_verification_cert=cloud.ca_pem,
        websockets=websockets,
    )
    send_one(cloud, client, f"{name}-device")


def test_python_registers_by_a_key_derived_from_a_group_with_an_initial_twin(
    cloud: CloudProgram, tmp_path: Path
) -> None:
    from azure.iot.device import IoTHubDeviceClient

    twin = {"tags": {"site": "north"}, "properties": {"desired": {"interval": 5}}}
    (tmp_path / "twin.json").write_text(json.dumps(twin))
    made = cloud.ask(
        "enrollment", "create", "fleet", "--group", "--initial-twin", str(tmp_path / "twin.json")
    )
    key = cloud.do("enrollment", "key", "fleet", "Fleet-Device-1")
    assert key == derived_key(made["attestation"]["symmetricKey"]["primaryKey"], "fleet-device-1")

    result = by_key(cloud, "Fleet-Device-1", key)

    assert (result.status, result.registration_state.device_id) == ("assigned", "Fleet-Device-1")
    shown = cloud.ask("twin", "get", "Fleet-Device-1")
    assert (shown["tags"], shown["properties"]["desired"]["interval"]) == ({"site": "north"}, 5)
    client = IoTHubDeviceClient.create_from_symmetric_key(
        key, cloud.address, "Fleet-Device-1", server_verification_cert=cloud.ca_pem
    )
    send_one(cloud, client, "Fleet-Device-1")


def test_python_registers_by_its_own_certificate_and_connects(cloud: CloudProgram, tmp_path: Path) -> None:
    from azure.iot.device import IoTHubDeviceClient

    pair = issue("certified-1")
    pair.write(tmp_path, "enrolled")
    cloud.do("enrollment", "create", "certified-1", "--x509", str(tmp_path / "enrolled.pem"))

    result, x509 = by_certificate(cloud, tmp_path, "certified-1", pair)

    assert result.status == "assigned"
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509, cloud.address, "certified-1", server_verification_cert=cloud.ca_pem
    )
    send_one(cloud, client, "certified-1")


def test_python_registers_by_a_certificate_of_the_groups_authority(
    cloud: CloudProgram, tmp_path: Path
) -> None:
    from azure.iot.device import IoTHubDeviceClient

    root = issue("factory root", is_ca=True)
    line = issue("factory line 7", root, is_ca=True)
    direct, through = issue("made-1", root), issue("made-2", line)
    root.write(tmp_path, "root")
    cloud.do("enrollment", "create", "factory", "--group", "--edge", "--x509", str(tmp_path / "root.pem"))

    first, x509 = by_certificate(cloud, tmp_path, "made-1", direct)
    second, _ = by_certificate(cloud, tmp_path, "made-2", through, line)

    assert [first.status, second.status] == ["assigned", "assigned"]
    assert cloud.ask("device", "show", "made-2")["capabilities"] == {"iotEdge": True}
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509, cloud.address, "made-1", server_verification_cert=cloud.ca_pem
    )
    send_one(cloud, client, "made-1")


def test_python_is_told_of_a_wrong_key_a_stranger_and_a_disabled_enrollment(cloud: CloudProgram) -> None:
    from azure.iot.device.exceptions import ClientError, CredentialError

    made = cloud.ask("enrollment", "create", "off", "--disabled")
    key = made["attestation"]["symmetricKey"]["primaryKey"]

    with pytest.raises(CredentialError):
        by_key(cloud, "off", derived_key(key, "something else"))
    with pytest.raises(CredentialError):
        by_key(cloud, "nobody", key)
    with pytest.raises(ClientError) as told:
        by_key(cloud, "off", key)

    assert "invalid registration status disabled" in str(told.value.__cause__)
    assert cloud.ask("enrollment", "show", "off")["registrationState"]["status"] == "disabled"


@pytest.mark.parametrize("protocol", ["mqtt", "mqtt-ws", "http"])
@pytest.mark.parametrize("proof", ["key", "group", "x509"])
def test_node_registers_and_connects(cloud: CloudProgram, tmp_path: Path, protocol: str, proof: str) -> None:
    need_node()
    name = f"node-{protocol}-{proof}"
    settings = {
        "host": cloud.address,
        "idScope": id_scope(cloud),
        "registrationId": name,
        "protocol": protocol,
        "ca": cloud.ca_pem,
    }
    if proof == "key":
        made = cloud.ask("enrollment", "create", name)
        settings["key"] = made["attestation"]["symmetricKey"]["primaryKey"]
    elif proof == "group":
        cloud.do("enrollment", "create", f"{name}-group", "--group")
        settings["key"] = cloud.do("enrollment", "key", f"{name}-group", name)
    else:
        pair = issue(name)
        cert_file, _ = pair.write(tmp_path, name)
        cloud.do("enrollment", "create", name, "--x509", str(cert_file))
        settings |= {"cert": pair.pem, "certKey": pair.key_pem}

    result = run_scene("provision.js", json.dumps(settings), cloud.ca_file)

    assert result["status"] == "assigned"
    assert (result["deviceId"], result["assignedHub"]) == (name, cloud.address)
    assert f"{name}  from {name}" in cloud.do("monitor", "--all", "--device", name, "--for", "0")
