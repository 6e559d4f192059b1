"""A hub process under clients and disks that misbehave: flat memory, and nobody else is held up."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.mqtt.packets import PubAck, Publish
from tests.integration.hub_process import DEVICE, IOTHUB, HubProcess
from tests.integration.mqtt_client import MqttClient

MIB = 1024 * 1024
BODY = b"x" * 8192
COMMIT_S = 0.3  # what each commit takes on the slow disk
MOST_GROWTH_MIB = 64  # credits are 16 MiB; each byte lies in some copies on its way from socket to disk
SLOW = "tests.integration.slow_hub"
SHORT_S, LONG_S = 8.0, 60.0
campaign = pytest.mark.campaign
A, B, C = (f"{DEVICE}/{name}" for name in "abc")
ROUTES = {
    "b": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/b/inputs/in")',
    "c": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/c/inputs/in")',
}


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    made = HubProcess(ROUTES, modules=("a", "b", "c"), devices=("d1", "d2", "d3", "d4"), program=SLOW)
    made.start()
    yield made
    made.close()


def connect(hub: HubProcess, client_id: str, receive_buffer_bytes: int = 0, tls: bool = False) -> MqttClient:
    return MqttClient.connect(
        hub.port if tls else hub.plain_port,
        client_id,
        hub.token(client_id),
        IOTHUB,
        hub.ca_file if tls else None,
        receive_buffer_bytes=receive_buffer_bytes,
    )


def rss_mib(hub: HubProcess) -> float:
    assert hub.process is not None
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Flood(threading.Thread):
    """Publishes without end and without regard to acknowledgements, which it counts."""

    def __init__(self, client: MqttClient) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.sent_bytes = 0
        self.acknowledged = 0
        self._frames = b"".join(
            Publish(client.topic, BODY, 1, packet_id).encode() for packet_id in range(1, 129)
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def run(self) -> None:
        self._reader.start()
        with contextlib.suppress(OSError):
            while True:
                self.client.socket.sendall(self._frames)
                self.sent_bytes += len(self._frames)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.client.socket.recv(65536):
                packets = self.client.codec.receive_data(data)
                self.acknowledged += sum(isinstance(packet, PubAck) for packet in packets)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.client.socket.shutdown(socket.SHUT_RDWR)
        self.join(10.0)
        self._reader.join(10.0)


def peak_rss_mib(hub: HubProcess, seconds: float) -> float:
    """Look at the hub's memory every 50 ms for a while; return the most it was."""
    ends_s, peak = time.monotonic() + seconds, 0.0
    while time.monotonic() < ends_s:
        peak = max(peak, rss_mib(hub))
        time.sleep(0.05)  # between two looks at another process
    return peak


@pytest.mark.parametrize("seconds", [SHORT_S, pytest.param(LONG_S, marks=campaign)])
@pytest.mark.slow
def test_memory_stays_flat_when_the_disk_is_slow_and_publishers_never_stop(
    hub: HubProcess, seconds: float
) -> None:
    connect(hub, A).publish_and_wait(b"warm")
    (hub.home / "commit_s").write_text(str(COMMIT_S))
    before = rss_mib(hub)

    floods = [Flood(connect(hub, name)) for name in ("d1", "d2", "d3", "d4")]
    for flood in floods:
        flood.start()
    first = peak_rss_mib(hub, seconds / 2)
    second = peak_rss_mib(hub, seconds / 2)
    for flood in floods:
        flood.close()

    acknowledged = sum(flood.acknowledged for flood in floods)
    sent = sum(flood.sent_bytes for flood in floods) / MIB
    print(
        f"\nslow disk ({COMMIT_S} s a commit), {seconds:.0f} s: {before:.0f} MiB before, at most {first:.0f} "
        f"and {second:.0f} in either half; {sent:.0f} MiB sent, {acknowledged} messages acknowledged"
    )
    assert acknowledged > 0
    assert max(first, second) - before < MOST_GROWTH_MIB
    assert second < first + MOST_GROWTH_MIB / 4


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("seconds", [SHORT_S, pytest.param(LONG_S, marks=campaign)])
@pytest.mark.slow
def test_a_module_that_does_not_read_costs_a_window_and_the_others_get_everything(
    hub: HubProcess, qos: int, seconds: float
) -> None:
    sender = connect(hub, A)
    stuck, good = connect(hub, B, receive_buffer_bytes=4096), connect(hub, C)
    stuck.subscribe(f"devices/{DEVICE}/modules/b/inputs/#", qos)
    good.subscribe(f"devices/{DEVICE}/modules/c/inputs/#", 1)
    before = rss_mib(hub)
    ends_s, count, peak, slowest_s = time.monotonic() + seconds, 0, 0.0, 0.0

    while time.monotonic() < ends_s:
        began_s = time.monotonic()
        for _ in range(64):
            sender.publish(BODY)
        for _ in range(64):
            good.socket.sendall(PubAck(good.receive(Publish).packet_id).encode())
        for _ in range(64):
            sender.receive(PubAck)
        count += 64
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        peak = max(peak, rss_mib(hub))

    print(
        f"\na module at QoS {qos} that does not read, {seconds:.0f} s: {before:.0f} MiB before, at most "
        f"{peak:.0f}; {count * len(BODY) / MIB:.0f} MiB reached the other, 64 in {slowest_s:.2f} s at most"
    )
    assert peak - before < MOST_GROWTH_MIB
    assert slowest_s < 2.0


