import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.amqp.codec import AmqpMessage, Int, Long, MessageId
from messaging.amqp.method_messages import (
    MethodCall,
    method_answer,
    method_call,
    parse_method_answer,
    parse_method_call,
)
from messaging.amqp.plain import id_text
from messaging.topics import STATUS_NOT_A_NUMBER, MethodResponse, Unknown

ONE = uuid.UUID("7d6c2d1e-0c1b-4a4e-9d55-2f6a3c8f9b01")

message_ids = st.text() | st.integers(0, 2**64 - 1) | st.uuids() | st.binary()


@pytest.mark.parametrize(
    ("request_id", "correlation_id"),
    [
        pytest.param(str(ONE), ONE, id="row 66: a UUID goes out as one, for the C SDK"),
        pytest.param(str(ONE).upper(), ONE, id="in capitals"),
        pytest.param(ONE.hex, ONE.hex, id="a UUID without hyphens stays a string"),
        pytest.param(f"{{{ONE}}}", f"{{{ONE}}}", id="one in braces stays a string"),
        pytest.param("17", "17", id="anything else stays a string"),
    ],
)
def test_a_call_carries_its_id_as_clients_can_read_it(request_id: str, correlation_id: MessageId) -> None:
    call = method_call("reboot", request_id, b'{"a":1}')

    assert (type(call.correlation_id), call.correlation_id) == (type(correlation_id), correlation_id)
    assert call.application_properties == {"IoThub-methodname": "reboot"}
    assert (call.body, call.is_value) == (b'{"a":1}', False)


def test_a_call_without_payload_still_has_a_body_of_data() -> None:
    call = method_call("reboot", str(ONE), b"")

    assert (call.body, call.is_value) == (b"", False)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(Int(200), 200, id="int, as the SDKs send"),
        pytest.param(Long(501), 501, id="long"),
        pytest.param(-1, -1, id="negative"),
        pytest.param("200", 200, id="a text that is a number"),
        pytest.param("x", STATUS_NOT_A_NUMBER, id="a text that is none"),
        pytest.param("1_0", STATUS_NOT_A_NUMBER, id="what only Python takes for one"),
        pytest.param(True, STATUS_NOT_A_NUMBER, id="a truth value"),
        pytest.param(2.5, STATUS_NOT_A_NUMBER, id="a fraction"),
        pytest.param(None, STATUS_NOT_A_NUMBER, id="nothing"),
    ],
)
def test_the_status_of_an_answer_is_read(status: object, expected: int) -> None:
    message = AmqpMessage(b"{}", correlation_id=ONE, application_properties={"IoThub-status": status})

    assert parse_method_answer(message) == MethodResponse(expected, str(ONE))


def test_an_answer_without_correlation_id_is_nobodys() -> None:
    assert isinstance(
        parse_method_answer(AmqpMessage(application_properties={"IoThub-status": Int(200)})), Unknown
    )


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        pytest.param(200, 200, id="200"),
        pytest.param(2**31 - 1, 2**31 - 1, id="the largest"),
        pytest.param(2**31, STATUS_NOT_A_NUMBER, id="too large for an int"),
        pytest.param(-(2**31) - 1, STATUS_NOT_A_NUMBER, id="too small for an int"),
    ],
)
def test_we_answer_with_the_id_of_the_call_and_an_int(status: int, sent: int) -> None:
    answer = method_answer(ONE, status, b"null")

    value = answer.application_properties["IoThub-status"]
    assert (type(value), value) == (Int, sent)
    assert answer.correlation_id is ONE
    assert answer.body == b"null"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            AmqpMessage(b"1", correlation_id="a", application_properties={"IoThub-methodname": "m"}),
            MethodCall("m", "a", b"1"),
            id="id as a string, as an edge hub sends it",
        ),
        pytest.param(
            AmqpMessage(correlation_id=ONE, application_properties={"IoThub-methodname": "m"}),
            MethodCall("m", ONE, b""),
            id="id as a UUID, no payload",
        ),
        pytest.param(
            AmqpMessage(correlation_id="a", application_properties={"IoThub-methodname": 5}),
            None,
            id="name is no text",
        ),
        pytest.param(AmqpMessage(correlation_id="a"), None, id="no name"),
        pytest.param(AmqpMessage(application_properties={"IoThub-methodname": "m"}), None, id="no id"),
    ],
)
def test_a_call_of_the_cloud_is_read(message: AmqpMessage, expected: MethodCall | None) -> None:
    call = parse_method_call(message)

    assert isinstance(call, Unknown) if expected is None else call == expected


@given(st.uuids(), st.text(min_size=1), st.binary(), st.integers(-(2**31), 2**31 - 1), st.binary())
def test_call_and_answer_find_each_other_across_the_wire(
    request_id: uuid.UUID, name: str, payload: bytes, status: int, result: bytes
) -> None:
    call = parse_method_call(method_call(name, str(request_id), payload))
    assert isinstance(call, MethodCall)
    assert (call.name, call.payload) == (name, payload)

    answer = method_answer(call.correlation_id, status, result)

    assert parse_method_answer(answer) == MethodResponse(status, str(request_id))
    assert answer.body == result


@given(message_ids)
def test_an_id_of_any_type_is_a_text(message_id: MessageId) -> None:
    assert isinstance(id_text(message_id), str)
