"""The edge CA that somebody supplies: kinds of keys, name constraints, what is read how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification

from actors.agent.certificate_ends import CertificateLife
from runtime.agent.security import EdgeSecurity
from runtime.home import Home
from runtime.modules.environment import EdgeNames
from runtime.security import certificate_files
from runtime.security.certificates import EdgeCa, ensure_server_certificate
from runtime.security.given_ca import GivenCa, names_within, read_given_ca
from runtime.security.name_constraints import is_permitted
from runtime.security.secret_files import NamedFile

NOW_S = 1_900_000_000.0
DAY_S = 86_400.0
NAMES = ("gw.plant.example", "localhost", "edgeHub", "10.0.0.5")
KEYS = {
    "EC": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def write_ca(
    folder: Path, kind: str = "EC", days: float = 30, permitted: x509.NameConstraints | None = None
) -> tuple[NamedFile, NamedFile]:
    """Write a self-signed CA without a subject key identifier, which some have."""
    key = KEYS[kind]()
    now = datetime.fromtimestamp(NOW_S, UTC)
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"{kind} CA")])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    if permitted is not None:
        builder = builder.add_extension(permitted, critical=True)
    else:
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(ski, critical=False)
    certificate = builder.sign(key, None if kind == "Ed25519" else hashes.SHA256())
    cert, private = folder / "ca.pem", folder / "ca.key"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return NamedFile(cert, "cert"), NamedFile(private, "pk")


def ca_of(folder: Path, files: tuple[NamedFile, NamedFile], now_s: float = NOW_S) -> EdgeCa:
    return read_given_ca(folder / "certificates", *files, NAMES[0], now_s)


@pytest.mark.parametrize("kind", ["EC", "RSA", "Ed25519"])
def test_a_ca_with_any_usual_kind_of_key_signs_for_the_hub(tmp_path: Path, kind: str) -> None:
    ca = ca_of(tmp_path, write_ca(tmp_path, kind))

    made = ensure_server_certificate(tmp_path / "certificates", NAMES, ca, NOW_S)

    leaf, issuer = x509.load_pem_x509_certificates(made.chain_pem.encode())
    leaf.verify_directly_issued_by(issuer)
    assert made.names == NAMES
    assert not (tmp_path / "certificates" / "edge-ca.pem").exists()  # it is not copied


def test_what_a_client_trusts_is_the_ca_that_was_supplied(tmp_path: Path) -> None:
    ca = ca_of(tmp_path, write_ca(tmp_path))
    made = ensure_server_certificate(tmp_path / "certificates", NAMES, ca, NOW_S)
    [leaf, _] = x509.load_pem_x509_certificates(made.chain_pem.encode())
    store = verification.Store(x509.load_pem_x509_certificates(ca.path.read_bytes()))

    verifier = (
        verification.PolicyBuilder()
        .store(store)
        .time(datetime.fromtimestamp(NOW_S, UTC))
        .build_server_verifier(x509.DNSName(NAMES[0]))
    )

    assert verifier.verify(leaf, [])


def test_names_that_the_ca_may_not_sign_for_are_left_out_of_the_certificate(tmp_path: Path) -> None:
    only = x509.NameConstraints([x509.DNSName("plant.example")], None)

    ca = ca_of(tmp_path, write_ca(tmp_path, permitted=only))

    assert names_within(ca, NAMES) == ("gw.plant.example", "10.0.0.5")


def test_files_that_stay_the_same_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    load = certificate_files.load_pair
    monkeypatch.setattr(
        certificate_files, "load_pair", lambda *args: (checked.append("checked"), load(*args))[1]
    )
    files = write_ca(tmp_path)

    first, second = ca_of(tmp_path, files), ca_of(tmp_path, files, NOW_S + DAY_S)
    assert (checked, first) == (["checked"], second)

    ca_of(tmp_path, write_ca(tmp_path))
    read_given_ca(tmp_path / "certificates", *files, "other.example", NOW_S)
    assert len(checked) == 3


def test_a_certificate_of_the_hub_that_lasts_as_long_as_its_ca_is_not_made_again_and_again(
    tmp_path: Path,
) -> None:
    ca = ca_of(tmp_path, write_ca(tmp_path, days=0.1))
    folder = tmp_path / "certificates"

    first = ensure_server_certificate(folder, NAMES, ca, NOW_S)
    again = ensure_server_certificate(folder, NAMES, ca, NOW_S + 0.09 * DAY_S)

    assert first.not_after_s == ca.not_after_s
    assert again == first


@pytest.mark.parametrize(
    ("name", "permitted", "allowed"),
    [
        ("gw.plant.example", ("plant.example",), True),
        ("plant.example", ("plant.example",), True),
        ("GW.Plant.Example", (".plant.example",), True),
        ("gwplant.example", ("plant.example",), False),
        ("other", ("plant.example", "other"), True),
        ("10.0.0.5", ("plant.example",), True),
        ("10.0.0.5", ("10.0.0.0/24",), True),
        ("10.0.1.5", ("10.0.0.0/24", "plant.example"), False),
        ("::1", ("10.0.0.0/24", "::/64"), True),
        ("gw", ("10.0.0.0/24",), True),
        ("gw", (), True),
    ],
)
def test_name_constraints_hold_for_each_kind_of_name(
    name: str, permitted: tuple[str, ...], allowed: bool
) -> None:
    assert is_permitted(name, permitted) is allowed


def test_a_given_ca_is_known_with_its_file_and_its_life(tmp_path: Path, run_dir: Path) -> None:
    cert, key = write_ca(tmp_path, days=12)
    names = EdgeNames("edge1", "hub.example", "gw.plant.example")
    security = EdgeSecurity(
        Home(tmp_path / "home"),
        run_dir,
        names=names,
        server_names=NAMES,
        process_of=lambda name: None,
        ca=GivenCa(cert, key),
        now_s=lambda: NOW_S,
    )

    edge_ca, hub = security.certificates()

    assert edge_ca == CertificateLife("edge_ca", NOW_S - DAY_S, NOW_S + 12 * DAY_S, str(cert.path))
    assert (hub.name, hub.given_file) == ("hub", "")
    assert NOW_S < hub.not_after_s <= edge_ca.not_after_s
