"""The product's connections over lines that are bad, and over the change of their tokens."""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from actors.upstream.connection import CloudConnection, Fault
from actors.upstream.protocol import UpstreamProtocol
from messaging.identity import Identity
from messaging.message import Message
from messaging.topics import Feature
from runtime.faults.line import Profile
from runtime.upstream.shared import CloudTimes
from tests.fakes.cloud_observer import ObservedConnection
from tests.integration.cloud_worlds import StandInWorld, connect
from tests.integration.network import MOBILE, NARROW, SATELLITE, alternating
from tests.waiting import wait_until

EVERYTHING = frozenset({Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D})
MINUTES_A_SECOND = 5.0  # how much shorter the outages are
HASTY = CloudTimes(keep_alive_s=1, silence_s=1.0, open_s=2.0, twin_s=2.0)


@pytest.fixture(params=[UpstreamProtocol.MQTT, UpstreamProtocol.AMQP], ids=str)
def protocol(request: pytest.FixtureRequest) -> UpstreamProtocol:
    chosen: UpstreamProtocol = request.param
    return chosen


@pytest.fixture
def world(protocol: UpstreamProtocol) -> Iterator[StandInWorld]:
    with StandInWorld(protocol=protocol) as stand_in:
        yield stand_in


@pytest.fixture
def hasty(protocol: UpstreamProtocol) -> Iterator[StandInWorld]:
    with StandInWorld(times=HASTY, protocol=protocol) as stand_in:
        yield stand_in


def message(number: int, size_bytes: int = 0) -> Message:
    body = b"%d" % number
    return Message("/messages/", {"number": str(number)}, {}, body.ljust(size_bytes))


class Courier:
    """Sends numbered messages until each is acknowledged; a new connection when the old one is lost."""

    def __init__(self, world: StandInWorld, client_id: str = "d1") -> None:
        self.world = world
        self.observer = ObservedConnection()
        self.connection: CloudConnection = world.connections.make(world.access(client_id), self.observer)
        self.answers: dict[int, list[str]] = {}  # the last connection's, by number
        self.lost: list[str] = []
        self.is_open = False

    def deliver(self, numbers: range, size_bytes: int = 0) -> None:
        """Send in order, again from the first that failed, until all are done."""
        waiting = list(numbers)
        while waiting:
            if not self.is_open:
                self._open()
            self.answers = {number: [] for number in waiting}
            for number in waiting:
                self.connection.send(number, message(number, size_bytes))
            while not all(self.answers[number] for number in waiting):
                self._take_next()
            assert all(len(answers) == 1 for answers in self.answers.values()), "each has one answer"
            failed = [number for number in waiting if self.answers[number] == ["failed"]]
            assert failed == waiting[len(waiting) - len(failed) :], "they fail from one on"
            waiting = failed
            while waiting and self.is_open:
                self._take_next()  # that it is lost is told last

    def _take_next(self) -> None:
        call = self.observer.any(60.0)
        if call[0] in ("done", "failed"):
            self.answers[call[1]].append(call[0])
        elif call[0] == "lost":
            self.lost.append(call[1].reason)
            self.is_open = False

    def _open(self) -> None:
        self.connection.open()
        while (call := self.observer.any(60.0))[0] != "connected":
            if call[0] == "lost":
                self.lost.append(call[1].reason)
                reached = threading.Event()
                self.world.connections.probe(self.world.host_name, reached.set)
                assert reached.wait(60.0)
                self.connection.open()
        self.is_open = True


def in_order_and_complete(bodies: list[bytes], count: int) -> bool:
    """Whether 0, 1, 2, … are there, in order but for what was sent again after a break."""
    newest = -1
    for body in bodies:
        number = int(body)
        assert number <= newest + 1, f"{number} came before {newest + 1}"
        newest = max(newest, number)
    return newest == count - 1


def test_a_reset_inside_a_packet_loses_nothing(world: StandInWorld) -> None:
    courier = Courier(world)
    courier.deliver(range(1))
    world.line.reset_after(5_000)

    courier.deliver(range(1, 200), size_bytes=300)

    assert len(courier.lost) == 1
    assert in_order_and_complete([each.body for each in world.taken("d1")], 200)


@pytest.mark.slow
def test_resets_again_and_again_lose_nothing(world: StandInWorld) -> None:
    courier = Courier(world)
    world.line.reset_after(40_011, again=True)

    courier.deliver(range(600), size_bytes=200)

    assert len(courier.lost) >= 3
    assert in_order_and_complete([each.body for each in world.taken("d1")], 600)


