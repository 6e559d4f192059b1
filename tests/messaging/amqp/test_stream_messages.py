import uuid

import pytest

from messaging.amqp import codec
from messaging.amqp.codec import AmqpMessage, Int, Long, Symbol, Timestamp
from messaging.amqp.conditions import ARGUMENT_ERROR, NOT_FOUND, Refusal
from messaging.amqp.stream_messages import (
    SELECTOR,
    PartitionState,
    Place,
    Position,
    Question,
    partition_answer,
    read_epoch,
    read_position,
    read_question,
    refused_answer,
    stream_answer,
)

ASKED = AmqpMessage(
    message_id=uuid.UUID(int=7),
    application_properties={
        "operation": "READ",
        "type": "com.microsoft:partition",
        "name": "s",
        "partition": "0",
    },
)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, Position(Place.NUMBER, -1)),
        ("amqp.annotation.x-opt-offset > '-1'", Position(Place.NUMBER, -1)),
        ("amqp.annotation.x-opt-offset > '12'", Position(Place.NUMBER, 12)),
        ("amqp.annotation.x-opt-offset >= '12'", Position(Place.NUMBER, 12, True)),
        ("amqp.annotation.x-opt-offset > '@latest'", Position(Place.END)),
        ("amqp.annotation.x-opt-sequence-number>'3'", Position(Place.NUMBER, 3)),
        ("amqp.annotation.x-opt-sequence-number >= 3", Position(Place.NUMBER, 3, True)),
        ("amqp.annotation.x-opt-enqueued-time > '1795288758693'", Position(Place.TIME, 1795288758693)),
    ],
)
def test_a_filter_says_where_reading_begins(selector: str | None, expected: Position) -> None:
    assert read_position({} if selector is None else {SELECTOR: selector}) == expected


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "everything",
        "amqp.annotation.x-opt-offset < '1'",
        "amqp.annotation.x-opt-offset > 'one'",
        "amqp.annotation.x-opt-partition-key > '1'",
        "amqp.annotation.x-opt-offset > '1' OR 1=1",
        "amqp.annotation.x-opt-offset > '9999999999999999999999'",
        b"amqp.annotation.x-opt-offset > '1'",
    ],
)
def test_a_filter_that_is_none_is_refused_with_what_it_can_be(selector: object) -> None:
    refusal = read_position({SELECTOR: selector})

    assert isinstance(refusal, Refusal)
    assert refusal.condition == ARGUMENT_ERROR
    assert "@latest" in refusal.reason


@pytest.mark.parametrize(
    ("epoch", "expected"), [(None, None), (Long(0), 0), (Int(5), 5), (Long(-1), ""), ("5", ""), (True, "")]
)
def test_the_rank_of_a_reader_is_a_number_from_0_on(epoch: object, expected: object) -> None:
    found = read_epoch({} if epoch is None else {"com.microsoft:epoch": epoch})

    assert "has to be a number" in found.reason if isinstance(found, Refusal) else found == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, Question("s", "0"), id="a partition"),
        pytest.param({"type": "com.microsoft:eventhub"}, Question("s", None), id="the stream"),
        pytest.param({"operation": "WRITE"}, "operation 'WRITE'", id="another operation"),
        pytest.param({"type": "x"}, "of type 'x'", id="another type"),
        pytest.param({"name": None}, "name, or partition", id="no name"),
        pytest.param({"partition": 0}, "name, or partition", id="a partition that is a number"),
    ],
)
def test_a_question_is_read_or_refused(change: dict[str, object], expected: Question | str) -> None:
    request = AmqpMessage(application_properties={**ASKED.application_properties, **change})

    found = read_question(request)

    if isinstance(found, Refusal):
        assert isinstance(expected, str)
        assert expected in found.reason
    else:
        assert found == expected


def test_an_answer_about_the_stream_has_the_types_that_sdks_read() -> None:
    encoded = codec.encode(stream_answer(ASKED, "s", ("0", "1"), 5))

    assert b"\xf0\x00\x00\x00\x0f\x00\x00\x00\x02\xb1" in encoded  # an array of strings, which .NET asks for
    answer = codec.decode(encoded)
    assert answer.correlation_id == ASKED.message_id
    assert answer.application_properties == {"status-code": Int(200), "status-description": "OK"}
    assert answer.value == {
        "name": "s",
        "type": "com.microsoft:eventhub",
        "created_at": Timestamp(5),
        "partition_count": Int(2),
        "partition_ids": ["0", "1"],
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(PartitionState(3, 9, 5), (3, 9, "9", 5, False), id="seven messages"),
        pytest.param(PartitionState(1, 0, 0), (1, 0, "-1", 0, True), id="nothing yet"),
    ],
)
def test_an_answer_about_a_partition_says_what_it_holds(
    state: PartitionState, expected: tuple[object, ...]
) -> None:
    answer = codec.decode(codec.encode(partition_answer(ASKED, Question("s", "0"), state)))

    assert isinstance(answer.value, dict)
    assert (answer.value["name"], answer.value["partition"]) == ("s", "0")
    assert (
        answer.value["begin_sequence_number"],
        answer.value["last_enqueued_sequence_number"],
        answer.value["last_enqueued_offset"],
        answer.value["last_enqueued_time_utc"],
        answer.value["is_partition_empty"],
    ) == expected


def test_a_refusal_has_a_status_a_condition_and_a_reason() -> None:
    answer = codec.decode(codec.encode(refused_answer(ASKED, Refusal(NOT_FOUND, "there is no x"))))

    assert answer.correlation_id == ASKED.message_id
    properties = answer.application_properties
    assert (type(properties["status-code"]), properties["status-code"]) == (Int, 404)
    assert properties["status-description"] == "there is no x"
    assert (type(properties["error-condition"]), properties["error-condition"]) == (Symbol, NOT_FOUND)
