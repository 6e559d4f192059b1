"""All certificates of an edge, as people want to see them. Imports `cryptography`, which is heavy."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from runtime.config.settings import Settings, origin_of
from runtime.home import Home
from runtime.iothub.device_certificates import thumbprint
from runtime.security.certificate_files import load_certificates
from runtime.security.certificates import CA_FILE, SERVER_FILE
from runtime.security.client_certificates import is_authority
from runtime.security.secret_files import NamedFile
from runtime.upstream.provisioning import load


class Shown(Struct, frozen=True):
    """One certificate; `position` counts from 0 in the chain of its file."""

    use: str
    position: int
    certificate: x509.Certificate
    file: Path

    @property
    def subject(self) -> str:
        return self.certificate.subject.rfc4514_string()

    @property
    def issuer(self) -> str:
        return self.certificate.issuer.rfc4514_string()

    @property
    def names(self) -> tuple[str, ...]:
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return ()
        return tuple(str(name.value) for name in found)

    @property
    def is_authority(self) -> bool:
        return is_authority(self.certificate)

    @property
    def from_utc(self) -> str:
        return _utc(self.certificate.not_valid_before_utc)

    @property
    def until_utc(self) -> str:
        return _utc(self.certificate.not_valid_after_utc)

    @property
    def thumbprint(self) -> str:
        return thumbprint(self.certificate.public_bytes(serialization.Encoding.DER))

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def days_left(self, now_s: float) -> int:
        """Return the whole days until its end; below zero when it is over."""
        return math.floor((self.certificate.not_valid_after_utc.timestamp() - now_s) / 86_400)


def certificates_of(settings: Settings) -> list[Shown]:
    """Return all that there are, with their chains.

    Raises:
        ConfigError: a file that is named is not there, or one is damaged.
    """
    home = Home(settings.home)
    given = settings.edge_ca_cert
    made = home.certificates / CA_FILE
    files: list[tuple[str, Path, str]] = [
        ("edge CA", given or made, origin_of(settings, "edge_ca_cert") if given else str(made)),
        ("hub", home.certificates / SERVER_FILE, str(home.certificates / SERVER_FILE)),
    ]
    kept = load(home)
    identity = settings.identity_cert or (kept.identity.cert if kept and kept.identity else None)
    if identity is not None:
        files.append(("device", identity, origin_of(settings, "identity_cert")))
    files.append(("cloud CA", home.cloud_ca, str(home.cloud_ca)))
    if settings.trust_bundle_cert is not None:
        files.append(("trust bundle", settings.trust_bundle_cert, origin_of(settings, "trust_bundle_cert")))
    found = []
    for use, path, origin in files:
        if path.exists() or not path.is_relative_to(home.certificates):
            chain = load_certificates(NamedFile(path, origin))
            found += [Shown(use, position, one, path) for position, one in enumerate(chain)]
    return found


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
