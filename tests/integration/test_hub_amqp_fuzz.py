"""Random and mutated AMQP frames at a running hub: no crash, no leak, and honest clients are served."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from messaging.amqp import codec
from messaging.amqp.codec import AmqpMessage, Int
from messaging.amqp.sasl import ClientSasl
from messaging.amqp.values import Symbol
from tests.integration.amqp_socket import AmqpSocket
from tests.integration.hub_process import HubProcess
from tests.integration.test_amqp_bad_input import Bystanders, memory_bytes

ROUTES = {"up": "FROM /messages/* INTO $upstream"}
ENDS = bytes.fromhex("0000000a 02000000 5318c0")  # what nobody takes for the rest of a frame
SEED = 2026


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    devices = ("leaf", "well")
    with HubProcess(ROUTES, modules=("well",), devices=devices) as made:
        yield made


class Watched(threading.Thread):
    """Honest clients that are served one time after the other, on the connections of the beginning."""

    def __init__(self, hub: HubProcess) -> None:
        super().__init__(daemon=True)
        self.served = 0
        self.error: BaseException | None = None
        self._bystanders = Bystanders(hub)
        self._ends = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self._ends.wait(0.02):
                self._bystanders.are_served()
                self.served += 1
        except BaseException as exc:
            self.error = exc
            raise

    def close(self) -> None:
        self._ends.set()
        self.join(20)
        self._bystanders.close()
        assert self.error is None
        assert self.served > 0


def honest_frames(hub: HubProcess) -> list[bytes]:
    """Return the frames of a client that uses every kind of link, as it sends them."""
    with AmqpSocket(hub, sasl=ClientSasl("ANONYMOUS")) as client:
        client.log_in("leaf")
        properties = {Symbol("com.microsoft:channel-correlation-id"): "twin:1"}
        events = client.events_sender("leaf")
        client.receiver("/devices/leaf/messages/devicebound")
        twin = client.sender("/devices/leaf/twin", properties=properties)
        client.receiver("/devices/leaf/twin", properties=properties)
        methods = client.sender("/devices/leaf/methods/devicebound")
        message = AmqpMessage(
            body=b"hello",
            message_id="m",
            content_type="application/json",
            application_properties={"a": "b", "iothub-creation-time-utc": "2026-01-01T00:00:00Z"},
        )
        client.send(events, message)
        batch = codec.join_batch([codec.encode(message)] * 3)
        client.send(events, batch, message_format=codec.BATCH_FORMAT)
        request = AmqpMessage(
            body=b'{"a": 1}', correlation_id="c", annotations={"operation": "PATCH", "resource": "/"}
        )
        twin.send(codec.encode(request), b"t", settled=True)
        answer = AmqpMessage(correlation_id="x", application_properties={"IoThub-status": Int(200)})
        methods.send(codec.encode(answer), b"m", settled=True)
        events.detach()
        client.flush()
        client.close()
        sent = client.sent
    frames = []
    while sent:
        size = 8 if sent.startswith(b"AMQP") else int.from_bytes(sent[:4], "big")
        frames.append(sent[:size])
        sent = sent[size:]
    return frames


def mutated(frames: list[bytes], chance: random.Random) -> bytes:
    """Return what an honest client sends with one to four mistakes in it, behind the first header."""
    made = list(frames)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(1, len(made))
        frame = bytearray(made[at])
        match chance.randrange(8):
            case 0:  # one bit
                frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
            case 1:  # one byte
                frame[chance.randrange(len(frame))] = chance.randrange(256)
            case 2:  # bytes are missing, and the size says so
                del frame[8 + chance.randrange(max(1, len(frame) - 8)) :]
                frame[:4] = len(frame).to_bytes(4, "big")
            case 3:  # bytes are missing, and the size does not say so
                del frame[1 + chance.randrange(len(frame)) :]
            case 4:  # random bytes behind
                frame += chance.randbytes(chance.randrange(1, 100))
                frame[:4] = len(frame).to_bytes(4, "big")
            case 5:  # twice
                frame += bytes(frame)
            case 6:  # in another place
                other = chance.randrange(1, len(made))
                frame, made[other] = bytearray(made[other]), bytes(frame)
            case 7:  # a body of random bytes
                frame[8:] = chance.randbytes(len(frame) - 8)
        made[at] = bytes(frame)
    return b"".join(made)


def attack(hub: HubProcess, frames: list[bytes], rounds: int, chance: random.Random) -> None:
    for number in range(rounds):
        with AmqpSocket(hub, connect=False) as client:
            if number % 10 == 0:
                data = chance.randbytes(chance.randrange(1, 2_000))
            elif number % 10 == 1:
                data = frames[0] + b"".join(chance.sample(frames[1:], len(frames) - 1))
            else:
                data = mutated(frames, chance)
            with suppress(OSError):  # it may hang up before we have said all
                cut = chance.randrange(len(data) + 1)
                client.send_bytes(data[:cut])
                client.send_bytes(data[cut:] + ENDS)
                if number % 4 == 0:  # others just vanish
                    client.socket.settimeout(0.5)
                    while client.socket.recv(65_536):
                        pass


def fuzz(hub: HubProcess, warm_up: int, rounds: int, most_bytes: int) -> None:
    assert hub.process is not None
    watched = Watched(hub)
    try:
        frames = honest_frames(hub)
        chance = random.Random(SEED)
        attack(hub, frames, warm_up, chance)
        before_bytes = memory_bytes(hub.process.pid)
        attack(hub, frames, rounds, chance)
        assert hub.process.poll() is None, "\n".join(hub.log_lines()[-20:])
        grown_bytes = memory_bytes(hub.process.pid) - before_bytes
    finally:
        watched.close()

    print(
        f"{rounds} clients: the hub grew by {grown_bytes / 1e3:.0f} KB; others served {watched.served} times"
    )
    assert grown_bytes < most_bytes
    assert [line for line in hub.log_lines() if "Traceback" in line or "internal error" in line] == []


def test_mutated_frames_harm_nobody(hub: HubProcess) -> None:
    fuzz(hub, warm_up=60, rounds=200, most_bytes=4_000_000)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_ten_thousand_clients_with_mutated_frames_harm_nobody(hub: HubProcess) -> None:
    fuzz(hub, warm_up=1_000, rounds=10_000, most_bytes=4_000_000)
