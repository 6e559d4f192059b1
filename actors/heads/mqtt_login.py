"""What an MQTT CONNECT says of its client, before anybody judges whether it is true. Pure.

Source: spec sheet hub-protocols.md sections 1.2 and 5.5
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from actors.hub.identity_messages import NOT_AUTHORIZED, TRY_AGAIN, Authenticate
from actors.manifest.hub_environment import CLIENT_CERT_AUTH_ENABLED, HubEnvironment
from messaging.envelope import Secret
from messaging.errors import RemoteProtocolError
from messaging.mqtt.packets import Connect
from messaging.username import UserName, parse_user_name


class Login(Struct, frozen=True):
    """Who wants to connect, and what to ask of the identities."""

    client_id: str
    user: UserName
    question: Authenticate


class Refusal(Struct, frozen=True):
    """Why a CONNECT is refused, and with which code of CONNACK."""

    code: int
    reason: str


ReadLogin = Callable[[Connect, tuple[bytes, ...], HubEnvironment], Login | Refusal]


def read_login(
    packet: Connect, certificates: tuple[bytes, ...], environment: HubEnvironment
) -> Login | Refusal:
    """Return who wants to connect, or why nobody need ask whether it may.

    `certificates` are those of its TLS handshake, its own first.
    """
    try:
        user = parse_user_name(packet.user_name or "")
    except RemoteProtocolError as exc:
        return Refusal(TRY_AGAIN if packet.user_name else NOT_AUTHORIZED, str(exc))
    identity = user.identity.id
    if packet.client_id != identity:
        reason = f"the client id is not the identity of the user name, '{identity}'"
        return Refusal(NOT_AUTHORIZED, reason)
    # A password wins over a certificate.
    shown = () if packet.password else certificates
    if not packet.password and not shown:
        reason = "neither a password, which is a shared access signature, nor a client certificate"
        return Refusal(NOT_AUTHORIZED, reason)
    if shown and not environment.client_cert_auth_enabled:
        reason = f"a client certificate, and {CLIENT_CERT_AUTH_ENABLED} of edgeHub is false"
        return Refusal(NOT_AUTHORIZED, reason)
    chain = user.auth_chain if environment.nested_edge_enabled else ()
    return Login(identity, user, Authenticate(identity, Secret(packet.password or b""), shown, chain))
