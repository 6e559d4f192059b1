"""Decides whether a client is the identity that it says it is. Pure; IdentityActor applies it.

Source: spec sheet hub-protocols.md sections 5.1 and 5.5
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from actors.hub_identity import HubIdentity
from actors.ports import CheckCertificate
from messaging import sas
from messaging.errors import AuthError
from messaging.identity import Identity
from messaging.text import quoted


def check(
    identity: str,
    token: str,
    certificates: Sequence[bytes],
    known: Mapping[str, HubIdentity],
    *,
    hosts: Collection[str],
    authorities: Sequence[bytes],
    check_certificate: CheckCertificate,
    now_s: float,
) -> float:
    """Return until when the client is that identity, in seconds since 1970-01-01 UTC.

    Args:
        identity: Who it says it is, `D` or `D/M`.
        token: As it sent it, "" for none. Counts only without a certificate.
        certificates: What it showed in the TLS handshake, its own first.
        known: All identities, by id.
        hosts: The names that a token's audience may begin with.
        authorities: The CA certificates that certificates may be of.
        check_certificate: What can read certificates.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        AuthError: it is not, or may not connect; says why.
    """
    found = known.get(identity)
    if found is None:
        raise AuthError(f"identity {quoted(identity)} is not known on this edge")
    name = Identity.parse(identity)
    device = known.get(name.device_id)
    if not found.enabled:
        raise AuthError(f"identity '{identity}' is disabled")
    if device is not None and not device.enabled:
        raise AuthError(f"device '{name.device_id}' of identity '{identity}' is disabled")
    if certificates:
        if name.module_id is not None:
            raise AuthError(f"module '{identity}' shows a certificate; modules prove themselves with tokens")
        if found.auth_type not in (
            "selfSigned",
            "certificateAuthority",
        ):  # said before anything heavy is loaded
            raise AuthError(f"'{identity}' proves itself with {found.auth_type}, not with a certificate")
        return check_certificate(certificates, name, found.auth_type, found.thumbprints, authorities, now_s)
    if not token:
        raise AuthError(f"'{identity}' shows neither a token nor a certificate")
    return _check_token(token, name, found, device, hosts, now_s)


def _check_token(
    text: str,
    name: Identity,
    found: HubIdentity,
    device: HubIdentity | None,
    hosts: Collection[str],
    now_s: float,
) -> float:
    token = sas.parse_token(text)
    signers = [found]
    if device is not None and sas.named_by(token) == name.device_id.lower():
        signers.append(device)  # a token of the device covers its modules
    keys = [key.reveal() for signer in signers if signer.auth_type == "sas" for key in signer.keys]
    if not keys:
        raise AuthError(f"'{name}' proves itself with {found.auth_type}, not with a token")
    sas.check(token, keys, name, hosts, now_s)
    return token.expires_s + sas.CLOCK_SKEW_S
