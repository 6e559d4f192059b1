"""The CA certificates that the user trusts besides the edge CA: setting `trust_bundle_cert`.

Modules get them in the trust bundle of the workload API, and devices of the type certificateAuthority may be
signed by them.

Source: spec sheet security-daemon.md sections 3.2 and 5.4
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from messaging.errors import ConfigError

if TYPE_CHECKING:
    from runtime.config.settings import Settings

_PEM_BODY: Final = re.compile(r"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")


def trusted_pem(settings: Settings) -> str:
    """Return the certificates that the setting names, "" for none.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    from runtime.config.settings import origin_of  # the hub, which has no settings, uses this module as well

    path = settings.trust_bundle_cert
    if path is None:
        return ""
    return pem(certificates_in(path, origin_of(settings, "trust_bundle_cert")))


def certificates_in(path: Path, name: str) -> tuple[bytes, ...]:
    """Return the certificates in a PEM file as DER, at least one.

    Args:
        name: Of the setting or option that named the file, for errors.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    import ssl

    try:
        text = path.read_text("utf-8")
        found = ders(text)
        for der in found:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except OSError as exc:
        if not isinstance(exc, ssl.SSLError):
            raise ConfigError(f"{name}: {path} cannot be read: {exc.strerror}; name a PEM file") from exc
        raise ConfigError(f"{name}: {path} has a damaged certificate: {exc.reason}") from exc
    except ValueError as exc:
        raise ConfigError(f"{name}: {path} is no PEM file; `openssl x509 -inform der` makes one") from exc
    if not found:
        raise ConfigError(f"{name}: there is no certificate in {path}; name a PEM file that has one")
    return found


def ders(pem: str) -> tuple[bytes, ...]:
    """Return the certificates in a PEM text, unread.

    Raises:
        ValueError: one is not base64.
    """
    return tuple(base64.b64decode("".join(body.split()), validate=True) for body in _PEM_BODY.findall(pem))


def pem(certificates: Iterable[bytes]) -> str:
    """Return certificates (DER) as one PEM text."""
    import ssl

    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates))
