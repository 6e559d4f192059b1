"""Subscriptions, sessions that outlive connections, twins, direct methods and C2D messages over MQTT."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from messaging.identity import Identity
from messaging.mqtt.packets import (
    Connect,
    Disconnect,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from runtime.iothub.records import MethodResult
from tests.runtime.iothub.mqtt_scene import Client, Scene, events_topic, user_name

D1 = Identity("d1")
METHODS = "$iothub/methods/POST/#"
ANSWERS = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
C2D = "devices/d1/messages/devicebound/#"
REPORT = "$iothub/twin/PATCH/properties/reported/?$rid="


def ask(client: Client, topic: str, body: bytes = b" ") -> Publish:
    """Publish a twin request at QoS 0 and return the answer."""
    client.send(Publish(topic, body))
    answer = client.wait(Publish)
    if answer.packet_id:
        client.send(PubAck(answer.packet_id))
    return answer


# subscriptions and sessions


@pytest.mark.parametrize(
    ("client_id", "topic_filter", "qos", "code"),
    [
        ("d1", METHODS, 0, 0),
        ("d1", METHODS, 2, 1),
        ("d1", ANSWERS, 1, 1),
        ("d1", DESIRED, 1, 1),
        ("d1", C2D, 1, 1),
        ("edge1/m", "devices/edge1/modules/m/#", 1, 1),
        ("edge1/m", "devices/edge1/modules/m/inputs/#", 1, 1),
        ("d1", "devices/d2/messages/devicebound/#", 1, 0x80),
        ("d1", "devices/+/messages/devicebound/#", 1, 0x80),
        ("edge1/m", "devices/edge1/modules/n/inputs/#", 1, 0x80),
        ("d1", "devices/d1/messages/events/#", 1, 0x80),
        ("d1", "#", 1, 0x80),
        ("d1", "a/b", 1, 0x80),
    ],
)
def test_only_documented_filters_of_the_own_identity_are_granted(
    scene: Scene, client_id: str, topic_filter: str, qos: int, code: int
) -> None:
    if "/" in client_id:
        scene.create("edge1", capabilities={"iotEdge": True})
        scene.create(client_id)
    client = scene.connect(client_id)

    client.send(Subscribe(9, ((topic_filter, qos),)))

    assert client.wait(SubAck) == SubAck(9, (code,))


def test_several_filters_in_one_packet_get_one_answer_in_order(scene: Scene) -> None:
    client = scene.connect("d1")

    client.send(Subscribe(3, ((C2D, 1), (ANSWERS, 0), ("nonsense", 0), (DESIRED, 0), (METHODS, 0))))

    assert client.wait(SubAck) == SubAck(3, (1, 0, 0x80, 0, 0))


def test_a_sixth_filter_is_refused(scene: Scene) -> None:
    client = scene.connect("d1")
    five = [(METHODS, 0), (f"{METHODS[:-1]}a/#", 0), (f"{METHODS[:-1]}b/#", 0), (ANSWERS, 0), (DESIRED, 0)]
    client.send(Subscribe(1, tuple(five)))
    assert client.wait(SubAck).return_codes == (0,) * 5

    client.send(Subscribe(2, ((C2D, 1),)))

    assert client.wait(SubAck).return_codes == (0x80,)


def test_a_session_outlives_connections_and_the_hub(scene: Scene) -> None:
    first = scene.connect("d1", clean=False, subscribe=METHODS)
    assert not first.session_present
    first.lose()
    second = scene.connect("d1", clean=False)
    assert second.session_present

    scene.stop()
    scene.start()
    third = scene.connect("d1", clean=False)

    assert third.session_present
    assert invoke(scene, third, b"1") == MethodResult(200, 1)


def test_a_clean_session_forgets_and_is_forgotten(scene: Scene) -> None:
    scene.connect("d1", clean=False, subscribe=METHODS).leave()

    assert not scene.connect("d1", clean=True, subscribe=DESIRED).session_present

    assert not scene.connect("d1", clean=False).session_present


def test_an_unsubscribed_filter_stays_off_after_a_reconnect(scene: Scene) -> None:
    client = scene.connect("d1", clean=False, subscribe=METHODS)
    client.send(Unsubscribe(2, (METHODS,)))
    assert client.wait(UnsubAck).packet_id == 2
    client.leave()

    scene.connect("d1", clean=False)

    with pytest.raises(Exception, match="does not listen"):
        scene.run(scene.hub.invoke_method(D1, "m", None))


def test_many_subscriptions_in_one_read_are_answered_and_reading_goes_on(scene: Scene) -> None:
    client = scene.connect("d1", clean=False)

    client.send(*(Subscribe(n, ((METHODS, n % 2),)) for n in range(1, 301)))

    assert [client.wait(SubAck).packet_id for _ in range(300)] == list(range(1, 301))
    scene.wait(lambda: client.transport.reading, "the socket to be read again")


def test_the_service_sees_who_is_connected_and_since_when(scene: Scene) -> None:
    before = scene.run(scene.hub.twin(D1))
    client = scene.connect("d1")
    while_connected = scene.run(scene.hub.twin(D1))
    scene.clock.advance(5)
    client.publish(events_topic("d1"), b"active")
    active = scene.run(scene.hub.twin(D1))
    client.leave()
    after = scene.run(scene.hub.twin(D1))

    states = [twin["connectionState"] for twin in (before, while_connected, active, after)]
    assert states == ["Disconnected", "Connected", "Connected", "Disconnected"]
    assert before["lastActivityTime"] < while_connected["lastActivityTime"] < active["lastActivityTime"]


# twins


def test_a_twin_is_got_and_reported_and_the_request_id_comes_back_as_it_was(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=ANSWERS)

    empty = ask(client, "$iothub/twin/GET/?$rid=6F2c%208")
    reported = ask(client, f"{REPORT}7&$version=1", b'{"a":{"b":1},"gone":null}')
    got = ask(client, "$iothub/twin/GET/?$rid=8", b"")

    assert empty.topic == "$iothub/twin/res/200/?$rid=6F2c%208"
    assert json.loads(empty.payload) == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    assert (reported.topic, reported.payload) == ("$iothub/twin/res/204/?$rid=7&$version=2", b"")
    assert json.loads(got.payload)["reported"] == {"a": {"b": 1}, "$version": 2}


def test_requests_of_one_read_are_served_in_their_order(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=ANSWERS, qos=0)

    client.send(*(Publish(f"{REPORT}{n}", b'{"n":%d}' % n, 1, n) for n in range(1, 21)))

    packets = [client.wait_for_any() for _ in range(40)]
    answers = [packet.topic for packet in packets if isinstance(packet, Publish)]
    assert answers == [f"$iothub/twin/res/204/?$rid={n}&$version={n + 1}" for n in range(1, 21)]
    assert [p.packet_id for p in packets if isinstance(p, PubAck)] == list(range(1, 21))


def test_a_hub_that_stops_in_the_middle_of_requests_serves_whole_ones_and_says_nothing(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    client = scene.connect("d1", subscribe=ANSWERS, qos=0)
    client.send(*(Publish(f"{REPORT}{n}", b'{"n":%d}' % n) for n in range(1, 21)))

    scene.stop()
    scene.start()

    twin = scene.run(scene.hub.device_twin(D1))
    assert twin["reported"]["$version"] == twin["reported"]["n"] + 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[1]", 400),
        (b'"text"', 400),
        (b'{"a":NaN}', 400),
        (b"[" * 100_000, 400),
        (b'{"a.b":1}', 400),
        (b'{"$version":1}', 400),
        (b'{"a":4503599627370496}', 400),
        (b'{"a":"' + b"x" * 4097 + b'"}', 400),
        (b'{"a":1}', 204),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)
def test_a_patch_that_breaks_a_rule_gets_its_status_and_a_reason(
    scene: Scene, patch: bytes, status: int
) -> None:
    client = scene.connect("d1", subscribe=ANSWERS)

    answer = ask(client, f"{REPORT}1", patch)

    assert answer.topic.startswith(f"$iothub/twin/res/{status}/?$rid=1")
    if status != 204:
        refusal = json.loads(answer.payload)
        assert refusal["errorCode"] == 400004
        assert refusal["message"]


def test_a_report_without_request_id_is_applied_and_not_answered(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=ANSWERS)

    client.send(Publish("$iothub/twin/PATCH/properties/reported/", b'{"a":1}', 1, 1))

    client.wait(PubAck)
    assert scene.run(scene.hub.device_twin(D1))["reported"]["a"] == 1
    assert client.received() == []


def test_desired_properties_reach_who_listens_with_their_version(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=DESIRED)

    scene.run(scene.hub.patch_twin(D1, {"properties": {"desired": {"a": 1, "b": None}}}))

    patch = client.wait(Publish)
    assert patch.topic == "$iothub/twin/PATCH/properties/desired/?$version=2"
    assert json.loads(patch.payload)["$version"] == 2
    assert json.loads(patch.payload)["a"] == 1


# direct methods


def invoke(scene: Scene, client: Client, body: bytes, status: str = "200", extra: str = "") -> MethodResult:
    """Call a method and let the client answer with `body`."""

    async def call() -> MethodResult:
        return await scene.hub.invoke_method(D1, "do", {"x": 1}, response_timeout_s=5)

    task = scene.loop.create_task(call())
    called = client.wait(Publish)
    prefix = "$iothub/methods/POST/do/?$rid="
    assert called.topic.startswith(prefix)
    assert json.loads(called.payload) == {"x": 1}
    request_id = called.topic[len(prefix) :].upper()
    client.send(Publish(f"$iothub/methods/res/{status}/?$rid={request_id}{extra}", body))
    return scene.loop.run_until_complete(asyncio.wait_for(task, 10))


@pytest.mark.parametrize(
    ("status", "extra", "body", "result"),
    [
        ("200", "", b'{"y":2}', MethodResult(200, {"y": 2})),
        ("501", "", b"", MethodResult(501, None)),
        ("200", "&k=v", b"1", MethodResult(200, 1)),
        ("x", "", b"1", MethodResult(400000, 1)),
    ],
    ids=["JSON", "empty", "more properties", "status is no number"],
)
def test_the_answer_of_a_method_reaches_its_caller(
    scene: Scene, status: str, extra: str, body: bytes, result: MethodResult
) -> None:
    client = scene.connect("d1", subscribe=METHODS, qos=0)

    assert invoke(scene, client, body, status, extra) == result


def test_a_call_waits_for_a_device_that_comes_goes_and_comes_again(scene: Scene) -> None:
    scene.connect("d1", clean=False, subscribe=METHODS).leave()

    async def call() -> MethodResult:
        return await scene.hub.invoke_method(D1, "do", None, connect_timeout_s=9)

    task = scene.loop.create_task(call())
    scene.run(asyncio.sleep(0))
    brief = scene.client()
    brief.send(Connect("d1", False, 60, user_name("d1"), scene.token("d1").encode()), Disconnect())
    brief.wait_for_end()
    client = scene.connect("d1", clean=False)
    called = client.wait(Publish)
    request_id = called.topic.partition("$rid=")[2]
    client.send(Publish(f"$iothub/methods/res/200/?$rid={request_id}", b""))

    assert scene.loop.run_until_complete(asyncio.wait_for(task, 10)) == MethodResult(200, None)


def test_an_answer_that_nobody_waits_for_is_acknowledged_and_dropped(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=METHODS)

    client.publish("$iothub/methods/res/200/?$rid=unknown", b"{}")

    client.publish(events_topic("d1"), b"served", packet_id=2)


# C2D


def send(scene: Scene, body: bytes, **arguments: Any) -> None:
    scene.run(scene.hub.send_c2d("d1", body, **arguments))


def outcomes(scene: Scene) -> list[str]:
    """Return the outcomes of the feedback that has come."""
    found = scene.run(scene.hub.receive_feedback())
    if found is None:
        return []
    scene.run(scene.hub.complete_feedback(found.lock))
    return [record.outcome for record in found.records]


def test_a_message_carries_its_properties_and_its_acknowledgement_completes_it(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=C2D)

    send(
        scene, b"body", properties={"a b": "/"}, system_properties={"messageId": "m1", "cid": "c"}, ack="full"
    )

    message = client.wait(Publish)
    path, _, bag = message.topic.rpartition("/")
    assert path == "devices/d1/messages/devicebound"
    assert {"a%20b=%2F", "%24.mid=m1", "%24.cid=c", "iothub-ack=full"} <= set(bag.split("&"))
    assert "%24.to=%2Fdevices%2Fd1%2Fmessages%2Fdevicebound" in bag
    assert (message.payload, message.qos, message.dup, message.retain) == (b"body", 1, False, False)
    assert outcomes(scene) == []
    client.send(PubAck(message.packet_id))
    scene.wait(lambda: outcomes(scene) == ["Success"], "the feedback")


def test_an_acknowledgement_counts_when_the_client_leaves_in_the_same_read(scene: Scene) -> None:
    client = scene.connect("d1", clean=False, subscribe=C2D)
    send(scene, b"body", ack="full")
    message = client.wait(Publish)

    client.send(PubAck(message.packet_id), Disconnect())
    client.wait_for_end()

    scene.wait(lambda: outcomes(scene) == ["Success"], "the feedback")


def test_messages_wait_for_a_device_that_is_away_and_come_in_order(scene: Scene) -> None:
    scene.connect("d1", clean=False, subscribe=C2D).leave()
    for n in range(5):
        send(scene, str(n).encode())

    client = scene.connect("d1", clean=False)

    assert [client.wait(Publish).payload for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_message_that_was_not_acknowledged_comes_again_with_the_next_connection(scene: Scene) -> None:
    client = scene.connect("d1", clean=False, subscribe=C2D)
    send(scene, b"again", ack="full")
    client.wait(Publish)
    client.lose()

    client = scene.connect("d1", clean=False)

    message = client.wait(Publish)
    assert message.payload == b"again"
    client.send(PubAck(message.packet_id))
    scene.wait(lambda: outcomes(scene) == ["Success"], "the feedback")


def test_a_message_that_is_not_acknowledged_for_a_minute_comes_again(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=C2D, token=scene.token("d1", 10_000))
    send(scene, b"again")
    first = client.wait(Publish)

    scene.clock.advance(61)
    scene.run(scene.hub.sweep())

    second = client.wait(Publish)
    assert (second.payload, second.packet_id) == (b"again", first.packet_id + 1)


def test_at_qos_0_a_message_is_complete_when_it_is_written(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=C2D, qos=0)

    send(scene, b"once", ack="full")

    assert (client.wait(Publish).payload, client.received()) == (b"once", [])
    scene.wait(lambda: outcomes(scene) == ["Success"], "the feedback")


def test_a_message_that_expires_in_the_queue_never_comes_and_its_sender_learns_it(scene: Scene) -> None:
    send(scene, b"too late", ack="full", expires_s=scene.clock.now_s() + 10)
    scene.clock.advance(11)
    scene.run(scene.hub.sweep())
    assert outcomes(scene) == ["Expired"]

    client = scene.connect("d1", subscribe=C2D)
    send(scene, b"in time")

    assert client.wait(Publish).payload == b"in time"


def test_a_message_whose_properties_fit_no_topic_is_rejected(scene: Scene) -> None:
    client = scene.connect("d1", subscribe=C2D)

    send(scene, b"", properties={"k": " " * 30_000}, ack="full")

    scene.wait(lambda: outcomes(scene) == ["Rejected"], "the feedback")
    assert client.received() == []
