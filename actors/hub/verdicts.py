"""Decides whether a client is the identity that it says it is. Pure; IdentityActor applies it.

Source: spec sheet hub-protocols.md sections 5.1, 5.5 and 5.6
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from actors.hub.identity import CERTIFICATES, HubIdentity
from actors.hub.scope import edges_above
from actors.ports.connections import CheckCertificate
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
    auth_chain: Sequence[str] = (),
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
        auth_chain: Of a client that the hub of an edge below this one connects for: the identity, the devices
            above it, last the edge that acts for it. Its hub's token then proves the identity.

    Raises:
        AuthError: it is not, or may not connect; says why.
    """
    found = _enabled(identity, known)
    name = Identity.parse(identity)
    device = known.get(name.device_id)
    if auth_chain and auth_chain[0] != identity:
        raise AuthError(f"the auth chain begins with {quoted(auth_chain[0])}, not with '{identity}'")
    if len(auth_chain) > 1:
        return _check_actor(token, certificates, identity, auth_chain[-1], known, hosts, now_s)
    if certificates:
        if name.module_id is not None:
            raise AuthError(f"module '{identity}' shows a certificate; modules prove themselves with tokens")
        if found.auth_type not in CERTIFICATES:  # said before anything heavy is loaded
            raise AuthError(f"'{identity}' proves itself with {found.auth_type}, not with a certificate")
        return check_certificate(certificates, name, found.auth_type, found.thumbprints, authorities, now_s)
    if not token:
        raise AuthError(f"'{identity}' shows neither a token nor a certificate")
    return _check_token(token, name, found, device, hosts, now_s)


def _enabled(identity: str, known: Mapping[str, HubIdentity]) -> HubIdentity:
    """Return an identity that may connect, if it proves that it is who it says it is."""
    found = known.get(identity)
    if found is None:
        raise AuthError(f"identity {quoted(identity)} is not known on this edge")
    device_id, slash, _ = identity.partition("/")
    device = known.get(device_id)
    if not found.enabled:
        raise AuthError(f"identity '{identity}' is disabled")
    if slash and device is not None and not device.enabled:
        raise AuthError(f"device '{device_id}' of identity '{identity}' is disabled")
    return found


def _check_actor(
    token: str,
    certificates: Sequence[bytes],
    identity: str,
    actor: str,
    known: Mapping[str, HubIdentity],
    hosts: Collection[str],
    now_s: float,
) -> float:
    """Return until when the hub of the edge `actor` may be `identity`, which stands below it."""
    if actor not in edges_above(identity, known):
        raise AuthError(f"'{identity}' does not stand below the edge {quoted(actor)}, which acts for it")
    hub = Identity.edge_hub(actor)
    found = _enabled(hub.id, known)
    if certificates or not token:
        raise AuthError(f"edge '{actor}' acts for '{identity}' without a token of its hub")
    return _check_token(token, hub, found, None, hosts, now_s)


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
