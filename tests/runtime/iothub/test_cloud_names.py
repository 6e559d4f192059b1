"""What the stand-in is called, and that its CA counts for these names and no others."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from messaging.errors import ConfigError
from runtime.iothub.cloud_settings import KNOWN_NAME, is_azure, read_cloud_settings
from runtime.security.certificates import EdgeCa, ensure_named_ca, ensure_server_certificate

NOW_S = 1_800_000_000.0
NAMES = ("hub.example", "127.0.0.2")


def test_unless_told_otherwise_it_is_its_loopback_address() -> None:
    settings = read_cloud_settings()

    assert settings.names == ("127.0.0.2", KNOWN_NAME)
    assert [str(address) for address in (*settings.mqtt, *settings.https)] == [
        "127.0.0.2:8883",
        "127.0.0.2:443",
    ]
    assert settings.is_loopback


def test_the_first_host_is_its_name_and_the_others_count_too() -> None:
    settings = read_cloud_settings(("127.0.0.3", "::1"), ("Hub.Example", "other.example"))

    assert settings.host_name == "hub.example"
    assert set(settings.aliases) == {"other.example", "127.0.0.3", "::1", KNOWN_NAME}


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5"])
def test_it_leaves_the_loopback_only_when_told(address: str) -> None:
    assert not read_cloud_settings((address,), ("hub.example",)).is_loopback


BAD = {
    "no address": (("localhost",), (), "'localhost' is not an IP address"),
    "a port behind the address": (("127.0.0.2:8883",), (), "--mqtt-port"),
    "nothing to call it by": (("0.0.0.0",), (), "add --host NAME"),
    "no host name": ((), ("a b",), "'a b' is not allowed"),
    "a name of Azure": ((), ("hub.azure-devices.net",), "is a name of Azure"),
    "a name of Azure in capitals": ((), ("HUB.Azure-Devices.NET",), "is a name of Azure"),
    "the provisioning service of Azure": (
        (),
        ("global.azure-devices-provisioning.net",),
        "is a name of Azure",
    ),
}


@pytest.mark.parametrize(("listen", "hosts", "problem"), BAD.values(), ids=list(BAD))
def test_an_address_or_name_that_cannot_be_is_refused(
    listen: tuple[str, ...], hosts: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_cloud_settings(listen, hosts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("azure-devices.net", True),
        ("x.azure-devices.net.", True),
        ("azure-devices.net.example", False),
        ("notazure-devices.net", False),
        ("127.0.0.2", False),
    ],
)
def test_names_of_azure_are_known(name: str, expected: bool) -> None:
    assert is_azure(name) is expected


def test_the_ca_of_the_stand_in_stays_the_same_until_it_needs_another_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ensure_named_ca(tmp_path, "cloud", NAMES, NOW_S, 3650)
    again = ensure_named_ca(tmp_path, "cloud", ("127.0.0.2",), NOW_S, 3650)
    more = ensure_named_ca(tmp_path, "cloud", ("127.0.0.3",), NOW_S, 3650)
    back = ensure_named_ca(tmp_path, "cloud", NAMES, NOW_S, 3650)

    assert first.certificate_pem == again.certificate_pem != more.certificate_pem
    assert more.certificate_pem == back.certificate_pem
    assert "clients that trust the CA before need this one" in caplog.text


def handshake(ca: EdgeCa, chain: Path, name: str) -> str:
    """Have OpenSSL check the certificate for a name, in a real handshake; return what it refuses."""
    server_end, client_end = socket.socketpair()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(chain)

    def serve() -> None:
        try:
            server_context.wrap_socket(server_end, server_side=True).close()
        except OSError:
            server_end.close()  # the client has refused us

    server = threading.Thread(target=serve)
    server.start()
    client_context = ssl.create_default_context(cadata=ca.certificate_pem)
    try:
        client_context.wrap_socket(client_end, server_hostname=name).close()
        return ""
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_message
    finally:
        client_end.close()
        server.join(10)


OWN = {"host": "hub.example", "below it": "a.hub.example", "address": "127.0.0.2"}
FOREIGN = {
    "azure": "hub.azure-devices.net",
    "azure provisioning": "global.azure-devices-provisioning.net",
    "another host": "example",
    "the hub of this machine": "127.0.0.1",
    "an address of the Internet": "40.112.72.205",
    "an IPv6 address": "::1",
}


def served(folder: Path, ca: EdgeCa, *names: str) -> Path:
    """Return key and certificate for names by the CA, which whoever has its key can make."""
    return ensure_server_certificate(folder / "leaf", names, ca, time.time()).path


@pytest.mark.parametrize("name", OWN.values(), ids=list(OWN))
def test_openssl_trusts_the_ca_for_its_own_names(tmp_path: Path, name: str) -> None:
    ca = ensure_named_ca(tmp_path, "cloud", NAMES, time.time(), 3650)

    assert handshake(ca, served(tmp_path, ca, name, "hub.example"), name) == ""


@pytest.mark.parametrize("name", FOREIGN.values(), ids=list(FOREIGN))
def test_openssl_refuses_a_certificate_of_the_ca_for_any_other_name(tmp_path: Path, name: str) -> None:
    ca = ensure_named_ca(tmp_path, "cloud", NAMES, time.time(), 3650)

    assert "permitted subtree violation" in handshake(ca, served(tmp_path, ca, name, "hub.example"), name)


@pytest.mark.parametrize(
    ("only", "other"), [("hub.example", "127.0.0.1"), ("127.0.0.2", "hub.azure-devices.net")]
)
def test_a_ca_with_one_kind_of_names_is_closed_for_the_other_kind(
    tmp_path: Path, only: str, other: str
) -> None:
    ca = ensure_named_ca(tmp_path, "cloud", (only,), time.time(), 3650)

    assert "permitted subtree violation" in handshake(ca, served(tmp_path, ca, other), other)
