"""Twins and methods over MQTT: topics of clients here, services there."""

from __future__ import annotations

import json

import pytest

from actors.heads.mqtt_services import TWIN_LIMIT_S
from actors.hub.client_services import (
    CallMethod,
    ClientChanged,
    ClientGone,
    DesiredPatch,
    DesiredTold,
    GetTwin,
    HeadStarted,
    MethodAnswered,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from messaging.lifecycle import ActorRestarted
from messaging.mqtt.packets import PubAck, Publish, Subscribe, Unsubscribe
from tests.actors.head_world import CLOUD, HEAD, METHODS, TWINS, HeadWorld, publish_packet
from tests.fakes.transport import MemoryClient

SENSOR, LEAF = "edge1/sensor", "leaf"
TWIN_FILTER = "$iothub/twin/res/#"
PATCH_FILTER = "$iothub/twin/PATCH/properties/desired/#"
METHOD_FILTER = "$iothub/methods/POST/#"
GET = "$iothub/twin/GET/?$rid="
REPORT = "$iothub/twin/PATCH/properties/reported/?$rid="


@pytest.fixture
def world() -> HeadWorld:
    return HeadWorld()


def joined(world: HeadWorld, who: str, *filters: str, qos: int = 1) -> MemoryClient:
    client = world.connect(who, clean_session=True)
    if filters:
        world.send(client, Subscribe(1, tuple((wanted, qos) for wanted in filters)))
        client.received()
    for listener in (TWINS, METHODS, CLOUD):
        world.letters(listener)
    return client


def published(client: MemoryClient) -> list[tuple[str, bytes, int]]:
    """Return topic, payload and QoS of what the client got."""
    return [(p.topic, p.payload, p.qos) for p in client.received() if isinstance(p, Publish)]


# who is there


def test_services_hear_of_a_client_what_it_wants_and_that_it_is_gone(world: HeadWorld) -> None:
    for listener in (TWINS, METHODS, CLOUD):
        assert world.told(listener, HeadStarted) == [HeadStarted()]
    client = world.connect(SENSOR, clean_session=True)
    world.send(client, Subscribe(1, ((METHOD_FILTER, 1), ("something/else", 1))))
    world.send(client, Subscribe(2, ((METHOD_FILTER, 0),)))  # the same feature: no news
    world.send(client, Unsubscribe(3, (METHOD_FILTER,)))
    client.lose()
    world.system.run()

    for listener in (TWINS, METHODS, CLOUD):
        assert world.told(listener, ClientChanged) == [
            ClientChanged(SENSOR, ()),
            ClientChanged(SENSOR, ("METHODS",)),
            ClientChanged(SENSOR, ()),
        ]
        assert world.told(listener, ClientGone) == [ClientGone(SENSOR)]


def test_a_session_that_goes_on_wants_what_it_wanted_without_a_subscribe() -> None:
    """Source: hub-protocols.md section 8.4, row 10."""
    world = HeadWorld(sessions={SENSOR: ((METHOD_FILTER, 1), (TWIN_FILTER, 1))})

    world.connect(SENSOR)

    assert world.told(METHODS, ClientChanged) == [ClientChanged(SENSOR, ("METHODS", "TWIN_RESPONSES"))]


def test_a_service_that_restarts_is_told_again_who_there_is(world: HeadWorld) -> None:
    joined(world, SENSOR, METHOD_FILTER)
    joined(world, LEAF)

    world.tell(HEAD, ActorRestarted(METHODS, "it failed", 1), METHODS)

    assert sorted(world.told(METHODS, ClientChanged), key=lambda c: c.identity) == [
        ClientChanged(SENSOR, ("METHODS",)),
        ClientChanged(LEAF, ()),
    ]
    assert world.told(TWINS, ClientChanged) == []


# twins


@pytest.mark.parametrize("qos", [0, 1])
def test_a_twin_comes_under_the_id_of_its_request_at_the_qos_of_the_subscription(
    world: HeadWorld, qos: int
) -> None:
    """Source: hub-protocols.md section 8.4, row 43."""
    client = joined(world, SENSOR, TWIN_FILTER, qos=qos)
    world.send(client, Publish(f"{GET}6f2c8", b" ", 1, 9))
    [asked] = world.letters(TWINS)
    assert asked.kind == GetTwin.__name__
    world.tell(HEAD, Twin(SENSOR, b'{"desired":{}}'), TWINS, asked.correlation_id)

    first, second = client.received()

    assert first == PubAck(9)
    assert isinstance(second, Publish)
    assert (second.topic, second.payload, second.qos) == (
        "$iothub/twin/res/200/?$rid=6f2c8",
        b'{"desired":{}}',
        qos,
    )


def test_a_report_is_answered_with_204_and_the_service_gets_it_in_the_name_of_the_connection(
    world: HeadWorld,
) -> None:
    """Source: hub-protocols.md section 8.4, row 44."""
    client = joined(world, SENSOR, TWIN_FILTER)
    world.send(client, Publish(f"{REPORT}5&$version=1", b'{"a":1}', 0, 0))
    [asked] = world.letters(TWINS)
    assert tuple(asked.body) == (SENSOR, b'{"a":1}')
    world.tell(HEAD, ReportedPatched(SENSOR), TWINS, asked.correlation_id)

    assert published(client) == [("$iothub/twin/res/204/?$rid=5", b"", 1)]


def test_a_report_without_an_id_is_applied_and_not_answered(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 44."""
    client = joined(world, SENSOR, TWIN_FILTER)
    world.send(client, Publish("$iothub/twin/PATCH/properties/reported/", b"{}", 1, 3))
    [asked] = world.letters(TWINS)
    assert asked.kind == PatchReported.__name__
    world.tell(HEAD, ReportedPatched(SENSOR), TWINS, asked.correlation_id)

    assert client.received() == [PubAck(3)]


@pytest.mark.parametrize(
    ("answer", "status"),
    [(TwinRefused(SENSOR, 400, "the key 'a.b'"), 400), (TwinRefused(SENSOR, 500, "no space"), 500)],
    ids=["refused", "failed"],
)
def test_an_error_has_its_status_in_the_topic_and_a_body_that_is_no_twin(
    world: HeadWorld, answer: TwinRefused, status: int
) -> None:
    client = joined(world, SENSOR, TWIN_FILTER)
    world.send(client, Publish(f"{REPORT}5", b"{}", 0, 0))
    [asked] = world.letters(TWINS)
    world.tell(HEAD, answer, TWINS, asked.correlation_id)

    [(topic, body, _)] = published(client)

    assert topic == f"$iothub/twin/res/{status}/?$rid=5"
    assert json.loads(body) == {"errorCode": status, "message": answer.reason}


def test_a_request_that_nobody_answers_ends_with_504(world: HeadWorld) -> None:
    client = joined(world, SENSOR, TWIN_FILTER)
    world.send(client, Publish(f"{GET}7", b"", 0, 0))

    world.system.advance(TWIN_LIMIT_S + 1)

    [(topic, _, _)] = published(client)
    assert topic == "$iothub/twin/res/504/?$rid=7"


@pytest.mark.parametrize("topic", ["$iothub/twin/GET/", "$iothub/twin/GET/x/?$rid=1", "$iothub/twin/foo"])
def test_a_twin_topic_that_is_malformed_ends_the_connection(world: HeadWorld, topic: str) -> None:
    """Source: hub-protocols.md section 8.4, row 43."""
    client = joined(world, SENSOR, TWIN_FILTER)

    world.send(client, Publish(topic, b"", 1, 1))

    assert (client.closed, client.received()) == (True, [])
    assert [letter.kind for letter in world.letters(TWINS)] == [ClientGone.__name__]


def test_without_a_subscription_for_answers_none_is_sent(world: HeadWorld) -> None:
    client = joined(world, SENSOR)
    world.send(client, Publish(f"{GET}1", b"", 0, 0))
    [asked] = world.letters(TWINS)
    world.tell(HEAD, Twin(SENSOR, b"{}"), TWINS, asked.correlation_id)

    assert client.received() == []


def test_a_desired_patch_reaches_its_client_alone(world: HeadWorld) -> None:
    client, other = joined(world, SENSOR, PATCH_FILTER), joined(world, LEAF, PATCH_FILTER)

    world.tell(HEAD, DesiredPatch(SENSOR, 8, b'{"rpm":5,"$version":8}'), TWINS)

    topic = "$iothub/twin/PATCH/properties/desired/?$version=8"
    [packet] = client.received()
    assert isinstance(packet, Publish)
    assert (packet.topic, packet.payload, packet.qos) == (topic, b'{"rpm":5,"$version":8}', 1)
    assert other.received() == []
    assert world.told(TWINS, DesiredTold) == []
    world.send(client, PubAck(packet.packet_id))
    assert world.told(TWINS, DesiredTold) == [DesiredTold(SENSOR, 8)]


def test_at_qos_0_a_desired_patch_is_taken_when_it_is_written(world: HeadWorld) -> None:
    joined(world, SENSOR, PATCH_FILTER, qos=0)

    world.tell(HEAD, DesiredPatch(SENSOR, 8, b"{}"), TWINS)

    assert world.told(TWINS, DesiredTold) == [DesiredTold(SENSOR, 8)]


def test_requests_and_telemetry_of_one_read_are_acknowledged_in_order(world: HeadWorld) -> None:
    client = joined(world, SENSOR, TWIN_FILTER)
    world.send(
        client, publish_packet(1, b"telemetry"), Publish(f"{GET}1", b"", 1, 2), publish_packet(3, b"more")
    )
    assert client.received() == []  # the telemetry is not on disk yet

    [(envelope, _)] = world.published()
    world.store(envelope.correlation_id)

    assert client.received() == [PubAck(1), PubAck(2), PubAck(3)]


# methods


def test_a_call_reaches_its_client_and_the_answer_the_service(world: HeadWorld) -> None:
    client = joined(world, SENSOR, METHOD_FILTER)
    world.tell(HEAD, CallMethod(SENSOR, "4f-1", "start", b'{"rpm":5}'), METHODS)
    assert published(client) == [("$iothub/methods/POST/start/?$rid=4f-1", b'{"rpm":5}', 1)]

    world.send(client, Publish("$iothub/methods/res/200/?$rid=4F-1", b'{"ok":true}', 0, 0))

    [answered] = world.told(METHODS, MethodAnswered)
    assert answered == MethodAnswered(SENSOR, "4F-1", 200, b'{"ok":true}')


def test_a_status_that_is_no_number_is_400000(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 37."""
    client = joined(world, SENSOR, METHOD_FILTER)

    world.send(client, Publish("$iothub/methods/res/x/?$rid=1", b"", 1, 4))

    assert [answered.status for answered in world.told(METHODS, MethodAnswered)] == [400000]
    assert client.received() == [PubAck(4)]


def test_a_call_for_a_client_that_is_gone_goes_nowhere(world: HeadWorld) -> None:
    world.tell(HEAD, CallMethod(SENSOR, "1", "start", b""), METHODS)

    assert world.told(METHODS, MethodAnswered) == []
    assert world.dead_letters.count == 0
