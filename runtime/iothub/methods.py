"""Direct methods: a call goes to a live connection and waits for its answer; nothing is stored.

Source: spec sheets hub-protocols.md sections 1.13 and 7.5, security-daemon.md section 4.6
"""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any, Final

import msgspec
from msgspec import Struct

from messaging.identity import Identity
from messaging.text import quoted
from runtime.iothub import refusals
from runtime.iothub.records import Grant, MethodResult
from runtime.iothub.sessions import Sessions

LONGEST_NAME: Final = 100
LARGEST_PAYLOAD_BYTES: Final = 128 * 1024

# A name is a level of an MQTT topic, so no slash and no wildcard.
_NAME = re.compile(r"[A-Za-z0-9\-:.%_*?!(),=@;$']+", re.ASCII)


class _Call(Struct, frozen=True):
    identity: Identity
    answer: asyncio.Future[MethodResult]


class MethodCalls:
    """The calls that wait for an answer."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._calls: dict[str, _Call] = {}

    async def invoke(
        self,
        identity: Identity,
        name: str,
        payload: bytes,
        response_timeout_s: float,
        connect_timeout_s: float,
    ) -> MethodResult:
        """Call a method of a registered identity; see `IotHub.invoke_method`."""
        target = await self._sessions.methods_target(identity, connect_timeout_s)
        if target is None:
            raise refusals.not_online(identity)
        request_id = str(uuid.uuid4())
        answer: asyncio.Future[MethodResult] = asyncio.get_running_loop().create_future()
        self._calls[request_id] = _Call(identity, answer)
        try:
            target.session.method(request_id, name, payload)
            async with asyncio.timeout(response_timeout_s):
                return await answer
        except TimeoutError:
            raise refusals.no_answer(identity, response_timeout_s) from None
        finally:
            del self._calls[request_id]

    def answered(self, grant: Grant, request_id: str, status: int, payload: bytes) -> None:
        """Take an answer; one that nobody waits for, or that another identity gives, is dropped."""
        call = self._calls.get(request_id.lower())
        if call is None or call.identity != grant.identity or call.answer.done():
            return
        if len(payload) > LARGEST_PAYLOAD_BYTES:
            call.answer.set_exception(
                refusals.too_large(f"the answer of '{grant.identity}' is over {LARGEST_PAYLOAD_BYTES} bytes")
            )
        else:
            call.answer.set_result(MethodResult(status, _json(payload)))


def check_name(name: object) -> str:
    """Return the name of a method.

    Raises:
        IotHubError: 400004 it cannot be one.
    """
    if not isinstance(name, str) or not name:
        raise refusals.argument_invalid("methodName is missing")
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise refusals.argument_invalid(
            f"methodName {quoted(name)} has more than {LONGEST_NAME} characters, or one not allowed there"
        )
    return name


def encode_payload(payload: Any) -> bytes:
    """Return the payload of a call as a device gets it.

    Raises:
        IotHubError: 413001 it is too large.
    """
    encoded = msgspec.json.encode(payload)
    if len(encoded) > LARGEST_PAYLOAD_BYTES:
        raise refusals.too_large(f"payload is {len(encoded)} bytes, more than {LARGEST_PAYLOAD_BYTES}")
    return encoded


def _json(payload: bytes) -> Any:
    """Return an answer as a JSON value: none is null, and what is no JSON becomes a text."""
    if not payload.strip():
        return None
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return payload.decode(errors="replace")
