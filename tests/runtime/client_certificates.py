"""Certificates that clients show, good ones and odd ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Signer:
    """A name with a key that signs certificates, and its own certificate."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate with its key, in files as `SSLContext.load_cert_chain` wants them."""

    name: str
    certificate_file: Path
    key_file: Path
    ders: tuple[bytes, ...]  # its own first, then what it sends along


def make_signer(
    common_name: str, *, is_ca: bool = True, days: int = 30, issuer: Signer | None = None
) -> Signer:
    """Return somebody who signs; not a CA, or an expired one, or one below another, when the test says so."""
    key = ec.generate_private_key(ec.SECP256R1())
    above, signing_key = (_name_of(issuer.certificate), issuer.key) if issuer else (common_name, key)
    return Signer(_certificate(common_name, above, key, signing_key, days, is_ca=is_ca), key)


def make_client(
    folder: Path,
    common_name: str,
    *,
    signer: Signer | None = None,
    sent_along: Sequence[Signer] = (),
    days: int = 30,
    usage: x509.ObjectIdentifier | None = None,
) -> ClientCertificate:
    """Write a client's certificate, signed by itself unless there is a signer."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = _name_of(signer.certificate) if signer else common_name
    own = _certificate(common_name, issuer, key, signer.key if signer else key, days, usage=usage)
    chain = [own, *(one.certificate for one in sent_along)]
    certificate_file, key_file = folder / f"{common_name}.crt", folder / f"{common_name}.key"
    certificate_file.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    ders = tuple(one.public_bytes(serialization.Encoding.DER) for one in chain)
    return ClientCertificate(common_name, certificate_file, key_file, ders)


SERVER_ONLY = ExtendedKeyUsageOID.SERVER_AUTH


def _name_of(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signing_key: ec.EllipticCurvePrivateKey,
    days: int,
    *,
    is_ca: bool | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(signing_key, hashes.SHA256())
