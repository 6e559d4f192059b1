"""Services over AMQP at the stand-in: messages to devices, feedback, the stream; who may, for how long."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from cproton_ffi import lib

from messaging import sas
from messaging.amqp import cbs, codec
from messaging.amqp.codec import AmqpMessage, Int, Long
from messaging.amqp.events import CreditGranted, LinkAttached, LinkDetached, Outcome, Received, Settled
from messaging.amqp.link import Delivery, Link, SndSettleMode
from messaging.amqp.sasl import ClientSasl
from messaging.envelope import Secret
from messaging.errors import StoreError
from messaging.identity import Identity
from runtime.iothub import feedback
from runtime.iothub.amqp import stream as amqp_stream
from runtime.iothub.c2d import QUEUE_DEPTH
from runtime.iothub.records import Telemetry
from tests.runtime.iothub.amqp_client import AmqpClient, connect
from tests.runtime.iothub.fakes import FakeDevice
from tests.runtime.iothub.mqtt_scene import HOST, Scene

C2D = "/messages/devicebound"
FEEDBACK = "/messages/servicebound/feedback"
FILES = "/messages/servicebound/filenotifications"
PARTITION = "/events/ConsumerGroups/$Default/Partitions/0"
TO = "/devices/d1/messages/devicebound"
UNAUTHORIZED = "amqp:unauthorized-access"


def policy_token(
    scene: Scene, policy: str = "service", audience: str = HOST, life_s: int = 3600, *, events: bool = False
) -> str:
    found = scene.hub.policies.find(policy)
    key = (found.event_hubs_keys if events else found.keys)[0]
    return sas.make_token(audience, key, int(scene.clock.now_s() + life_s), policy)


def service(scene: Scene, **token: Any) -> AmqpClient:
    """Return a connection that has shown the token of a policy."""
    client = AmqpClient(scene).opened()
    answer = client.ask_cbs(cbs.put_token(HOST, policy_token(scene, **token), "1"))
    assert answer.status == 200, answer.description
    return client


def sender(client: AmqpClient, address: str = C2D) -> Link:
    link = client.engine.attach_sender(f"to {address}", address)
    client.wait(LinkAttached, link)
    return link


def receiver(client: AmqpClient, address: str, *, credit: int = 100, name: str = "", **asked: Any) -> Link:
    link = client.engine.attach_receiver(name or f"from {address}", address, **asked)
    client.wait(LinkAttached, link)
    link.grant(credit)
    return link


def send_telemetry(scene: Scene, *bodies: bytes) -> None:
    async def work() -> None:
        grant = await scene.hub.authenticate(Identity("d1"), scene.token("d1"), None)
        await scene.hub.telemetry(grant, [Telemetry({}, {}, body) for body in bodies])

    scene.run(work())


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [codec.decode(delivery.data).body for delivery in deliveries]


# ---- messages to devices


def test_a_message_is_accepted_when_it_is_on_disk_and_not_before(scene: Scene) -> None:
    client = service(scene)
    link = sender(client)
    disk = threading.Event()
    scene.do(scene.hub._db.run, lambda connection: disk.wait(10))
    delivery = client.start(link, AmqpMessage(b"x", to=TO))
    while client.exchange():
        scene.take_turns()
    assert not [event for event in client.events if isinstance(event, Settled)]

    disk.set()

    assert client.wait(Settled, delivery).outcome is Outcome.ACCEPTED
    assert scene.run(scene.hub.twin(Identity("d1")))["cloudToDeviceMessageCount"] == 1


def test_messages_that_come_together_keep_their_order_and_credit_comes_back(scene: Scene) -> None:
    client = service(scene)
    link = sender(client)
    if not link.credit:
        client.wait(CreditGranted, link)
    for number in range(QUEUE_DEPTH):
        client.start(link, AmqpMessage(str(number).encode(), to=TO), settled=number % 2 == 0)
    client.rest()

    async def queued() -> list[bytes]:
        device = await FakeDevice.connect(scene.hub, "d1")
        return [(await device.next())[1].body for _ in range(QUEUE_DEPTH)]

    assert scene.run(queued()) == [str(number).encode() for number in range(QUEUE_DEPTH)]
    client.exchange()
    assert link.credit == 100


@pytest.mark.parametrize(
    ("message", "condition"),
    [
        (AmqpMessage(b"x", to="/devices/nobody/messages/devicebound"), "amqp:not-found"),
        (AmqpMessage(b"x" * 65_537, to=TO), "amqp:link:message-size-exceeded"),
        (AmqpMessage(b"x", to="/devices/d1/modules/m/messages/devicebound"), "com.microsoft:argument-error"),
        (AmqpMessage(b"x"), "com.microsoft:argument-error"),
        (
            AmqpMessage(b"x", to=TO, application_properties={"iothub-ack": "some"}),
            "com.microsoft:argument-error",
        ),
        (AmqpMessage(to=TO, value=[1, 2], is_value=True), "com.microsoft:argument-error"),
        (b"no message", "amqp:decode-error"),
    ],
    ids=["unknown device", "too large", "to a module", "to nobody", "ack", "body", "no message"],
)
def test_a_message_is_rejected_with_the_reason_and_the_next_one_is_taken(
    scene: Scene, message: AmqpMessage | bytes, condition: str
) -> None:
    client = service(scene)
    link = sender(client)

    refused = client.send(link, message)

    assert (refused.outcome, refused.condition) == (Outcome.REJECTED, condition)
    assert json.loads(refused.description)["message"]
    assert client.send(link, AmqpMessage(b"x", to=TO)).outcome is Outcome.ACCEPTED


def test_a_message_for_a_full_queue_is_rejected(scene: Scene) -> None:
    client = service(scene)
    link = sender(client)
    for _ in range(QUEUE_DEPTH):
        client.send(link, AmqpMessage(b"x", to=TO))

    refused = client.send(link, AmqpMessage(b"x", to=TO))

    assert refused.condition == "amqp:resource-limit-exceeded"
    assert json.loads(refused.description)["errorCode"] == 403004


def test_a_message_that_cannot_be_stored_is_rejected(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = service(scene)
    link = sender(client)

    async def fail(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(scene.hub, "send_c2d", fail)

    assert client.send(link, AmqpMessage(b"x", to=TO)).condition == "amqp:internal-error"


# ---- who may


@pytest.mark.parametrize("address", [C2D, FEEDBACK, FILES, PARTITION, "/messages/events/$management"])
@pytest.mark.parametrize(
    "token",
    [
        pytest.param({"policy": "device"}, id="a policy of devices"),
        pytest.param({"policy": "registryReadWrite"}, id="a policy of the registry"),
        pytest.param({"audience": f"{HOST}/messages/elsewhere"}, id="another resource"),
        pytest.param(None, id="the token of a device"),
        pytest.param({}, id="no token"),
    ],
)
def test_a_link_needs_a_policy_that_lets_services_connect(
    scene: Scene, address: str, token: dict[str, str] | None
) -> None:
    if token:
        client = service(scene, **token)
    else:
        client = connect(scene, "d1") if token is None else AmqpClient(scene).opened()

    if address == C2D:
        link = client.engine.attach_sender("l", address)
    else:
        link = client.engine.attach_receiver("l", address)

    assert client.refused(link)[0] == UNAUTHORIZED


@pytest.mark.parametrize("policy", ["service", "iothubowner"])
def test_a_token_may_be_that_of_sasl_plain(scene: Scene, policy: str) -> None:
    sasl = ClientSasl("PLAIN", f"{policy}@sas.root.hub", Secret(policy_token(scene, policy).encode()))
    client = AmqpClient(scene, sasl).opened()

    assert client.send(sender(client), AmqpMessage(b"x", to=TO)).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    "audience",
    [HOST, f"https://{HOST}", f"sb://{HOST}/messages", f"amqps://{HOST}/messages/devicebound"],
)
def test_a_token_covers_what_lies_below_its_audience(scene: Scene, audience: str) -> None:
    client = service(scene, audience=audience)

    assert sender(client).is_open


def test_links_end_with_the_last_token_that_covers_them(scene: Scene) -> None:
    client = service(scene, life_s=60)
    kept = receiver(client, FEEDBACK)

    def pass_busily(seconds: float) -> None:
        """Let time pass; the client is silent for a minute at most."""
        while seconds > 0:
            scene.clock.advance(min(seconds, 60))
            seconds -= 60
            kept.grant(1)
            client.exchange()
        scene.look()
        client.rest()

    pass_busily(60 + sas.CLOCK_SKEW_S - 1)
    assert kept.is_open
    renewed = client.ask_cbs(cbs.put_token(HOST, policy_token(scene, life_s=600), "2"))
    pass_busily(600 + sas.CLOCK_SKEW_S - 1)
    assert (renewed.status, kept.is_open) == (200, True)
    pass_busily(3)

    assert client.refused(kept)[0] == UNAUTHORIZED


# ---- feedback


def leave_feedback(scene: Scene, name: str) -> None:
    scene.run(scene.hub.send_c2d("d1", b"", system_properties={"messageId": name}, ack="full"))
    scene.run(scene.hub.purge_c2d("d1"))


def pass_time(scene: Scene, seconds: float) -> None:
    scene.clock.advance(seconds)
    scene.run(scene.hub.sweep())


def take_feedback(client: AmqpClient, link: Link) -> tuple[Delivery, list[str]]:
    delivery = client.take(link)
    records = json.loads(codec.decode(delivery.data).body)
    return delivery, [record["originalMessageId"] for record in records]


def test_feedback_comes_after_fifteen_seconds_in_the_shape_of_iot_hub(scene: Scene) -> None:
    client = service(scene)
    link = receiver(client, FEEDBACK)
    leave_feedback(scene, "1")
    assert client.received(link) == []

    pass_time(scene, feedback.BATCH_S)

    delivery = client.take(link)
    message = codec.decode(delivery.data)
    assert message.content_type == "application/vnd.microsoft.iothub.feedback.json"
    assert message.user_id == HOST.encode()
    assert len(delivery.tag) == 16
    (record,) = json.loads(message.body)
    assert record == {
        "originalMessageId": "1",
        "enqueuedTimeUtc": record["enqueuedTimeUtc"],
        "statusCode": "Purged",
        "description": "Purged",
        "deviceId": "d1",
        "deviceGenerationId": record["deviceGenerationId"],
    }


@pytest.mark.parametrize(
    ("settle", "comes_again"),
    [
        (lambda delivery: delivery.accept(), False),
        (lambda delivery: delivery.reject("x:y"), False),
        (lambda delivery: delivery.release(), True),
        (lambda delivery: delivery.modify(), True),
        (lambda delivery: delivery.settle(), True),
    ],
    ids=["accepted", "rejected", "released", "modified", "settled without a word"],
)
def test_feedback_comes_again_unless_it_was_taken(scene: Scene, settle: Any, comes_again: bool) -> None:
    client = service(scene)
    link = receiver(client, FEEDBACK)
    leave_feedback(scene, "1")
    pass_time(scene, feedback.BATCH_S)
    delivery, _ = take_feedback(client, link)

    settle(delivery)
    client.rest()
    pass_time(scene, 0)

    if comes_again:
        assert take_feedback(client, link)[1] == ["1"]
    else:
        assert client.received(link) == []
        assert scene.run(scene.hub.receive_feedback()) is None


@pytest.mark.parametrize("how", ["detach", "lose"])
def test_feedback_of_a_service_that_has_gone_is_for_the_next_one(scene: Scene, how: str) -> None:
    leave_feedback(scene, "1")
    pass_time(scene, feedback.BATCH_S)
    first = service(scene)
    link = receiver(first, FEEDBACK)
    take_feedback(first, link)

    if how == "detach":
        link.detach()
        first.rest()
    else:
        first.lose()

    second = service(scene)
    assert take_feedback(second, receiver(second, FEEDBACK))[1] == ["1"]


def test_no_feedback_is_sent_without_credit(scene: Scene) -> None:
    client = service(scene)
    link = receiver(client, FEEDBACK, credit=0)
    leave_feedback(scene, "1")
    pass_time(scene, feedback.BATCH_S)
    assert client.received(link) == []

    link.grant(1)

    assert take_feedback(client, link)[1] == ["1"]


def test_a_link_for_notifications_of_files_is_silent(scene: Scene) -> None:
    client = service(scene)
    link = receiver(client, FILES)

    client.rest()

    assert link.is_open
    assert client.received(link) == []


# ---- the stream


def reader(client: AmqpClient, start: str = "", *, group: str = "$Default", **asked: Any) -> Link:
    """Attach a reader; `start` is compared with the offset."""
    if start:
        asked["source_filter"] = {
            "apache.org:selector-filter:string": f"amqp.annotation.x-opt-offset > '{start}'"
        }
    return receiver(client, PARTITION.replace("$Default", group), **asked)


def test_a_reader_gets_what_is_kept_and_what_comes(scene: Scene) -> None:
    send_telemetry(scene, b"1", b"2")
    client = service(scene)
    link = reader(client)

    kept = [client.take(link) for _ in range(2)]
    send_telemetry(scene, b"3")
    new = client.take(link)

    assert bodies([*kept, new]) == [b"1", b"2", b"3"]
    assert all(delivery.settled for delivery in kept)
    annotations = codec.decode(new.data).annotations
    assert (annotations["x-opt-sequence-number"], annotations["x-opt-offset"]) == (3, "3")


def test_a_reader_gets_no_more_than_its_credit(scene: Scene) -> None:
    send_telemetry(scene, b"1", b"2", b"3")
    client = service(scene)
    link = reader(client, credit=2)
    assert bodies([client.take(link), client.take(link)]) == [b"1", b"2"]
    assert client.received(link) == []

    link.grant(1)

    assert bodies([client.take(link)]) == [b"3"]


def test_a_reader_that_settles_gets_everything_unsettled(scene: Scene) -> None:
    send_telemetry(scene, b"1")
    client = service(scene)
    link = reader(client, snd_settle_mode=SndSettleMode.UNSETTLED)

    delivery = client.take(link)

    assert not delivery.settled
    delivery.accept()
    client.rest()
    send_telemetry(scene, b"2")
    assert bodies([client.take(link)]) == [b"2"]


def test_readers_of_the_latest_are_told_of_all_that_comes_after_their_attach(scene: Scene) -> None:
    send_telemetry(scene, b"old")
    client = service(scene)
    link = reader(client, "@latest")

    send_telemetry(scene, b"new")

    assert bodies([client.take(link)]) == [b"new"]


def test_a_reader_that_does_not_read_its_socket_is_not_sent_more_than_a_little_ahead(scene: Scene) -> None:
    send_telemetry(scene, *(bytes(200_000) for _ in range(40)))
    client = service(scene)
    link = reader(client, credit=0)
    client.exchange()
    scene.do(scene.amqp_server.writing_paused, client.known)
    link.grant(100)
    client.rest()
    assert client.received(link) == []

    scene.do(scene.amqp_server.writing_resumed, client.known)

    assert len([client.take(link) for _ in range(40)]) == 40


def test_a_reader_whose_window_is_closed_is_not_sent_more_than_a_little_ahead(scene: Scene) -> None:
    send_telemetry(scene, *(bytes(200_000) for _ in range(60)))
    client = AmqpClient(scene)
    lib.pn_session_set_incoming_capacity(client.engine._own_session(), 4 * 65_536)
    client.opened()
    client.ask_cbs(cbs.put_token(HOST, policy_token(scene), "1"))
    link = reader(client, credit=100)
    data = client.engine.data_to_send()
    client.send_bytes(data)  # from here on nothing is taken from the hub
    (sent,) = (each for each in client.known._links if each.is_sender and "Partitions" in each.address)
    scene.wait(lambda: sent.held_bytes > amqp_stream.MOST_HELD_BYTES, "more than the window lets through")
    for _ in range(20):
        scene.look()

    held = sent.held_bytes

    assert held < amqp_stream.MOST_HELD_BYTES + 2 * amqp_stream.MOST_BYTES
    came = 0
    while came < 60:
        came += len(client.received(link))
        scene.look()


@pytest.mark.parametrize(
    ("address", "condition"),
    [
        ("/elsewhere/ConsumerGroups/$Default/Partitions/0", "amqp:not-found"),
        ("/events/ConsumerGroups/$Default/Partitions/1", "com.microsoft:argument-out-of-range"),
        ("/elsewhere/$management", "amqp:not-found"),
        ("/messages/events/ConsumerGroups/$Default", "amqp:not-allowed"),
    ],
)
def test_what_there_is_not_cannot_be_read(scene: Scene, address: str, condition: str) -> None:
    client = service(scene)

    assert client.refused(client.engine.attach_receiver("r", address))[0] == condition


@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        ({"source_filter": {"apache.org:selector-filter:string": "all"}}, "com.microsoft:argument-error"),
        ({"properties": {"com.microsoft:epoch": "high"}}, "com.microsoft:argument-error"),
        (
            {"source_filter": {"apache.org:selector-filter:string": "amqp.annotation.x-opt-offset > '9'"}},
            "com.microsoft:argument-error",
        ),
    ],
    ids=["filter", "epoch", "a number still to come"],
)
def test_a_reader_that_asks_for_what_cannot_be_is_refused(
    scene: Scene, asked: dict[str, Any], condition: str
) -> None:
    client = service(scene)

    assert client.refused(client.engine.attach_receiver("r", PARTITION, **asked))[0] == condition


def test_a_consumer_group_has_five_readers_each_of_whom_gets_everything(scene: Scene) -> None:
    client = service(scene)
    links = [reader(client, name=str(number)) for number in range(amqp_stream.MOST_READERS)]
    other_group = reader(client, group="other")

    refused = client.refused(client.engine.attach_receiver("one more", PARTITION))
    send_telemetry(scene, b"1")

    assert refused[0] == "amqp:resource-limit-exceeded"
    assert [bodies([client.take(link)]) for link in (*links, other_group)] == [[b"1"]] * 6
    links[0].detach()
    client.rest()
    assert reader(client, name="instead").is_open


@pytest.mark.parametrize(
    ("there", "comes", "stays"),
    [(None, 0, False), (1, 1, False), (1, 2, False), (2, 1, True), (1, None, True)],
    ids=["any drives away one without", "equal", "higher", "lower", "none beside one"],
)
def test_a_reader_with_an_epoch_is_alone(
    scene: Scene, there: int | None, comes: int | None, stays: bool
) -> None:
    client = service(scene)

    def asking(epoch: int | None) -> dict[str, Any]:
        return {} if epoch is None else {"properties": {"com.microsoft:epoch": Long(epoch)}}

    first = reader(client, name="first", **asking(there))
    second = client.engine.attach_receiver("second", PARTITION, **asking(comes))

    assert client.refused(second if stays else first)[0] == "amqp:link:stolen"
    if not stays:
        client.wait(LinkAttached, second)
    send_telemetry(scene, b"1")
    left = first if stays else second
    left.grant(1)
    assert bodies([client.take(left)]) == [b"1"]


def test_a_reader_hears_that_events_cannot_be_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = service(scene)

    async def fail(*_: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(scene.hub, "events", fail)
    link = reader(client)

    assert client.wait(LinkDetached, link).condition == "amqp:internal-error"
    assert client.send(sender(client), AmqpMessage(b"x", to=TO)).outcome is Outcome.ACCEPTED


# ---- questions


def ask(client: AmqpClient, links: tuple[Link, Link], **asked: str) -> AmqpMessage:
    client.send(
        links[0],
        AmqpMessage(
            message_id="q",
            reply_to="me",
            application_properties={"operation": "READ", "name": "events", **asked},
        ),
    )
    return client.receive(links[1])


def management(client: AmqpClient, address: str = "$management") -> tuple[Link, Link]:
    return sender(client, address), receiver(client, address, target="me")


def test_questions_about_the_stream_are_answered(scene: Scene) -> None:
    send_telemetry(scene, b"1", b"2")
    client = service(scene, audience=f"sb://{HOST}/events", events=True)
    links = management(client)

    stream = ask(client, links, type="com.microsoft:eventhub")
    partition = ask(client, links, type="com.microsoft:partition", partition="0")

    assert isinstance(stream.value, dict)
    assert isinstance(partition.value, dict)
    assert (stream.correlation_id, stream.value["partition_ids"]) == ("q", ["0"])
    assert partition.value["begin_sequence_number"] == 1
    assert partition.value["last_enqueued_sequence_number"] == 2
    assert not partition.value["is_partition_empty"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"type": "com.microsoft:eventhub", "name": "elsewhere"}, 404),
        ({"type": "com.microsoft:partition", "partition": "9"}, 404),
        ({"type": "com.microsoft:nothing"}, 400),
    ],
    ids=["stream", "partition", "type"],
)
def test_questions_without_an_answer_get_a_status(scene: Scene, asked: dict[str, str], status: int) -> None:
    client = service(scene)

    answer = ask(client, management(client), **asked)

    assert answer.application_properties["status-code"] == Int(status)
    assert answer.application_properties["status-description"]


def test_a_question_needs_a_token_that_covers_the_stream(scene: Scene) -> None:
    client = service(scene, policy="device")

    answer = ask(client, management(client), type="com.microsoft:eventhub")

    assert answer.application_properties["status-code"] == Int(401)


def test_answers_go_to_the_receiver_that_the_question_names(scene: Scene) -> None:
    client = service(scene)
    links = management(client)
    other = receiver(client, "$management", name="other", target="another")

    ask(client, links, type="com.microsoft:eventhub")

    assert client.received(other) == []


def test_what_is_no_message_ends_its_link_alone(scene: Scene) -> None:
    client = service(scene)
    asking, answers = management(client)

    client.start(asking, b"no message")

    assert client.wait(LinkDetached, asking).condition == "amqp:decode-error"
    assert answers.is_open


@pytest.mark.parametrize("address", ["/messages/events", "/messages/events/", "messages/events/$management"])
def test_who_asks_where_the_stream_is_gets_its_address(scene: Scene, address: str) -> None:
    client = service(scene)

    condition, description = client.refused(client.engine.attach_receiver("r", address))

    assert condition == "amqp:link:redirect"
    assert HOST in description
    assert not [event for event in client.events if isinstance(event, Received)]
