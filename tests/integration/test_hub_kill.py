"""kill -9 of the hub while many messages are under way: order and completeness as seen from both ends."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import pytest

from messaging.mqtt.packets import PubAck, Publish
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import MqttSocket
from tests.integration.sdk_clients import once

IN_FLIGHT = 100
SERVED_AGAIN_S = 5.0


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
        deadline_s = time.monotonic() + 30.0
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline_s, f"{self.name}: {len(self.acknowledged)} of {wanted}"
            assert self.is_alive(), self.error
            time.sleep(0.005)  # between two looks

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
        killed_s = time.monotonic()
        hub.start()
        for publisher in publishers:
            publisher.wait_for_more(1)
        assert time.monotonic() - killed_s <= SERVED_AGAIN_S
    for publisher in publishers:
        publisher.wait_for_more(300)
        publisher.stop()

    total = sum(len(publisher.acknowledged) for publisher in publishers)
    deadline_s = time.monotonic() + 30.0
    while True:
        records = hub.upstream(total)
        arrived: dict[str, list[int]] = {publisher.name: [] for publisher in publishers}
        for record in records:
            arrived[record["SystemProperties"]["connectionDeviceId"]].append(_number_in(record["Body"]))
        if all(set(p.acknowledged) <= set(arrived[p.name]) for p in publishers):
            break
        assert time.monotonic() < deadline_s, "an acknowledged message did not arrive"
        time.sleep(0.05)  # between two looks: repetitions make more records than messages
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
