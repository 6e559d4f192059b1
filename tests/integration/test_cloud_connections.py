"""What each implementation of `CloudConnections` does: in memory, and the product's at the stand-in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from actors.upstream.connection import CloudConnection, Fault
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.topics import Feature
from tests.fakes.cloud_observer import LIMIT_S, ObservedConnection
from tests.integration.cloud_worlds import PORTS, CloudWorld, MemoryWorld, StandInWorld, connect

EVERYTHING = frozenset({Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D})


@pytest.fixture(params=["memory", *PORTS], ids=str)
def world(request: pytest.FixtureRequest) -> Iterator[CloudWorld]:
    if request.param == "memory":
        yield MemoryWorld()
    else:
        with StandInWorld(protocol=request.param) as stand_in:
            yield stand_in


def message(body: bytes = b"{}", **properties: str) -> Message:
    return Message("/messages/", dict(properties), {"contentType": "application/json"}, body)


def answers(observer: ObservedConnection, count: int) -> list[tuple[str, int]]:
    """Return name and number of the next answers."""
    told = []
    while len(told) < count:
        call = observer.any()
        if call[0] in ("done", "failed"):
            told.append((call[0], call[1]))
    return told


def test_telemetry_arrives_in_order_with_all_that_its_sender_wrote(world: CloudWorld) -> None:
    connection, observer = connect(world)
    system_properties: dict[str, str | None] = {
        "messageId": "m-1",
        "cid": "c/1",
        "userId": "user ä",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
        "creationTime": "2026-11-21T10:00:00.0000000Z",
        "messageSchema": "s1",
    }
    sent = Message("/messages/", {"a b/c": "ü&=?", "empty": "", "none": None}, system_properties, b'{"t":1}')

    connection.send(0, sent)
    for number in range(1, 300):
        connection.send(number, message(b"%d" % number))

    assert answers(observer, 300) == [("done", number) for number in range(300)]
    first, *others = world.taken("d1")
    assert (first.body, first.properties, first.system_properties) == (
        sent.body,
        sent.properties,
        sent.system_properties,
    )
    assert [each.body for each in others] == [b"%d" % number for number in range(1, 300)]


def test_a_module_sends_with_the_name_of_its_output(world: CloudWorld) -> None:
    connection, observer = connect(world, "d1/m1")

    connection.send(1, Message("/", {}, {"outputName": "alerts"}, b"1"))

    assert observer.next("done") == (1, b"")
    assert world.taken("d1/m1")[0].system_properties["outputName"] == "alerts"


def test_nothing_can_be_asked_before_there_is_a_connection(world: CloudWorld) -> None:
    observer = ObservedConnection()
    connection = world.connections.make(world.access("d1"), observer)

    connection.send(1, message())
    connection.get_twin(2)
    connection.patch_reported(3, b"{}")

    for number in (1, 2, 3):
        failed, fault = observer.next("failed")
        assert (failed, fault.kind) == (number, Fault.UNREACHABLE)


def test_what_is_too_large_is_refused_and_the_connection_goes_on(world: CloudWorld) -> None:
    connection, observer = connect(world)

    room_bytes = LARGEST_MESSAGE_BYTES - 200  # the rest is for the packet's topic and head

    connection.send(1, Message("/", {}, {}, bytes(LARGEST_MESSAGE_BYTES + 1)))
    connection.send(2, Message("/", {}, {}, bytes(room_bytes)))

    number, fault = observer.next("failed")
    assert (number, fault.kind, fault.status) == (1, Fault.TOO_LARGE, 413)
    assert "at most 262144" in fault.reason
    assert observer.next("done") == (2, b"")
    assert len(world.taken("d1")[0].body) == room_bytes


def test_a_twin_is_got_and_reported_properties_are_merged(world: CloudWorld) -> None:
    world.patch_desired("d1", {"interval": 5})
    connection, observer = connect(world)

    connection.patch_reported(1, b'{"a": {"b": 1}, "c": null}')
    connection.get_twin(2)

    assert observer.next("done") == (1, b"")
    number, twin = observer.next("done")
    assert number == 2
    assert json.loads(twin) == {
        "desired": {"interval": 5, "$version": 2},
        "reported": {"a": {"b": 1}, "$version": 2},
    }
    assert world.reported("d1") == {"a": {"b": 1}}


def test_a_reported_patch_against_the_rules_is_refused_alone(world: CloudWorld) -> None:
    connection, observer = connect(world)

    connection.patch_reported(1, b'{"a key": 1}')
    connection.patch_reported(2, b'{"key": 1}')

    number, fault = observer.next("failed")
    assert (number, fault.kind, fault.status) == (1, Fault.REFUSED, 400)
    assert observer.next("done") == (2, b"")


def test_desired_properties_are_told_while_they_are_wanted(world: CloudWorld) -> None:
    connection, observer = connect(world, want=frozenset({Feature.DESIRED_PROPERTIES}))
    _wait_for_subscriptions(connection, observer)

    world.patch_desired("d1", {"a": 1, "b": None})
    (patch,) = observer.next("desired_changed")
    connection.want(frozenset())
    _wait_for_subscriptions(connection, observer)
    world.patch_desired("d1", {"a": 2})

    assert json.loads(patch) == {"a": 1, "b": None, "$version": 2}
    _wait_for_subscriptions(connection, observer)
    assert observer.is_quiet()


def test_a_method_is_called_and_answered(world: CloudWorld) -> None:
    connection, observer = connect(world, "d1/m1", want=frozenset({Feature.METHODS}))
    _wait_for_subscriptions(connection, observer)

    answer = world.call_method("d1/m1", "reboot", {"in_s": 5})
    request_id, name, payload = observer.next("method_called")
    connection.answer_method(request_id, 202, b'{"done": false}')
    connection.answer_method(request_id, 500, b'"twice"')
    _wait_for_subscriptions(connection, observer)

    assert (name, json.loads(payload)) == ("reboot", {"in_s": 5})
    assert answer() == (202, {"done": False})


def test_a_message_from_the_cloud_is_there_until_it_is_taken(world: CloudWorld) -> None:
    connection, observer = connect(world, want=EVERYTHING)
    sent = Message("", {"a b": "c&d"}, {"contentType": "text/plain", "cid": "7"}, b"\x00hello")

    world.send_c2d("d1", sent)
    came, taken = observer.next("message_received")
    _wait_for_subscriptions(connection, observer)

    assert (came.body, dict(came.properties)) == (sent.body, sent.properties)
    assert came.system_properties["contentType"] == "text/plain"
    assert came.system_properties["cid"] == "7"
    assert world.waiting_c2d("d1") == 1
    taken(True)
    _until_forgotten(world, connection, observer)


def test_a_message_that_is_not_taken_comes_again_with_the_next_connection(world: CloudWorld) -> None:
    connection, observer = connect(world, want=EVERYTHING)
    for number in range(3):
        world.send_c2d("d1", Message("", {}, {}, b"%d" % number))
    first = [observer.next("message_received") for _ in range(3)]
    first[0][1](True)
    first[1][1](False)
    _wait_for_subscriptions(connection, observer)

    world.cut()
    observer.until("lost")
    first[2][1](True)  # too late
    world.restore()
    connection.open()
    observer.next("connected")
    again = [observer.next("message_received") for _ in range(2)]

    assert [came.body for came, _ in again] == [b"1", b"2"]
    for _, taken in again:
        taken(True)
    _until_forgotten(world, connection, observer)


def test_a_message_on_its_way_to_the_disk_is_taken_though_no_more_are_wanted(world: CloudWorld) -> None:
    connection, observer = connect(world, want=EVERYTHING)
    for number in range(2):
        world.send_c2d("d1", Message("", {}, {}, b"%d" % number))
    (_, stored), (_, given_back) = (observer.next("message_received") for _ in range(2))

    given_back(False)
    connection.want(frozenset())
    _wait_for_subscriptions(connection, observer)
    stored(True)

    for _ in range(200):
        if world.waiting_c2d("d1") == 1:
            break
        _wait_for_subscriptions(connection, observer)
    assert world.waiting_c2d("d1") == 1
    assert observer.is_quiet()


def test_messages_that_are_not_wanted_any_more_wait_in_the_cloud(world: CloudWorld) -> None:
    connection, observer = connect(world, want=EVERYTHING)
    _wait_for_subscriptions(connection, observer)
    world.cut()
    observer.until("lost")
    connection.want(frozenset())
    world.restore()
    world.send_c2d("d1", Message("", {}, {}, b"later"))

    connection.open()
    observer.next("connected")
    _wait_for_subscriptions(connection, observer)
    assert world.waiting_c2d("d1") == 1
    assert observer.is_quiet()
    connection.close()
    again, again_observer = connect(world, want=EVERYTHING)

    came, taken = again_observer.next("message_received")
    assert came.body == b"later"
    taken(True)
    _until_forgotten(world, again, again_observer)


def test_what_was_not_answered_when_the_connection_broke_has_failed_exactly_once(world: CloudWorld) -> None:
    connection, observer = connect(world)
    connection.send(0, message())
    connection.get_twin(1)
    assert sorted(answers(observer, 2)) == [("done", 0), ("done", 1)]

    world.stop_answering()
    for number in range(2, 50):
        connection.send(number, message(b"%d" % number))
    connection.get_twin(50)
    connection.patch_reported(51, b'{"a": 1}')
    world.cut()

    *failed, (_, lost) = observer.until("lost")
    assert [call[0] for call in failed] == ["failed"] * 50
    assert [call[1] for call in failed] == list(range(2, 52))
    assert lost.kind is Fault.UNREACHABLE
    assert world.host_name in lost.reason or "connection" in lost.reason
    world.restore()
    connection.open()
    observer.next("connected")
    for number in range(2, 50):
        connection.send(number, message(b"%d" % number))
    assert answers(observer, 48) == [("done", number) for number in range(2, 50)]
    assert [each.body for each in world.taken("d1")[1:]] == [b"%d" % number for number in range(2, 50)]


def test_a_second_connection_of_one_identity_ends_the_first(world: CloudWorld) -> None:
    _, first = connect(world)

    second, observer = connect(world)

    assert first.next("lost")[0].kind is Fault.UNREACHABLE
    second.send(1, message())
    assert observer.next("done") == (1, b"")


def test_whoever_is_not_let_in_hears_why_and_the_others_go_on(world: CloudWorld) -> None:
    refused, refused_observer = connect(world, "d1")
    other, other_observer = connect(world, "d2")

    world.refuse("d1")
    refused_observer.next("lost")
    refused.open()

    (fault,) = refused_observer.next("lost")
    assert fault.kind is Fault.UNAUTHORIZED
    assert "'d1'" in fault.reason
    other.send(1, message())
    assert other_observer.next("done") == (1, b"")


def test_nothing_is_told_after_close(world: CloudWorld) -> None:
    closed, closed_observer = connect(world, "d1", want=EVERYTHING)
    other, observer = connect(world, "d2")

    closed.close()
    closed.send(1, message())
    closed.open()
    other.send(1, message())

    assert observer.next("done") == (1, b"")
    assert closed_observer.is_quiet()
    assert world.taken("d1") == []


def test_a_probe_tells_once_when_the_cloud_can_be_reached(world: CloudWorld) -> None:
    reached = threading.Semaphore(0)
    world.cut()
    for _ in range(3):
        world.connections.probe(world.host_name, lambda: reached.release() and None)

    assert not reached.acquire(timeout=0.1)
    world.restore()
    for _ in range(3):
        assert reached.acquire(timeout=LIMIT_S)
    assert not reached.acquire(timeout=0.1)


def _wait_for_subscriptions(connection: CloudConnection, observer: ObservedConnection) -> None:
    """Wait until the cloud has done all that was asked before: it answers in order."""
    connection.get_twin(-1)
    assert observer.next("done")[0] == -1


def _until_forgotten(world: CloudWorld, connection: CloudConnection, observer: ObservedConnection) -> None:
    for _ in range(200):
        if world.waiting_c2d("d1") == 0:
            return
        _wait_for_subscriptions(connection, observer)
    raise AssertionError("the cloud still has it")
