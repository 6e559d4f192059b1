"""Messages at the MQTT head, in both directions: real bytes, virtual time."""

from __future__ import annotations

import itertools
import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.heads import intake, mqtt_client
from actors.heads.intake import STORE_LIMIT_S
from actors.heads.module_inputs import ModuleInputs
from actors.hub.router import Endpoints
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.store.messages import Attach, Delivered, Detach, Ready, Stored, Undeliverable
from messaging.broker.limits import FIRST_PACKET_ID
from messaging.lifecycle import ActorRestarted, RequestFailed
from messaging.message import encode_header
from messaging.mqtt.packets import Disconnect, PingReq, PingResp, PubAck, SubAck, Subscribe, Unsubscribe
from messaging.mqtt.packets import Publish as PublishPacket
from tests.actors.head_world import HEAD, HEADER, ROUTER, STORE, HeadWorld, publish_packet

IN1 = ("edge1/filter/i1", "edge1/filter", "i1")
IN2 = ("edge1/filter/i2", "edge1/filter", "i2")
ALL_INPUTS = "devices/edge1/modules/filter/inputs/#"


@pytest.fixture
def world() -> HeadWorld:
    return HeadWorld(endpoints=[IN1, IN2])


def dropped(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# messages in


def test_puback_leaves_when_the_message_is_on_disk_and_not_before(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, publish_packet(7))
    [(letter, publish)] = world.published()
    before = client.received_bytes()

    world.store(letter.correlation_id)

    assert before == b""
    assert client.received_bytes() == bytes.fromhex("40 02 00 07")
    assert (publish.identity, publish.index, publish.entries) == ("edge1/sensor", 0, ((0, b"x"),))


def test_the_messages_of_one_read_are_one_batch_with_each_header_once(world: HeadWorld) -> None:
    client = world.connect()
    packets = [publish_packet(n, b"%d" % n, bag="a=b" if n % 2 else "") for n in range(1, 21)]

    world.send(client, *packets)

    [(letter, publish)] = world.published()
    assert len(publish.headers) == 2
    assert [body for _, body in publish.entries] == [b"%d" % n for n in range(1, 21)]
    world.store(letter.correlation_id)
    assert client.received() == [PubAck(n) for n in range(1, 21)]


def test_batches_of_a_connection_are_numbered_and_a_new_connection_has_a_higher_epoch(
    world: HeadWorld,
) -> None:
    client = world.connect()
    for packet_id in (1, 2):
        world.send(client, publish_packet(packet_id))
    again = world.connect()
    world.send(again, publish_packet(1))

    first, second, third = (publish for _, publish in world.published())

    assert (first.index, second.index, third.index) == (0, 1, 0)
    assert first.epoch == second.epoch < third.epoch


def test_pubacks_keep_the_order_of_their_publishes(world: HeadWorld) -> None:
    client = world.connect()
    for packet_id in (1, 2, 3):
        world.send(client, publish_packet(packet_id))
    ids = [letter.correlation_id for letter, _ in world.published()]

    answers = []
    for batch in (ids[1], ids[0], ids[2]):
        world.store(batch)
        answers.append(client.received())

    assert answers == [[], [PubAck(1), PubAck(2)], [PubAck(3)]]


def test_pubacks_of_dropped_topics_wait_for_those_before_them(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, publish_packet(1))
    world.send(client, PublishPacket("no/such/topic", b"", 1, 2))
    world.send(client, publish_packet(3), PublishPacket("no/such/topic", b"", 1, 4))
    (first, _), (second, _) = world.published()
    before = client.received()

    world.store(second.correlation_id)
    still = client.received()
    world.store(first.correlation_id)

    assert (before, still) == ([], [])
    assert client.received() == [PubAck(n) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "topic",
    [
        *("devices/leaf/messages/eve/x", "devices/leaf/messages/devicebound/", "$iothub/foo"),
        pytest.param("devices/other/messages/events/", id="another device"),
        pytest.param("devices/leaf/modules/m/messages/events/", id="a module of the device"),
        pytest.param("devices/leaf/messages/events/a=b&a=c", id="a property twice"),
    ],
)
def test_unknown_topics_are_dropped_and_acknowledged_and_the_client_stays(
    world: HeadWorld, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: hub-protocols.md section 8.4, rows 18 and 19."""
    client = world.connect("leaf")

    world.send(client, PublishPacket(topic, b"", 1, 9), PublishPacket(topic, b"", 1, 10))

    assert (client.received(), client.closed) == ([PubAck(9), PubAck(10)], False)
    assert world.messages() == []
    [line] = dropped(caplog)
    assert line.startswith("leaf: 2 messages dropped: topic ")


@pytest.mark.parametrize("end", ["", "/"])
def test_properties_of_a_topic_become_those_of_the_message(world: HeadWorld, end: str) -> None:
    """Source: hub-protocols.md section 8.4, row 15."""
    client = world.connect("leaf")

    world.send(client, publish_packet(1, who="leaf", bag=f"k=v&%24.ct=application%2Fjson{end}"))

    [message] = world.messages()
    assert dict(message.properties) == {"k": "v"}
    assert message.source == "/messages/"
    assert message.system_properties["contentType"] == "application/json"
    assert message.system_properties["connectionDeviceId"] == "leaf"
    assert message.system_properties["edgeHubOriginInterface"] == "downstream"


def test_a_leading_question_mark_is_not_part_of_a_property(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 16."""
    client = world.connect("leaf")

    world.send(client, publish_packet(1, who="leaf", bag="?foo=1"))

    assert [dict(message.properties) for message in world.messages()] == [{"foo": "1"}]


def test_the_output_of_a_module_is_part_of_the_source(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 17."""
    client = world.connect("edge1/sensor")

    world.send(client, publish_packet(1, bag="%24.on=out&x=1"))

    [message] = world.messages()
    assert message.source == "/messages/modules/sensor/outputs/out/"
    assert dict(message.properties) == {"x": "1"}


def test_the_sender_cannot_be_forged(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 30."""
    client = world.connect("edge1/sensor")

    world.send(client, publish_packet(1, bag="%24.cdid=evil&%24.cmid=worse"))

    [message] = world.messages()
    assert message.system_properties["connectionDeviceId"] == "edge1"
    assert message.system_properties["connectionModuleId"] == "sensor"


def test_retain_and_dup_become_properties(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 21."""
    client = world.connect("leaf")
    topic = "devices/leaf/messages/events/"

    world.send(
        client, PublishPacket(topic, b"", 1, 1, dup=True), PublishPacket(topic, b"", 0, 0, retain=True)
    )

    assert [dict(message.properties) for message in world.messages()] == [
        {"mqtt-dup": "true"},
        {"mqtt-retain": "true"},
    ]


def test_qos_2_is_stored_and_then_the_connection_ends(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 21."""
    client = world.connect("leaf")

    world.send(client, PublishPacket("devices/leaf/messages/events/", b"two", 2, 1))

    assert ([message.body for message in world.messages()], client.closed) == ([b"two"], True)


def test_qos_2_is_not_acknowledged_whatever_becomes_of_the_message(world: HeadWorld) -> None:
    """PUBACK answers QoS 1 only [MQTT-4.3.3]."""
    client = world.connect("leaf")

    world.send(client, PublishPacket("devices/leaf/messages/events/=&=", b"no property name", 2, 1))

    assert (client.received(), client.closed) == ([], True)


def test_a_packet_over_the_limit_ends_the_connection(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 22."""
    client = world.connect("leaf")

    client.send_bytes(bytes.fromhex("32 80 80 10"))  # 262,144 bytes behind a header of 4

    assert client.closed


def test_the_largest_packet_that_is_allowed_is_a_message(world: HeadWorld) -> None:
    client = world.connect("leaf")
    topic = "devices/leaf/messages/events/"
    body = b"x" * (262_144 - 1 - 3 - 2 - len(topic) - 2)

    world.send(client, PublishPacket(topic, body, 1, 1))

    assert [len(message.body) for message in world.messages()] == [len(body)]


def test_a_message_over_the_limit_is_dropped_and_acknowledged(
    world: HeadWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: hub-protocols.md section 8.4, row 22; what the hub adds does not count."""
    monkeypatch.setattr(mqtt_client, "LARGEST_MESSAGE_BYTES", 100)
    client = world.connect("leaf")

    world.send(
        client, publish_packet(1, b"x" * 97, "leaf", "a=b"), publish_packet(2, b"x" * 99, "leaf", "a=b")
    )

    [(letter, publish)] = world.published()
    world.store(letter.correlation_id)
    assert [len(body) for _, body in publish.entries] == [97]
    assert client.received() == [PubAck(1), PubAck(2)]
    assert dropped(caplog) == ["leaf: 1 messages dropped: a message is 1 bytes over the limit of 100"]


def test_a_publish_that_was_not_stored_ends_its_connection_without_puback(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 23."""
    client, other = world.connect(), world.connect("leaf")
    world.send(client, publish_packet(1))
    world.send(client, publish_packet(2))
    (_, _), (second, _) = world.published()

    world.tell(HEAD, RequestFailed("Append", STORE, "no space left"), STORE, second.correlation_id)

    assert (client.received_bytes(), client.closed, other.closed) == (b"", True, False)
    assert world.described(HEAD)["unanswered_bytes"] == 0


def test_an_answer_for_a_connection_that_is_gone_means_nothing(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, publish_packet(1))
    [(letter, _)] = world.published()
    client.lose()

    world.store(letter.correlation_id)

    assert client.received_bytes() == b""
    assert world.described(HEAD)["unanswered_bytes"] == 0


def test_a_publish_that_nobody_answers_ends_its_connection(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, publish_packet(1))

    world.system.advance(STORE_LIMIT_S - 1)
    world.send(client, PingReq())
    before = client.closed
    world.system.advance(3.0)

    assert (before, client.closed) == (False, True)


def test_qos_0_goodbye_and_end_in_one_read_are_a_message(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 25."""
    client = world.connect("leaf")

    client.send(publish_packet(0, b"last words", "leaf"), Disconnect())
    client.lose()
    world.system.run()

    assert [message.body for message in world.messages()] == [b"last words"]


def test_whole_packets_in_front_of_a_mistake_are_messages(world: HeadWorld) -> None:
    client = world.connect("leaf")

    client.send_bytes(publish_packet(1, b"good", "leaf").encode() + b"\x00\x00")
    world.system.run()

    assert ([message.body for message in world.messages()], client.closed) == ([b"good"], True)


def test_too_much_unanswered_stops_reading_until_half_of_it_is_answered(
    world: HeadWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "CLIENT_CREDIT_BYTES", 3000)
    client, other = world.connect(), world.connect("leaf")
    reading = []
    for packet_id in range(1, 5):
        world.send(client, publish_packet(packet_id, b"x" * 1000))
        reading.append(client.transport.reading)
    ids = [letter.correlation_id for letter, _ in world.published()]

    for batch in ids:
        world.store(batch)
        reading.append(client.transport.reading)

    assert reading == [True, True, False, False, False, False, True, True]
    assert other.transport.reading
    assert world.described(HEAD)["unanswered_bytes"] == 0


def test_over_the_limit_of_the_head_whoever_sends_more_is_paused(
    world: HeadWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "HEAD_CREDIT_BYTES", 3000)
    client, other, idle = world.connect(), world.connect("leaf"), world.connect("idle")
    world.send(client, publish_packet(1, b"x" * 4000))
    world.send(other, publish_packet(1, b"x", "leaf"))
    paused = [c.transport.reading for c in (client, other, idle)]

    world.store(*(letter.correlation_id for letter, _ in world.published()))

    assert paused == [False, False, True]
    assert [c.transport.reading for c in (client, other, idle)] == [True, True, True]


def test_a_client_that_is_paused_is_not_taken_for_silent(
    world: HeadWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "CLIENT_CREDIT_BYTES", 10)
    client = world.connect(keep_alive_s=5)
    world.send(client, publish_packet(1, b"x" * 100))

    world.system.advance(15.0)

    assert not client.closed


# what a reconnect sends again


def dup_packet(packet_id: int, body: bytes = b"x", bag: str = "") -> PublishPacket:
    packet = publish_packet(packet_id, body, bag=bag)
    assert isinstance(packet, PublishPacket)
    return packet._replace(dup=True)


def bodies(world: HeadWorld) -> list[bytes]:
    return [message.body for message in world.messages()]


@pytest.mark.parametrize("way", ["acknowledged", "stored and not acknowledged", "stored after the end"])
def test_what_is_on_disk_is_acknowledged_and_not_stored_again_when_it_comes_again(
    world: HeadWorld, way: str
) -> None:
    """The SDKs renew their tokens by DISCONNECT, CONNECT, while PUBACKs are on their way to them."""
    client = world.connect()
    world.send(client, publish_packet(7, b"a"), publish_packet(8, b"b"))
    [(letter, _)] = world.published()
    if way == "acknowledged":
        world.store(letter.correlation_id)
    elif way == "stored and not acknowledged":
        client.lose()
        world.store(letter.correlation_id)
    world.send(client, Disconnect())
    if way == "stored after the end":
        world.store(letter.correlation_id)

    again = world.connect()
    world.send(again, dup_packet(7, b"a"), dup_packet(8, b"b"))

    assert world.published() == []
    assert again.received() == [PubAck(7), PubAck(8)]


@pytest.mark.parametrize(
    ("packet", "settings"),
    [
        pytest.param(publish_packet(7, b"a"), {}, id="not marked as sent again"),
        pytest.param(dup_packet(9, b"a"), {}, id="another packet id"),
        pytest.param(dup_packet(7, b"other"), {}, id="another payload"),
        pytest.param(dup_packet(7, b"a", bag="x=1"), {}, id="another topic"),
        pytest.param(dup_packet(7, b"a"), {"clean_session": True}, id="another session"),
    ],
)
def test_what_is_not_the_same_publish_is_a_message_of_its_own(
    world: HeadWorld, packet: PublishPacket, settings: dict[str, bool]
) -> None:
    client = world.connect()
    world.send(client, publish_packet(7, b"a"))
    world.store(world.published()[0][0].correlation_id)
    client.lose()

    again = world.connect(**settings)
    world.send(again, packet)

    assert bodies(world) == [packet.payload]


def test_what_never_reached_the_disk_is_stored_when_it_comes_again(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, publish_packet(7, b"a"))
    world.published()
    client.lose()

    again = world.connect()
    world.send(again, dup_packet(7, b"a"))

    assert bodies(world) == [b"a"]
    assert again.received() == []


def test_a_publish_is_recognised_over_several_connections_and_once_in_each(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, publish_packet(7, b"a"))
    world.store(world.published()[0][0].correlation_id)
    for _ in range(3):
        client.lose()
        client = world.connect()
        world.send(client, dup_packet(7, b"a"))
        assert (world.published(), client.received()) == ([], [PubAck(7)])

    world.send(client, dup_packet(7, b"a"))

    assert bodies(world) == [b"a"]


@pytest.mark.parametrize("reads", [1, 2, 34], ids=["one read", "a long read and a short one", "each a read"])
@pytest.mark.parametrize("size_bytes", [3, 5000], ids=["short", "long"])
def test_only_the_last_publishes_of_a_connection_are_remembered(
    world: HeadWorld, reads: int, size_bytes: int
) -> None:
    numbers = range(1, mqtt_client.MOST_REMEMBERED + 3)
    payloads = {n: b"%d" % n * size_bytes for n in numbers}
    packets = [publish_packet(n, payloads[n]) for n in numbers]
    cuts = {1: [34], 2: [33, 1], 34: [1] * 34}[reads]
    client = world.connect()
    rest = iter(packets)
    for count in cuts:
        world.send(client, *itertools.islice(rest, count))
    world.store(*(letter.correlation_id for letter, _ in world.published()))
    client.lose()

    again = world.connect()
    world.send(again, *(dup_packet(n, payloads[n]) for n in numbers))

    assert bodies(world) == [payloads[1], payloads[2]]


# messages out


def test_a_filter_that_covers_an_endpoint_attaches_it_once_it_is_acknowledged(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    world.send(client, Subscribe(1, ((ALL_INPUTS, 1),)))
    before = world.told(STORE, Attach)
    world.letters(STORE)

    attached = world.subscribe(world.connect("edge1/filter"), ALL_INPUTS)

    assert before == []
    assert [attach.endpoint_id for attach in attached] == [IN1[0], IN2[0]]


@pytest.mark.parametrize(
    ("topic_filter", "covered"),
    [
        (ALL_INPUTS, [IN1[0], IN2[0]]),
        ("devices/edge1/modules/filter/#", [IN1[0], IN2[0]]),
        ("devices/edge1/modules/filter/inputs/i1/#", [IN1[0]]),
        ("devices/edge1/modules/+/inputs/#", [IN1[0], IN2[0]]),
        ("devices/edge1/modules/filter/inputs/i1", []),
        ("devices/edge1/modules/other/#", []),
        ("devices/edge1/modules//#", []),
        ("/devices/edge1/modules/filter/#", []),
        ("$iothub/methods/POST/#", []),
        ("$iothub/twin/res/#", []),
        ("devices/edge1/messages/devicebound/#", []),
        ("a/b", []),
        ("#", []),
    ],
)
def test_filters_are_all_granted_and_cover_what_iot_hub_says(
    world: HeadWorld, topic_filter: str, covered: list[str]
) -> None:
    """Source: hub-protocols.md section 8.4, rows 12 and 13; routing.md section 5.8."""
    attached = world.subscribe(world.connect("edge1/filter"), topic_filter)

    assert [attach.endpoint_id for attach in attached] == covered


def test_inputs_of_another_module_are_not_to_be_had(world: HeadWorld) -> None:
    assert world.subscribe(world.connect("edge1/sensor"), ALL_INPUTS) == []


def test_unsubscribe_and_the_end_of_a_connection_detach(world: HeadWorld) -> None:
    client = world.connect("edge1/filter", clean_session=True)
    world.send(client, Subscribe(1, ((ALL_INPUTS, 1),)))
    world.send(client, Unsubscribe(2, (ALL_INPUTS,)))
    first = [message.endpoint_id for message in world.told(STORE, Detach)]
    world.send(client, Subscribe(3, ((ALL_INPUTS, 1),)))
    client.lose()
    world.system.run()

    assert first == [IN1[0], IN2[0]]
    assert [message.endpoint_id for message in world.told(STORE, Detach)] == first


def test_a_session_that_comes_back_attaches_without_a_subscribe() -> None:
    world = HeadWorld(endpoints=[IN1], sessions={"edge1/filter": ((ALL_INPUTS, 1),)})

    world.connect("edge1/filter")

    assert [attach.endpoint_id for attach in world.told(STORE, Attach)] == [IN1[0]]


def test_endpoints_of_new_routes_are_attached_and_those_gone_detached(world: HeadWorld) -> None:
    world.subscribe(world.connect("edge1/filter"), ALL_INPUTS)

    world.tell(HEAD, Endpoints((IN2, ("edge1/filter/i3", "edge1/filter", "i3"))), ROUTER)

    assert [attach.endpoint_id for attach in world.told(STORE, Attach)] == ["edge1/filter/i3"]
    assert [detach.endpoint_id for detach in world.told(STORE, Detach)] == [IN1[0]]


def test_a_message_goes_out_under_the_topic_of_its_input(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 29."""
    client = world.connect("edge1/filter")
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    header = encode_header(
        "/messages/modules/A/outputs/o/",
        {"Foo": "Bar"},
        {"contentType": "application/json", "connectionDeviceId": "D", "connectionModuleId": "A"},
    )

    world.ready(attach, 1, b"body", header=header)

    topic = "devices/edge1/modules/filter/inputs/i1/Foo=Bar&%24.ct=application%2Fjson&%24.cdid=D&%24.cmid=A"
    assert client.received() == [PublishPacket(topic, b"body", 1, 1)]


def test_an_acknowledged_message_is_delivered_and_rows_of_them_are_one_range(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 31."""
    client = world.connect("edge1/filter")
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(attach, 10, *(b"%d" % n for n in range(5)))
    sent = [packet for packet in client.received() if isinstance(packet, PublishPacket)]

    world.send(client, *(PubAck(packet.packet_id) for packet in (*sent[:3], sent[4])))
    world.send(client, PubAck(999))

    assert [packet.payload for packet in sent] == [b"%d" % n for n in range(5)]
    assert len({packet.packet_id for packet in sent}) == 5
    assert world.told(STORE, Delivered) == [
        Delivered(attach.endpoint_id, attach.attachment, ((10, 12), (14, 14)))
    ]


def test_at_qos_0_a_message_is_delivered_when_it_is_written(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [attach, _] = world.subscribe(client, ALL_INPUTS, qos=0)

    world.ready(attach, 10, b"a", b"b")

    assert [(p.payload, p.qos) for p in client.received()] == [(b"a", 0), (b"b", 0)]  # type: ignore[union-attr]
    assert world.told(STORE, Delivered) == [Delivered(attach.endpoint_id, attach.attachment, ((10, 11),))]


def test_the_highest_qos_of_the_filters_that_match_counts(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    world.subscribe(client, "devices/edge1/modules/filter/#", qos=1)
    world.subscribe(client, "devices/edge1/modules/filter/inputs/#", qos=0)
    world.send(client, Subscribe(3, (("a", 1),)))

    world.tell(HEAD, Endpoints((("edge1/filter/i9", "edge1/filter", "i9"),)), ROUTER)
    [attach] = world.told(STORE, Attach)
    world.ready(attach, 1, b"x")

    assert [packet.qos for packet in client.received()] == [1]  # type: ignore[union-attr]


def test_what_is_not_acknowledged_for_30_s_is_sent_again_as_a_duplicate(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 32."""
    client = world.connect("edge1/filter", keep_alive_s=0)
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(attach, 1, b"a", b"b")
    first = client.received()

    world.system.advance(DEFAULTS.message_ack_timeout_s - 1)
    before = client.received()
    world.system.advance(2.5)
    again = client.received()
    world.system.advance(DEFAULTS.message_ack_timeout_s - 3)

    assert before == client.received() == []
    assert again == [packet._replace(dup=True) for packet in first]  # type: ignore[union-attr]
    world.send(client, *(PubAck(packet.packet_id) for packet in again))  # type: ignore[union-attr]
    assert world.told(STORE, Delivered) == [Delivered(attach.endpoint_id, attach.attachment, ((1, 2),))]


def test_what_is_never_acknowledged_is_sent_again_less_and_less_often(world: HeadWorld) -> None:
    client = world.connect("edge1/filter", keep_alive_s=0)
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(attach, 1, b"a")
    client.received()

    again_at_s = []
    for second in range(260):
        world.system.advance(1.0)
        if any(isinstance(packet, PublishPacket) for packet in client.received()):
            again_at_s.append(second)

    gaps = [after - before for before, after in itertools.pairwise(again_at_s)]
    assert again_at_s[0] in (30, 31)
    assert [round(gap, -1) for gap in gaps] == [60, 120]


def test_a_slow_client_that_acknowledges_is_not_sent_everything_again(world: HeadWorld) -> None:
    client = world.connect("edge1/filter", keep_alive_s=0)
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(attach, 1, *(b"%d" % n for n in range(6)))
    sent = client.received()

    for packet in sent:
        world.system.advance(DEFAULTS.message_ack_timeout_s - 5)
        world.send(client, PubAck(packet.packet_id))  # type: ignore[union-attr]

    assert client.received() == []


def test_a_client_that_does_not_read_is_not_sent_more_of_the_same(world: HeadWorld) -> None:
    client = world.connect("edge1/filter", keep_alive_s=0)
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(attach, 1, b"a")
    client.received()
    client.transport.unsent_bytes = 1

    world.system.advance(DEFAULTS.message_ack_timeout_s * 3)

    assert client.received() == []


def test_a_header_that_makes_no_topic_is_given_up_and_the_others_go_out(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    long = encode_header("/messages/", {"p": "%" * 30_000}, {})
    headers = (HEADER, long, b"\xc1 damaged")
    entries = tuple((index, b"%d" % at) for at, index in enumerate((0, 1, 0, 2, 0)))

    world.tell(HEAD, Ready(attach.endpoint_id, attach.attachment, ((10, headers, entries),)), STORE)

    assert [packet.payload for packet in client.received()] == [b"0", b"2", b"4"]  # type: ignore[union-attr]
    assert world.told(STORE, Undeliverable) == [
        Undeliverable(attach.endpoint_id, attach.attachment, ((11, 11), (13, 13)))
    ]


def test_at_qos_0_what_is_given_up_is_not_delivered_as_well(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [attach, _] = world.subscribe(client, ALL_INPUTS, qos=0)
    run = (10, (HEADER, b"\xc1 damaged"), ((0, b"a"), (1, b"b")))

    world.tell(HEAD, Ready(attach.endpoint_id, attach.attachment, (run,)), STORE)

    assert world.told(STORE, Undeliverable)[0].ranges == ((11, 11),)
    assert world.told(STORE, Delivered)[0].ranges == ((10, 10),)


def test_messages_for_an_earlier_attachment_are_left_to_the_store(world: HeadWorld) -> None:
    old = world.connect("edge1/filter")
    [attach, _] = world.subscribe(old, ALL_INPUTS)
    newer = world.connect("edge1/filter")

    world.ready(attach, 1, b"late")

    assert newer.received() == old.received() == []


def test_acknowledgements_behind_an_unsubscribe_are_still_told(world: HeadWorld) -> None:
    client = world.connect("edge1/filter", clean_session=True)
    world.send(client, Subscribe(1, ((ALL_INPUTS, 1),)))
    attach = world.told(STORE, Attach)[0]
    world.ready(attach, 1, b"x")
    packet_id = client.received()[-1].packet_id  # type: ignore[union-attr]

    world.send(client, PubAck(packet_id), Unsubscribe(2, (ALL_INPUTS,)))

    assert [(d.endpoint_id, d.ranges) for d in world.told(STORE, Delivered)] == [(IN1[0], ((1, 1),))]


def test_packet_ids_in_flight_are_not_given_out_again(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [attach, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(attach, 0, b"stays")
    stays = client.received()[-1].packet_id  # type: ignore[union-attr]
    used: set[int] = set()
    for first in range(1, 66_001, DEFAULTS.max_pending_outbound_messages):
        world.ready(attach, first, *[b""] * DEFAULTS.max_pending_outbound_messages)
        ids = [packet.packet_id for packet in client.received()]  # type: ignore[union-attr]
        assert stays not in ids
        used.update(ids)
        world.send(client, *(PubAck(packet_id) for packet_id in ids))

    assert used == set(range(1, FIRST_PACKET_ID)) - {stays}


# restarts


def test_when_the_store_restarts_everything_is_attached_anew(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [old, _] = world.subscribe(client, ALL_INPUTS)

    world.tell(HEAD, ActorRestarted(STORE, "boom", 1), STORE)
    new, _ = world.told(STORE, Attach)
    world.ready(old, 2, b"late")

    assert new.endpoint_id == old.endpoint_id
    assert new.attachment > old.attachment
    assert client.received() == []


def test_what_is_in_flight_when_the_store_restarts_is_not_sent_again(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [old, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(old, 1, b"1", b"2", b"3")
    first, _, third = [packet.packet_id for packet in client.received()]  # type: ignore[union-attr]
    world.send(client, PubAck(first))
    world.told(STORE, Delivered)

    world.tell(HEAD, ActorRestarted(STORE, "boom", 1), STORE)
    new, _ = world.told(STORE, Attach)
    world.ready(new, 2, b"2", b"3", b"4", b"5")
    bodies = [packet.payload for packet in client.received()]  # type: ignore[union-attr]
    world.send(client, PubAck(third))

    assert bodies == [b"4", b"5"]
    assert world.told(STORE, Delivered) == [Delivered(new.endpoint_id, new.attachment, ((3, 3),))]


def test_what_was_acknowledged_since_the_store_restarted_is_said_again_and_not_sent(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    [old, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(old, 1, b"1", b"2")
    [packet, _] = client.received()
    world.tell(HEAD, ActorRestarted(STORE, "boom", 1), STORE)
    new, _ = world.told(STORE, Attach)
    world.send(client, PubAck(packet.packet_id))  # type: ignore[union-attr]

    world.ready(new, 1, b"1", b"2", b"3")
    world.ready(new, 1, b"a message of its own")  # it is left out once

    said = Delivered(new.endpoint_id, new.attachment, ((1, 1),))
    assert world.told(STORE, Delivered) == [said, said]
    assert [packet.payload for packet in client.received()] == [b"3", b"a message of its own"]  # type: ignore[union-attr]


def test_what_was_in_flight_is_for_whoever_attaches_next_after_a_restart_of_the_store(
    world: HeadWorld,
) -> None:
    client = world.connect("edge1/filter")
    [old, _] = world.subscribe(client, ALL_INPUTS)
    world.ready(old, 1, b"1")
    world.tell(HEAD, ActorRestarted(STORE, "boom", 1), STORE)
    world.told(STORE, Attach)

    again = world.connect("edge1/filter")
    [new, _] = world.told(STORE, Attach)
    again.received()
    world.ready(new, 1, b"1")

    assert [packet.payload for packet in again.received()] == [b"1"]  # type: ignore[union-attr]


def test_a_head_that_restarts_closes_its_connections_and_takes_no_answer_for_its_own(
    world: HeadWorld,
) -> None:
    publisher, module = world.connect(), world.connect("edge1/filter")
    [old, _] = world.subscribe(module, ALL_INPUTS)
    world.send(publisher, publish_packet(1))
    [(letter, first)] = world.published()

    world.system.clock.advance(0.001)
    world.tell(HEAD, Stored(5), STORE)  # type: ignore[arg-type]
    world.answer_start()
    publisher_again, module_again = world.connect(), world.connect("edge1/filter")
    [new, _] = world.subscribe(module_again, ALL_INPUTS)
    world.send(publisher_again, publish_packet(1))
    [(_, second)] = world.published()
    world.store(letter.correlation_id)
    world.ready(old, 5, b"for the old one")

    assert (publisher.closed, module.closed) == (True, True)
    assert publisher_again.received() == module_again.received() == []
    assert new.attachment > old.attachment
    assert second.epoch > first.epoch
    assert len(world.told("test", ActorRestarted)) == 1


def test_epochs_grow_though_the_time_of_day_is_set_back(world: HeadWorld) -> None:
    world.send(world.connect(), publish_packet(1))
    [(_, first)] = world.published()
    world.clock._now_s -= 1e6

    world.clock.advance(0.001)
    world.tell(HEAD, Stored(5), STORE)  # type: ignore[arg-type]
    world.answer_start()
    world.send(world.connect(), publish_packet(1))
    [(_, second)] = world.published()

    assert second.epoch > first.epoch


# bad input


@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_whatever_bytes_come_the_head_goes_on(data: bytes, seed: int) -> None:
    world = HeadWorld(endpoints=[IN1])
    client, other = world.connect(), world.connect("leaf")
    good = publish_packet(1).encode() + Subscribe(2, (("a", 1),)).encode() + PubAck(5).encode()
    damaged = bytearray(good)
    chance = random.Random(seed)
    for _ in range(3):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)

    client.send_bytes(bytes(damaged))
    client.send_bytes(data)
    client.lose()
    world.system.run()
    world.send(other, PingReq())

    assert other.received() == [PingResp()]
    assert world.described(HEAD)["connections"] == 1
    assert world.told("test", ActorRestarted) == []


def test_remembered_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ModuleInputs()
    inputs.set_endpoints([IN1])

    for number in range(10_000):
        inputs.topic_of(IN1[0], encode_header("/messages/", {"id": str(number)}, {}))
    inputs.topic_of(IN1[0], encode_header("/messages/", {"id": "x" * 10_000}, {}))

    assert len(inputs._topics) <= 4096
    assert all(topic is not None and len(topic) < 4096 for topic in inputs._topics.values())


def test_subscriptions_beside_others_of_the_same_client_count_once(world: HeadWorld) -> None:
    client = world.connect("edge1/filter")
    world.send(client, Subscribe(1, ((ALL_INPUTS, 1), ("devices/edge1/modules/filter/#", 1))))
    world.save_sessions()

    assert client.received() == [SubAck(1, (1, 1))]
    assert sorted(attach.endpoint_id for attach in world.told(STORE, Attach)) == [IN1[0], IN2[0]]


# limits that a deployment sets


def test_a_client_that_never_acknowledges_is_disconnected_after_the_repetitions_that_are_set() -> None:
    world = HeadWorld(
        [("edge1/filter/in", "edge1/filter", "in")],
        environment=HubEnvironment(message_ack_timeout_s=5, max_outbound_retransmissions=2),
    )
    client = world.connect("edge1/filter", keep_alive_s=0)
    [attach] = world.subscribe(client, "devices/edge1/modules/filter/inputs/#")
    world.ready(attach, 1, b"a")
    sent = []
    for wait_s in (0.0, 5.0, 10.0):  # each wait is twice the one before
        world.system.advance(wait_s + 1.5)
        sent += client.received()
    assert not client.transport.closed

    world.system.advance(20.0 + 1.5)

    assert len(sent) == 3
    assert client.transport.closed


def test_no_more_messages_are_on_their_way_to_a_client_than_is_set() -> None:
    world = HeadWorld(
        [("edge1/filter/in", "edge1/filter", "in")],
        environment=HubEnvironment(max_pending_outbound_messages=10),
    )
    client = world.connect("edge1/filter")

    [attach] = world.subscribe(client, "devices/edge1/modules/filter/inputs/#")

    assert attach.window_messages == 10


def test_a_client_with_more_unacknowledged_messages_than_is_set_is_not_read_until_they_are() -> None:
    world = HeadWorld(environment=HubEnvironment(max_pending_inbound_acknowledgements=2))
    client = world.connect()
    world.send(client, publish_packet(1), publish_packet(2))
    assert client.transport.reading
    world.send(client, publish_packet(3))
    first, second = world.published()
    assert not client.transport.reading

    world.store(first[0].correlation_id)
    world.system.run()

    assert client.transport.reading
    assert second[1].entries


def test_a_packet_longer_than_is_set_ends_its_connection() -> None:
    world = HeadWorld(environment=HubEnvironment(max_inbound_message_bytes=8192))
    client, other = world.connect(), world.connect("leaf")
    world.send(client, publish_packet(1, b"x" * 8000))
    assert not client.transport.closed

    world.send(client, publish_packet(2, b"x" * 8192))

    assert client.transport.closed
    assert not other.transport.closed


def test_how_long_connect_and_silence_may_take_can_be_set() -> None:
    world = HeadWorld(environment=HubEnvironment(connect_arrival_timeout_s=60, max_keep_alive_timeout_s=30))
    mute, silent = world.open(), world.connect(keep_alive_s=0)

    world.system.advance(29)
    assert not silent.transport.closed
    world.system.advance(5)
    assert silent.transport.closed
    assert not mute.transport.closed
    world.system.advance(30)
    assert mute.transport.closed
