"""Direct methods over AMQP: a call and its answer, in both directions.

Source: spec sheet hub-protocols.md sections 3.7 and 3.9
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from msgspec import Struct

from messaging.amqp.codec import AmqpMessage, Int, MessageId
from messaging.amqp.plain import id_text, number_of
from messaging.topics import STATUS_NOT_A_NUMBER, MethodResponse, Unknown

_NAME: Final = "IoThub-methodname"
_STATUS: Final = "IoThub-status"
_NUMBER: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_MOST: Final = 2**31 - 1


class MethodCall(Struct, frozen=True):
    """The cloud calls a method. The answer carries the same correlation id, of the same type."""

    name: str
    correlation_id: MessageId
    payload: bytes


def method_call(name: str, request_id: str, payload: bytes) -> AmqpMessage:
    """Return a call as a client gets it.

    A `request_id` that is a UUID goes out as one: the C SDK takes no other type, all others do take it.
    """
    return AmqpMessage(
        body=payload, correlation_id=_uuid_if_one(request_id), application_properties={_NAME: name}
    )


def parse_method_call(message: AmqpMessage) -> MethodCall | Unknown:
    """Read a call, as a client."""
    name = message.application_properties.get(_NAME)
    if not isinstance(name, str) or not name:
        return Unknown("a method call without the name of a method")
    if message.correlation_id is None:
        return Unknown("a method call without a correlation id, so it cannot be answered")
    return MethodCall(name, message.correlation_id, message.body)


def method_answer(correlation_id: MessageId, status: int, payload: bytes) -> AmqpMessage:
    """Return the answer of a client; a status that is no AMQP int becomes `STATUS_NOT_A_NUMBER`."""
    fits = -_MOST - 1 <= status <= _MOST
    return AmqpMessage(
        body=payload,
        correlation_id=correlation_id,
        application_properties={_STATUS: Int(status if fits else STATUS_NOT_A_NUMBER)},
    )


def parse_method_answer(message: AmqpMessage) -> MethodResponse | Unknown:
    """Read the answer of a client; its payload is the body."""
    if message.correlation_id is None:
        return Unknown("an answer to a method call without a correlation id")
    return MethodResponse(
        _status(message.application_properties.get(_STATUS)), id_text(message.correlation_id)
    )


def _uuid_if_one(text: str) -> MessageId:
    try:
        found = uuid.UUID(text)
    except ValueError:
        return text
    return found if str(found) == text.lower() else text  # UUID() takes more forms than the usual one


def _status(value: object) -> int:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    number = number_of(value)
    return STATUS_NOT_A_NUMBER if number is None else number
