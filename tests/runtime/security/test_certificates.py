"""The edge CA and the hub's server certificate: kept, checked, renewed; real TLS handshakes with them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from messaging.errors import ConfigError, EnvironmentFault
from runtime.security.certificate_issue import issue_ca, issue_identity, issue_server
from runtime.security.certificates import (
    CA_FILE,
    SERVER_FILE,
    EdgeCa,
    ServerCertificate,
    ensure_edge_ca,
    ensure_server_certificate,
    server_names,
)
from runtime.security.renewal import DEFAULT_THRESHOLD

DAY_S = 86_400
NOW_S = 1_790_000_000.0
NAMES = server_names("gw.example", ["127.0.0.1", "127.0.0.5", "::1"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


@pytest.fixture
def ca(folder: Path) -> EdgeCa:
    return ensure_edge_ca(folder, "edge1", NOW_S)


def _certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _handshake(server: ServerCertificate, trust_pem: str, name: str, version: ssl.TLSVersion) -> str | None:
    """Run a TLS handshake in memory, host name checked, and return the protocol version agreed on."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(server.path)
    client_side = ssl.create_default_context(cadata=trust_pem)
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    client_side.minimum_version = client_side.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    server_end = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting: list[ssl.SSLObject] = [client, server_end]
    while waiting:
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    return client.version()


@pytest.fixture
def real_now_s() -> float:
    return datetime.now(UTC).timestamp()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("name", ["gw.example", "localhost", "edgeHub", "127.0.0.1", "127.0.0.5", "::1"])
def test_a_client_that_trusts_the_bundle_connects_by_every_name(
    folder: Path, real_now_s: float, name: str, version: ssl.TLSVersion
) -> None:
    ca = ensure_edge_ca(folder, "edge1", real_now_s)
    server = ensure_server_certificate(folder, NAMES, ca, real_now_s)

    agreed = _handshake(server, ca.certificate_pem, name, version)

    assert agreed == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]


def test_a_name_that_is_not_in_the_certificate_is_refused_by_the_client(
    folder: Path, real_now_s: float
) -> None:
    ca = ensure_edge_ca(folder, "edge1", real_now_s)
    server = ensure_server_certificate(folder, NAMES, ca, real_now_s)

    with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.6"):
        _handshake(server, ca.certificate_pem, "127.0.0.6", ssl.TLSVersion.TLSv1_2)


def test_the_edge_ca_may_issue_leaves_only(ca: EdgeCa) -> None:
    certificate = _certificate(ca.certificate_pem)

    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert certificate.subject.rfc4514_string() == "CN=aziot-edge CA edge1"
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_before_utc.timestamp() == NOW_S - DAY_S
    assert certificate.not_valid_after_utc.timestamp() == NOW_S + 90 * DAY_S


def test_the_server_certificate_names_its_issuer_and_carries_it(folder: Path, ca: EdgeCa) -> None:
    server = ensure_server_certificate(folder, NAMES, ca, NOW_S)

    leaf, issuer = x509.load_pem_x509_certificates(server.chain_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer == _certificate(ca.certificate_pem)
    leaf.verify_directly_issued_by(issuer)
    assert authority.key_identifier == subject_key.digest
    assert names.get_values_for_type(x509.DNSName) == ["gw.example", "localhost", "edgeHub"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "127.0.0.5", "::1"]
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.not_valid_before_utc.timestamp() == NOW_S - DAY_S


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("g" * 64, "g" * 64),
        ("g" * 65, "g" * 64),
        ("ä" * 40, "ä" * 32),
        ("a" + "ä" * 40, "a" + "ä" * 31),
    ],
    ids=["64 bytes", "65 bytes", "two-byte characters", "a character across the limit"],
)
def test_a_common_name_is_cut_to_64_bytes_between_characters(name: str, expected: str) -> None:
    issued = issue_ca(name, NOW_S, 90)

    attributes = _certificate(issued.chain_pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [attribute.value for attribute in attributes] == [expected]


def test_a_host_name_over_64_bytes_stands_uncut_among_the_names(folder: Path, ca: EdgeCa) -> None:
    host = "a-rather-long-host-name." * 4 + "example"

    server = ensure_server_certificate(folder, (host,), ca, NOW_S)

    names = _certificate(server.chain_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == [host]


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ([], ("gw", "localhost", "edgeHub")),
        (["0.0.0.0", "::"], ("gw", "localhost", "edgeHub")),
        (["10.0.0.5"], ("gw", "localhost", "edgeHub", "10.0.0.5")),
        (["gw", "localhost"], ("gw", "localhost", "edgeHub")),
    ],
    ids=["none", "wildcards are left out", "an address", "each once"],
)
def test_server_names(listen: list[str], expected: tuple[str, ...]) -> None:
    assert server_names("gw", listen) == expected


