"""Whether a certificate that a device shows is one that an enrollment means.

Imports `cryptography`, which is heavy: import this module only where there is a certificate to look at.

Source: spec sheet security-daemon.md section 5.2; RFC 5280 section 6.1
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from messaging.errors import AuthError
from messaging.text import quoted
from runtime.security.client_certificates import (
    LONGEST_CHAIN,
    check_dates,
    check_issuers,
    common_name,
    is_authority,
)


def thumbprint(der: bytes) -> str:
    """Return the SHA-256 thumbprint of a certificate as the registry keeps it."""
    return hashlib.sha256(der).hexdigest().upper()


def check_readable(der: bytes, is_group: bool) -> str:
    """Return the common name of a certificate that somebody enrolls.

    Raises:
        ValueError: it cannot be read, or an authority's is none.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        name = common_name(certificate)
        is_ca = is_authority(certificate)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("it is damaged") from exc
    if is_group and not is_ca:
        raise ValueError(
            "it is not the certificate of an authority (no basic constraint CA); "
            "for one device make an individual enrollment"
        )
    return name


def check_device(
    registration_id: str,
    chain: Sequence[bytes],
    enrolled: Sequence[bytes],
    is_group: bool,
    now_s: float,
) -> None:
    """Return when the certificate a device showed is enrolled, or issued by an enrolled authority.

    Args:
        chain: What the client showed, DER: its own certificate, then those above, as far as it sent them.
        enrolled: The certificates of the enrollment, DER.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        AuthError: says why not.
    """
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain[: LONGEST_CHAIN + 1]]
        authorities = [x509.load_der_x509_certificate(der) for der in enrolled] if is_group else []
        _check(registration_id, certificates, chain[0], authorities, enrolled, is_group, now_s)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise AuthError(f"the certificate of '{registration_id}' cannot be read") from exc


def _check(
    registration_id: str,
    certificates: Sequence[x509.Certificate],
    leaf_der: bytes,
    authorities: Sequence[x509.Certificate],
    enrolled: Sequence[bytes],
    is_group: bool,
    now_s: float,
) -> None:
    leaf = certificates[0]
    name = common_name(leaf)
    if name.lower() != registration_id.lower():
        raise AuthError(
            f"the certificate's common name is {quoted(name)}, the registration id '{registration_id}'; "
            "they have to be the same"
        )
    whose = f"the certificate of '{registration_id}'"
    if not is_group:
        if leaf_der not in enrolled:
            raise AuthError(f"{whose} is not the one enrolled")
    elif check_issuers(leaf, certificates[1:], authorities, whose, now_s) is None:
        raise AuthError("the device's certificate was not issued by the authority of an enrollment group")
    check_dates(leaf, whose, now_s)
