"""Claims-based security: how a client shows its tokens on the links of `$cbs`, and other proofs of who it is.

Nothing here checks a signature: that happens when a link is attached.

Source: spec sheet hub-protocols.md sections 3.1, 3.2 and 5.1
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from messaging.amqp.codec import AmqpMessage, Int, MessageId
from messaging.amqp.conditions import ARGUMENT_ERROR, RESOURCE_LIMIT_EXCEEDED, Refusal
from messaging.amqp.plain import number_of
from messaging.envelope import Secret
from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity
from messaging.sas import CLOCK_SKEW_S, SasToken, parse_token
from messaging.text import quoted

OK: Final = 200
BAD_REQUEST: Final = 400
FAILED: Final = 500
MOST_TOKENS: Final = 1000  # of one connection
LONGEST_AUDIENCE: Final = 2048  # two ids, encoded twice, need 1300 characters

_OPERATION: Final = "put-token"
_TYPES: Final = ("servicebus.windows.net:sastoken", "azure-devices.net:sastoken")
_STATUS: Final = "status-code"
_DESCRIPTION: Final = "status-description"
_SCHEME: Final = re.compile(r"[a-z]+://", re.IGNORECASE | re.ASCII)


class PutToken(Struct, frozen=True):
    """A token that a client has shown; whether it is genuine is not known yet."""

    holder: str  # whom its audience names, see `holder_of`; "" for nobody: it is a service's
    token: Secret
    expires_s: float  # seconds since 1970-01-01 UTC; `CLOCK_SKEW_S` are granted on top
    key_name: str  # of the shared access policy that has signed; "" for the key of an identity


class CbsAnswer(Struct, frozen=True):
    """The answer to a token of ours."""

    correlation_id: MessageId | None  # the message id of the request
    status: int  # as HTTP has it
    description: str


class PlainUser(Struct, frozen=True):
    """What the user name of SASL PLAIN says: an identity, or the policy of a service."""

    identity: Identity | None
    policy: str = ""


def parse_put_token(request: AmqpMessage, now_s: float, *, services: bool = False) -> PutToken | Refusal:
    """Read a request to take a token. A refusal is answered with 400.

    Whom the token is for stands in its own audience; `name` has to be there and means nothing else.

    Args:
        now_s: Seconds since 1970-01-01 UTC.
        services: Tokens that name no device may come as well.
    """
    asked = request.application_properties
    operation, token_type, name = asked.get("operation"), asked.get("type"), asked.get("name")
    if not isinstance(operation, str) or operation.lower() != _OPERATION:
        return _refused(f"operation is {_shown(operation)}; it can only be {_OPERATION}")
    if not isinstance(token_type, str) or token_type.lower() not in _TYPES:
        return _refused(f"type is {_shown(token_type)}; it can be {' or '.join(_TYPES)}")
    if not isinstance(name, str) or not name:
        return _refused("name is missing; it is the audience of the token")
    if not request.is_value or not isinstance(request.value, str):
        return _refused("the body is not a value of type string; it has to be the token")
    try:
        token = parse_token(request.value)
    except AuthError as exc:
        return _refused(str(exc))
    late_s = now_s - token.expires_s
    if late_s > CLOCK_SKEW_S:
        return _refused(f"the token expired {late_s:.0f} s ago; make a new token or set the clock")
    holder = _named_by(token)
    if not holder and not (services and token.key_name):
        return _refused(
            f"the token's audience {quoted(unquote(token.audience))} is neither "
            "{host}/devices/{device} nor {host}/devices/{device}/modules/{module}"
        )
    return PutToken(holder, Secret(request.value.encode()), token.expires_s, token.key_name)


def answer(request: AmqpMessage, status: int = OK, description: str = "OK") -> AmqpMessage:
    """Return the answer to a request; its correlation id has the type of the request's message id."""
    return AmqpMessage(
        correlation_id=request.message_id,
        application_properties={_STATUS: Int(status), _DESCRIPTION: description},
    )


def put_token(audience: str, token: str, message_id: MessageId) -> AmqpMessage:
    """Return the request with which a client shows a token. It holds the token: never log it."""
    return AmqpMessage(
        message_id=message_id,
        to="$cbs",
        reply_to="cbs",
        application_properties={"operation": _OPERATION, "type": _TYPES[0], "name": audience},
        value=token,
        is_value=True,
    )


def parse_answer(message: AmqpMessage) -> CbsAnswer:
    """Read what a token of ours was answered with; without a status it is a failure."""
    status = number_of(message.application_properties.get(_STATUS))
    description = message.application_properties.get(_DESCRIPTION)
    return CbsAnswer(
        message.correlation_id,
        FAILED if status is None else status,
        description if isinstance(description, str) else "",
    )


def holder_of(identity: Identity) -> str:
    """Return an id as tokens are found by: an audience has it encoded once or twice, case is ignored."""
    return _plain(identity.id)


class Tokens:
    """The tokens that one connection has shown, the last one of each holder."""

    def __init__(self) -> None:
        self._by_holder: dict[str, PutToken] = {}

    def put(self, token: PutToken) -> Refusal | None:
        """Keep a token in place of the one that its holder has shown before."""
        if token.holder not in self._by_holder and len(self._by_holder) >= MOST_TOKENS:
            return Refusal(
                RESOURCE_LIMIT_EXCEEDED, f"there are tokens of {MOST_TOKENS} identities on this connection"
            )
        self._by_holder[token.holder] = token
        return None

    def find(self, identity: Identity, speakers: Iterable[Identity] = ()) -> PutToken | None:
        """Return what may prove `identity`: its own token, its device's, or that of one who speaks for it."""
        for one in (identity, Identity(identity.device_id), *speakers):
            found = self._by_holder.get(holder_of(one))
            if found is not None:
                return found
        return None

    def of_services(self) -> tuple[PutToken, ...]:
        """Return the tokens that were signed with a shared access policy."""
        return tuple(token for token in self._by_holder.values() if token.key_name)


def parse_plain_user(user: str) -> PlainUser | Refusal:
    """Read the user name of SASL PLAIN; the password beside it is a token.

    It is `D@sas.{hub}` or `D/modules/M@sas.{hub}`, also without `sas.`, or `{policy}@sas.root.{hub}`.
    """
    name, at, host = user.rpartition("@")
    if not at or not host:
        return _refused(f"user name {quoted(user)} is not {{device}}[/modules/{{module}}]@sas.{{hub}}")
    if host.lower().startswith("sas.root."):
        return PlainUser(None, name)
    device_id, modules, module_id = name.partition("/modules/")
    try:
        return PlainUser(Identity(device_id, module_id if modules else None))
    except ConfigError as exc:
        return _refused(f"user name {quoted(user)}: {exc}")


def _named_by(token: SasToken) -> str:
    if len(token.audience) > LONGEST_AUDIENCE:
        return ""
    audience = unquote(token.audience)
    scheme = _SCHEME.match(audience)
    segments = (audience if scheme is None else audience[scheme.end() :]).split("/")
    return _plain("/".join(segments[2::2])) if len(segments) in (3, 5) and all(segments) else ""


def _plain(text: str) -> str:
    while "%" in text:
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    return text.lower()


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else "missing" if value is None else "not a text"


def _refused(reason: str) -> Refusal:
    return Refusal(ARGUMENT_ERROR, reason)