@pytest.mark.parametrize(
    ("off_minutes", "on_minutes"), [pytest.param(5, 5, id="5/5"), pytest.param(5, 20, id="5/20")]
)
def test_a_line_that_is_off_and_on_in_turn_loses_nothing(
    world: StandInWorld, off_minutes: float, on_minutes: float
) -> None:
    courier = Courier(world)
    courier.deliver(range(1))

    with alternating(world.line, off_minutes / MINUTES_A_SECOND, on_minutes / MINUTES_A_SECOND):
        sent = 1
        while len(courier.lost) < 3:
            courier.deliver(range(sent, sent + 50), size_bytes=300)
            sent += 50

    assert in_order_and_complete([each.body for each in world.taken("d1")], sent)


def test_a_line_that_swallows_is_noticed_by_what_is_not_acknowledged(hasty: StandInWorld) -> None:
    connection, observer = connect(hasty)
    hasty.line.swallow()
    began_s = time.monotonic()

    connection.send(1, message(1))

    number, fault = observer.next("failed")
    assert (number, fault.kind) == (1, Fault.UNREACHABLE)
    assert "has not answered for 1 s" in fault.reason
    assert observer.next("lost")[0] == fault
    assert time.monotonic() - began_s < 3 * HASTY.silence_s + 1.0


@pytest.mark.slow
def test_a_line_that_swallows_is_noticed_by_the_keep_alive_when_nothing_is_sent(hasty: StandInWorld) -> None:
    connection, observer = connect(hasty)
    _wait_until_subscribed(connection, observer)

    hasty.line.swallow()

    (fault,) = observer.next("lost")
    assert fault.kind is Fault.UNREACHABLE


def test_a_connection_that_opens_into_a_hole_is_given_up(hasty: StandInWorld) -> None:
    hasty.line.swallow()
    observer = ObservedConnection()
    hasty.connections.make(hasty.access("d1"), observer).open()

    (fault,) = observer.next("lost")

    assert fault.kind is Fault.UNREACHABLE
    assert "answer" in fault.reason


def test_a_twin_request_without_an_answer_fails_in_time_and_the_connection_stays(
    protocol: UpstreamProtocol,
) -> None:
    with StandInWorld(times=CloudTimes(twin_s=0.5), protocol=protocol) as world:
        connection, observer = connect(world)
        _wait_until_subscribed(connection, observer)
        hub, may_answer = world.cloud.hub, asyncio.Event()
        at_once = hub.device_twin

        async def late(identity: Identity) -> dict[str, Any]:
            await may_answer.wait()
            return await at_once(identity)

        hub.device_twin = late  # type: ignore[method-assign]
        connection.get_twin(1)
        number, fault = observer.next("failed")
        world.cloud.soon(may_answer.set)
        connection.get_twin(2)

        assert (number, fault.kind, fault.status) == (1, Fault.TIMEOUT, 504)
        assert observer.next("done")[0] == 2


@pytest.mark.parametrize(
    ("profile", "count", "size_bytes"),
    [
        pytest.param(SATELLITE, 400, 1024, id="600 ms round trip, 2 % of connections lost, 25 Mbit/s"),
        pytest.param(MOBILE, 1000, 1024, id="100 ms round trip"),
        pytest.param(NARROW, 20, 256, id="25 kbit/s"),
    ],
)
@pytest.mark.slow
def test_everything_arrives_over_a_line_that_is_slow(
    protocol: UpstreamProtocol, profile: Profile, count: int, size_bytes: int
) -> None:
    with StandInWorld(profile, protocol=protocol) as world:
        connection, observer = connect(world, want=EVERYTHING)
        _wait_until_subscribed(connection, observer)
        for number in range(count):
            connection.send(number, message(number, size_bytes))

        # Neither waits for all the telemetry before it.
        world.patch_desired("d1", {"interval": 7})
        world.send_c2d("d1", Message("", {}, {}, b"hello"))
        answer = world.call_method("d1", "reboot", 1)
        done: list[int] = []
        seen: set[str] = set()
        while len(done) < count or len(seen) < 3:
            call = observer.any(60.0)
            if call[0] == "done":
                done.append(call[1])
            else:
                seen.add(call[0])
            if call[0] == "method_called":
                connection.answer_method(call[1], 200, b"true")
            elif call[0] == "message_received":
                call[2](True)

        assert answer() == (200, True)
        assert done == list(range(count))
        assert seen == {"desired_changed", "method_called", "message_received"}
        assert [int(each.body) for each in world.taken("d1")] == list(range(count))


