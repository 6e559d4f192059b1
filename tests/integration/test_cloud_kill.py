"""kill -9 of the stand-in under full load: what was acknowledged is there afterwards, in order."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import ConnAck, Connect, PubAck, Publish
from tests.integration.cloud import MQTT_PORT, Cloud
from tests.integration.sdk_clients import loopback_address

DEVICES = 6
KILLS = 6
WINDOW = 50
LIMIT_S = 30.0


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud(loopback_address()) as made:
        for number in range(DEVICES):
            made.create(f"d{number}")
        made.stop()
        yield made


class Publisher:
    """Publishes numbers as fast as it may; a new connection begins with the first unacknowledged."""

    def __init__(self, cloud: Cloud, client_id: str) -> None:
        self.acknowledged = 0  # all numbers below
        self.reconnects = 0
        self._cloud = cloud
        self._client_id = client_id
        self._tls = ssl.create_default_context(cafile=str(cloud.ca_file))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._publish()
            except OSError:
                self.reconnects += 1
                self._stop.wait(0.02)  # the next process is not there yet

    def _publish(self) -> None:
        address = (self._cloud.address, MQTT_PORT)
        with self._tls.wrap_socket(
            socket.create_connection(address, timeout=LIMIT_S), server_hostname=address[0]
        ) as stream:
            codec = ClientConnection()
            token = self._cloud.token(self._client_id).encode()
            name = self._cloud.user_name(self._client_id)
            stream.sendall(codec.send(Connect(self._client_id, True, 60, name, token)))
            next_number = self.acknowledged
            open_for_business = False
            while not self._stop.is_set():
                data = stream.recv(65_536)
                if not data:
                    raise ConnectionResetError
                for packet in codec.receive_data(data):
                    if isinstance(packet, ConnAck):
                        assert packet.return_code == 0
                        open_for_business = True
                    elif isinstance(packet, PubAck):
                        assert packet.packet_id == self.acknowledged % 65_535 + 1
                        self.acknowledged += 1
                if open_for_business:
                    last = self.acknowledged + WINDOW
                    stream.sendall(b"".join(self._frame(number) for number in range(next_number, last)))
                    next_number = last

    def _frame(self, number: int) -> bytes:
        topic = f"devices/{self._client_id}/messages/events/"
        return Publish(topic, str(number).encode(), 1, number % 65_535 + 1).encode()


def test_nothing_acknowledged_is_lost_when_the_process_is_killed_under_full_load(cloud: Cloud) -> None:
    chance = random.Random(5)
    cloud.start_process()
    publishers = [Publisher(cloud, f"d{number}") for number in range(DEVICES)]
    for _ in range(KILLS):
        before = [publisher.acknowledged for publisher in publishers]
        deadline_s = time.monotonic() + LIMIT_S
        while any(p.acknowledged < b + 300 for p, b in zip(publishers, before, strict=True)):
            assert time.monotonic() < deadline_s, "no progress"
            time.sleep(chance.uniform(0.005, 0.05))  # somewhere in the middle
        cloud.kill_process()
        cloud.start_process()
    for publisher in publishers:
        publisher.stop()
    cloud.kill_process()
    cloud.start()

    stored: dict[str, list[int]] = {f"d{number}": [] for number in range(DEVICES)}
    after = 0
    while events := cloud.call(cloud.hub.events(after)):
        assert [event.sequence_number for event in events] == list(range(after + 1, after + 1 + len(events)))
        after = events[-1].sequence_number
        for event in events:
            stored[event.identity.id].append(int(event.telemetry.body))
    for number, publisher in enumerate(publishers):
        found = list(dict.fromkeys(stored[f"d{number}"]))
        assert found == list(range(len(found)))
        assert publisher.acknowledged <= len(found)
        assert publisher.reconnects >= KILLS
