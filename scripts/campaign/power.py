"""Power cuts: from the recording of one life of the hub, what its disk may look like at any moment of it.

A cut does not end the recorded process. It is a moment in its system calls, and as many of them as one likes
can be looked at: the model of the disk gives an image, the store's own code opens it, and whatever publishers
had been told by then has to be in it, unless its consumer had it or it expired.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from actors.stored import priority_of
from runtime.faults.power import RecordedDisk, apply, spoil, write_file
from runtime.faults.recording import SHARED_MEMORY, Event, Reader, Sent, Written
from runtime.message_db import MessageDb
from scripts.bench import mqtt_wire
from scripts.campaign.books import Findings, check_ledger, count_lost, missing, row_of
from scripts.campaign.clients import Consumer, Key, Publisher, output_of
from scripts.campaign.edge import INPUT
from scripts.campaign.scenario import Scenario

DATABASE: Final = "hub.db"
LOG: Final = "hub.db-wal"
PAGE_MESSAGES: Final = 1000  # read from an image at once
JUST_TOLD: Final = 0.5  # how often a cut is right behind an acknowledgement


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left, and what is known outside."""

    at_s: float  # of the wall clock; infinity: the end of the recording
    image: Mapping[str, bytes]
    acknowledged: Mapping[int, int]  # publisher → the last number it was told to be stored


class Life:
    """The hub from one start to its death."""

    def __init__(self, home: Path, trace: Path, publishers: Sequence[Publisher]) -> None:
        """Take note of how it begins, while no hub runs; publishers may join later."""
        self.home = home
        self.trace = trace
        self._publishers = publishers
        self.disk = RecordedDisk(home)
        self._told = {publisher.number: publisher.acknowledged for publisher in publishers}
        self._links = {publisher.number: len(publisher.links) for publisher in publishers}
        self.log_starts = 0

    def cuts(self, images: int, chance: random.Random) -> Iterator[Cut]:
        """Yield cuts in the order of time; the last is the end of the life.

        Raises:
            RecordingError: the recording holds what is not understood.
        """
        reader = Reader(self.home)
        with self.trace.open("rb") as lines:
            events = list(reader.events(lines))
        books = _Told(self._publishers, self._links, self._told)
        self.log_starts = sum(isinstance(e, Written) and e.name == LOG and e.at == 0 for e in events)
        told = [number for number, event in enumerate(events) if books.is_told(event)]
        chosen = {
            chance.choice(told) if told and chance.random() < JUST_TOLD else chance.randrange(len(events))
            for _ in range(images - 1)
            if events
        }
        while len(chosen) < min(images - 1, len(events)):
            chosen.add(chance.randrange(len(events)))
        for number, event in enumerate(events):
            apply(self.disk.model, event)
            if isinstance(event, Sent):
                books.note(event)
            if number in chosen:
                yield Cut(event.at_s, self.disk.after_cut(chance), dict(books.acknowledged))
        self.disk.compare_with_reality(reader.killed_in)
        yield Cut(float("inf"), self.disk.after_cut(chance), dict(books.acknowledged))


class _Told:
    """How far each publisher was told that its messages are stored, by the bytes that left."""

    def __init__(
        self, publishers: Sequence[Publisher], links: Mapping[int, int], told: Mapping[int, int]
    ) -> None:
        """Begin with how many connections each publisher had before, and what it was told over them."""
        self.acknowledged = {publisher.number: told.get(publisher.number, 0) for publisher in publishers}
        self._links = {
            port: (publisher.number, first)
            for publisher in publishers
            for port, first in publisher.links[links.get(publisher.number, 0) :]
        }
        self._rest: dict[int, bytes] = {}
        self._count: dict[int, int] = {}

    def is_told(self, event: Event) -> bool:
        return (
            isinstance(event, Sent)
            and event.peer_port in self._links
            and event.data[:1] == bytes([mqtt_wire.PUBACK])
        )

    def note(self, sent: Sent) -> None:
        if sent.peer_port not in self._links:
            return
        number, first = self._links[sent.peer_port]
        data, at = self._rest.get(sent.peer_port, b"") + sent.data, 0
        while (place := mqtt_wire.frame(data, at)) is not None:
            if data[at] == mqtt_wire.PUBACK:
                self._count[sent.peer_port] = self._count.get(sent.peer_port, 0) + 1
            at = place[1]
        self._rest[sent.peer_port] = data[at:]
        last = first + self._count.get(sent.peer_port, 0) - 1
        self.acknowledged[number] = max(self.acknowledged[number], last)