def test_a_new_token_over_mqtt_neither_loses_nor_doubles_anything() -> None:
    times = CloudTimes(token_life_s=302.0, renew_before_s=300.0)
    with StandInWorld(times=times) as world:
        connection, observer = connect(world, want=EVERYTHING)
        opened = world.line.accepted
        done: list[int] = []
        sent = 0
        while world.line.accepted < opened + 2:
            for _ in range(10):
                connection.send(sent, message(sent))
                sent += 1
            while len(done) < sent - 50:
                done.append(observer.next("done")[0])
        while len(done) < sent:
            done.append(observer.next("done")[0])

        assert done == list(range(sent))
        assert [int(each.body) for each in world.taken("d1")] == list(range(sent))
        world.send_c2d("d1", Message("", {}, {}, b"after"))
        came, taken = observer.next("message_received")
        taken(True)
        assert came.body == b"after"


def test_a_message_that_is_held_when_the_token_ends_over_mqtt_is_told_once() -> None:
    times = CloudTimes(token_life_s=302.0, renew_before_s=300.0)
    with StandInWorld(times=times) as world:
        connection, observer = connect(world, want=EVERYTHING)
        opened = world.line.accepted
        world.send_c2d("d1", Message("", {}, {}, b"held"))
        _, taken = observer.next("message_received")

        number = 0
        while True:  # until it asks nothing any more, because it waits for what is held
            number += 1
            connection.get_twin(number)
            try:
                assert observer.any(0.7)[:2] == ("done", number)
            except queue.Empty:
                break
        assert world.line.accepted == opened
        taken(True)

        assert observer.next("done")[0] == number
        assert world.line.accepted == opened + 1
        assert world.waiting_c2d("d1") == 0
        assert observer.is_quiet()


def test_a_connection_that_is_closed_while_it_opens_never_comes_about(protocol: UpstreamProtocol) -> None:
    with StandInWorld(Profile(delay_s=0.2), protocol=protocol) as world:
        observer = ObservedConnection()
        closed = world.connections.make(world.access("d1"), observer)
        closed.open()
        wait_until(lambda: world.line.accepted == 1)
        closed.close()
        wait_until(lambda: world.line.connections == 0)

        connection, other = connect(world)
        connection.send(1, message(1))

        assert other.next("done") == (1, b"")
        assert observer.is_quiet()


def test_a_process_with_very_many_open_files_connects_too(world: StandInWorld) -> None:
    with ExitStack() as files:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
        while files.enter_context(open(os.devnull)).fileno() < 1100:  # more than select() can name
            pass

        connection, observer = connect(world)
        connection.send(1, message(1))

        assert observer.next("done") == (1, b"")


def test_no_thread_is_left_when_all_is_closed(protocol: UpstreamProtocol) -> None:
    with StandInWorld(protocol=protocol) as world:
        for client_id in ("d1", "d1/m1", "d2"):
            connect(world, client_id, want=EVERYTHING)
        world.line.swallow()
        world.connections.probe("127.255.255.254", lambda: None)
        began_s = time.monotonic()

        world.connections.close()

        assert time.monotonic() - began_s < 5.0
        left = {thread.name for thread in threading.enumerate() if thread.name.startswith("cloud-")}
        assert left <= {"cloud-db"}, "the stand-in's own"


def test_the_sdk_still_has_what_the_transport_replaces() -> None:
    """When this fails, a new version of azure-iot-device or paho-mqtt needs a look at mqtt_transport.py."""
    from azure.iot.device.common.mqtt_transport import MQTTTransport
    from paho.mqtt.client import Client

    assert "ssl_context = self._create_ssl_context()" in inspect.getsource(MQTTTransport._create_mqtt_client)
    assert "self._mqtt_client = self._create_mqtt_client()" in inspect.getsource(MQTTTransport.__init__)
    assert "self._mqtt_client.loop_start()" in inspect.getsource(MQTTTransport.connect)
    assert "self._mqtt_client.loop_stop()" in inspect.getsource(
        MQTTTransport._force_transport_disconnect_and_cleanup
    )
    assert "sock = self._create_socket_connection()" in inspect.getsource(Client.reconnect)
    handled = inspect.getsource(Client._handle_publish)
    on_message, puback = "self._handle_on_message(message)\n", "return self._send_puback(message.mid)"
    assert f"{on_message}            {puback}" in handled
    assert "_reconnect_on_failure" in inspect.getsource(Client._handle_connack)
    assert "on_socket_register_write is None" in inspect.getsource(Client._packet_queue)


def _wait_until_subscribed(connection: CloudConnection, observer: ObservedConnection) -> None:
    connection.get_twin(-1)
    assert observer.next("done")[0] == -1
