"""A process that appends and delivers until it is killed: `python -m tests.runtime.message_writer`.

It says on its output, one line at a time and never buffered, what it is about to deliver and what is
committed, so that a test knows what was acknowledged when the process ended.

    D <endpoint> <position>...                          about to be delivered by the next commit
    C <first seq> <count> <first name> <endpoint>...    committed; message i has the body "<first name + i>"
    E <error>                                           not committed
"""

from __future__ import annotations

import os
import random
import sys
from itertools import count
from pathlib import Path

from actors.store.stored import DEFAULT_PRIORITY, Match, Segment
from messaging.errors import StoreError
from messaging.upstream_queues import upstream_queue
from runtime.storage.message_db import MessageDb
from tests.runtime.message_stores import one_by_one, ranges

ENDPOINTS = (upstream_queue("edge/sensor"), "edge/filter/in")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main(path: str, seed: int, commits: int) -> None:
    chance = random.Random(seed)
    db = MessageDb.open(Path(path))
    name = seed * 1_000_000
    for _ in count() if commits == 0 else range(commits):
        size = chance.choice([1, 3, 17, 100])
        endpoint_ids = chance.choice([ENDPOINTS, ENDPOINTS[:1], ENDPOINTS[1:]])
        matches = tuple(Match(endpoint_id, DEFAULT_PRIORITY, 7200) for endpoint_id in endpoint_ids)
        entries = tuple((0, str(name + number).encode()) for number in range(size))
        middle = chance.randint(0, size)
        batch = [Segment(matches, (b"h",), part) for part in (entries[:middle], entries[middle:])]
        endpoint_id = chance.choice(ENDPOINTS)
        found = db.read(endpoint_id, -1, chance.choice([0, 5, 120]), 1 << 20, now_s=0)
        taken = [one.position for one in one_by_one(found) if chance.random() < 0.9]
        say("D", endpoint_id, *taken)
        try:
            with db.transaction():
                first = db.append(batch, now_s=0)
                db.delivered({endpoint_id: ranges(taken)})
        except StoreError as error:
            say("E", error)
        else:
            say("C", first, size, name, *endpoint_ids)
        name += size
    db.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
