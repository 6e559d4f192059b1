import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.amqp.codec import AmqpMessage, Int, Long, MessageId, Symbol
from messaging.amqp.twin_messages import (
    DesiredPatch,
    TwinAnswer,
    TwinOperation,
    TwinRequest,
    desired_patch,
    parse_twin_answer,
    parse_twin_request,
    twin_answer,
    twin_refusal,
    twin_request,
)
from messaging.topics import Unknown

message_ids = st.text(min_size=1) | st.integers(0, 2**64 - 1) | st.uuids() | st.binary()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            AmqpMessage(b" ", correlation_id="a", annotations={"operation": "GET"}),
            TwinRequest(TwinOperation.GET, "a", b""),
            id="row 65: GET, as Node sends it",
        ),
        pytest.param(
            AmqpMessage(
                b'{"a":1}',
                correlation_id="a",
                annotations={"operation": "PATCH", "resource": "/properties/reported"},
            ),
            TwinRequest(TwinOperation.PATCH, "a", b'{"a":1}'),
            id="row 65: PATCH",
        ),
        pytest.param(
            AmqpMessage(b"{}", annotations={"operation": "PATCH"}),
            TwinRequest(TwinOperation.PATCH, None, b"{}"),
            id="PATCH for whose answer nobody waits",
        ),
        pytest.param(
            AmqpMessage(
                b" ",
                correlation_id="a",
                annotations={"operation": "PUT", "resource": "/notifications/twin/properties/desired"},
            ),
            TwinRequest(TwinOperation.PUT, "a", b""),
            id="row 65: PUT",
        ),
        pytest.param(
            AmqpMessage(correlation_id="a", annotations={"operation": "DELETE", "resource": "/elsewhere"}),
            TwinRequest(TwinOperation.DELETE, "a", b""),
            id="row 65: DELETE; the resource does not count",
        ),
        pytest.param(
            AmqpMessage(correlation_id=uuid.UUID(int=1), annotations={"operation": Symbol("GET")}),
            TwinRequest(TwinOperation.GET, uuid.UUID(int=1), b""),
            id="a symbol, and an id of another type",
        ),
        pytest.param(AmqpMessage(annotations={"operation": "GET"}), None, id="GET without an id"),
        pytest.param(
            AmqpMessage(correlation_id="", annotations={"operation": "GET"}), None, id="GET with an empty id"
        ),
        pytest.param(
            AmqpMessage(correlation_id="", annotations={"operation": "PATCH"}),
            TwinRequest(TwinOperation.PATCH, None, b""),
            id="PATCH with an empty id",
        ),
        pytest.param(AmqpMessage(annotations={"operation": "PUT"}), None, id="PUT without an id"),
        pytest.param(AmqpMessage(annotations={"operation": "DELETE"}), None, id="DELETE without an id"),
        pytest.param(
            AmqpMessage(correlation_id="a", annotations={"operation": "POST"}), None, id="unknown operation"
        ),
        pytest.param(
            AmqpMessage(correlation_id="a", annotations={"operation": 1}), None, id="operation is no text"
        ),
        pytest.param(AmqpMessage(correlation_id="a"), None, id="no operation"),
    ],
)
def test_a_twin_request_is_read(message: AmqpMessage, expected: TwinRequest | None) -> None:
    request = parse_twin_request(message)

    assert isinstance(request, Unknown) if expected is None else request == expected


@pytest.mark.parametrize(
    ("operation", "status", "body"),
    [
        pytest.param(TwinOperation.GET, 200, b'{"desired":{},"reported":{}}', id="row 65: GET"),
        pytest.param(TwinOperation.PATCH, 204, b"", id="row 65: PATCH"),
        pytest.param(TwinOperation.PUT, 200, b"", id="row 65: PUT"),
        pytest.param(TwinOperation.DELETE, 200, b"", id="row 65: DELETE"),
    ],
)
def test_an_answer_carries_its_status_as_int(operation: TwinOperation, status: int, body: bytes) -> None:
    asked = twin_request(operation, "a", b"{}" if operation is TwinOperation.PATCH else b"")
    assert isinstance(parse_twin_request(asked), TwinRequest)

    answer = twin_answer("a", status, body)

    value = answer.annotations["status"]
    assert (type(value), value) == (Int, status)
    assert "version" not in answer.annotations
    assert (answer.correlation_id, answer.body) == ("a", body)


