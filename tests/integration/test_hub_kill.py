"""kill -9 of the hub while many messages are under way: order and completeness as seen from both ends."""

from __future__ import annotations

import base64
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from messaging.mqtt.packets import PubAck, Publish
from tests.integration.core_time import thread_without_core_s, without_core_s
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import MqttSocket
from tests.integration.sdk_clients import once
from tests.waiting import wait_until

IN_FLIGHT = 100
SERVED_AGAIN_S = 5.0  # besides what the machine was busy with others


class PipelinedPublisher(threading.Thread):
    """Keeps many messages under way, and after a lost connection sends those not acknowledged again first.

    As MQTT 3.1.1 section 4.4 asks of a client; the official SDK does the same, but waits for each message.
    """

    def __init__(self, hub: HubProcess, client_id: str) -> None:
        super().__init__(name=client_id, daemon=True)
        self.acknowledged: list[int] = []
        self.error = ""
        self._hub = hub
        self._topic = f"devices/{client_id}/messages/events/"
        self._stopped = threading.Event()
        self._under_way: deque[int] = deque()
        self._next = 0

    def stop(self) -> None:
        """Stop when everything that was sent is acknowledged."""
        self._stopped.set()
        self.join(30)
        assert not self.is_alive()
        assert self.error == ""

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.acknowledged) + count

        def has_more() -> bool:
            assert self.is_alive(), self.error
            return len(self.acknowledged) >= wanted

        wait_until(has_more, lambda: f"{self.name}: {len(self.acknowledged)} of {wanted}")

    def without_core_s(self) -> float:
        """Return how long it was ready to run and had no core."""
        assert self.native_id is not None
        return thread_without_core_s(os.getpid(), self.native_id)

    def run(self) -> None:
        try:
            while self._under_way or not self._stopped.is_set():
                try:
                    self._connect()
                except (EOFError, OSError):
                    pass  # the hub was killed: connect again
        except BaseException as exc:
            self.error = repr(exc)
            raise

    def _connect(self) -> None:
        with MqttSocket(self._hub, tls=False) as connection:
            self._serve(connection)

    def _serve(self, connection: MqttSocket) -> None:
        connection.connect(self._hub, self.name)
        connection.send(*(self._packet(number, dup=True) for number in self._under_way))
        while self._under_way or not self._stopped.is_set():
            if not self._stopped.is_set():
                fresh = range(self._next, self._next + IN_FLIGHT - len(self._under_way))
                self._next = fresh.stop
                self._under_way.extend(fresh)
                connection.send(*(self._packet(number) for number in fresh))
            packet = connection.receive()
            assert isinstance(packet, PubAck)
            number = self._under_way.popleft()
            assert packet.packet_id == number % 60_000 + 1, "acknowledged out of order"
            self.acknowledged.append(number)

    def _packet(self, number: int, dup: bool = False) -> Publish:
        return Publish(self._topic, b"%d" % number, 1, number % 60_000 + 1, dup)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess({"up": "FROM /messages/* INTO $upstream"}, devices=("d0", "d1", "d2")) as hub:
        yield hub


def run_through_kills(
    hub: HubProcess, kills: int, protocols: Sequence[type[PipelinedPublisher]] = (PipelinedPublisher,)
) -> None:
    kinds = itertools.cycle(protocols)
    publishers = [kind(hub, f"d{number}") for number, kind in zip(range(3), kinds, strict=False)]
    for publisher in publishers:
        publisher.start()

    for _ in range(kills):
        for publisher in publishers:
            publisher.wait_for_more(300)
        hub.kill()
        killed_s, lines = time.monotonic(), len(hub.log_lines())
        waited_before_s = [publisher.without_core_s() for publisher in publishers]
        hub.start()
        for publisher in publishers:
            publisher.wait_for_more(1)
        took_s = time.monotonic() - killed_s
        assert hub.process is not None
        hub_waited_s = without_core_s(hub.process.pid)
        waited_s = max(
            publisher.without_core_s() - before_s
            for publisher, before_s in zip(publishers, waited_before_s, strict=True)
        )
        assert took_s - hub_waited_s - waited_s <= SERVED_AGAIN_S, (
            f"{took_s:.1f} s, of which the hub had no core for {hub_waited_s:.1f} s and a client for "
            f"{waited_s:.1f} s:\n" + "\n".join(hub.log_lines()[lines:])
        )
    for publisher in publishers:
        publisher.wait_for_more(300)
        publisher.stop()

    total = sum(len(publisher.acknowledged) for publisher in publishers)
    records: list[dict[str, Any]] = []
    arrived: dict[str, list[int]] = {}

    def have_all_arrived() -> bool:
        records[:] = hub.upstream(total)  # repetitions make more records than messages
        arrived.update((publisher.name, []) for publisher in publishers)
        for record in records:
            arrived[record["SystemProperties"]["connectionDeviceId"]].append(_number_in(record["Body"]))
        return all(set(publisher.acknowledged) <= set(arrived[publisher.name]) for publisher in publishers)

    wait_until(have_all_arrived, "all acknowledged messages have arrived")
    for publisher in publishers:
        got = once(arrived[publisher.name])
        assert got == sorted(got)
        assert publisher.acknowledged == sorted(publisher.acknowledged)
    assert hub.stop() == 0
    ledger = hub.ledger()
    assert ledger.imbalances() == []
    print(f"{total} acknowledged, {ledger.total.received} received, {len(records)} lines upstream")


def _number_in(body: str) -> int:
    return int(base64.b64decode(body))


def test_nothing_acknowledged_is_lost_or_out_of_order_though_the_hub_is_killed_under_full_load(
    hub: HubProcess,
) -> None:
    run_through_kills(hub, 3)


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_a_hundred_kills_under_full_load(hub: HubProcess) -> None:
    run_through_kills(hub, 100)
