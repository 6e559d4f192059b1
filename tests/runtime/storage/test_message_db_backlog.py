"""A long outage: what a large backlog costs in time to open, memory and space.

The campaign prints figures for a million messages; the short version holds the limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.store.stored import Segment
from messaging.upstream_queues import upstream_queue
from runtime.storage.message_db import MessageDb
from tests.runtime.message_stores import NOW_S, message, one_by_one, to

QUEUE = upstream_queue("leaf")
SENDERS = tuple(upstream_queue(f"leaf{number}") for number in range(20))
WINDOW = 1000
BODY_BYTES = 1000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def body(number: int) -> str:
    return f"{number:0{BODY_BYTES}d}"


def of_four_publishers(start: int) -> list[Segment]:
    """100 messages of each, as they come in one turn."""
    return [
        Segment(
            tuple(to(QUEUE, ttl_s=7200)),
            (b"publisher %d" % publisher,),
            tuple((0, body(start + 100 * publisher + number).encode()) for number in range(100)),
        )
        for publisher in range(4)
    ]


def one_by_one_of_four_publishers(start: int) -> list[Segment]:
    return [
        message(body(start + number), to(QUEUE, ttl_s=7200), header=b"publisher %d" % (number % 4))
        for number in range(400)
    ]


def of_twenty_senders(start: int) -> list[Segment]:
    """20 messages of each, to a queue of its own."""
    return [
        Segment(
            tuple(to(queue, ttl_s=7200)),
            (b"header",),
            tuple((0, body(start + 20 * sender + number).encode()) for number in range(20)),
        )
        for sender, queue in enumerate(SENDERS)
    ]


@pytest.mark.parametrize(
    ("turn", "queues"),
    [(of_four_publishers, (QUEUE,)), (one_by_one_of_four_publishers, (QUEUE,)), (of_twenty_senders, SENDERS)],
)
@pytest.mark.parametrize("total", [40_000, pytest.param(1_000_000, marks=pytest.mark.campaign)])
def test_a_backlog_costs_disk_but_neither_memory_nor_time_to_open_and_its_space_comes_back(
    tmp_path: Path, total: int, turn: Callable[[int], list[Segment]], queues: tuple[str, ...]
) -> None:
    path = tmp_path / "messages.db"
    db = MessageDb.open(path)
    for start in range(0, total, 400):
        with db.transaction():
            db.append(turn(start), NOW_S)
    db.close()
    full_bytes = path.stat().st_size
    before_bytes = resident_bytes()

    started = time.perf_counter()
    db = MessageDb.open(path)
    opened = time.perf_counter()
    assert sum(map(db.pending, queues)) == total
    most_bytes = read_count = 0
    for queue in queues:
        position = number = -1
        while runs := db.read(queue, position, WINDOW, 1 << 21, NOW_S):
            for one in one_by_one(runs):
                before, number = number, int(one.body)
                assert before < number
                position = one.position
                read_count += 1
            most_bytes = max(most_bytes, resident_bytes())
    assert read_count == total
    read = time.perf_counter()
    while found := {queue: runs for queue in queues if (runs := db.read(queue, -1, WINDOW, 1 << 21, NOW_S))}:
        with db.transaction():
            db.delivered(
                {
                    queue: [(run.first_position, run.last_position) for run in runs]
                    for queue, runs in found.items()
                }
            )
    delivered = time.perf_counter()
    while db.tidy():
        pass
    tidied = time.perf_counter()
    db.close()

    print(
        f"\n{total:,} messages, {turn.__name__}: file {full_bytes / total:.0f} bytes a message, open "
        f"{(opened - started) * 1e3:.1f} ms, read {read - opened:.2f} s, delivered {delivered - read:.2f} s, "
        f"tidied {tidied - delivered:.2f} s to {path.stat().st_size} bytes, memory grew by "
        f"{(most_bytes - before_bytes) / 1e6:.1f} MB"
    )
    assert full_bytes < total * BODY_BYTES * 1.3
    assert most_bytes - before_bytes < 24e6 < full_bytes
    assert path.stat().st_size < 1e6
