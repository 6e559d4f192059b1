"""What the certificate of a client is worth: for our own hub and for the stand-in of IoT Hub alike.

That the client has the private key was seen in the TLS handshake (tls_server.py); all else is checked here.
`cryptography` is loaded with the first certificate that has to be read, not before.

Source: spec sheet hub-protocols.md section 5.5
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from messaging.errors import AuthError
from messaging.identity import Identity

if TYPE_CHECKING:
    from cryptography import x509

LONGEST_CHAIN: Final = 5  # certificates between a client's own and a CA that is trusted


def check_certificate(
    certificates: Sequence[bytes],
    identity: Identity,
    auth_type: str,
    thumbprints: Collection[str],
    authorities: Sequence[bytes],
    now_s: float,
) -> float:
    """Return until when the certificate proves the identity, in seconds since 1970-01-01 UTC.

    Args:
        certificates: What the client showed, DER: its own, then the issuers that it sent along.
        auth_type: As registered: `selfSigned` goes by thumbprint, `certificateAuthority` by name and issuer;
            with any other type no certificate proves anything.
        thumbprints: Of `selfSigned`: SHA-1 or SHA-256 in capital hex.
        authorities: Of `certificateAuthority`: the CA certificates that are trusted, DER.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        AuthError: it is not the identity's, not valid now, or of no trusted CA.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    own = certificates[0]
    try:
        certificate = x509.load_der_x509_certificate(own)
        whose = f"the client certificate of '{identity}'"
        ends_s = check_dates(certificate, whose, now_s)
        if auth_type == "certificateAuthority":
            _check_own(certificate, identity)
            sent, trusted = _read_all(certificates[1 : LONGEST_CHAIN + 1]), _read_all(authorities)
            above_ends_s = check_issuers(certificate, sent, trusted, whose, now_s)
            if above_ends_s is None:
                raise AuthError(f"{whose} is of no CA that this hub trusts")
            return min(ends_s, above_ends_s)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise AuthError(f"the client certificate of '{identity}' cannot be read") from exc
    if auth_type != "selfSigned":
        raise AuthError(f"'{identity}' proves itself with {auth_type}, not with a certificate")
    if thumbprints_of(own).isdisjoint(thumbprints):
        raise AuthError(f"the client certificate of '{identity}' has another thumbprint than registered")
    return ends_s


def thumbprints_of(der: bytes) -> frozenset[str]:
    """Return the thumbprints under which a certificate may be registered, capital hex: SHA-256 and SHA-1."""
    return frozenset((hashlib.sha256(der).hexdigest().upper(), hashlib.sha1(der).hexdigest().upper()))


def check_dates(certificate: x509.Certificate, whose: str, now_s: float) -> float:
    """Return when a certificate that is valid now ends; AuthError begins with `whose` when it is not."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin.timestamp() <= now_s <= end.timestamp():
        raise AuthError(
            f"{whose} is valid from {begin.isoformat()} to {end.isoformat()}; "
            "issue a new one, or set the clock"
        )
    return end.timestamp()


def check_issuers(
    certificate: x509.Certificate,
    sent: Iterable[x509.Certificate],
    trusted: Iterable[x509.Certificate],
    whose: str,
    now_s: float,
) -> float | None:
    """Walk up from a certificate until a trusted CA has signed; return when the first on that way ends.

    Args:
        certificate: The client's own.
        sent: What it sent along, in any order.
        trusted: Where the way may end.
        whose: The client's certificate, for errors: `the client certificate of 'd1'`.
        now_s: Seconds since 1970-01-01 UTC.

    Returns:
        None when no trusted CA is at the end of the way.

    Raises:
        AuthError: one on the way is not valid now.
    """
    ends_s = float("inf")
    for _ in range(LONGEST_CHAIN):
        authority = _issuer(certificate, trusted)
        above = authority or _issuer(certificate, sent)
        if above is None or not (authority or is_authority(above)):
            return None
        ends_s = min(ends_s, check_dates(above, f"{common_name(above)!r}, above {whose},", now_s))
        if authority is not None:
            return ends_s
        certificate = above
    return None


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of the subject, "" when it has none."""
    return next(iter(_common_names(certificate)), "")


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether a certificate says that it is one of a CA."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _common_names(certificate: x509.Certificate) -> list[str]:
    from cryptography.x509.oid import NameOID

    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _check_own(certificate: x509.Certificate, identity: Identity) -> None:
    if _common_names(certificate) != [identity.id]:
        raise AuthError(f"the client certificate of '{identity}' has another common name than '{identity}'")
    if is_authority(certificate):
        raise AuthError(f"the client certificate of '{identity}' is one of a CA")


def _read_all(ders: Iterable[bytes]) -> list[x509.Certificate]:
    from cryptography import x509

    found = []
    for der in ders:
        try:
            found.append(x509.load_der_x509_certificate(der))
        except ValueError:
            continue  # whoever sent it, it helps nobody
    return found


def _issuer(certificate: x509.Certificate, among: Iterable[x509.Certificate]) -> x509.Certificate | None:
    return next((each for each in among if each != certificate and _issued_by(certificate, each)), None)


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