@dataclass(slots=True)
class Arrived:
    """What consumers had acknowledged by a moment that only goes on."""

    consumers: Mapping[str, Consumer]
    keys: dict[str, set[Key]] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)  # of each consumer, with what came again
    _read: dict[str, int] = field(default_factory=dict)

    def by(self, at_s: float) -> dict[str, set[Key]]:
        """Return the messages of each consumer."""
        for name, consumer in self.consumers.items():
            keys, read = self.keys.setdefault(name, set()), self._read.get(name, 0)
            for when_s, acknowledged in consumer.acknowledgements[read:]:
                if when_s > at_s:
                    break
                keys.update(acknowledged)
                self.copies[name] = self.copies.get(name, 0) + len(acknowledged)
                read += 1
            self._read[name] = read
        return self.keys


def look_into(
    cut: Cut,
    folder: Path,
    scenario: Scenario,
    publishers: Sequence[Publisher],
    arrived: Mapping[str, set[Key]],
    copies: Mapping[str, int],
    findings: Findings,
    chance: random.Random,
) -> None:
    """Open what a cut left with the store's own code, and compare it with everybody's books.

    A disk with which something is wrong is kept beside `folder`.
    """
    findings.images += 1
    where = f"disk {findings.images}"
    before = findings.wrong
    folder.mkdir()
    try:
        _put_down(cut.image, folder)
        spoil(folder / f"{DATABASE}{SHARED_MEMORY}", chance)
        waiting = _read(folder / DATABASE, scenario, copies, findings, where)
    except Exception as exc:  # noqa: BLE001 - whatever the store makes of a disk, it is a finding
        findings.note(f"{where}: {type(exc).__name__}: {exc}")
        findings.imbalances += 1
        waiting = {consumer: ([], 0) for consumer in scenario.load.consumers}
    finally:
        shutil.rmtree(folder)
    sent = {publisher.number: publisher.sent for publisher in publishers}
    for consumer, (keys, expired) in waiting.items():
        had = arrived.get(consumer, set())
        findings.waiting += len(keys)
        found = had.union(key for _, key in keys)
        lost = missing(scenario, consumer, cut.acknowledged, found, expired)
        count_lost(findings, lost, f"{where}, {consumer}")
        _check_order(keys, had, scenario, findings, f"{where}, {consumer}")
        if any(sequence > sent.get(publisher, 0) for _, (publisher, sequence) in keys):
            findings.failures.append(f"{where}, {consumer}: holds what was never sent")
    if findings.wrong > before:
        evidence = folder.with_name(f"disk-{findings.images}")
        evidence.mkdir()
        _put_down(cut.image, evidence)


_Waiting = dict[str, tuple[list[tuple[int, Key]], int]]
"""Of each consumer: (priority, message) in the order of delivery, and how many expired."""


def _read(
    path: Path, scenario: Scenario, copies: Mapping[str, int], findings: Findings, where: str
) -> _Waiting:
    store = MessageDb.open(path)
    try:
        ledger = store.ledger()
        check_ledger(findings, scenario, ledger, copies, where)
        found: _Waiting = {}
        for consumer in scenario.load.consumers:
            keys: list[tuple[int, Key]] = []
            for endpoint in (name for name in ledger.endpoints if name.endswith(f"/{consumer}/{INPUT}")):
                position = -1
                # At time 0 nothing has expired yet: what was not swept counts as waiting, as in the ledger.
                while runs := store.read(endpoint, position, PAGE_MESSAGES, 1 << 30, 0.0):
                    for run in runs:
                        for number, (_, body) in enumerate(run.entries):
                            sequence, publisher, _ = mqtt_wire.STAMP.unpack_from(body)
                            keys.append((priority_of(run.first_position + number), (publisher, sequence)))
                    position = runs[-1].last_position
            found[consumer] = keys, row_of(ledger, consumer).expired
        return found
    finally:
        store.close()


def _check_order(
    keys: Sequence[tuple[int, Key]], had: set[Key], scenario: Scenario, findings: Findings, where: str
) -> None:
    """Note what waits behind a later message of its source and priority, and was not delivered before."""
    highest: dict[tuple[int, int, int], int] = {}
    seen: set[Key] = set()
    for priority, key in keys:
        publisher, sequence = key
        if key in had or key in seen:
            continue
        seen.add(key)
        lane = publisher, output_of(sequence, len(scenario.outputs)), priority
        if sequence < highest.get(lane, 0):
            findings.out_of_order += 1
            findings.note(f"{where}: {highest[lane]} waits before {sequence} of publisher {publisher}")
        highest[lane] = max(sequence, highest.get(lane, 0))


def _put_down(image: Mapping[str, bytes], folder: Path) -> None:
    for name, content in image.items():
        if name.startswith(DATABASE):
            write_file(folder / name, content)
