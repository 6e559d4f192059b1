"""QoS 2 from client to client over broken connections and kills: each message once, in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.actors.broker_world import BrokerWorld, Link, Message, ack, publish, subscribe

COUNT = 60


class Sender:
    """A client that keeps to section 4.3.3 and remembers, over its connections, what is not done."""

    def __init__(self, world: BrokerWorld) -> None:
        self._world = world
        self._waiting = list(range(COUNT))
        self._under_way: dict[int, tuple[int, bool]] = {}  # packet id → (message, PUBREC has come)
        self._link: Link | None = None

    @property
    def is_done(self) -> bool:
        return not self._waiting and not self._under_way

    def lose(self) -> None:
        self._link = None

    def step(self) -> None:
        if self._link is None:
            self._link = self._world.connect("sender", clean=False)
            for packet_id, (number, received) in self._under_way.items():
                self._link.send(
                    ack(0x62, packet_id) if received else self._publish(number, packet_id, dup=True)
                )
        for first, body in self._link.packets():
            packet_id = int.from_bytes(body, "big")
            if first == 0x50:
                number, _ = self._under_way[packet_id]
                self._under_way[packet_id] = number, True
                self._link.send(ack(0x62, packet_id))
            elif first == 0x70:
                self._under_way.pop(packet_id, None)
        free = [n for n in range(1, 6) if n not in self._under_way]
        if free and self._waiting:
            number = self._waiting.pop(0)
            self._under_way[free[0]] = number, False
            self._link.send(self._publish(number, free[0]))

    @staticmethod
    def _publish(number: int, packet_id: int, *, dup: bool = False) -> bytes:
        return publish("t", bytes([number]), 2, packet_id, dup=dup)


class Receiver:
    """Likewise: a packet id that was not released yet brings nothing new."""

    def __init__(self, world: BrokerWorld) -> None:
        self._world = world
        self._held: set[int] = set()
        self._link: Link | None = None
        self.got: list[int] = []
        self.step()
        assert self._link is not None
        self._link.send(subscribe(1, ("t", 2)))
        assert self._link.take() == b"\x90\x03\x00\x01\x02"

    def lose(self) -> None:
        self._link = None

    def step(self, *, is_heard: bool = True) -> None:
        """Take what has come; with `is_heard` False, the connection breaks before the answers are through."""
        if self._link is None:
            self._link = self._world.connect("receiver", clean=False)
        answers = []
        for first, body in self._link.packets():
            if first & 0xF0 == 0x30:
                message = Message(first, body)
                if message.packet_id not in self._held:
                    self._held.add(message.packet_id)
                    self.got.append(message.body[0])
                answers.append(ack(0x50, message.packet_id))
            elif first == 0x62:
                self._held.discard(int.from_bytes(body, "big"))
                answers.append(ack(0x70, int.from_bytes(body, "big")))
        if not is_heard:
            self._link = None
        elif answers:
            self._link.send(*answers)


@pytest.mark.parametrize("seed", range(12))
def test_each_message_arrives_once_and_in_order(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    world = BrokerWorld(tmp_path)
    receiver, sender = Receiver(world), Sender(world)
    kills = 0

    while not (sender.is_done and len(receiver.got) >= COUNT):
        what = draw.random()
        if what < 0.06:
            world.kill()
            kills += 1
            sender.lose()
            receiver.lose()
        elif what < 0.10:
            sender.lose()
        elif what < 0.14:
            receiver.lose()
        elif what < 0.2:
            world.advance(0.1)
        if draw.random() < 0.5:
            sender.step()
        else:
            receiver.step(is_heard=draw.random() > 0.1)

    assert kills > 3
    assert receiver.got == list(range(COUNT))
