"""Makes and inspects X.509 certificates.

Imports `cryptography`, which is heavy: import this module only where there is something to issue or inspect.
All keys are EC P-256 in unencrypted PKCS#8. Validity starts one day back, because clocks on a site differ.

Source: spec sheet security-daemon.md sections 1.5 and 3.1
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from messaging.errors import ConfigError
from runtime.security.certificates import BACKDATED_S, LEAF_VALID_DAYS, EdgeCa

COMMON_NAME_LIMIT_BYTES = 64  # ub-common-name, RFC 5280 appendix A.1
_CERTIFICATE_MARK = b"-----BEGIN CERTIFICATE-----"
_BACKDATE = timedelta(seconds=BACKDATED_S)
NOBODY = "nobody.invalid"  # a name that nobody can have, RFC 2606


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A new key with its certificate and, in a chain, the issuer's."""

    private_key_pem: str = field(repr=False)
    chain_pem: str
    not_after_s: int


class Leaf(Struct, frozen=True):
    """What the first certificate of a file says."""

    names: tuple[str, ...]
    permitted: tuple[str, ...]  # of a CA: the only names it may issue for, () for any
    not_before_s: int
    not_after_s: int


def issue_ca(
    common_name: str,
    now_s: float,
    valid_days: int,
    permitted: Iterable[str] = (),
    key_pem: bytes | None = None,
) -> IssuedCertificate:
    """Return a new self-signed CA that may issue leaves only. A longer common name is cut to 64 bytes.

    Args:
        common_name: Of the CA.
        now_s: Seconds since 1970-01-01 UTC.
        valid_days: Its life.
        permitted: Host names and IP addresses; when there are any, OpenSSL refuses its certificates for
            others. A host name permits those below it, too (RFC 5280 section 4.2.1.10).
        key_pem: Of the CA before, to go on with its key; None for a new one.

    Raises:
        ConfigError: a name cannot stand in a certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1()) if key_pem is None else _own_key(key_pem)
    subject = _common_name(common_name)
    now = datetime.fromtimestamp(int(now_s), UTC)
    builder = (
        _builder(subject, subject, key.public_key(), now, now + timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage_of_ca(), critical=True)
    )
    subtrees = [_subtree(name) for name in permitted]
    if subtrees:
        # A kind of name without any entry would be free: a mark that is nobody's name closes it.
        kinds = {type(subtree) for subtree in subtrees}
        if x509.DNSName not in kinds:
            subtrees.append(x509.DNSName(NOBODY))
        if x509.IPAddress not in kinds:
            subtrees.append(x509.IPAddress(ipaddress.ip_network("0.0.0.0/32")))
        builder = builder.add_extension(x509.NameConstraints(subtrees, None), critical=True)
    return _issued(key, builder.sign(key, hashes.SHA256()), "")


def issue_server(
    ca: EdgeCa, common_name: str, names: Iterable[str], now_s: float, valid_days: int = LEAF_VALID_DAYS
) -> IssuedCertificate:
    """Return a new server certificate: IP addresses among `names` as such, all others as DNS names.

    A longer common name is cut to 64 bytes; the names are not.

    Raises:
        ConfigError: a name is not ASCII or empty, or the edge CA's file is damaged.
    """
    alternatives = [_alternative_name(name) for name in names]
    return _issue_leaf(ca, common_name, alternatives, ExtendedKeyUsageOID.SERVER_AUTH, now_s, valid_days)


def issue_identity(
    ca: EdgeCa, hub_host: str, device_id: str, module_id: str, now_s: float
) -> IssuedCertificate:
    """Return a new client certificate by which a module proves who it is.

    Its alternative name is the URI of the module. The reference writes that text into a *DNS* name, blank
    included, which RFC 5280 section 4.2.1.6 forbids and strict verifiers refuse.

    Raises:
        ConfigError: the edge CA's file is damaged, or an id is not ASCII.
    """
    uri = f"azureiot://{hub_host}/devices/{device_id}/modules/{module_id}"
    try:
        alternative = x509.UniformResourceIdentifier(uri)
    except ValueError as exc:
        raise ConfigError(f"'{uri}' cannot stand in a certificate: {exc}; use ASCII ids") from exc
    return _issue_leaf(ca, module_id, [alternative], ExtendedKeyUsageOID.CLIENT_AUTH, now_s, LEAF_VALID_DAYS)


def inspect(pem: bytes) -> Leaf:
    """Return what the first certificate of a file says; the private key beside it is checked to be its own.

    Raises:
        ValueError: no key, no certificate, damaged, or the two do not match.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ValueError("its private key is missing or damaged") from exc
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        if len(certificates) != pem.count(_CERTIFICATE_MARK):
            raise ValueError("the loader passes over a block without an end")
        certificate = certificates[0]
        names = _names_of(certificate)
        permitted = _permitted_by(certificate)
        public_key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("its certificate is missing or damaged") from exc
    if public_key != key.public_key():
        raise ValueError("its private key does not belong to its certificate")
    return Leaf(
        names,
        permitted,
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def _issue_leaf(
    ca: EdgeCa,
    common_name: str,
    alternatives: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now_s: float,
    valid_days: int,
) -> IssuedCertificate:
    ca_key, ca_certificate = _load_ca(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.fromtimestamp(int(now_s), UTC)
    if now >= ca_certificate.not_valid_after_utc:
        raise ConfigError(
            f"the edge CA '{ca.path}' expired on {ca_certificate.not_valid_after_utc.isoformat()}; "
            "restart the edge to have a new one issued, or set the clock"
        )
    not_after = min(now + timedelta(days=valid_days), ca_certificate.not_valid_after_utc)
    certificate = (
        _builder(_common_name(common_name), ca_certificate.subject, key.public_key(), now, not_after)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_authority_key_id(ca_certificate), critical=False)
        .sign(ca_key, None if isinstance(ca_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    return _issued(key, certificate, ca.certificate_pem)


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        # Only kinds of keys come here that this can be made from.
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _own_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # we make no others
    return key


SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def _load_ca(ca: EdgeCa) -> tuple[SigningKey, x509.Certificate]:
    try:
        pem = (ca.key_path or ca.path).read_bytes()
        if ca.key_path is None:
            inspect(pem)
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificates(ca.certificate_pem.encode("ascii"))[0]
    except (OSError, ValueError, TypeError) as exc:
        way_out = (
            "restore it from a backup, or remove it to have a new one issued at the next start (downstream "
            "devices then need its certificate)"
            if ca.key_path is None
            else f"`edge-actors config check` says what is wrong with '{ca.key_path}'"
        )
        raise ConfigError(f"the edge CA '{ca.path}' is not usable: {exc}; {way_out}") from exc
    if not isinstance(key, SigningKey):
        raise ConfigError(
            f"the edge CA '{ca.path}' has a key of a kind that is not used here; "
            "have one issued with an EC, RSA or Ed25519 key"
        )
    if key.public_key() != certificate.public_key():
        raise ConfigError(
            f"the edge CA '{ca.path}' was replaced while the edge runs; restart the edge to use the new one"
        )
    return key, certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _issued(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, issuer_pem: str
) -> IssuedCertificate:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    return IssuedCertificate(
        key_pem.decode("ascii"),
        certificate_pem.decode("ascii") + issuer_pem,
        int(certificate.not_valid_after_utc.timestamp()),
    )


def _common_name(text: str) -> x509.Name:
    # Cut in bytes, since the limit counts them once encoded; a half character at the end is dropped.
    cut = text.encode()[:COMMON_NAME_LIMIT_BYTES].decode(errors="ignore")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cut)])


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        if not name:
            raise ValueError("it is empty")
        return x509.DNSName(name)
    except ValueError as exc:
        raise ConfigError(
            f"host name '{name}' cannot stand in a certificate: {exc}; use letters, digits, hyphens and "
            "dots, and the xn-- form of an international name"
        ) from exc


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _subtree(name: str) -> x509.GeneralName:
    alternative = _alternative_name(name)
    if isinstance(alternative, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(name))
    return alternative


def _permitted_by(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(
        str(subtree.value).partition("/")[0]  # of an address its network, which is itself
        for subtree in constraints.permitted_subtrees or ()
    )


def _key_usage_of_ca() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
