"""Whether a certificate that a device shows is one that an enrollment means.

Imports `cryptography`, which is heavy: import this module only where there is a certificate to look at.

Source: spec sheet security-daemon.md section 5.2; RFC 5280 section 6.1
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from messaging.errors import AuthError
from messaging.text import quoted

LONGEST_CHAIN = 5  # from the device's certificate to the one enrolled


def thumbprint(der: bytes) -> str:
    """Return the SHA-256 thumbprint of a certificate as the registry keeps it."""
    return hashlib.sha256(der).hexdigest().upper()


def check_readable(der: bytes, is_authority: bool) -> str:
    """Return the common name of a certificate that somebody enrolls.

    Raises:
        ValueError: it cannot be read, or an authority's is none.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        name = common_name(certificate)
        is_ca = _is_authority(certificate)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("it is damaged") from exc
    if is_authority and not is_ca:
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
        certificates = [x509.load_der_x509_certificate(der) for der in chain[:LONGEST_CHAIN]]
        authorities = [x509.load_der_x509_certificate(der) for der in enrolled] if is_group else []
        _check(registration_id, certificates, chain[0], authorities, enrolled, is_group, now_s)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise AuthError(f"the certificate of '{registration_id}' cannot be read") from exc


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of the subject, '' when it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


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
    if is_group:
        _check_path(certificates, authorities, now_s)
    elif leaf_der not in enrolled:
        raise AuthError(f"the certificate of '{registration_id}' is not the one enrolled")
    _check_time(leaf, now_s)


def _check_path(
    certificates: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now_s: float
) -> None:
    """Walk up from the device's certificate until an enrolled authority has issued one."""
    below = certificates[0]
    others = list(certificates[1:])
    for _ in range(LONGEST_CHAIN):
        for authority in authorities:
            if _issued(below, authority):
                _check_time(authority, now_s)
                return
        above = next((one for one in others if _is_authority(one) and _issued(below, one)), None)
        if above is None:
            break
        _check_time(above, now_s)
        others.remove(above)
        below = above
    raise AuthError("the device's certificate was not issued by the authority of an enrollment group")


def _issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_time(certificate: x509.Certificate, now_s: float) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.fromtimestamp(now_s, UTC) <= end:
        raise AuthError(
            f"certificate {quoted(common_name(certificate))} is valid from {begin.isoformat()} to "
            f"{end.isoformat()}, which is not now"
        )
