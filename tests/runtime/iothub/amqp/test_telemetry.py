"""Telemetry over AMQP at the stand-in: mapping, batches, limits, dispositions after the commit."""

from __future__ import annotations

import asyncio

import pytest

from messaging import system_properties as names
from messaging.amqp import codec
from messaging.amqp.addresses import LinkKind
from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage
from messaging.amqp.events import CreditGranted, LinkDetached, Outcome, Settled
from messaging.amqp.mapping import message_to_cloud
from messaging.errors import StoreError
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from runtime.iothub.amqp.telemetry import CREDIT, LARGEST_BATCH_BYTES, STORE_LIMIT_S
from runtime.iothub.credit import CLIENT_BYTES
from tests.runtime.iothub.amqp_client import AmqpClient, connect
from tests.runtime.iothub.mqtt_scene import Scene


@pytest.fixture
def client(scene: Scene) -> AmqpClient:
    """A connection with the token of `d1`."""
    return connect(scene, "d1")


def test_a_message_is_stored_with_its_properties_and_who_sent_it(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    message = AmqpMessage(
        body=b"21.5",
        message_id="m1",
        content_type="application/json",
        content_encoding="utf-8",
        application_properties={"level": "3", "number": 4},
    )

    assert client.send(link, message).outcome is Outcome.ACCEPTED

    (event,) = scene.events()
    assert event.identity.id == "d1"
    assert event.telemetry.body == b"21.5"
    assert event.telemetry.properties == {"level": "3", "number": None}
    assert event.telemetry.system_properties[names.MESSAGE_ID] == "m1"
    assert event.telemetry.system_properties[names.CONTENT_TYPE] == "application/json"
    assert event.auth_method == '{"scope":"device","type":"sas","issuer":"iothub"}'


def test_the_output_of_a_module_is_kept(scene: Scene) -> None:
    scene.create("d1/m")
    client = connect(scene, "d1/m")
    link = client.attach(LinkKind.EVENTS, "d1/m")
    message = Message("", {"a": "b"}, {names.OUTPUT_NAME: "alerts"}, b"x")

    assert client.send(link, message_to_cloud(message)).outcome is Outcome.ACCEPTED

    (event,) = scene.events()
    assert event.identity.id == "d1/m"
    assert event.telemetry.system_properties[names.OUTPUT_NAME] == "alerts"


def test_a_batch_is_stored_in_order_under_one_disposition(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    bodies = [b"%d" % number for number in range(50)]
    batch = codec.join_batch([codec.encode(AmqpMessage(body=body)) for body in bodies])

    told = client.send(link, batch, message_format=BATCH_FORMAT)

    assert told.outcome is Outcome.ACCEPTED
    assert scene.bodies() == bodies


def test_messages_of_one_connection_keep_their_order(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    bodies = [b"%d" % number for number in range(300)]

    sent = [client.start(link, AmqpMessage(body=body)) for body in bodies]

    assert [client.wait(Settled, one).outcome for one in sent] == [Outcome.ACCEPTED] * 300
    assert scene.bodies() == bodies


def test_what_came_settled_is_stored_and_not_answered(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")

    client.start(link, AmqpMessage(body=b"settled"), settled=True)
    client.send(link, AmqpMessage(body=b"unsettled"))

    assert scene.bodies() == [b"settled", b"unsettled"]


def test_what_came_settled_in_front_of_the_end_is_stored(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")

    client.start(link, AmqpMessage(body=b"last words"), settled=True)
    words = client.engine.data_to_send()
    client.engine.close()
    client.send_bytes(words + client.engine.data_to_send())

    assert client.transport.closed
    scene.wait(lambda: scene.bodies() == [b"last words"], "the message")


def test_a_message_that_is_not_stored_in_time_ends_its_link(scene: Scene, client: AmqpClient) -> None:
    link, c2d = client.attach(LinkKind.EVENTS, "d1"), client.attach(LinkKind.C2D, "d1")
    store = scene.hub.telemetry
    scene.hub.telemetry = lambda *_: scene.loop.create_future()  # type: ignore[method-assign]
    client.start(link, AmqpMessage(body=b"slow"))
    client.rest()
    scene.look()
    client.rest()
    assert link.is_open

    scene.clock.advance(STORE_LIMIT_S + 1)
    scene.look()

    condition, description = client.refused(link)
    scene.hub.telemetry = store  # type: ignore[method-assign]
    assert condition == "amqp:internal-error"
    assert "not stored within 20 s" in description
    assert c2d.is_open


@pytest.mark.parametrize("over_bytes", [0, 1])
def test_the_size_of_a_message_has_a_limit_that_counts_its_properties(
    scene: Scene, client: AmqpClient, over_bytes: int
) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    body = bytes(LARGEST_MESSAGE_BYTES - 2 + over_bytes)

    told = client.send(link, AmqpMessage(body=body, application_properties={"a": "b"}))

    if over_bytes:
        assert (told.outcome, told.condition) == (Outcome.REJECTED, "amqp:link:message-size-exceeded")
        assert client.send(link, AmqpMessage(body=b"next")).outcome is Outcome.ACCEPTED
    assert [len(body) for body in scene.bodies()] == ([4] if over_bytes else [len(body)])


def test_a_batch_is_stored_whole_or_not_at_all(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    small = codec.encode(AmqpMessage(body=b"small"))
    large = codec.encode(AmqpMessage(body=bytes(LARGEST_MESSAGE_BYTES + 1)))
    over = [codec.encode(AmqpMessage(body=bytes(LARGEST_BATCH_BYTES // 4)))] * 5

    for elements in ([small, large], over):
        told = client.send(link, codec.join_batch(elements), message_format=BATCH_FORMAT)
        assert (told.outcome, told.condition) == (Outcome.REJECTED, "amqp:link:message-size-exceeded")

    assert scene.bodies() == []


@pytest.mark.parametrize("message_format", [0, BATCH_FORMAT])
def test_bytes_that_are_no_message_are_rejected_and_the_link_goes_on(
    scene: Scene, client: AmqpClient, message_format: int
) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")

    told = client.send(link, b"\x00nonsense", message_format=message_format)

    assert (told.outcome, told.condition) == (Outcome.REJECTED, "amqp:decode-error")
    assert client.send(link, AmqpMessage(body=b"good")).outcome is Outcome.ACCEPTED
    assert scene.bodies() == [b"good"]


def test_credit_is_given_anew_for_what_was_stored(client: AmqpClient) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    assert link.credit == CREDIT

    sent = [client.start(link, AmqpMessage(body=b"x")) for _ in range(CREDIT)]
    assert link.credit == 0
    client.wait(CreditGranted, link)

    assert [client.wait(Settled, one).outcome for one in sent] == [Outcome.ACCEPTED] * CREDIT
    assert link.credit == CREDIT


def test_more_than_the_credit_ends_the_link_and_nobody_else_s(scene: Scene) -> None:
    client = connect(scene, "d1", "d2")
    link, other = client.attach(LinkKind.EVENTS, "d1"), client.attach(LinkKind.EVENTS, "d2")
    scene.hub.telemetry = lambda *_: scene.loop.create_future()  # type: ignore[method-assign]
    for _ in range(CREDIT):
        client.start(link, AmqpMessage(body=b"x"))
    client.rest()

    client.send_bytes(_transfer(handle=2, delivery_id=2 + CREDIT))  # two links and tokens before it

    assert client.refused(link)[0] == "amqp:link:transfer-limit-exceeded"
    client.attach(LinkKind.TWIN_ANSWERS, "d2")
    assert other.is_open
    assert not client.transport.closed


def test_a_message_that_cannot_be_stored_ends_its_link_without_an_outcome(scene: Scene) -> None:
    client = connect(scene, "d1", "d2")
    link, other = client.attach(LinkKind.EVENTS, "d1"), client.attach(LinkKind.EVENTS, "d2")
    failed: asyncio.Future[None] = scene.loop.create_future()
    failed.set_exception(StoreError("the disk is gone"))
    stored, scene.hub.telemetry = scene.hub.telemetry, lambda *_: failed  # type: ignore[method-assign]

    delivery = client.start(link, AmqpMessage(body=b"lost"))
    end = client.wait(LinkDetached, link)

    scene.hub.telemetry = stored  # type: ignore[method-assign]
    assert end.condition == "amqp:internal-error"
    assert "the disk is gone" in end.description
    assert not [event for event in client.events if isinstance(event, Settled) and event.delivery is delivery]
    assert client.send(other, AmqpMessage(body=b"other")).outcome is Outcome.ACCEPTED
    again = client.attach(LinkKind.EVENTS, "d1")
    assert client.send(again, AmqpMessage(body=b"again")).outcome is Outcome.ACCEPTED


def test_a_client_with_too_much_on_its_way_to_the_disk_is_not_read_until_it_is_there(
    scene: Scene, client: AmqpClient
) -> None:
    link = client.attach(LinkKind.EVENTS, "d1")
    answers: list[asyncio.Future[None]] = []

    def store_later(*_: object) -> asyncio.Future[None]:
        answers.append(scene.loop.create_future())
        return answers[-1]

    scene.hub.telemetry = store_later  # type: ignore[method-assign]
    body = bytes(200_000)
    for _ in range(CLIENT_BYTES // len(body) + 1):
        client.start(link, AmqpMessage(body=body))
    client.rest()
    assert not client.transport.reading

    scene.do(lambda: [answer.set_result(None) for answer in answers])
    client.rest()

    assert client.transport.reading


def _transfer(handle: int, delivery_id: int) -> bytes:
    """Return a transfer as its frame; our engine sends none without credit."""
    fields = b"\x52" + bytes([handle]) + b"\x70" + delivery_id.to_bytes(4, "big") + b"\xa0\x02zz\x43\x42"
    performative = b"\x00\x53\x14\xc0" + bytes([len(fields) + 1, 5]) + fields
    frame = b"\x02\x00\x00\x00" + performative + b"\x00\x53\x75\xa0\x01x"
    return (len(frame) + 4).to_bytes(4, "big") + frame
