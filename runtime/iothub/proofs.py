"""Who may be a device or module: tokens with its own keys, a parent's, a policy's; client certificates.

No I/O: what is known comes in as arguments.

Source: spec sheet hub-protocols.md sections 5.1, 5.5 and 7.8
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from messaging import sas
from messaging.errors import AuthError
from messaging.sas import CLOCK_SKEW_S, SasToken
from runtime.iothub.policies import Permission, Policies
from runtime.iothub.records import Authentication, Grant, Registered
from runtime.security import client_certificates


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
    spoken_for = sas.named_by(token)
    for speaker in speakers:
        if speaker.identity.id.lower() == spoken_for and registered.identity.id.lower() != spoken_for:
            sas.check(token, _keys(speaker.authentication), speaker.identity, hosts, now_s)
            return replace(_grant(registered, "sas", token.expires_s), speaker=speaker.identity)
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
    auth = registered.authentication
    client_certificates.check_certificate(
        (der, *issuers),
        registered.identity,
        auth.type,
        (auth.primary_thumbprint, auth.secondary_thumbprint),
        authorities,
        now_s,
    )
    return _grant(registered, "x509Certificate", None)


def end_of_token(grant: Grant, now_s: float) -> float | None:
    """Return when a connection that is made now has to end, None when its client needs no token.

    A token that was accepted although it had run out gets what is allowed for clocks that differ.
    """
    if grant.expires_s is None or grant.expires_s > now_s:
        return grant.expires_s
    return grant.expires_s + CLOCK_SKEW_S


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


def _keys(auth: Authentication) -> list[bytes]:
    return [sas.decode_key(key) for key in (auth.primary_key, auth.secondary_key) if key]


def _grant(registered: Registered, auth_type: str, expires_s: float | None, scope: str = "") -> Grant:
    scope = scope or ("device" if registered.identity.module_id is None else "module")
    method = json.dumps({"scope": scope, "type": auth_type, "issuer": "iothub"}, separators=(",", ":"))
    return Grant(registered.identity, registered.generation_id, method, expires_s)
