"""Poison: messages that cannot be stored, routed or delivered leave; the innocent of their batch go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from actors.addresses import MQTT, ROUTER, STORE
from actors.heads.module_inputs import ModuleInputs
from actors.store.stored import Run, Segment
from messaging.errors import StoreError
from messaging.message import Message
from messaging.mqtt.packets import Publish
from messaging.routing import compile as conditions
from tests.actors.whole_hub import A_TO_B, INPUT, LEAF, PUBACK, PUBLISH, UP, A, B, HubWorld
from tests.fakes.message_db import MemoryDisk, MemoryMessageDb

POISON = b"poison"


class PickyMessageDb(MemoryMessageDb):
    """Cannot take one body, whatever the batch it comes in."""

    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        with self._change("append messages"):
            if any(body == POISON for segment in segments for _, body in segment.entries):
                raise ValueError("no place for this in any table")
        return super().append(segments, now_s)


class HatefulMessageDb(MemoryMessageDb):
    """Cannot take anything, and says that it is not the disk."""

    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        with self._change("append messages"):
            raise ValueError("no place for anything")


class UnreadableMessageDb(MemoryMessageDb):
    """Cannot read while `broken`."""

    broken = True

    def read(self, endpoint_id: str, after_position: int, *rest: Any) -> list[Run]:
        if self.broken and endpoint_id != "iothub":
            raise StoreError("disk I/O error")
        return super().read(endpoint_id, after_position, *rest)


def publishes(*bodies: bytes) -> list[Publish]:
    return [Publish(HubWorld.topic_of(A), body, 1, number) for number, body in enumerate(bodies, 1)]


def restarts(world: HubWorld) -> dict[str, int]:
    return {address: world.system.cells[address].restarts for address in (STORE, ROUTER, MQTT)}


NONE = {STORE: 0, ROUTER: 0, MQTT: 0}


def test_a_message_that_cannot_be_stored_is_dropped_durably_and_the_others_are_delivered() -> None:
    disk = MemoryDisk()
    world = HubWorld(A_TO_B, store=PickyMessageDb(disk))
    sender, reader = world.open().connect(A), world.open().connect(B)
    reader.subscribe(INPUT)
    reader.received()

    sender.send(*publishes(b"1", POISON, b"2", b"3"))

    assert sender.received() == [(PUBACK, b"\x00" + bytes([n])) for n in (1, 2, 3, 4)]
    bodies = [body[-1:] for kind, body in reader.received() if kind == PUBLISH]
    assert bodies == [b"1", b"2", b"3"]
    [ledger] = MemoryMessageDb(disk).ledger().endpoints.values()
    assert (ledger.accepted, ledger.dropped, ledger.dropped_by_reason) == (4, 1, {"poison": 1})
    assert restarts(world) == NONE
    [letter] = world.system.bus.dead_letters.recent()
    assert letter.envelope is not None
    assert letter.envelope.body[4] == ((0, POISON),)
    assert "ValueError" in letter.reason


def test_one_clients_poison_does_not_touch_the_batches_of_others() -> None:
    disk = MemoryDisk()
    world = HubWorld(UP, store=PickyMessageDb(disk))
    good, bad = world.open().connect(LEAF), world.open().connect(A)

    bad.handler.received(bad.client, publishes(POISON)[0].encode())
    good.publish(b"good")  # both wait in the same turn, or not: the result is the same

    assert [kind for kind, _ in good.received()] == [PUBACK]
    assert [kind for kind, _ in bad.received()] == [PUBACK]
    totals = MemoryMessageDb(disk).ledger().total
    assert (totals.received, totals.routed) == (2, 2)


def test_when_nothing_can_be_stored_the_connection_is_closed_and_nothing_is_acknowledged() -> None:
    world = HubWorld(UP, store=HatefulMessageDb(MemoryDisk()))
    sender = world.open().connect(A)

    sender.send(*publishes(b"1", b"2"))

    assert sender.received() == []
    assert sender.transport.closed
    assert restarts(world) == NONE


def test_a_message_that_cannot_be_routed_goes_nowhere_and_the_others_of_its_read_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_body = {"up": "FROM /messages/* WHERE $body.n = 1 INTO $upstream"}
    world = HubWorld(by_body)
    sender = world.open().connect(LEAF)
    parse = conditions.parse_body

    def picky(message: Message) -> object:
        if message.body == POISON:
            raise RecursionError("too deep")
        return parse(message)

    monkeypatch.setattr(conditions, "parse_body", picky)
    kind = "$.ct=application%2Fjson&$.ce=utf-8"
    topic = f"{world.topic_of(LEAF)}{kind}"
    sender.send(*[Publish(topic, b, 1, n) for n, b in enumerate([b'{"n":1}', POISON, b'{"n":1} '], 1)])

    assert [kind for kind, _ in sender.received()] == [PUBACK] * 3
    assert world.bodies() == {b'{"n":1}', b'{"n":1} '}
    assert world.disk.contents.unrouted == 1
    assert restarts(world) == NONE
    [letter] = world.system.bus.dead_letters.recent()
    assert "RecursionError" in letter.reason


def test_a_message_that_makes_no_topic_is_dropped_as_poison_and_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = HubWorld(A_TO_B)
    sender, reader = world.open().connect(A), world.open().connect(B)
    reader.subscribe(INPUT)
    reader.received()
    make = ModuleInputs._make_topic

    def picky(self: ModuleInputs, endpoint_id: str, header: bytes) -> bytes | None:
        if b"bad" in header:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return make(self, endpoint_id, header)

    monkeypatch.setattr(ModuleInputs, "_make_topic", picky)
    topic = world.topic_of(A)
    sender.send(
        Publish(topic, b"1", 1, 1),
        Publish(f"{topic}bad=1", b"2", 1, 2),
        Publish(f"{topic}good=1", b"3", 1, 3),
    )
    world.system.advance(1.0)

    assert [body[-1:] for kind, body in reader.received() if kind == PUBLISH] == [b"1", b"3"]
    [queue] = world.disk.contents.queues.values()
    assert dict(queue.dropped) == {"poison": 1}
    assert restarts(world) == NONE


def test_a_queue_that_cannot_be_read_is_tried_again_and_holds_nobody_up() -> None:
    disk = MemoryDisk()
    store = UnreadableMessageDb(disk)
    world = HubWorld(A_TO_B, store=store)
    sender, reader = world.open().connect(A), world.open().connect(B)
    sender.publish(b"early")
    sender.received()

    reader.subscribe(INPUT)
    sender.publish(b"late")
    world.system.advance(6.0)
    assert PUBLISH not in [kind for kind, _ in reader.received()]
    assert [kind for kind, _ in sender.received()] == [PUBACK]
    assert restarts(world) == NONE

    store.broken = False
    world.system.advance(6.0)
    assert [kind for kind, _ in reader.received()] == [PUBLISH, PUBLISH]
