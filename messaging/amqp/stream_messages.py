"""What readers of the stream of events say over AMQP: where they begin, whose turn it is, questions about it.

The words are those of Event Hubs, whose clients read what devices have sent to IoT Hub.

Source: spec sheet security-daemon.md section 4.7
        MicrosoftDocs/azure-docs: articles/event-hubs/event-hubs-amqp-protocol-guide.md (filters, epochs)
        Azure/azure-sdk-for-python: sdk/eventhub/azure-eventhub/azure/eventhub/_client_base.py (questions)
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from messaging.amqp.codec import AmqpMessage, Int, Long, StringArray, Symbol, Timestamp
from messaging.amqp.conditions import ARGUMENT_ERROR, Refusal, status_of
from messaging.amqp.plain import number_of
from messaging.text import quoted

SELECTOR: Final = "apache.org:selector-filter:string"
EPOCH: Final = "com.microsoft:epoch"
LATEST: Final = "@latest"
START: Final = "-1"

_STREAM: Final = "com.microsoft:eventhub"
_PARTITION: Final = "com.microsoft:partition"
_CONDITION: Final = re.compile(
    r"\s*amqp\.annotation\.(x-opt-offset|x-opt-sequence-number|x-opt-enqueued-time)\s*(>=?)\s*"
    r"'?(@latest|-?[0-9]{1,18})'?\s*",
    re.ASCII,
)


class Place(enum.Enum):
    """What a position in the stream is counted by."""

    NUMBER = "sequence number"
    TIME = "enqueued time, in ms since 1970-01-01 UTC"
    END = "the end of the stream at that time"


class Position(Struct, frozen=True):
    """Where reading begins: behind `value`, or at it."""

    place: Place
    value: int = 0
    inclusive: bool = False


class Question(Struct, frozen=True):
    """What a client wants to know."""

    stream: str
    partition: str | None  # None: it is about the stream


class PartitionState(Struct, frozen=True):
    """What there is in a partition; numbers are those of the messages that are kept."""

    first: int
    last: int  # `first` - 1 when nothing is kept
    last_enqueued_ms: int  # 0 when nothing is kept


def read_position(source_filter: Mapping[str, object]) -> Position | Refusal:
    """Return where a receiver begins; one that does not say begins with the oldest.

    An offset of this stream is its sequence number.
    """
    text = source_filter.get(SELECTOR)
    if text is None:
        return Position(Place.NUMBER, int(START))
    found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return Refusal(
            ARGUMENT_ERROR,
            f"filter {quoted(str(text))} is not amqp.annotation.NAME > 'VALUE'; NAME can be x-opt-offset, "
            "x-opt-sequence-number or x-opt-enqueued-time, > also >=, VALUE a number or @latest",
        )
    name, operator, value = found.groups()
    if value == LATEST:
        return Position(Place.END)
    place = Place.TIME if name == "x-opt-enqueued-time" else Place.NUMBER
    return Position(place, int(value), operator == ">=")


def read_epoch(properties: Mapping[str, object]) -> int | Refusal | None:
    """Return the rank of a receiver that wants to be alone, None for one that does not."""
    asked = properties.get(EPOCH)
    if asked is None:
        return None
    epoch = number_of(asked)
    if epoch is None or epoch < 0:
        return Refusal(ARGUMENT_ERROR, f"{EPOCH} is {quoted(str(asked))}; it has to be a number from 0 on")
    return epoch


def read_question(request: AmqpMessage) -> Question | Refusal:
    """Return what a request to `$management` asks. Who may ask is known from the link."""
    asked = request.application_properties
    operation, kind = asked.get("operation"), asked.get("type")
    if operation != "READ" or kind not in (_STREAM, _PARTITION):
        return Refusal(
            ARGUMENT_ERROR,
            f"operation {quoted(str(operation))} of type {quoted(str(kind))} is not known; "
            f"it can be READ of {_STREAM} or {_PARTITION}",
        )
    stream, partition = asked.get("name"), asked.get("partition")
    if not isinstance(stream, str) or (kind == _PARTITION and not isinstance(partition, str)):
        return Refusal(ARGUMENT_ERROR, "name, or partition, is missing or not a text")
    return Question(stream, partition if kind == _PARTITION and isinstance(partition, str) else None)


def stream_answer(
    request: AmqpMessage, stream: str, partitions: tuple[str, ...], created_ms: int
) -> AmqpMessage:
    """Return the answer to a question about the stream."""
    return _answer(
        request,
        {
            "name": stream,
            "type": _STREAM,
            "created_at": Timestamp(created_ms),
            "partition_count": Int(len(partitions)),
            "partition_ids": StringArray(partitions),
        },
    )


def partition_answer(request: AmqpMessage, question: Question, state: PartitionState) -> AmqpMessage:
    """Return the answer to a question about a partition."""
    is_empty = state.last < state.first
    return _answer(
        request,
        {
            "name": question.stream,
            "type": _PARTITION,
            "partition": question.partition,
            "begin_sequence_number": Long(state.first),
            "last_enqueued_sequence_number": Long(state.last),
            "last_enqueued_offset": START if is_empty else str(state.last),
            "last_enqueued_time_utc": Timestamp(state.last_enqueued_ms),
            "is_partition_empty": is_empty,
        },
    )


def refused_answer(request: AmqpMessage, refusal: Refusal) -> AmqpMessage:
    """Return the answer to a question that cannot be answered."""
    return AmqpMessage(
        correlation_id=request.message_id,
        application_properties={
            "status-code": Int(status_of(refusal.condition)),
            "status-description": refusal.reason,
            "statusDescription": refusal.reason,  # where azure-eventhub for Python looks for it
            "error-condition": Symbol(refusal.condition),
        },
    )


def _answer(request: AmqpMessage, value: dict[str, object]) -> AmqpMessage:
    return AmqpMessage(
        correlation_id=request.message_id,
        application_properties={"status-code": Int(200), "status-description": "OK"},
        value=value,
        is_value=True,
    )
