"""The position of one consumer: what it is sent, in which order, and how much at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.store.consumer import PATIENCE_S, READY_BYTES, SHARE_MESSAGES, Consumer, Wanted
from actors.store.stored import (
    DEFAULT_PRIORITY,
    MAX_POSITION,
    MAX_SEQ,
    MESSAGE_OVERHEAD_BYTES,
    Match,
    Run,
    Segment,
    position_of,
    rank_of,
    runs_of,
    segments_of,
)


def run_of(first: int, *bodies: bytes) -> Run:
    return Run(first, (b"h",), tuple((0, body) for body in bodies))


NOW_S = 1000.0


def consumer(window_messages: int = 100, window_bytes: int = 1 << 30, now_s: float = NOW_S) -> Consumer:
    return Consumer("edge/m/in", "hub/mqtt", 1, window_messages, window_bytes, now_s)


def up_to_date(window_messages: int = 100, window_bytes: int = 1 << 30) -> Consumer:
    made = consumer(window_messages, window_bytes)
    while (wanted := made.wanted(NOW_S)) is not None:
        made.read(wanted, [])
    return made


def sent_by(runs: list[Run]) -> list[tuple[int, bytes]]:
    return [(run.first_position + n, body) for run in runs for n, (_, body) in enumerate(run.entries)]


def positions(runs: list[Run]) -> list[int]:
    return [position for position, _ in sent_by(runs)]


def test_a_new_consumer_has_to_be_read_for_before_it_takes_what_is_new() -> None:
    made = consumer(window_messages=7)

    made.offer(run_of(position_of(0, 10), b"new"), NOW_S)

    assert made.take(NOW_S) == []
    assert made.wanted(NOW_S) == Wanted(-1, MAX_POSITION, 7, 1 << 30)


def test_one_read_tells_that_nothing_waits_at_any_priority() -> None:
    made = consumer()
    wanted = made.wanted(NOW_S)
    assert wanted is not None

    made.read(wanted, [])
    made.offer(run_of(position_of(3, 1), b"new"), NOW_S)

    assert made.wanted(NOW_S) is None
    assert positions(made.take(NOW_S)) == [position_of(3, 1)]


def test_a_new_consumer_is_read_for_priority_by_priority_until_it_has_enough() -> None:
    made = consumer(window_messages=3)
    waiting = [(2, 5), (2, 6), (4, 1), (4, 2)]
    left = [position_of(priority, seq) for priority, seq in waiting]

    asked, sent = [], []
    while (wanted := made.wanted(NOW_S)) is not None:
        asked.append((rank_of(wanted.after_position + 1), rank_of(wanted.last_position)))
        found = [position for position in left if position > wanted.after_position][:2]
        made.read(wanted, [run_of(position, b"x") for position in found])
        sent += positions(made.take(NOW_S))

    assert asked == [(0, 10), (2, 10)]
    assert sent == [position_of(2, 5), position_of(2, 6), position_of(4, 1)]


def test_what_is_stored_at_a_priority_that_was_not_reached_is_read_and_not_sent_twice() -> None:
    made = consumer(window_messages=10)
    wanted = made.wanted(NOW_S)
    assert wanted is not None
    made.read(wanted, [run_of(position_of(2, 5), b"a")])

    made.offer(run_of(position_of(1, 6), b"above"), NOW_S)
    made.offer(run_of(position_of(4, 7), b"below"), NOW_S)
    first = positions(made.take(NOW_S))
    wanted = made.wanted(NOW_S)
    assert wanted is not None
    made.read(wanted, [run_of(position_of(4, 7), b"below")])

    assert first == [position_of(1, 6), position_of(2, 5)]
    assert positions(made.take(NOW_S)) == [position_of(4, 7)]


def test_a_consumer_that_is_up_to_date_gets_what_is_new_without_a_read() -> None:
    made = up_to_date()

    made.offer(run_of(10, b"a", b"b"), NOW_S)
    made.offer(run_of(15, b"c"), NOW_S)

    assert sent_by(made.take(NOW_S)) == [(10, b"a"), (11, b"b"), (15, b"c")]
    assert made.wanted(NOW_S) is None


def test_the_window_cuts_a_run_and_the_rest_follows_when_there_is_room() -> None:
    made = up_to_date(window_messages=3)
    made.offer(run_of(10, *(b"%d" % n for n in range(5))), NOW_S)

    first = made.take(NOW_S)
    none = made.take(NOW_S)
    made.delivered([(10, 11)])
    rest = made.take(NOW_S)

    assert (positions(first), none, positions(rest)) == ([10, 11, 12], [], [13, 14])


def test_a_run_is_cut_where_the_window_of_bytes_ends() -> None:
    weight = MESSAGE_OVERHEAD_BYTES + 1 + 99
    made = up_to_date(window_bytes=3 * weight + weight // 2)
    made.offer(run_of(10, *[b"x" * 99] * 8), NOW_S)

    first = positions(made.take(NOW_S))
    made.delivered([(10, 10)])
    more = positions(made.take(NOW_S))

    assert (first, more) == ([10, 11, 12, 13], [14])


def test_a_message_that_is_larger_than_the_window_goes_alone() -> None:
    made = up_to_date(window_bytes=100)
    made.offer(run_of(10, b"x" * 1000, b"x" * 1000), NOW_S)

    assert positions(made.take(NOW_S)) == [10]
    assert made.take(NOW_S) == []


@pytest.mark.parametrize(
    ("window_messages", "window_bytes"),
    [
        pytest.param(8, 1 << 30, id="of messages"),
        pytest.param(100, 8 * (MESSAGE_OVERHEAD_BYTES + 2), id="of bytes"),
    ],
)
def test_nothing_is_read_until_a_fourth_of_the_window_is_free(
    window_messages: int, window_bytes: int
) -> None:
    made = consumer(window_messages, window_bytes)
    first = made.wanted(NOW_S)
    assert first is not None
    made.read(first, [run_of(MAX_POSITION - 50 + n, b"x") for n in range(8)])
    sent = positions(made.take(NOW_S))

    wanted = []
    for position in sent[:2]:
        made.delivered([(position, position)])
        wanted.append(made.wanted(NOW_S) is not None)

    assert len(sent) == 8
    assert wanted == [False, True]


def test_the_window_of_bytes_lets_one_message_pass_and_then_closes() -> None:
    made = up_to_date(window_bytes=1000)
    for first in (10, 20, 30):
        made.offer(run_of(first, b"x" * 600), NOW_S)

    before = positions(made.take(NOW_S))
    made.delivered([(10, 10)])
    after = positions(made.take(NOW_S))

    assert (before, after) == ([10, 20], [30])


def test_headers_count_for_the_window_of_bytes_as_bodies_do() -> None:
    made = up_to_date(window_bytes=1000)
    for first in (10, 11):
        made.offer(Run(first, (b"h" * 2000,), ((0, b""),)), NOW_S)

    assert positions(made.take(NOW_S)) == [10]


def test_deliveries_in_any_order_make_room_one_for_one() -> None:
    made = up_to_date(window_messages=4)
    made.offer(run_of(1, *[b"x"] * 10), NOW_S)
    made.take(NOW_S)

    rooms = []
    for ranges in ([(4, 4)], [(1, 1), (3, 3)], [(2, 2)]):
        made.delivered(ranges)
        rooms.append(made.room)

    assert rooms == [1, 3, 4]
    assert positions(made.take(NOW_S)) == [5, 6, 7, 8]


def test_a_higher_priority_goes_before_what_waits_and_each_keeps_its_order() -> None:
    made = up_to_date(window_messages=2)
    low, high = position_of(DEFAULT_PRIORITY, 1), position_of(0, 9)
    made.offer(run_of(low, *[b"low"] * 4), NOW_S)
    sent = positions(made.take(NOW_S))
    made.offer(run_of(high, *[b"high"] * 2), NOW_S)

    for first in (low, high, low + 2):
        made.delivered([(first, first + 1)])
        sent += positions(made.take(NOW_S))

    assert sent == [low, low + 1, high, high + 1, low + 2, low + 3]


def test_higher_priorities_go_first_for_as_long_as_the_patience_of_lower_ones_lasts() -> None:
    made = up_to_date(window_messages=10)
    made.offer(run_of(position_of(1, 0), *[b"high"] * 9), NOW_S)
    made.offer(run_of(position_of(5, 0), *[b"low"] * 9), NOW_S)
    before = NOW_S + PATIENCE_S - 0.01

    sent = positions(made.take(before))

    assert [rank_of(position) for position in sent] == [1] * 9 + [5]


@pytest.mark.parametrize("lower", [[5], [3, 5, DEFAULT_PRIORITY]], ids=["one", "three"])
def test_a_lower_priority_gets_its_share_however_much_comes_in_above_it(lower: list[int]) -> None:
    made = up_to_date(window_messages=20)
    for priority in lower:
        made.offer(run_of(position_of(priority, 0), *[b"low"] * 1000), NOW_S)
    busy = position_of(0, 10)
    made.offer(run_of(busy, *[b"x"] * 20_000), NOW_S)

    shares, last, now_s = [], busy, NOW_S
    while now_s < NOW_S + 3.5 * PATIENCE_S:
        runs = made.take(now_s)
        sent = positions(runs)
        shares += [(rank_of(position), now_s) for position in sent if rank_of(position)]
        made.delivered([(run.first_position, run.last_position) for run in runs])
        last = max([last, *(position for position in sent if not rank_of(position))])
        now_s += 0.05

    for priority in lower:
        rank = rank_of(position_of(priority, 0))
        times = [at_s for of, at_s in shares if of == rank]
        assert len(times) == 3 * SHARE_MESSAGES
        assert times[0] < NOW_S + PATIENCE_S + 1
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert max(gaps) < PATIENCE_S + 1
    assert last > busy + 3000  # and the higher one has the rest


def test_a_lower_priority_that_is_behind_is_read_for_when_its_patience_is_over() -> None:
    made = consumer(window_messages=10)
    wanted = made.wanted(NOW_S)
    assert wanted is not None
    made.read(wanted, [run_of(position_of(0, 1), *[b"x"] * 500)])
    runs = made.take(NOW_S)
    made.delivered([(run.first_position, run.last_position) for run in runs])

    later = made.wanted(NOW_S + PATIENCE_S)

    assert later is not None
    assert rank_of(later.after_position + 1) == 1


def test_what_was_not_sent_is_read_anew_when_it_may_be_gone() -> None:
    made = up_to_date(window_messages=2)
    first = position_of(3, 7)
    made.offer(run_of(first, *[b"x"] * 5), NOW_S)
    sent = positions(made.take(NOW_S))

    made.forget_ready()
    made.delivered([(first, first + 1)])
    wanted = made.wanted(NOW_S)

    assert sent == [first, first + 1]
    assert wanted == Wanted(first + 1, position_of(3, MAX_SEQ), 2, 1 << 30)


def test_a_consumer_that_falls_far_behind_has_to_be_read_for_again() -> None:
    made = up_to_date(window_messages=1)
    large = READY_BYTES // 2
    for first in range(1, 5):
        made.offer(run_of(first, b"x" * large), NOW_S)

    sent = positions(made.take(NOW_S))
    for position in range(1, 3):
        made.delivered([(position, position)])
        sent += positions(made.take(NOW_S))

    made.delivered([(3, 3)])
    assert made.wanted(NOW_S) == Wanted(sent[-1], MAX_SEQ, 1, 1 << 30)


QUEUE_RANKS = [0, 5, DEFAULT_PRIORITY]


@dataclass
class Disk:
    """A queue on disk: everything stored and not yet forgotten, by position."""

    seq: int = 1
    rows: dict[int, bytes] = field(default_factory=dict)

    def store(self, count: int, priority: int) -> Run:
        first = position_of(priority, self.seq)
        bodies = [b"%d" % (first + n) for n in range(count)]
        self.seq += count
        run = run_of(first, *bodies)
        self.rows.update(dict(sent_by([run])))
        return run

    def read(self, wanted: Wanted, most: int) -> list[Run]:
        found: list[Run] = []
        first, last = wanted.after_position + 1, wanted.last_position
        for position in sorted(row for row in self.rows if first <= row <= last)[:most]:
            if found and found[-1].last_position + 1 == position:
                run = found.pop()
                found.append(run._replace(entries=(*run.entries, (0, self.rows[position]))))
            else:
                found.append(run_of(position, self.rows[position]))
        return found


class ConsumerMachine(RuleBasedStateMachine):
    """A consumer beside a plain model: what is stored, what was sent, what came back."""

    WINDOW = 6
    WINDOW_BYTES = 5 * (MESSAGE_OVERHEAD_BYTES + 8)

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.now_s = NOW_S
        self.attach()

    @rule()
    def attach(self) -> None:
        """A new attachment: what was delivered has been forgotten, all else is sent again."""
        self.consumer = consumer(self.WINDOW, self.WINDOW_BYTES, self.now_s)
        self.sent: list[int] = []
        self.under_way: list[int] = []
        self.arrived: list[int] = []

    @rule(count=st.integers(1, 9), priority=st.sampled_from(QUEUE_RANKS))
    def store(self, count: int, priority: int) -> None:
        """A commit forgets what was delivered, then new messages are offered: the order of StoreActor."""
        self.forget()
        self.consumer.offer(self.disk.store(count, priority), self.now_s)

    @rule(seconds=st.sampled_from([0.1, PATIENCE_S / 2, PATIENCE_S]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def read_anew(self) -> None:
        self.consumer.forget_ready()

    @rule()
    def forget(self) -> None:
        for position in self.arrived:
            del self.disk.rows[position]
        self.arrived.clear()

    @rule(most=st.integers(1, 4))
    def serve(self, most: int) -> None:
        while True:
            runs = self.consumer.take(self.now_s)
            for position, body in sent_by(runs):
                assert body == b"%d" % position
                assert position not in self.sent
                self.sent.append(position)
                self.under_way.append(position)
            wanted = self.consumer.wanted(self.now_s)
            if wanted is None:
                return
            self.consumer.read(wanted, self.disk.read(wanted, min(wanted.most, most)))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.under_way)))
        start = data.draw(st.integers(0, len(self.under_way) - count))
        chosen = sorted(self.under_way[start : start + count])
        ranges: list[tuple[int, int]] = []
        for position in chosen:
            self.under_way.remove(position)
            if ranges and ranges[-1][1] + 1 == position:
                ranges[-1] = (ranges[-1][0], position)
            else:
                ranges.append((position, position))
        self.arrived += chosen
        self.consumer.delivered(ranges)

    @invariant()
    def never_more_under_way_than_the_window(self) -> None:
        assert len(self.under_way) <= self.WINDOW
        assert self.consumer.room <= self.WINDOW

    @invariant()
    def in_order_within_a_priority(self) -> None:
        for rank in QUEUE_RANKS:
            low, high = position_of(rank, 0), position_of(rank, self.disk.seq)
            of_rank = [position for position in self.sent if low <= position <= high]
            assert of_rank == sorted(of_rank)

    def teardown(self) -> None:
        """With room made again and again, everything stored is sent exactly once."""
        for _ in range(len(self.disk.rows) + 2):
            self.serve(3)
            for position in self.under_way:
                self.consumer.delivered([(position, position)])
            self.arrived += self.under_way
            self.under_way.clear()
        assert set(self.disk.rows) <= set(self.sent)


TestConsumerMachine = ConsumerMachine.TestCase
TestConsumerMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@pytest.mark.campaign
class TestConsumerMachineLong(ConsumerMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=3000, stateful_step_count=60, deadline=None)


matches = st.lists(
    st.builds(Match, st.sampled_from("abc"), st.sampled_from(QUEUE_RANKS), st.none()),
    max_size=3,
    unique_by=lambda match: match.endpoint_id,
).map(tuple)


@st.composite
def batches(
    draw: st.DrawFn,
) -> tuple[tuple[tuple[bytes, tuple[Match, ...]], ...], tuple[tuple[int, bytes], ...]]:
    headers = draw(st.lists(st.tuples(st.binary(max_size=3), matches), min_size=1, max_size=4))
    indexes = st.integers(0, len(headers) - 1)
    entries = draw(st.lists(st.tuples(indexes, st.binary(max_size=3)), max_size=12))
    return tuple(headers), tuple(entries)


@given(batches())
def test_segments_are_the_batch_cut_where_the_endpoints_change(
    batch: tuple[tuple[tuple[bytes, tuple[Match, ...]], ...], tuple[tuple[int, bytes], ...]],
) -> None:
    headers, entries = batch

    segments = segments_of(headers, entries)

    found = [(s.matches, s.headers[index], body) for s in segments for index, body in s.entries]
    assert found == [(headers[index][1], headers[index][0], body) for index, body in entries]
    assert all(one.matches != other.matches for one, other in itertools.pairwise(segments))


@given(st.lists(batches(), max_size=4), st.integers(1, 1000))
def test_runs_give_each_endpoint_its_messages_at_consecutive_positions(
    many: list[tuple[tuple[tuple[bytes, tuple[Match, ...]], ...], tuple[tuple[int, bytes], ...]]], first: int
) -> None:
    segments: list[Segment] = [segment for batch in many for segment in segments_of(*batch)]

    found = {
        (endpoint_id, run.first_position + at): (run.headers[index], body)
        for endpoint_id, run in runs_of(segments, first)
        for at, (index, body) in enumerate(run.entries)
    }

    flat = [(headers[index], body) for headers, entries in many for index, body in entries]
    assert found == {
        (endpoint_id, position_of(priority, seq)): (header, body)
        for seq, ((header, its_matches), body) in enumerate(flat, first)
        for endpoint_id, priority, _ in its_matches
    }


@given(batches(), st.data())
def test_a_cut_run_is_a_part_with_the_same_headers_and_no_more_of_them_than_messages(
    batch: tuple[tuple[tuple[bytes, tuple[Match, ...]], ...], tuple[tuple[int, bytes], ...]],
    data: st.DataObject,
) -> None:
    headers, entries = batch
    run = Run(100, tuple(header for header, _ in headers), entries)
    first = data.draw(st.integers(100, 100 + len(entries)))
    last = data.draw(st.integers(first - 1, 99 + len(entries)) if len(entries) else st.just(99))

    part = run.cut(first, last)

    if part is None:
        assert first > last
        return
    assert (part.first_position, part.last_position) == (first, last)
    wanted = entries[first - 100 : last - 99]
    assert [(part.headers[i], body) for i, body in part.entries] == [(run.headers[i], b) for i, b in wanted]
    if len(wanted) < len(entries):  # the whole run stays as it is
        assert len(part.headers) <= len(part.entries)
