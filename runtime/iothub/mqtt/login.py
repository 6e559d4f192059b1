"""CONNECT at the stand-in: who the client is, and with which CONNACK it is refused.

| CONNACK | when |
|---|---|
| 5 | no proof; the client id is another one; the registry refuses the proof: this is final |
| 4 | the user name is malformed: final too |
| 3 | it could not be checked now: SDK clients try again |

Source: spec sheet hub-protocols.md sections 0.2 and 1.2
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from messaging.errors import AuthError, EdgeError, RemoteProtocolError
from messaging.mqtt.packets import Connect, ReturnCode
from messaging.username import UserName, parse_user_name
from runtime.iothub.hub import IotHub
from runtime.iothub.records import Grant


class Login(Struct, frozen=True):
    """A CONNECT that is accepted."""

    user: UserName
    grant: Grant


class Refusal(Struct, frozen=True):
    """A CONNECT that is not, with what stands in the log."""

    code: ReturnCode
    reason: str


async def log_in(hub: IotHub, packet: Connect, certificates: Sequence[bytes]) -> Login | Refusal:
    """Say whether a client is who it says it is.

    Args:
        certificates: What it showed in the TLS handshake, its own first, as DER.
    """
    if packet.user_name is None:
        return Refusal(ReturnCode.NOT_AUTHORIZED, "no user name")
    try:
        user = parse_user_name(packet.user_name)
    except RemoteProtocolError as exc:
        return Refusal(ReturnCode.BAD_USER_NAME_OR_PASSWORD, str(exc))
    if packet.client_id != user.identity.id:
        reason = f"the client id is not the identity of the user name, '{user.identity}'"
        return Refusal(ReturnCode.NOT_AUTHORIZED, reason)
    if not packet.password and not certificates:
        reason = "neither a shared access signature as password nor a client certificate"
        return Refusal(ReturnCode.NOT_AUTHORIZED, reason)
    try:
        token = packet.password.decode() if packet.password else None
    except UnicodeDecodeError:
        return Refusal(ReturnCode.NOT_AUTHORIZED, "the password is no shared access signature: not UTF-8")
    try:
        own = certificates[0] if certificates else None
        return Login(user, await hub.authenticate(user.identity, token, own, certificates[1:]))
    except AuthError as exc:
        return Refusal(ReturnCode.NOT_AUTHORIZED, str(exc))
    except EdgeError as exc:
        return Refusal(ReturnCode.SERVER_UNAVAILABLE, str(exc))
