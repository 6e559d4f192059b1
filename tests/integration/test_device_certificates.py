"""Devices with certificates at a whole edge: made, disabled, enabled and deleted from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.security.client_certificates import thumbprints_of
from tests.integration.edge_program import EdgeProgram
from tests.runtime.client_certificates import ClientCertificate, Signer, make_client, make_signer
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def root() -> Signer:
    return make_signer("my root")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, root: Signer) -> Iterator[EdgeProgram]:
    folder = tmp_path_factory.mktemp("edge")
    bundle = folder / "roots.pem"
    bundle.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    edge = EdgeProgram(folder / "home")
    edge.environment["EDGE_ACTORS_TRUST_BUNDLE_CERT"] = f"file://{bundle}"
    edge.start()
    yield edge
    edge.close()


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client_of(edge: EdgeProgram, device: str, shown: ClientCertificate, ca: str, ending: ExitStack) -> Any:
    from azure.iot.device import X509, IoTHubDeviceClient

    client = IoTHubDeviceClient.create_from_x509_certificate(
        X509(str(shown.certificate_file), str(shown.key_file)),
        edge.iothub,
        device,
        gateway_hostname=edge.address,
        server_verification_cert=ca,
        connection_retry=False,
    )
    ending.callback(client.shutdown)
    return client


def done(edge: EdgeProgram, *arguments: str) -> str:
    finished = edge.run("identity", *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def in_hub_log(edge: EdgeProgram, text: str) -> bool:
    return text in edge.run("logs", "edgeHub", "--tail", "200").stdout


def test_a_device_with_a_certificate_comes_and_goes_with_its_identity(
    edge: EdgeProgram, tmp_path: Path, ending: ExitStack
) -> None:
    shown = make_client(tmp_path, "camera")
    out = tmp_path / "out"
    done(edge, "create", "camera", "--x509", str(shown.certificate_file), "--out", str(out))
    ca = (out / "ca.pem").read_text()
    text = (out / "connection-string.txt").read_text()
    assert text.endswith(f"DeviceId=camera;x509=true;GatewayHostName={edge.address}\n")
    known = edge.json("identity", "show", "camera")
    assert (known["authentication"], "primaryKey" in known) == ("selfSigned", False)
    assert known["thumbprints"] == [t for t in thumbprints_of(shown.ders[0]) if len(t) == 64]

    client = client_of(edge, "camera", shown, ca, ending)
    client.connect()
    client.send_message("picture")
    done(edge, "disable", "camera")
    wait_until(lambda: not client.connected, "a disabled device is disconnected")
    refused = client_of(edge, "camera", shown, ca, ending)
    with pytest.raises(Exception, match=r"(?i)credential|authori"):
        refused.connect()
    assert in_hub_log(edge, "refused with CONNACK 5: identity 'camera' is disabled")

    done(edge, "enable", "camera")
    again = client_of(edge, "camera", shown, ca, ending)
    again.connect()
    done(edge, "delete", "camera")
    wait_until(lambda: not again.connected, "a deleted device is disconnected")

    assert "camera" not in [found["id"] for found in edge.json("identity", "list")]
    gone = edge.run("identity", "enable", "camera")
    assert (gone.returncode, "there is no leaf device 'camera'" in gone.stderr) == (2, True)


def test_a_device_signed_by_a_ca_of_the_trust_bundle_is_let_in(
    edge: EdgeProgram, root: Signer, tmp_path: Path, ending: ExitStack
) -> None:
    shown = make_client(tmp_path, "pump", signer=root)
    out = tmp_path / "out"
    done(edge, "create", "pump", "--x509-ca", "--out", str(out))

    client = client_of(edge, "pump", shown, (out / "ca.pem").read_text(), ending)
    client.connect()

    assert client.connected
    listed = {"id": "pump", "kind": "leaf device", "authentication": "certificateAuthority"}
    assert listed | {"status": "enabled"} in edge.json("identity", "list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--x509", "nonsense"), "'nonsense' is neither a file nor a thumbprint"),
        (("--x509", "/dev/null"), "there is no certificate in /dev/null"),
        (("--x509-secondary", "A" * 40), "name the first with --x509"),
        (("--x509-ca", "--x509", "A" * 40), "leave out --x509"),
    ],
)
def test_a_device_without_a_sensible_certificate_is_not_made(
    edge: EdgeProgram, arguments: tuple[str, ...], message: str
) -> None:
    finished = edge.run("identity", "create", "odd", *arguments)

    assert finished.returncode == 2
    assert message in finished.stderr
    assert "odd" not in [found["id"] for found in edge.json("identity", "list")]
