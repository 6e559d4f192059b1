"""Any sequence of calls leaves a message store as a plain model says; the ledger always adds up."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.ports.storage import MessageStore
from actors.store.stored import (
    DEFAULT_PRIORITY,
    MAX_POSITION,
    MESSAGE_OVERHEAD_BYTES,
    DropReason,
    EndpointLedger,
    Match,
    Segment,
    Totals,
    position_of,
    rank_of,
    seq_of,
)
from messaging.upstream_queues import upstream_queue
from runtime.storage import message_bodies, message_ledger
from runtime.storage.message_db import MessageDb
from runtime.storage.message_ledger import common_account
from tests.runtime.message_stores import InMemory, OnSqlite, StoreKind, one_by_one, ranges, waiting

ENDPOINTS = (upstream_queue("edge/filter"), upstream_queue("leaf"), "edge/filter/in", "leaf/$c2d")

matches = st.lists(
    st.builds(
        Match,
        st.sampled_from(ENDPOINTS),
        st.sampled_from([0, 9, DEFAULT_PRIORITY]),
        st.sampled_from([None, 0.0, 5.0, 60.0]),
    ),
    max_size=3,
    unique_by=lambda match: match.endpoint_id,
).map(tuple)
headers = st.lists(st.binary(max_size=8), min_size=1, max_size=3).map(tuple)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    its_headers = draw(headers)
    entry = st.tuples(st.integers(0, len(its_headers) - 1), st.binary(max_size=40))
    return Segment(draw(matches), its_headers, tuple(draw(st.lists(entry, max_size=9))))


batches = st.lists(segments(), max_size=8).flatmap(  # neighbours for the same endpoints lie in one row
    lambda found: st.permutations(found * 2) if len(found) < 4 else st.just(found)
)
endpoint_ids = st.sampled_from(ENDPOINTS)
reasons: st.SearchStrategy[DropReason] = st.sampled_from(["limit", "poison", "removed"])
limits = st.integers(1, 12)


@dataclass
class Row:
    header: bytes
    body: bytes
    expires_at: float | None

    def is_due(self, now_s: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now_s


@dataclass
class Model:
    """The messages themselves, and each count raised where its event is."""

    next_seq: int = 1
    received: int = 0
    unrouted: int = 0
    routed: int = 0
    queues: dict[str, dict[int, Row]] = field(default_factory=dict)  # by position
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    sessions: dict[str, bytes] = field(default_factory=dict)
    gone: dict[str, list[int]] = field(default_factory=dict)

    def append(self, batch: list[Segment], now_s: float) -> None:
        for its_matches, its_headers, entries in batch:
            for index, body in entries:
                self.received += 1
                if its_matches:
                    self.routed += 1
                else:
                    self.unrouted += 1
                for endpoint_id, priority, ttl_s in its_matches:
                    row = Row(its_headers[index], body, None if ttl_s is None else now_s + ttl_s)
                    self.queues.setdefault(endpoint_id, {})[position_of(priority, self.next_seq)] = row
                    self.counts.setdefault(endpoint_id, Counter())["accepted"] += 1
                self.next_seq += 1

    def take(self, endpoint_id: str, positions: list[int], how: str) -> int:
        queue = self.queues.get(endpoint_id, {})
        found = set(positions) & set(queue)
        for position in found:
            del queue[position]
        if found:
            self.counts[endpoint_id][how] += len(found)
            self.gone.setdefault(endpoint_id, []).extend(found)
        return len(found)

    def positions(self, endpoint_id: str) -> list[int]:
        return sorted(self.queues.get(endpoint_id, {}))


def by_account(names: Iterable[str], value: Callable[[str], Any], zero: Any) -> dict[str, Any]:
    """Sum up what belongs to queues by the account that they have in common once they are closed."""
    found: dict[str, Any] = {}
    for name in names:
        account_id = common_account(name) or name
        found[account_id] = plus(found.get(account_id, zero), value(name))
    return found


def plus(one: Any, other: Any) -> Any:
    return one.plus(other) if isinstance(one, EndpointLedger) else one + other


class Machine(RuleBasedStateMachine):
    """Each rule is one call; `begin` puts the calls after it into one transaction, to be kept or undone."""

    def __init__(self, kind: StoreKind) -> None:
        super().__init__()
        self.kind = kind
        self.store: MessageStore = kind.open()
        self.model = Model()
        self.now_s = 1000.0
        self.open: AbstractContextManager[None] | None = None
        self.before = self.model

    @contextmanager
    def in_transaction(self) -> Iterator[None]:
        if self.open is not None:
            yield
        else:
            with self.store.transaction():
                yield

    @precondition(lambda self: self.open is None)
    @rule()
    def begin(self) -> None:
        self.before = copy.deepcopy(self.model)
        self.open = self.store.transaction()
        self.open.__enter__()

    @precondition(lambda self: self.open is not None)
    @rule()
    def commit(self) -> None:
        assert self.open is not None
        self.open.__exit__(None, None, None)
        self.open = None

    @precondition(lambda self: self.open is not None)
    @rule()
    def undo(self) -> None:
        assert self.open is not None
        assert not self.open.__exit__(RuntimeError, RuntimeError("undo"), None)
        self.open = None
        self.model = self.before

    @precondition(lambda self: self.open is None)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.kind.open()

    @rule(batch=batches)
    def append(self, batch: list[Segment]) -> None:
        with self.in_transaction():
            assert self.store.append(batch, self.now_s) == self.model.next_seq
        self.model.append(batch, self.now_s)

    @rule(data=st.data(), endpoint_id=endpoint_ids, reason=st.none() | reasons)
    def let_go(self, data: st.DataObject, endpoint_id: str, reason: DropReason | None) -> None:
        waiting_now = self.model.positions(endpoint_id)
        start = data.draw(st.integers(0, len(waiting_now)))
        stop = data.draw(st.integers(start, len(waiting_now)))
        chosen = waiting_now[start : stop : data.draw(st.sampled_from([1, 1, 2, 3]))]
        chosen += self.model.gone.get(endpoint_id, [])[-data.draw(st.integers(1, 4)) :]
        chosen += chosen[: data.draw(st.integers(0, 3))]
        if data.draw(st.booleans()):
            chosen = data.draw(st.permutations(chosen))
        with self.in_transaction():
            if reason is None:
                count = self.store.delivered({endpoint_id: ranges(chosen)})
            else:
                count = self.store.dropped(endpoint_id, ranges(chosen), reason)
        assert count == self.model.take(endpoint_id, chosen, reason or "delivered")

    @rule(endpoint_id=endpoint_ids, data=st.data())
    def let_go_of_a_range_with_gaps(self, endpoint_id: str, data: st.DataObject) -> None:
        waiting_now = self.model.positions(endpoint_id)
        ends = st.sampled_from([0, *waiting_now, *self.model.gone.get(endpoint_id, []), MAX_POSITION])
        pairs = data.draw(st.lists(st.tuples(ends, ends), max_size=3))
        with self.in_transaction():
            count = self.store.delivered({endpoint_id: pairs})
        chosen = [place for place in waiting_now if any(first <= place <= last for first, last in pairs)]
        assert count == self.model.take(endpoint_id, chosen, "delivered")

    @rule(endpoint_id=endpoint_ids, limit=limits)
    def drop_queue(self, endpoint_id: str, limit: int) -> None:
        with self.in_transaction():
            count = self.store.drop_queue(endpoint_id, "removed", limit)
        assert count == self.model.take(endpoint_id, self.model.positions(endpoint_id)[:limit], "removed")

    @rule(limit=limits)
    def drop_oldest(self, limit: int) -> None:
        places = [place for endpoint_id in self.model.queues for place in self.model.positions(endpoint_id)]
        lowest = max((rank_of(place) for place in places), default=0)
        oldest = min((place for place in places if rank_of(place) == lowest), default=0)
        with self.in_transaction():
            found = self.store.drop_oldest(limit)
        expected = {}
        for endpoint_id in list(self.model.queues):
            queue = self.model.positions(endpoint_id)
            chosen = [place for place in queue if oldest <= place < oldest + limit]
            if chosen and self.model.take(endpoint_id, chosen, "limit"):
                expected[endpoint_id] = len(chosen)
        assert found == expected

    @rule(limit=limits)
    def expire_all(self, limit: int) -> None:
        counts: Counter[str] = Counter()
        with self.in_transaction():
            while True:
                found = self.store.expire(self.now_s, limit)
                assert sum(found.values()) <= limit
                counts.update(found)
                if sum(found.values()) < limit:
                    break
        due = {
            endpoint_id: [position for position, row in queue.items() if row.is_due(self.now_s)]
            for endpoint_id, queue in self.model.queues.items()
        }
        expected = {name: self.model.take(name, positions, "expired") for name, positions in due.items()}
        assert counts == Counter(expected)

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(identity_id=st.sampled_from(["edge/a", "edge/b"]), record=st.none() | st.binary(max_size=9))
    def change_session(self, identity_id: str, record: bytes | None) -> None:
        with self.in_transaction():
            if record is None:
                self.store.delete_session(identity_id)
                self.model.sessions.pop(identity_id, None)
            else:
                self.store.save_session(identity_id, record)
                self.model.sessions[identity_id] = record

    @precondition(lambda self: self.open is None)
    @rule()
    def tidy(self) -> None:
        self.store.tidy()

    @rule(data=st.data(), endpoint_id=endpoint_ids, max_count=limits, max_bytes=st.integers(0, 900))
    def read_on(self, data: st.DataObject, endpoint_id: str, max_count: int, max_bytes: int) -> None:
        queue = self.model.queues.get(endpoint_id, {})
        after = data.draw(st.sampled_from([-1, *sorted(queue)]))

        found = self.store.read(endpoint_id, after, max_count, max_bytes, self.now_s)

        live = [position for position in sorted(queue) if not queue[position].is_due(self.now_s)]
        expected = [position for position in live if position > after][:max_count]
        sizes = [
            len(queue[position].header) + len(queue[position].body) + MESSAGE_OVERHEAD_BYTES
            for position in expected
        ]
        while len(sizes) > 1 and sum(sizes) > max_bytes:
            sizes.pop()
        assert [one.position for one in one_by_one(found)] == expected[: len(sizes)]
        assert sum(run.size_bytes for run in found) == sum(sizes)

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        model, ledger = self.model, self.store.ledger()
        assert ledger.imbalances() == []
        assert ledger.total == Totals(model.received, model.unrouted, model.routed)
        counted = by_account(model.counts, lambda queue_id: model.counts[queue_id], Counter())
        rows = by_account(ledger.queues, lambda queue_id: ledger.queues[queue_id], EndpointLedger())
        assert set(rows) == set(counted)
        for account_id, row in rows.items():
            counts = counted[account_id]
            assert (row.accepted, row.delivered) == (counts["accepted"], counts["delivered"])
            assert row.expired == counts["expired"]
            reasons_counted = {name: counts[name] for name in ("limit", "poison", "removed") if counts[name]}
            assert row.dropped_by_reason == reasons_counted
        for endpoint_id, queue in model.queues.items():
            pending = ledger.queues[endpoint_id].pending if endpoint_id in ledger.queues else 0
            assert pending == self.store.pending(endpoint_id) == len(queue)
            live = [
                (place, row.header, row.body)
                for place, row in sorted(queue.items())
                if not row.is_due(self.now_s)
            ]
            assert waiting(self.store, endpoint_id, now_s=self.now_s) == live
        assert self.store.sessions() == model.sessions

    def teardown(self) -> None:
        if self.open is not None:
            self.undo()
        self.store.close()


class OnSqliteMachine(Machine):
    row_messages = message_bodies.ROW_MESSAGES
    fold_at = message_ledger.FOLD_AT

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(message_bodies, "ROW_MESSAGES", self.row_messages)
        self.patch.setattr(message_ledger, "FOLD_AT", self.fold_at)
        super().__init__(OnSqlite(self.folder))

    @invariant()
    def every_body_is_there_as_long_as_a_queue_holds_it(self) -> None:
        assert isinstance(self.store, MessageDb)
        run = self.store._connection.execute
        holders = Counter(seq_of(place) for queue in self.model.queues.values() for place in queue)
        held = Counter[int]()
        for key, count, first_seq in run("SELECT key, count, first_seq FROM queue").fetchall():
            assert first_seq <= seq_of(key)
            held[first_seq] += count
        assert held.total() == holders.total()
        assert dict(run("SELECT first_seq, left FROM held").fetchall()) == held
        rows = run("SELECT first_seq FROM held").fetchall()
        assert run("SELECT first_seq FROM bodies").fetchall() == rows

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()
        shutil.rmtree(self.folder)


class WithSmallRowsMachine(OnSqliteMachine):
    row_messages = 4
    fold_at = 2


class InMemoryMachine(Machine):
    def __init__(self) -> None:
        super().__init__(InMemory())


TestOnSqlite = OnSqliteMachine.TestCase
TestOnSqlite.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWithSmallRows = WithSmallRowsMachine.TestCase
TestWithSmallRows.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestInMemory = InMemoryMachine.TestCase
TestInMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
