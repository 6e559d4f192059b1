"""Certificates that an operator supplies as files: checked whole before anything uses them.

Imports `cryptography`, which is heavy: import this module only where there is such a file.

Source: RFC 5280 sections 4.2.1.3, 4.2.1.9 and 4.2.1.10; spec sheet security-daemon.md sections 3.1 and 5.1
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from messaging.errors import ConfigError
from messaging.text import quoted
from runtime.security.client_certificates import common_name, is_authority
from runtime.security.name_constraints import is_permitted
from runtime.security.secret_files import NamedFile, cannot_read, check_closed

_MARK = b"-----BEGIN CERTIFICATE-----"


class Pair(Struct, frozen=True):
    """A private key and its certificate, which fit each other; then those above it."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def common_name(self) -> str:
        return common_name(self.certificates[0])

    @property
    def permitted(self) -> tuple[tuple[str, ...], ...]:
        """The name constraints of each certificate that has some."""
        return tuple(found for one in self.certificates if (found := _permitted(one)))

    @property
    def pem(self) -> str:
        return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in self.certificates)

    @property
    def not_before_s(self) -> int:
        return int(self.certificates[0].not_valid_before_utc.timestamp())

    @property
    def not_after_s(self) -> int:
        return int(self.certificates[0].not_valid_after_utc.timestamp())


def load_pair(cert: NamedFile, key: NamedFile, now_s: float) -> Pair:
    """Return what two files hold.

    One that is not valid yet is taken: a device without a clock battery starts in the past.

    Raises:
        ConfigError: a file cannot be read or is damaged, the key is open to everybody or encrypted, the two
            do not match, or the certificate has expired.
    """
    certificates = load_certificates(cert)
    private = _load_key(key)
    own = certificates[0]
    if own.public_key() != private:
        raise ConfigError(
            f"{key.origin}: the private key in '{key.path}' does not belong to the first certificate in "
            f"'{cert.path}'; name the key with which that certificate was requested"
        )
    if now_s >= own.not_valid_after_utc.timestamp():
        raise ConfigError(
            f"{cert.origin}: the certificate in '{cert.path}' expired on {_date(own.not_valid_after_utc)}; "
            f"have a new one issued, or set the clock, which says {_date(datetime.fromtimestamp(now_s, UTC))}"
        )
    return Pair(certificates)


def load_certificates(cert: NamedFile) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a PEM file, at least one.

    Raises:
        ConfigError: it cannot be read or is damaged.
    """
    content = _read(cert)
    try:
        found = x509.load_pem_x509_certificates(content) if _MARK in content else []
        if len(found) != content.count(_MARK):
            raise ValueError("the loader passes over a block without an end")
        if found:
            found[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            f"{cert.origin}: '{cert.path}' has a damaged certificate; copy the file once more"
        ) from exc
    if not found:
        raise ConfigError(
            f"{cert.origin}: there is no certificate in '{cert.path}'; name a PEM file that begins with one"
        )
    return tuple(found)


def check_authority(cert: NamedFile, pair: Pair, host_name: str) -> None:
    """Check that a certificate may sign for the name under which clients reach this edge.

    Raises:
        ConfigError: it is no authority, or its name constraints leave the name out.
    """
    own = pair.certificates[0]
    if not is_authority(own) or not _may_sign(own):
        raise ConfigError(
            f"{cert.origin}: the certificate in '{cert.path}' is not that of an authority (basic constraint "
            "CA, key usage keyCertSign), so nothing that it signs is trusted; have one issued that is"
        )
    for permitted in pair.permitted:
        if not is_permitted(host_name, permitted):
            raise ConfigError(
                f"{cert.origin}: the authority in '{cert.path}' may not sign for host name "
                f"{quoted(host_name)}: its name constraints permit {', '.join(permitted)}; set hostname to "
                "one of these, or have an authority issued that permits this one"
            )


def _load_key(key: NamedFile) -> object:
    """Return the public half of a private key."""
    content = _read(key)
    check_closed(key.path, key.origin)
    try:
        return serialization.load_pem_private_key(content, password=None).public_key()
    except TypeError as exc:
        raise ConfigError(
            f"{key.origin}: the private key in '{key.path}' is encrypted; "
            "`openssl pkey -in FILE -out FILE2` writes one that is not"
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            f"{key.origin}: there is no private key in '{key.path}'; name a PEM file that has one"
        ) from exc


def _read(file: NamedFile) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as exc:
        raise ConfigError(cannot_read(file.path, file.origin, exc)) from exc


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _permitted(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value) for one in found.permitted_subtrees or ())


def _date(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d")
