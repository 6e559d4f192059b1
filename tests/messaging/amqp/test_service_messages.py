import pytest

from messaging.amqp.codec import AmqpMessage, Long, Timestamp
from messaging.amqp.conditions import Refusal
from messaging.amqp.service_messages import Stamps, ToDevice, event, feedback, read_to_device
from messaging.message import Message

TO = "/devices/D/messages/devicebound"


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        pytest.param(
            AmqpMessage(
                b"hello",
                message_id="m",
                to=TO,
                content_type="text/plain",
                absolute_expiry_time_ms=1_700_000_000_500,
                application_properties={"p": "v", "iothub-ack": "full"},
            ),
            ToDevice(
                "D",
                Message("", {"p": "v"}, {"messageId": "m", "contentType": "text/plain"}, b"hello"),
                "full",
                1_700_000_000.5,
            ),
            id="all of it",
        ),
        pytest.param(AmqpMessage(to=TO), ToDevice("D", Message("", {}, {}, b""), "none", None), id="nothing"),
        pytest.param(
            AmqpMessage(to="/devices/a%24b/messages/deviceBound"),
            ToDevice("a$b", Message("", {}, {}, b""), "none", None),
            id="as Node encodes it",
        ),
        pytest.param(
            AmqpMessage(to=TO, application_properties={"iothub-ack": "Negative"}),
            ToDevice("D", Message("", {}, {}, b""), "negative", None),
            id="ack in any case",
        ),
    ],
)
def test_what_a_service_sends_to_a_device_is_read(received: AmqpMessage, expected: ToDevice) -> None:
    assert read_to_device(received) == expected


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        pytest.param(AmqpMessage(), "to is ''", id="to nobody"),
        pytest.param(
            AmqpMessage(to="/devices/D/modules/M/messages/devicebound"), "to is '/devices/D", id="to a module"
        ),
        pytest.param(AmqpMessage(to="/devices/D/twin"), "to is '/devices/D/twin'", id="to something else"),
        pytest.param(AmqpMessage(to="/devices/a b/messages/devicebound"), "to is", id="to what is no id"),
        pytest.param(
            AmqpMessage(to=TO, application_properties={"iothub-ack": "some"}),
            "iothub-ack is 'some'",
            id="an unknown ack",
        ),
        pytest.param(AmqpMessage(to=TO, value=5, is_value=True), "the body is a value", id="a number"),
    ],
)
def test_what_cannot_be_sent_to_a_device_is_refused(received: AmqpMessage, reason: str) -> None:
    refusal = read_to_device(received)

    assert isinstance(refusal, Refusal)
    assert refusal.condition == "com.microsoft:argument-error"
    assert reason in refusal.reason


def test_feedback_says_what_it_is() -> None:
    message = feedback(b"[]", 5, "hub")

    assert message.content_type == "application/vnd.microsoft.iothub.feedback.json"
    assert message.body == b"[]"
    assert type(message.annotations["iothub-enqueuedtime"]) is Timestamp


@pytest.mark.parametrize(("module_id", "partition_key"), [("M", "D"), (None, "")])
def test_an_event_has_the_stamps_of_the_hub(module_id: str | None, partition_key: str) -> None:
    message = Message("", {"p": "v"}, {"messageId": "m", "dt-subject": "part"}, b"body")

    sent = event(
        message, Stamps(7, 5, "D", module_id, "638", '{"scope":"device"}', "Telemetry", partition_key)
    )

    assert (sent.body, sent.message_id, sent.application_properties) == (b"body", "m", {"p": "v"})
    assert {name: (type(value), value) for name, value in sent.annotations.items()} == {
        "dt-subject": (str, "part"),
        "x-opt-sequence-number": (Long, 7),
        "x-opt-offset": (str, "7"),
        "x-opt-enqueued-time": (Timestamp, 5),
        "iothub-connection-device-id": (str, "D"),
        "iothub-connection-auth-method": (str, '{"scope":"device"}'),
        "iothub-connection-auth-generation-id": (str, "638"),
        "iothub-enqueuedtime": (Timestamp, 5),
        "iothub-message-source": (str, "Telemetry"),
        **({"x-opt-partition-key": (str, "D")} if partition_key else {}),
        **({"iothub-connection-module-id": (str, "M")} if module_id else {}),
    }