@pytest.mark.parametrize(
    ("not_before_s", "not_after_s", "now_s", "expected"),
    [
        (0, 100, 79.9, False),
        (0, 100, 80, True),
        (0, 100, 500, True),
        (0, 100, -1, False),
        (100, 100, 0, True),
        (101, 100, 0, True),
    ],
    ids=["before 80 %", "at 80 %", "expired", "not yet valid", "no life at all", "negative life"],
)
def test_renewal_is_due(not_before_s: float, not_after_s: float, now_s: float, expected: bool) -> None:
    assert DEFAULT_THRESHOLD.is_due(not_before_s, not_after_s, now_s) is expected


def test_what_is_valid_is_used_again(folder: Path, ca: EdgeCa) -> None:
    server = ensure_server_certificate(folder, NAMES, ca, NOW_S)

    assert ensure_edge_ca(folder, "edge1", NOW_S + DAY_S) == ca
    assert ensure_server_certificate(folder, NAMES, ca, NOW_S + DAY_S) == server


def test_both_are_issued_anew_with_new_keys_at_80_percent_of_their_lives(folder: Path, ca: EdgeCa) -> None:
    server = ensure_server_certificate(folder, NAMES, ca, NOW_S)

    assert ensure_server_certificate(folder, NAMES, ca, server.renew_at_s - 1) == server
    second = ensure_server_certificate(folder, NAMES, ca, server.renew_at_s)
    assert ensure_edge_ca(folder, "edge1", ca.renew_at_s - 1) == ca
    next_ca = ensure_edge_ca(folder, "edge1", ca.renew_at_s)

    assert _certificate(second.chain_pem).public_key() != _certificate(server.chain_pem).public_key()
    assert _certificate(next_ca.certificate_pem).public_key() != _certificate(ca.certificate_pem).public_key()
    assert next_ca.not_after_s == int(ca.renew_at_s) + 90 * DAY_S


def test_a_new_edge_ca_means_a_new_server_certificate(folder: Path, ca: EdgeCa) -> None:
    at_s = ca.renew_at_s
    ensure_server_certificate(folder, NAMES, ca, at_s)

    next_ca = ensure_edge_ca(folder, "edge1", at_s)
    server = ensure_server_certificate(folder, NAMES, next_ca, at_s)

    assert server.chain_pem.endswith(next_ca.certificate_pem)


def test_a_server_certificate_never_outlives_the_edge_ca(folder: Path, ca: EdgeCa) -> None:
    server = ensure_server_certificate(folder, NAMES, ca, ca.not_after_s - 3 * DAY_S)

    assert server.not_after_s == ca.not_after_s


def test_an_expired_edge_ca_issues_nothing_and_says_why(ca: EdgeCa) -> None:
    with pytest.raises(ConfigError, match=r"expired on .*restart the edge"):
        issue_server(ca, "gw", ("gw",), ca.not_after_s)


@pytest.mark.parametrize(
    ("names", "anew"),
    [
        (NAMES[:2], False),
        ((*NAMES, "10.0.0.5"), True),
        (("other.example", *NAMES), True),
        ((*NAMES, "0:0:0:0:0:0:0:1"), False),
    ],
    ids=["fewer names", "one address more", "another host name", "another spelling of an address"],
)
def test_the_server_certificate_is_issued_anew_when_it_lacks_a_name(
    folder: Path, ca: EdgeCa, names: tuple[str, ...], anew: bool
) -> None:
    before = ensure_server_certificate(folder, NAMES, ca, NOW_S)

    after = ensure_server_certificate(folder, names, ca, NOW_S)

    assert (after != before) is anew


def test_a_clock_that_was_set_back_keeps_the_edge_ca_and_warns(
    folder: Path, ca: EdgeCa, caplog: pytest.LogCaptureFixture
) -> None:
    assert ensure_edge_ca(folder, "edge1", NOW_S - 400 * DAY_S) == ca

    assert "set the clock" in caplog.text


def test_a_host_name_that_no_certificate_can_hold_is_named(folder: Path, ca: EdgeCa) -> None:
    with pytest.raises(ConfigError, match=r"host name 'münchen' .*xn--"):
        ensure_server_certificate(folder, ("münchen",), ca, NOW_S)


def test_key_files_and_their_folder_are_for_the_owner_alone(folder: Path, ca: EdgeCa) -> None:
    ensure_server_certificate(folder, NAMES, ca, NOW_S)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {
        CA_FILE,
        SERVER_FILE,
        "edge-ca.json",
        "hub-server.json",
    }


def test_a_folder_that_others_may_read_is_closed(folder: Path) -> None:
    folder.mkdir(mode=0o755)

    ensure_edge_ca(folder, "edge1", NOW_S)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_private_key_leaves_the_files(folder: Path, ca: EdgeCa) -> None:
    server = ensure_server_certificate(folder, NAMES, ca, NOW_S)
    issued = issue_server(ca, "gw", ("gw",), NOW_S)

    assert "PRIVATE KEY" not in repr(ca) + repr(server) + repr(issued) + ca.certificate_pem + server.chain_pem


