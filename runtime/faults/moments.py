"""Power cuts at other moments of a recorded life than its end: the recording has the disk of each of them.

The store's own code opens such a disk, and whatever publishers had been told by that time has to be in it,
unless its consumer had it, or the ledger says that it expired or was dropped. What goes to the cloud is not
looked at: nobody here knows when it came there.
"""

from __future__ import annotations

import bisect
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from actors.store.stored import Ledger
from messaging.errors import StoreError
from runtime.faults.compare import row_of
from runtime.faults.power import spoil, write_file
from runtime.faults.recording import SHARED_MEMORY
from runtime.faults.scenario import UPSTREAM
from runtime.faults.scene import Scene
from runtime.faults.stamps import Key, key_in, output_of
from runtime.storage.message_db import MessageDb

JUST_TOLD: Final = 0.5  # how many of the moments are right behind an acknowledgement
PAGE_MESSAGES: Final = 1000  # read at once
MOST_BYTES: Final = 1 << 30


def choose(ended_s: Sequence[float], told_s: Sequence[float], count: int, chance: random.Random) -> set[int]:
    """Return which calls of a life the power fails behind: their places in `ended_s`.

    Args:
        ended_s: When each call ended, by the wall clock, in this order.
        told_s: When publishers were told that something is stored.
        count: How many to choose; fewer where there are not so many calls.
        chance: Where random choices come from.
    """
    behind = [place for at_s in told_s if (place := bisect.bisect_left(ended_s, at_s)) < len(ended_s)]
    chosen: set[int] = set()
    while len(chosen) < min(count, len(ended_s)):
        is_told = behind and chance.random() < JUST_TOLD
        chosen.add(chance.choice(behind) if is_told else chance.randrange(len(ended_s)))
    return chosen


def look_into(scene: Scene, image: Mapping[str, bytes], at_s: float, chance: random.Random) -> None:
    """Compare a disk with what everybody knew by a time of the wall clock; what is wrong is in the findings.

    A disk with which something is wrong is kept in the folder of the run.
    """
    findings = scene.findings
    findings.moments += 1
    before = findings.lost, findings.out_of_order, len(findings.imbalances), len(findings.failures)
    folder = scene.folder / f"disk-{findings.moments}"
    _put_down(image, folder, scene)
    spoil(folder / f"{scene.edge.place.message_db.name}{SHARED_MEMORY}", chance)
    try:
        ledger, found = _read(scene, folder / scene.edge.place.message_db.name)
    except (StoreError, ValueError) as exc:  # the second: a message with another content than was sent
        findings.imbalances.append(f"{folder.name}: {exc}")
    else:
        _compare(scene, ledger, found, at_s, folder.name)
    shutil.rmtree(folder)
    if before != (findings.lost, findings.out_of_order, len(findings.imbalances), len(findings.failures)):
        _put_down(image, folder, scene)  # as it was before it was opened


def _put_down(image: Mapping[str, bytes], folder: Path, scene: Scene) -> None:
    folder.mkdir()
    for name, content in image.items():
        if name.startswith(scene.edge.place.message_db.name):
            write_file(folder / name, content)


def _read(scene: Scene, path: Path) -> tuple[Ledger, dict[str, list[Key]]]:
    """Return the ledger, and the messages that wait on each route, in the order of delivery.

    Raises:
        StoreError: it cannot be read.
    """
    store = MessageDb.open(path)
    try:
        ledger = store.ledger()
        found: dict[str, list[Key]] = {}
        for name, route in scene.scenario.edge.routes.items():
            keys = found.setdefault(name, [])
            for endpoint in (one for one in ledger.endpoints if one.endswith(f"/{route.into}/{name}")):
                position = -1
                # At time 0 nothing has expired yet: what was not swept waits for the ledger, too.
                while runs := store.read(endpoint, position, PAGE_MESSAGES, MOST_BYTES, 0.0):
                    keys += [key_in(body) for run in runs for _, body in run.entries]
                    position = runs[-1].last_position
        return ledger, found
    finally:
        store.close()


def _compare(
    scene: Scene, ledger: Ledger, found: Mapping[str, Sequence[Key]], at_s: float, where: str
) -> None:
    findings, outputs = scene.findings, scene.scenario.outputs
    findings.imbalances += [f"{where}: {what}" for what in ledger.imbalances()]
    for name, route in scene.scenario.edge.routes.items():
        if route.into == UPSTREAM:
            continue
        books = scene.consumers[route.into].books.get(name)
        arrived = books.arrived_by(at_s) if books else 0
        had = {key for key, nth in books.first.items() if nth <= arrived} if books else set()
        owed = [
            Key(publisher.number, outputs.index(route.output), sequence)
            for publisher in scene.publishers
            for told_s, numbers in publisher.told
            if told_s <= at_s
            for sequence in numbers
            if outputs[output_of(sequence, len(outputs))] == route.output
        ]
        waiting = found[name]
        findings.waiting += len(waiting)
        row = row_of(scene.scenario, ledger, name)
        missing = sorted(set(owed).difference(had, waiting))
        lost = max(0, len(missing) - row.expired - row.dropped)
        if lost:
            findings.lost += lost
            findings.note(
                f"{where}, route {name}: of {len(owed)} acknowledged messages {len(missing)} are gone and "
                f"the ledger excuses {len(missing) - lost}: number {missing[0].sequence} of publisher "
                f"{missing[0].publisher}"
            )
        if row.delivered > arrived + (books.damaged if books else 0):
            findings.imbalances.append(f"{where}, {name}: {row.delivered} delivered, and {arrived} arrived")
        for what in misordered([key for key in waiting if key not in had]):
            findings.out_of_order += 1
            findings.note(f"{where}, route {name}: {what}")
        sent = {publisher.number: publisher.sent for publisher in scene.publishers}
        if any(key.sequence > sent.get(key.publisher, 0) for key in waiting):
            findings.failures.append(f"{where}, route {name}: it holds what was never sent")


def misordered(waiting: Sequence[Key]) -> list[str]:
    """Return what waits behind a later message of its publisher; of what is there twice the first counts."""
    highest: dict[int, int] = {}
    found = []
    for key in dict.fromkeys(waiting):
        before = highest.get(key.publisher, 0)
        if key.sequence < before:
            found.append(f"{before} waits before {key.sequence} of publisher {key.publisher}")
        highest[key.publisher] = max(before, key.sequence)
    return found
