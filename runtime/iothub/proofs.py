"""Who may be a device or module: tokens with its own keys, a parent's, a policy's; client certificates.

No I/O: what is known comes in as arguments.

Source: spec sheet hub-protocols.md sections 5.1, 5.5 and 7.8
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from messaging import sas
from messaging.errors import AuthError
from messaging.identity import Identity
from messaging.sas import SasToken
from runtime.iothub.policies import Permission, Policies
from runtime.iothub.records import Authentication, Grant, Registered

LONGEST_CHAIN: Final = 5  # certificates between a client's own and a CA that is registered

if TYPE_CHECKING:
    from cryptography import x509


def check_token(
    text: str,
    registered: Registered,
    device: Registered,
    speakers: Iterable[Registered],
    policies: Policies,
    hosts: Collection[str],
    now_s: float,
) -> Grant:
    """Return what a token is worth for an identity.

    Args:
        text: The token as sent.
        registered: The identity.
        device: The device it is or belongs to: its keys speak for its modules, too.
        speakers: `$edgeHub` modules of the edges above, whose tokens count for those below.
        policies: A token may be of a policy that lets devices connect.
        hosts: Names of the hub.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        AuthError: the token is not one, has expired, or is not for this identity.
    """
    token = sas.parse_token(text)
    if token.key_name:
        return _check_policy_token(token, registered, policies, hosts, now_s)
    spoken_for = _named_by(token)
    for speaker in speakers:
        if speaker.identity.id.lower() == spoken_for and registered.identity.id.lower() != spoken_for:
            sas.check(token, _keys(speaker.authentication), speaker.identity, hosts, now_s)
            return _grant(registered, "sas", token.expires_s)
    # The device's token covers its modules.
    signer = device if spoken_for == device.identity.id.lower() else registered
    if signer.authentication.type != "sas":
        raise AuthError(
            f"'{signer.identity}' proves itself with {signer.authentication.type}, not with a token"
        )
    sas.check(token, _keys(signer.authentication), registered.identity, hosts, now_s)
    return _grant(registered, "sas", token.expires_s)


def check_certificate(
    der: bytes, issuers: Sequence[bytes], registered: Registered, authorities: Sequence[bytes], now_s: float
) -> Grant:
    """Return what a client certificate is worth for an identity.

    Args:
        der: The certificate of the client, DER.
        issuers: What the client sent along with it, DER.
        authorities: The CA certificates that the hub trusts for devices, DER.

    Raises:
        AuthError: it is not the identity's, not valid now, or of no trusted CA.
    """
    from cryptography import x509

    identity = registered.identity
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as exc:
        raise AuthError(f"the client certificate of '{identity}' cannot be read") from exc
    _check_dates(certificate, identity, now_s)
    auth = registered.authentication
    if auth.type == "selfSigned":
        prints = {hashlib.sha256(der).hexdigest().upper(), hashlib.sha1(der).hexdigest().upper()}
        if not prints & {auth.primary_thumbprint, auth.secondary_thumbprint}:
            raise AuthError(f"the client certificate of '{identity}' has another thumbprint than registered")
    elif auth.type == "certificateAuthority":
        _check_authority(certificate, issuers, identity, authorities, now_s)
    else:
        raise AuthError(f"'{identity}' proves itself with {auth.type}, not with a certificate")
    return _grant(registered, "x509Certificate", None)


def _check_policy_token(
    token: SasToken, registered: Registered, policies: Policies, hosts: Collection[str], now_s: float
) -> Grant:
    policy = policies.find(token.key_name)
    resource = f"/devices/{registered.identity.device_id}"
    if registered.identity.module_id is not None:
        resource += f"/modules/{registered.identity.module_id}"
    sas.check_resource(token, policy.keys, policy.name, resource, hosts, now_s)
    if Permission.DEVICE_CONNECT not in policy.permissions:
        raise AuthError(f"the shared access policy '{policy.name}' does not let devices connect")
    return _grant(registered, "sas", token.expires_s, scope="hub")


def _named_by(token: SasToken) -> str:
    """Return the id that a token's audience names, lower case; '' when it names none."""
    segments = unquote(unquote(token.audience)).lower().split("/")
    return "/".join(segments[2::2]) if len(segments) in (3, 5) else ""


def _keys(auth: Authentication) -> list[bytes]:
    return [sas.decode_key(key) for key in (auth.primary_key, auth.secondary_key) if key]


def _grant(registered: Registered, auth_type: str, expires_s: float | None, scope: str = "") -> Grant:
    scope = scope or ("device" if registered.identity.module_id is None else "module")
    method = json.dumps({"scope": scope, "type": auth_type, "issuer": "iothub"}, separators=(",", ":"))
    return Grant(registered.identity, registered.generation_id, method, expires_s)


def _check_dates(certificate: x509.Certificate, identity: Identity, now_s: float) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin.timestamp() <= now_s <= end.timestamp():
        raise AuthError(
            f"the client certificate of '{identity}' is valid from {begin.isoformat()} to {end.isoformat()}; "
            "issue a new one, or set the clock"
        )


def _check_authority(
    certificate: x509.Certificate,
    issuers: Sequence[bytes],
    identity: Identity,
    authorities: Sequence[bytes],
    now_s: float,
) -> None:
    from cryptography.x509.oid import NameOID

    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [identity.id]:
        raise AuthError(f"the client certificate of '{identity}' has another common name than '{identity}'")
    if _is_authority(certificate):
        raise AuthError(f"the client certificate of '{identity}' is one of a CA")
    trusted, sent = _read_all(authorities), _read_all(issuers[:LONGEST_CHAIN])
    for _ in range(LONGEST_CHAIN):
        authority = _issuer(certificate, trusted)
        if authority is not None:
            _check_dates(authority, identity, now_s)
            return
        between = _issuer(certificate, sent)
        if between is None or not _is_authority(between):
            break
        _check_dates(between, identity, now_s)
        certificate = between
    raise AuthError(f"the client certificate of '{identity}' is of no CA that this hub has registered")


def _read_all(ders: Sequence[bytes]) -> list[x509.Certificate]:
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


def _is_authority(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