@pytest.mark.slow
def test_silent_sockets_and_stalled_handshakes_delay_nobody(hub: HubProcess) -> None:
    connect(hub, A, tls=True).publish_and_wait(b"warm")
    silent = [socket.create_connection(("127.0.0.1", port)) for port in (hub.port, hub.plain_port) * 250]
    stalled = [socket.create_connection(("127.0.0.1", hub.port)) for _ in range(100)]
    for connection in stalled:
        connection.sendall(client_hello()[:100])

    took_s = []
    for _ in range(10):
        began_s = time.monotonic()
        client = connect(hub, A, tls=True)
        assert client.publish_and_wait(b"in time")
        took_s.append(time.monotonic() - began_s)
        client.socket.close()
    print(f"\n500 silent sockets, 100 stalled handshakes: connected and published in {max(took_s):.3f} s")

    assert max(took_s) < 1.0
    for connection in silent + stalled:
        connection.settimeout(20.0)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""  # closed by the hub: 5 s for CONNECT, 10 s for the handshake
        connection.close()


class Fighter(threading.Thread):
    """Connects as an identity that others have as well, again and again, whenever it is thrown out."""

    def __init__(self, hub: HubProcess, client_id: str, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._hub, self._client_id, self._ended = hub, client_id, ended
        self.won = 0

    def run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, ValueError, AssertionError):
                client = connect(self._hub, self._client_id)
                self.won += 1
                with client.socket:
                    client.socket.settimeout(1.0)
                    client.socket.recv(1)  # until another of them has taken over


def test_a_hundred_connections_of_one_identity_fight_and_nobody_else_notices(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 27."""
    sender, receiver = connect(hub, A), connect(hub, B)
    receiver.subscribe(f"devices/{DEVICE}/modules/b/inputs/#", 1)
    ended = threading.Event()
    fighters = [Fighter(hub, "d1", ended) for _ in range(100)]
    for fighter in fighters:
        fighter.start()
    took_s = []
    ends_s = time.monotonic() + SHORT_S / 2

    while time.monotonic() < ends_s:
        began_s = time.monotonic()
        body = f"{len(took_s)}".encode()
        sender.publish(body)
        arrived = receiver.receive(Publish)
        receiver.socket.sendall(PubAck(arrived.packet_id).encode())
        sender.receive(PubAck)
        took_s.append(time.monotonic() - began_s)
        assert arrived.payload == body

    ended.set()
    for fighter in fighters:
        fighter.join(20.0)
        assert not fighter.is_alive()
    last = connect(hub, "d1")
    assert last.publish_and_wait(b"the last one is served")
    won = sum(fighter.won for fighter in fighters)
    print(f"\n100 fight for one identity: {won} took over; a message took {max(took_s):.3f} s at most")
    assert won > 100
    assert max(took_s) < 2.0


def client_hello() -> bytes:
    """Return the first bytes of a TLS handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()