def test_the_version_that_iot_hub_adds_is_a_long() -> None:
    answer = twin_answer("a", 204, version=7)

    version = answer.annotations["version"]
    assert (type(version), version) == (Long, 7)


@pytest.mark.parametrize(("code", "shown"), [(0, 400), (400004, 400004)])
def test_a_refusal_has_a_body_of_json(code: int, shown: int) -> None:
    answer = twin_refusal("a", 400, 'no "dots"', code)

    assert answer.annotations["status"] == 400
    assert json.loads(answer.body) == {"errorCode": shown, "message": 'no "dots"'}


@pytest.mark.parametrize(
    ("operation", "annotations"),
    [
        (TwinOperation.GET, {"operation": "GET"}),
        (TwinOperation.PATCH, {"operation": "PATCH", "resource": "/properties/reported"}),
        (TwinOperation.PUT, {"operation": "PUT", "resource": "/notifications/twin/properties/desired"}),
        (TwinOperation.DELETE, {"operation": "DELETE", "resource": "/notifications/twin/properties/desired"}),
    ],
)
def test_a_request_says_operation_and_resource(
    operation: TwinOperation, annotations: dict[str, object]
) -> None:
    assert twin_request(operation, "a").annotations == annotations


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            AmqpMessage(b'{"desired":{}}', correlation_id="a", annotations={"status": Int(200)}),
            TwinAnswer("a", 200, None, b'{"desired":{}}'),
            id="the twin",
        ),
        pytest.param(
            AmqpMessage(correlation_id="a", annotations={"status": Int(204), "version": Long(4)}),
            TwinAnswer("a", 204, 4, b""),
            id="a patch, with its version",
        ),
        pytest.param(
            AmqpMessage(correlation_id="a", annotations={"status": Int(200), "version": "4"}),
            TwinAnswer("a", 200, None, b""),
            id="a version that is no number",
        ),
        pytest.param(
            AmqpMessage(b'{"$version":2}'),
            DesiredPatch(b'{"$version":2}'),
            id="a patch of desired properties",
        ),
        pytest.param(AmqpMessage(correlation_id="a"), None, id="no status"),
        pytest.param(
            AmqpMessage(correlation_id="a", annotations={"status": True}), None, id="status is a truth value"
        ),
    ],
)
def test_what_the_hub_says_of_a_twin_is_read(
    message: AmqpMessage, expected: TwinAnswer | DesiredPatch | None
) -> None:
    read = parse_twin_answer(message)

    assert isinstance(read, Unknown) if expected is None else read == expected


def test_a_patch_of_desired_properties_has_no_correlation_id() -> None:
    assert desired_patch(b"{}").correlation_id is None


@given(st.sampled_from(TwinOperation), message_ids, st.binary(min_size=1))
def test_a_request_is_read_as_it_was_made(
    operation: TwinOperation, correlation_id: MessageId, body: bytes
) -> None:
    patch = body if operation is TwinOperation.PATCH else b""

    read = parse_twin_request(twin_request(operation, correlation_id, patch))

    assert read == TwinRequest(operation, correlation_id, patch)


@given(message_ids, st.integers(100, 599), st.binary(), st.none() | st.integers(0, 2**63 - 1))
def test_an_answer_is_read_as_it_was_made(
    correlation_id: MessageId, status: int, body: bytes, version: int | None
) -> None:
    read = parse_twin_answer(twin_answer(correlation_id, status, body, version))

    assert read == TwinAnswer(correlation_id, status, version, body)


@given(st.binary())
def test_a_desired_patch_is_read_as_it_was_made(patch: bytes) -> None:
    assert parse_twin_answer(desired_patch(patch)) == DesiredPatch(patch)
