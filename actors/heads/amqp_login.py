"""With what an AMQP client proves who it is. Pure.

Source: spec sheet hub-protocols.md sections 3.1, 3.2, 3.3 and 5.5
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from actors.hub.identity_messages import NO_TOKEN, NOT_AUTHORIZED, Authenticate, Verdict
from actors.manifest.hub_environment import CLIENT_CERT_AUTH_ENABLED, HubEnvironment
from messaging import sas
from messaging.amqp.cbs import PutToken, Tokens
from messaging.amqp.conditions import TIMEOUT, UNAUTHORIZED_ACCESS, Refusal
from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity

Certificates = Callable[[], tuple[bytes, ...]]


def question(
    identity: Identity,
    auth_chain: tuple[str, ...],
    tokens: Tokens,
    certificates: Certificates,
    environment: HubEnvironment,
) -> Authenticate | Refusal:
    """Return what to ask of the identities, or why nobody need ask.

    A token of the connection wins over the certificate of its TLS handshake, which is costly to read.

    Args:
        identity: Whose link it is.
        auth_chain: As the link has it; of an edge that acts for the identity, whose token counts then.
        tokens: That were put on the connection.
        certificates: Reads those of the handshake, the client's own first.
        environment: Of the hub.
    """
    chain = auth_chain if environment.nested_edge_enabled else ()
    try:
        holder = Identity.edge_hub(chain[-1]) if len(chain) > 1 else identity
    except ConfigError as exc:
        return Refusal(UNAUTHORIZED_ACCESS, f"the auth chain of '{identity}': {exc}")
    found = tokens.find(holder)
    if found is not None:
        return Authenticate(identity.id, found.token, (), chain)
    shown = certificates()
    if not shown:
        reason = f"no token for '{holder}' was put on this connection, and no client certificate was shown"
        return Refusal(UNAUTHORIZED_ACCESS, reason)
    if not environment.client_cert_auth_enabled:
        reason = f"a client certificate, and {CLIENT_CERT_AUTH_ENABLED} of edgeHub is false"
        return Refusal(UNAUTHORIZED_ACCESS, reason)
    return Authenticate(identity.id, NO_TOKEN, shown, chain)


def refusal_of(verdict: Verdict) -> Refusal:
    """Return what a link is refused with. Clients take unauthorized-access for the last word."""
    final = verdict.return_code == NOT_AUTHORIZED
    return Refusal(UNAUTHORIZED_ACCESS if final else TIMEOUT, verdict.reason)


def named_in(token: PutToken) -> Identity | None:
    """Return the identity that the audience of a token names, as it is written there; None for none."""
    try:
        audience = unquote(unquote(sas.parse_token(token.token.reveal().decode("utf-8", "replace")).audience))
        segments = audience.split("/")[1:]
        return Identity(*segments[1::2]) if len(segments) in (2, 4) else None
    except (AuthError, ConfigError):
        return None