def _replace_key(path: Path, folder: Path) -> None:
    other = issue_ca("other", NOW_S, 90)
    certificates = path.read_text()[path.read_text().index("-----BEGIN CERTIFICATE") :]
    path.write_text(other.private_key_pem + certificates)


def _cut(path: Path, folder: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _empty(path: Path, folder: Path) -> None:
    path.write_bytes(b"")


def _drop_key(path: Path, folder: Path) -> None:
    path.write_text(path.read_text()[path.read_text().index("-----BEGIN CERTIFICATE") :])


def _binary(path: Path, folder: Path) -> None:
    path.write_bytes(os.urandom(800))


def _folder(path: Path, folder: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_replace_key, "private key does not belong to its certificate"),
        (_cut, "certificate is missing or damaged"),
        (_empty, "private key is missing or damaged"),
        (_drop_key, "private key is missing or damaged"),
        (_binary, "private key is missing or damaged"),
        (_folder, "Is a directory"),
    ],
    ids=["another key", "cut short", "empty", "no key", "random bytes", "a folder instead"],
)
@pytest.mark.parametrize("name", [CA_FILE, SERVER_FILE])
def test_a_damaged_file_is_named_with_the_way_out_and_left_alone(
    folder: Path, ca: EdgeCa, name: str, damage: Callable[[Path, Path], None], reason: str
) -> None:
    ensure_server_certificate(folder, NAMES, ca, NOW_S)
    path = folder / name
    damage(path, folder)
    content = path.read_bytes() if path.is_file() else None

    def start() -> None:
        ensure_server_certificate(folder, NAMES, ensure_edge_ca(folder, "edge1", NOW_S), NOW_S)

    with pytest.raises(ConfigError) as caught:
        start()

    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "remove it to have a new one issued" in str(caught.value)
    assert content == (path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"version": 1, "sha256": 5}', b"\xff"])
def test_a_summary_that_is_missing_or_damaged_is_made_again(
    folder: Path, ca: EdgeCa, content: bytes | None
) -> None:
    summary = folder / "edge-ca.json"
    good = json.loads(summary.read_bytes())
    if content is None:
        summary.unlink()
    else:
        summary.write_bytes(content)

    assert ensure_edge_ca(folder, "edge1", NOW_S) == ca

    assert json.loads(summary.read_bytes()) == good


def test_a_summary_of_another_file_is_not_believed(folder: Path, ca: EdgeCa, tmp_path: Path) -> None:
    other = ensure_edge_ca(tmp_path / "other", "edge1", NOW_S + DAY_S)
    shutil.copy(other.path, ca.path)

    assert ensure_edge_ca(folder, "edge1", NOW_S + DAY_S).not_after_s == other.not_after_s


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")

    with pytest.raises(EnvironmentFault, match=r"cannot make the private folder '.*home/certificates'"):
        ensure_edge_ca(tmp_path / "home" / "certificates", "edge1", NOW_S)


def test_a_write_that_fails_leaves_the_old_certificate_and_no_rest(folder: Path, ca: EdgeCa) -> None:
    before = ca.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (16, hard)
    )  # every write stops after 16 bytes, like a full disk
    try:
        with pytest.raises(EnvironmentFault) as caught:
            ensure_edge_ca(folder, "edge1", ca.renew_at_s)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert str(caught.value).startswith(f"cannot write '{ca.path}': ")
    assert ca.path.read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {CA_FILE, "edge-ca.json"}
    assert ensure_edge_ca(folder, "edge1", NOW_S) == ca


def test_a_start_with_valid_certificates_does_not_load_the_cryptography_package(
    folder: Path, ca: EdgeCa
) -> None:
    ensure_server_certificate(folder, NAMES, ca, NOW_S)
    program = f"""
import sys
from pathlib import Path
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate
folder = Path({str(folder)!r})
ca = ensure_edge_ca(folder, "edge1", {NOW_S})
ensure_server_certificate(folder, {NAMES!r}, ca, {NOW_S})
print("cryptography" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_an_identity_certificate_names_the_module_as_a_uri(ca: EdgeCa) -> None:
    issued = issue_identity(ca, "h", "d1", "m1", NOW_S)

    leaf = _certificate(issued.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert leaf.subject.rfc4514_string() == "CN=m1"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["azureiot://h/devices/d1/modules/m1"]
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert leaf.not_valid_after_utc.timestamp() == NOW_S + 30 * DAY_S


def test_issuing_from_an_edge_ca_that_was_replaced_meanwhile_says_so(
    folder: Path, ca: EdgeCa, tmp_path: Path
) -> None:
    other = ensure_edge_ca(tmp_path / "other", "edge1", NOW_S)
    shutil.copy(other.path, ca.path)

    with pytest.raises(ConfigError, match="was replaced while the edge runs"):
        issue_server(ca, "gw", ("gw",), NOW_S)
