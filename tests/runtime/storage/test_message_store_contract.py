"""What every message store does, on SQLite and in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.ports.storage import MessageStore
from actors.store.stored import (
    DEFAULT_PRIORITY,
    MAX_POSITION,
    MAX_SEQ,
    MESSAGE_OVERHEAD_BYTES,
    EndpointLedger,
    Ledger,
    Segment,
    Totals,
    position_of,
)
from messaging.errors import StoreError, StoreFull
from tests.runtime.message_stores import (
    NOW_S,
    InMemory,
    OnSqlite,
    Stored,
    StoreKind,
    append,
    bodies,
    joined,
    message,
    one_by_one,
    positions,
    ranges,
    seqs,
    to,
    waiting,
)


@pytest.fixture(params=["sqlite", "memory"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> StoreKind:
    return OnSqlite(tmp_path) if request.param == "sqlite" else InMemory()


@pytest.fixture
def store(kind: StoreKind) -> Iterator[MessageStore]:
    store = kind.open()
    yield store
    store.close()


def test_an_appended_message_waits_for_each_of_its_endpoints(store: MessageStore) -> None:
    append(store, message("hot", to("a", "b"), header=b"\x81\xa1t\x01"))

    for endpoint_id in ("a", "b"):
        (stored,) = waiting(store, endpoint_id)
        assert (stored.header, stored.body) == (b"\x81\xa1t\x01", b"hot")
        assert store.pending(endpoint_id) == 1


@pytest.mark.parametrize("body", [b"", b"\0", b"\xff\0\xfe" * 9, bytes(range(256)) * 1024], ids=len)
def test_any_bytes_come_back_as_they_were(store: MessageStore, body: bytes) -> None:
    with store.transaction():
        store.append([Segment(tuple(to("a")), (body,), ((0, body),))], NOW_S)

    (stored,) = waiting(store, "a")
    assert (stored.header, stored.body) == (body, body)


def test_sequence_numbers_follow_each_other_through_and_between_batches(store: MessageStore) -> None:
    first = append(store, message("0", to("a")), message("1", []), message("2", to("a")))
    second = append(store, message("3", to("a")))

    assert second == first + 3
    assert seqs(waiting(store, "a")) == [first, first + 2, first + 3]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 33, 97, 255, 256, 257, 300, 511, 513, 1000])
def test_a_batch_of_any_size_is_stored_whole_and_delivered_whole(store: MessageStore, size: int) -> None:
    texts = [f"message {number}" for number in range(size)]

    append(store, *(message(text, to("a"), header=text[::-1].encode()) for text in texts))

    found = waiting(store, "a")
    assert bodies(found) == texts
    assert [one.header.decode() for one in found] == [text[::-1] for text in texts]
    with store.transaction():
        assert store.delivered({"a": ranges(positions(found))}) == size
    assert waiting(store, "a") == []


def test_an_empty_batch_changes_nothing(store: MessageStore) -> None:
    append(store)

    assert store.ledger() == Ledger(Totals(), {})


def test_a_message_without_an_endpoint_is_counted_and_not_kept(store: MessageStore) -> None:
    append(store, message("nobody", []), message("a", to("a")))

    ledger = store.ledger()
    assert ledger.total == Totals(received=2, unrouted=1, routed=1)
    assert ledger.endpoints == {"a": EndpointLedger(accepted=1, pending=1)}


def test_priority_goes_before_sequence_and_sequence_orders_within_it(store: MessageStore) -> None:
    append(store, message("default 1", to("a")), message("nine", to("a", priority=9)))
    append(store, message("zero 1", to("a", priority=0)), message("default 2", to("a")))
    append(store, message("zero 2", to("a", priority=0)))

    assert bodies(waiting(store, "a")) == ["zero 1", "zero 2", "nine", "default 1", "default 2"]


def test_the_position_of_a_message_follows_from_priority_and_sequence_number(store: MessageStore) -> None:
    first = append(store, message("x", to("a", priority=3)), message("y", to("a")))

    assert positions(waiting(store, "a")) == [position_of(3, first), position_of(DEFAULT_PRIORITY, first + 1)]


def test_reading_goes_on_behind_a_position_and_stops_at_the_count(store: MessageStore) -> None:
    append(store, *(message(str(number), to("a", "b")) for number in range(5)))

    first = one_by_one(store.read("a", -1, max_count=2, max_bytes=1 << 20, now_s=NOW_S))
    rest = one_by_one(store.read("a", first[-1].position, max_count=9, max_bytes=1 << 20, now_s=NOW_S))

    assert (bodies(first), bodies(rest)) == (["0", "1"], ["2", "3", "4"])


def test_reading_stops_at_a_position(store: MessageStore) -> None:
    first = append(store, *(message(str(number), to("a", priority=3)) for number in range(5)))
    append(store, message("low", to("a", priority=4)))
    last = position_of(3, first + 2)

    found = one_by_one(store.read("a", -1, 100, 1 << 20, NOW_S, last_position=last))
    of_priority = one_by_one(
        store.read("a", last, 100, 1 << 20, NOW_S, last_position=position_of(3, MAX_SEQ))
    )

    assert (bodies(found), bodies(of_priority)) == (["0", "1", "2"], ["3", "4"])


EACH = len("aaaa") + len(b"h") + MESSAGE_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [
        pytest.param(1, ["aaaa"], id="one at least, though too large"),
        pytest.param(EACH, ["aaaa"], id="one that just fits"),
        pytest.param(2 * EACH - 1, ["aaaa"], id="the second does not fit"),
        pytest.param(2 * EACH, ["aaaa", "bbbb"], id="two that just fit"),
        pytest.param(9 * EACH, ["aaaa", "bbbb", "cccc"], id="all"),
    ],
)
def test_reading_stops_before_the_bytes_are_too_many(
    store: MessageStore, max_bytes: int, expected: list[str]
) -> None:
    append(store, *(message(text, to("a")) for text in ("aaaa", "bbbb", "cccc")))  # and a header of one byte

    found = store.read("a", -1, max_count=9, max_bytes=max_bytes, now_s=NOW_S)

    assert bodies(one_by_one(found)) == expected
    assert sum(run.size_bytes for run in found) == len(expected) * EACH


def test_reading_from_before_the_start_shows_no_other_queue(store: MessageStore) -> None:
    append(store, message("1", to("a")), message("2", to("b")))

    found = store.read("b", -position_of(DEFAULT_PRIORITY, 0), max_count=9, max_bytes=99, now_s=NOW_S)

    assert bodies(one_by_one(found)) == ["2"]


def test_an_endpoint_nobody_sent_to_has_nothing(store: MessageStore) -> None:
    with store.transaction():
        assert store.delivered({"nobody": [(0, MAX_POSITION)]}) == 0
        assert store.dropped("nobody", [(0, MAX_POSITION)], "poison") == 0
        assert store.drop_queue("nobody", "removed") == 0

    assert waiting(store, "nobody") == []
    assert store.pending("nobody") == 0
    assert store.ledger().endpoints == {}


def test_a_body_stays_until_the_last_of_its_endpoints_has_it(store: MessageStore) -> None:
    append(store, message("shared", to("a", "b", "c")))
    place = ranges(positions(waiting(store, "a")))

    with store.transaction():
        store.delivered({"a": place})
        store.delivered({"a": place})
    with store.transaction():
        store.dropped("c", place, "poison")

    assert bodies(waiting(store, "b")) == ["shared"]
    assert waiting(store, "a") == waiting(store, "c") == []
    with store.transaction():
        assert store.delivered({"b": place}) == 1
    assert store.ledger().imbalances() == []


def test_a_batch_may_mix_shared_single_and_unrouted_messages(store: MessageStore) -> None:
    append(
        store,
        message("both", to("a", "b")),
        message("none", []),
        message("only a", to("a")),
        message("only b", to("b", priority=1)),
    )

    with store.transaction():
        assert store.delivered({"a": ranges(positions(waiting(store, "a")))}) == 2

    assert bodies(waiting(store, "b")) == ["only b", "both"]
    assert store.ledger().imbalances() == []


@pytest.mark.parametrize(
    "choose",
    [
        pytest.param(lambda all_: all_[::2], id="every second"),
        pytest.param(lambda all_: all_[3:8], id="a run"),
        pytest.param(lambda all_: all_[:2] + all_[-2:], id="both ends"),
        pytest.param(lambda all_: random.Random(1).sample(all_, 7), id="shuffled"),
        pytest.param(lambda all_: [all_[4], all_[6], all_[6]], id="a gap and a double, as long as a run"),
    ],
)
def test_exactly_the_delivered_positions_go(
    store: MessageStore, choose: Callable[[list[int]], list[int]]
) -> None:
    append(store, *(message(str(number), to("a")) for number in range(20)))
    before = positions(waiting(store, "a"))
    chosen = choose(before)

    with store.transaction():
        count = store.delivered({"a": ranges(chosen)})

    assert count == len(set(chosen))
    assert positions(waiting(store, "a")) == [place for place in before if place not in chosen]


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param(lambda texts: joined([message(text, to("a", "b")) for text in texts]), id="one segment"),
        pytest.param(lambda texts: [message(text, to("a", "b")) for text in texts], id="one segment each"),
        pytest.param(
            lambda texts: [message(text, to("a", "b", ttl_s=int(text) % 2 * 60 + 60)) for text in texts],
            id="one row each",
        ),
    ],
)
@pytest.mark.parametrize(
    ("first_to_last", "left"),
    [
        pytest.param([(3, 3)], "012 456789", id="one"),
        pytest.param([(3, 5), (4, 4)], "012   6789", id="one inside another"),
        pytest.param([(5, 7), (3, 5), (3, 3)], "012     89", id="overlapping and descending"),
        pytest.param([(1, 2), (4, 5), (7, 8)], "0  3  6  9", id="three with gaps, out of one row"),
        pytest.param([(7, 8), (1, 2), (4, 5)], "0  3  6  9", id="in disorder"),
        pytest.param([(5, 4)], "0123456789", id="none"),
        pytest.param([(8, 99)], "01234567  ", id="beyond the end"),
        pytest.param([(-99, 1), (9, 99)], "  2345678 ", id="before the start and beyond the end"),
        pytest.param([(-99, 99)], "", id="more than all"),
        pytest.param([], "0123456789", id="no range"),
    ],
)
def test_exactly_the_ranges_go_however_the_messages_came(
    store: MessageStore,
    segments: Callable[[str], list[Segment]],
    first_to_last: list[tuple[int, int]],
    left: str,
) -> None:
    with store.transaction():
        store.append([message("before", to("a", priority=0)), message("before", to("b"))], NOW_S)
        store.append(segments("0123456789"), NOW_S)
    start = positions(waiting(store, "a"))[1]

    with store.transaction():
        count = store.delivered({"a": [(start + first, start + last) for first, last in first_to_last]})

    assert count == 10 - len(left.replace(" ", ""))
    assert "".join(bodies(waiting(store, "a"))) == "before" + left.replace(" ", "")
    assert "".join(bodies(waiting(store, "b"))) == "before0123456789"
    with store.transaction():
        assert store.drop_queue("b", "removed") == 11
    assert "".join(bodies(waiting(store, "a"))) == "before" + left.replace(" ", "")
    assert store.ledger().imbalances() == []


def test_a_range_may_span_priorities(store: MessageStore) -> None:
    append(store, *(message(str(priority), to("a", "b", priority=priority)) for priority in (0, 1, 5, 9)))
    append(store, message("default", to("a", "b")))

    with store.transaction():
        assert store.delivered({"a": [(position_of(1, 0), position_of(9, 0))]}) == 2
        assert store.dropped("b", [(0, MAX_POSITION)], "limit") == 5

    assert bodies(waiting(store, "a")) == ["0", "9", "default"]
    assert waiting(store, "b") == []


def test_one_endpoint_may_get_a_message_at_two_priorities(store: MessageStore) -> None:
    both = [*to("a", priority=0), *to("a", priority=9)]
    append(store, message("1", both), message("2", both))

    with store.transaction():
        assert store.delivered({"a": ranges(positions(waiting(store, "a"))[:2])}) == 2

    assert bodies(waiting(store, "a")) == ["1", "2"]
    with store.transaction():
        assert store.drop_queue("a", "limit") == 2
    assert store.ledger().endpoints["a"].pending == 0


def test_a_part_of_a_row_expires_at_one_priority_while_the_rest_is_taken(store: MessageStore) -> None:
    matches = [*to("a", priority=0, ttl_s=5), *to("b", priority=9, ttl_s=5), *to("a", ttl_s=9)]
    append(store, *(message(str(number), matches) for number in range(6)))
    places = positions(waiting(store, "a"))
    with store.transaction():
        store.delivered({"a": ranges([*places[1:3], *places[8:10]])})

    with store.transaction():
        counts = [store.expire(NOW_S + 5, limit=3) for _ in range(5)]

    assert sum(counts[0].values()) == sum(counts[1].values()) == sum(counts[2].values()) == 3
    assert Counter(counts[0]) + Counter(counts[1]) + Counter(counts[2]) + Counter(counts[3]) == {
        "a": 4,
        "b": 6,
    }
    assert counts[4] == {}
    assert bodies(waiting(store, "a", now_s=NOW_S + 5)) == ["0", "1", "4", "5"]
    with store.transaction():
        assert store.expire(NOW_S + 9) == {"a": 4}
    assert store.ledger().imbalances() == []


@pytest.mark.parametrize(
    ("count", "size"),
    [
        pytest.param(512, 10, id="a full row"),
        pytest.param(513, 10, id="one message more"),
        pytest.param(2000, 1, id="many rows"),
        pytest.param(9, 262_144, id="bodies as large as a row"),
        pytest.param(40, 30_000, id="bodies that fill rows"),
    ],
)
def test_a_large_segment_is_read_in_bites_of_any_size(store: MessageStore, count: int, size: int) -> None:
    entries = tuple((number % 3, b"%0*d" % (size, number)) for number in range(count))
    with store.transaction():
        store.append([Segment(tuple(to("a")), (b"x", b"yy", b"zzz"), entries)], NOW_S)
    bites = random.Random(count)

    found: list[Stored] = []
    while True:
        after = found[-1].position if found else -1
        bite = store.read("a", after, bites.randint(1, 700), 1 << bites.randint(8, 20), NOW_S)
        if not bite:
            break
        found += one_by_one(bite)

    assert [one.body for one in found] == [body for _, body in entries]
    assert [one.header for one in found] == [(b"x", b"yy", b"zzz")[index] for index, _ in entries]


def test_reading_from_inside_a_row_over_many_more_gives_each_message_once(store: MessageStore) -> None:
    texts = [str(number) for number in range(300)]
    append(store, *(message(text, to("a", ttl_s=60 + int(text) // 3 % 2)) for text in texts))
    places = positions(waiting(store, "a"))

    assert bodies(waiting(store, "a")) == texts
    assert bodies(waiting(store, "a", after_position=places[0])) == texts[1:]
    for count in (1, 2, 3, 5, 200):
        found = one_by_one(store.read("a", places[100], max_count=count, max_bytes=1 << 30, now_s=NOW_S))
        assert bodies(found) == texts[101 : 101 + count]


def test_what_was_read_of_an_undone_append_does_not_come_back(store: MessageStore) -> None:
    def append_read_and_fail() -> None:
        store.append(joined([message(text, to("a")) for text in ("gone 1", "gone 2")]), NOW_S)
        assert bodies(waiting(store, "a")) == ["gone 1", "gone 2"]
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), store.transaction():
        append_read_and_fail()

    append(store, message("1", to("a")), message("2", to("a")))
    assert bodies(waiting(store, "a")) == ["1", "2"]


def test_what_an_undone_transaction_deleted_is_read_again(store: MessageStore) -> None:
    append(store, *(message(str(number), to("a", ttl_s=9)) for number in range(5)))
    places = positions(waiting(store, "a"))

    def delete_and_fail() -> None:
        store.delivered({"a": ranges(places[1:3])})
        assert bodies(waiting(store, "a")) == ["0", "3", "4"]
        store.expire(NOW_S + 9)
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), store.transaction():
        delete_and_fail()

    assert bodies(waiting(store, "a")) == ["0", "1", "2", "3", "4"]
    with store.transaction():
        assert store.delivered({"a": ranges(places)}) == 5


def test_what_is_delivered_twice_counts_once(store: MessageStore) -> None:
    append(store, message("1", to("a")), message("2", to("a")))
    places = positions(waiting(store, "a"))

    with store.transaction():
        assert store.delivered({"a": ranges([places[0], places[0]])}) == 1
        assert store.delivered({"a": ranges(places)}) == 1
    with store.transaction():
        assert store.delivered({"a": ranges(places)}) == 0
        assert store.dropped("a", ranges(places), "limit") == 0

    assert store.ledger().endpoints["a"] == EndpointLedger(accepted=2, delivered=2)


def test_delivering_at_one_endpoint_does_not_touch_the_same_numbers_at_another(store: MessageStore) -> None:
    append(store, message("1", to("a")), message("2", to("b")), message("3", to("a", priority=2)))

    with store.transaction():
        count = store.delivered(
            {"a": [(position_of(priority, 0), position_of(priority, 9)) for priority in (2, 9)]}
        )

    assert count == 1
    assert bodies(waiting(store, "a")) == ["1"]
    assert bodies(waiting(store, "b")) == ["2"]


@pytest.mark.parametrize("wrong", [-1, position_of(DEFAULT_PRIORITY, 1) << 5], ids=["negative", "too high"])
def test_a_position_outside_any_queue_is_refused_and_not_taken_for_one_of_another_endpoint(
    store: MessageStore, wrong: int
) -> None:
    append(store, message("1", to("a")), message("2", to("b")), message("3", to("c")))

    with pytest.raises(ValueError, match=str(wrong)), store.transaction():
        store.delivered({"b": [(min(wrong, 0), max(wrong, 0))]})

    assert [store.pending(endpoint_id) for endpoint_id in ("a", "b", "c")] == [1, 1, 1]


def test_dropped_messages_are_counted_by_reason(store: MessageStore) -> None:
    append(store, *(message(str(number), to("a")) for number in range(6)))
    places = positions(waiting(store, "a"))

    with store.transaction():
        store.dropped("a", ranges(places[:1]), "poison")
        store.dropped("a", ranges(places[1:3]), "limit")
        store.dropped("a", ranges(places[3:4]), "limit")

    row = store.ledger().endpoints["a"]
    assert (row.dropped, row.dropped_by_reason) == (4, {"poison": 1, "limit": 3})
    assert bodies(waiting(store, "a")) == ["4", "5"]


def test_the_queue_of_a_removed_endpoint_is_dropped_slice_by_slice(store: MessageStore) -> None:
    append(store, *(message(str(number), to("a", "b", priority=number % 3)) for number in range(10)))

    slices = []
    for _ in range(4):
        with store.transaction():
            slices.append(store.drop_queue("a", "removed", limit=4))

    assert slices == [4, 4, 2, 0]
    assert set(store.endpoint_ids()) == {"a", "b"}
    ledger = store.ledger()
    assert ledger.endpoints["a"] == EndpointLedger(accepted=10, dropped=10, dropped_by_reason={"removed": 10})
    assert ledger.endpoints["b"] == EndpointLedger(accepted=10, pending=10)
    assert len(waiting(store, "b")) == 10


def test_the_time_to_live_counts_from_the_append_and_per_endpoint(store: MessageStore) -> None:
    matches = [*to("short", ttl_s=10), *to("long", ttl_s=20), *to("ever", ttl_s=None)]
    append(store, message("x", matches), now_s=NOW_S)

    def readable(now_s: float) -> list[int]:
        return [len(waiting(store, name, now_s=now_s)) for name in ("short", "long", "ever")]

    assert readable(NOW_S + 9.9) == [1, 1, 1]
    assert readable(NOW_S + 10) == [0, 1, 1]
    assert readable(NOW_S + 20) == [0, 0, 1]
    assert readable(NOW_S + 1e9) == [0, 0, 1]


def test_queues_are_told_apart_by_whether_something_waits_that_has_not_expired(store: MessageStore) -> None:
    for name, ttl_s in (("ever", None), ("short", 10.0), ("long", 20.0), ("taken", None)):
        append(store, message("x", to(name, ttl_s=ttl_s)))
    append(store, message("y", to("short", ttl_s=20.0, priority=3)))
    with store.transaction():
        store.delivered({"taken": ranges(positions(waiting(store, "taken")))})
    names = ["taken", "unknown", "short", "ever", "long"]

    assert store.waiting(names, NOW_S + 10) == ["short", "ever", "long"]
    assert store.waiting(names, NOW_S + 20) == ["ever"]
    assert store.waiting([], NOW_S) == []


def test_a_time_to_live_of_zero_is_over_at_once(store: MessageStore) -> None:
    append(store, message("x", to("a", ttl_s=0)))

    assert waiting(store, "a") == []
    with store.transaction():
        assert store.expire(NOW_S) == {"a": 1}


def test_expired_messages_are_deleted_in_slices_and_counted_per_endpoint(store: MessageStore) -> None:
    append(store, *(message(f"a{number}", to("a", "b", ttl_s=5 + number)) for number in range(4)))
    append(store, message("stays", to("a")), message("later", to("b", ttl_s=99)))

    slices = []
    for _ in range(4):
        with store.transaction():
            slices.append(store.expire(NOW_S + 50, limit=3))

    assert [sum(counts.values()) for counts in slices] == [3, 3, 2, 0]
    ledger = store.ledger()
    assert ledger.endpoints["a"] == EndpointLedger(accepted=5, expired=4, pending=1)
    assert ledger.endpoints["b"] == EndpointLedger(accepted=5, expired=4, pending=1)
    assert bodies(waiting(store, "a")) == ["stays"]
    assert bodies(waiting(store, "b")) == ["later"]


def test_a_message_that_expired_is_not_counted_as_delivered_afterwards(store: MessageStore) -> None:
    append(store, message("x", to("a", ttl_s=5)))
    place = ranges(positions(waiting(store, "a")))

    with store.transaction():
        store.expire(NOW_S + 5)
        assert store.delivered({"a": place}) == 0

    assert store.ledger().endpoints["a"] == EndpointLedger(accepted=1, expired=1)


def test_an_expired_message_that_was_taken_before_the_sweep_counts_as_delivered(store: MessageStore) -> None:
    append(store, message("x", to("a", ttl_s=5)))
    place = ranges(positions(waiting(store, "a")))

    with store.transaction():
        assert store.delivered({"a": place}) == 1
        assert store.expire(NOW_S + 5) == {}

    assert store.ledger().endpoints["a"] == EndpointLedger(accepted=1, delivered=1)


def test_everything_is_there_again_after_it_is_opened_again(kind: StoreKind) -> None:
    store = kind.open()
    append(store, *(message(str(number), to("a", "b", ttl_s=9)) for number in range(6)), message("-", []))
    places = positions(waiting(store, "a"))
    with store.transaction():
        store.delivered({"a": ranges(places[:2])})
        store.dropped("a", ranges(places[2:3]), "limit")
        store.save_session("edge/sensor", b"\x91\xa3a/#")
    before, ledger = waiting(store, "a"), store.ledger()
    store.close()

    store = kind.open()

    assert waiting(store, "a") == before
    assert store.ledger() == ledger
    assert store.sessions() == {"edge/sensor": b"\x91\xa3a/#"}
    store.close()


def test_sequence_numbers_never_come_back(kind: StoreKind) -> None:
    store = kind.open()
    append(store, message("1", to("a")), message("2", to("a")), message("unrouted", []))
    with store.transaction():
        store.delivered({"a": ranges(positions(waiting(store, "a")))})
    highest = append(store, message("nobody", []))
    store.close()

    store = kind.open()

    assert append(store, message("next", to("a"))) == highest + 1
    store.close()


def test_a_block_that_raises_leaves_nothing_behind(kind: StoreKind) -> None:
    store = kind.open()
    first = append(store, message("kept", to("a", "b")))
    with store.transaction():
        store.save_session("kept", b"1")
    before = store.ledger()

    def change_everything_and_raise() -> None:
        store.append([message("gone", to("a", "new", priority=1)), message("gone", [])], NOW_S)
        store.delivered({"a": ranges(positions(waiting(store, "a")))})
        store.dropped("b", ranges(positions(waiting(store, "b"))), "limit")
        store.save_session("gone", b"2")
        store.delete_session("kept")
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), store.transaction():
        change_everything_and_raise()

    for _ in range(2):
        assert store.ledger() == before
        assert bodies(waiting(store, "a")) == bodies(waiting(store, "b")) == ["kept"]
        assert waiting(store, "new") == []
        assert store.sessions() == {"kept": b"1"}
        store.close()
        store = kind.open()
    assert append(store, message("next", to("new"))) == first + 1
    assert bodies(waiting(store, "new")) == ["next"]
    store.close()


def test_the_rest_of_a_transaction_is_not_kept_when_a_part_of_it_failed(store: MessageStore) -> None:
    twice = message("wrong", [*to("a"), *to("a")])

    def append_and_go_on_after_a_failure() -> None:
        store.append([message("right", to("a"))], NOW_S)
        with pytest.raises(StoreError):
            store.append([message("also right", to("b")), twice], NOW_S)
        with pytest.raises(StoreError, match="after a part of it failed"):
            store.append([message("too late", to("b"))], NOW_S)

    with pytest.raises(StoreError, match="a part of it failed"), store.transaction():
        append_and_go_on_after_a_failure()

    assert store.ledger() == Ledger(Totals(), {})
    append(store, message("later", to("a")))
    assert bodies(waiting(store, "a")) == ["later"]


def test_a_priority_that_does_not_exist_fails_the_transaction(store: MessageStore) -> None:
    with pytest.raises(ValueError, match="priority 10"), store.transaction():
        store.append([message("right", to("a")), message("wrong", to("a", priority=10))], NOW_S)

    assert store.ledger() == Ledger(Totals(), {})


def test_reading_inside_a_transaction_sees_what_it_did(store: MessageStore) -> None:
    with store.transaction():
        store.append([message("1", to("a")), message("2", to("a"))], NOW_S)
        found = waiting(store, "a")
        store.delivered({"a": ranges(positions(found)[:1])})

        assert bodies(found) == ["1", "2"]
        assert store.pending("a") == 1
        assert store.ledger().endpoints["a"] == EndpointLedger(accepted=2, delivered=1, pending=1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda store: store.append([message("x", to("a"))], NOW_S), id="append"),
        pytest.param(lambda store: store.delivered({"a": [(1, 1)]}), id="delivered"),
        pytest.param(lambda store: store.dropped("a", [(1, 1)], "limit"), id="dropped"),
        pytest.param(lambda store: store.drop_queue("a", "removed"), id="drop_queue"),
        pytest.param(lambda store: store.expire(NOW_S), id="expire"),
        pytest.param(lambda store: store.save_session("a", b""), id="save_session"),
        pytest.param(lambda store: store.delete_session("a"), id="delete_session"),
    ],
)
def test_nothing_changes_outside_a_transaction(
    store: MessageStore, change: Callable[[MessageStore], object]
) -> None:
    with pytest.raises(StoreError, match="outside a transaction"):
        change(store)

    assert store.ledger() == Ledger(Totals(), {})


def test_transactions_do_not_nest(store: MessageStore) -> None:
    with store.transaction():
        store.append([message("x", to("a"))], NOW_S)
        with pytest.raises(StoreError, match="open already"), store.transaction():
            pytest.fail("the inner block must not run")

    assert bodies(waiting(store, "a")) == ["x"]


def test_tidying_is_refused_inside_a_transaction(store: MessageStore) -> None:
    with pytest.raises(StoreError, match="inside a transaction"), store.transaction():
        store.tidy()


def test_the_oldest_of_the_lowest_priority_are_given_up_first_at_all_endpoints(store: MessageStore) -> None:
    append(store, message("urgent", to("a", priority=1)))
    append(store, *(message(f"{number}", to("a", "b", priority=7)) for number in range(6)))
    append(store, message("c alone", to("c", priority=7)), message("late", to("a")))

    def drop(limit: int) -> dict[str, int]:
        with store.transaction():
            return store.drop_oldest(limit)

    dropped = [drop(4) for _ in range(5)]

    assert dropped == [{"a": 1}, {"a": 4, "b": 4}, {"a": 2, "b": 2, "c": 1}, {"a": 1}, {}]
    ledger = store.ledger()
    assert ledger.imbalances() == []
    assert ledger.endpoints["a"] == EndpointLedger(accepted=8, dropped=8, dropped_by_reason={"limit": 8})


def test_what_is_given_up_begins_behind_what_was_delivered_of_a_row(
    store: MessageStore,
) -> None:
    append(store, *(message(f"{number}", to("a")) for number in range(10)))
    with store.transaction():
        store.delivered({"a": ranges(positions(waiting(store, "a"))[:3])})

    with store.transaction():
        assert store.drop_oldest(4) == {"a": 4}

    assert bodies(waiting(store, "a")) == ["7", "8", "9"]


def test_without_space_appends_fail_whole_while_delivery_goes_on(
    kind: StoreKind, store: MessageStore
) -> None:
    append(store, *(message(str(number) * 500, to("a")) for number in range(50)))
    kind.use_up_space()
    large = joined([message("x" * 5000, to("a", "new")) for _ in range(50)])

    def append_too_much() -> None:
        store.append([message("small", to("a"))], NOW_S)
        store.append(large, NOW_S)

    def append_too_much_and_go_on() -> None:
        with pytest.raises(StoreFull):
            append_too_much()
        with pytest.raises(StoreError, match="after a part of it failed"):
            store.save_session("edge/a", b"kept without the rest")

    for _ in range(3):
        with pytest.raises(StoreFull, match="no space left"), store.transaction():
            append_too_much()
        with pytest.raises(StoreError, match="a part of it failed"), store.transaction():
            append_too_much_and_go_on()
    assert store.sessions() == {}
    with store.transaction():
        assert store.delivered({"a": ranges(positions(waiting(store, "a"))[:5])}) == 5

    assert store.ledger() == Ledger(
        Totals(received=50, routed=50), {"a": EndpointLedger(accepted=50, delivered=5, pending=45)}
    )
    kind.make_space()
    append(store, *large)
    assert store.pending("a") == 95
    assert store.pending("new") == 50
    assert store.ledger().imbalances() == []


def test_sessions_are_replaced_and_deleted_by_identity(store: MessageStore) -> None:
    with store.transaction():
        store.save_session("edge/a", b"old")
        store.save_session("edge/b", b"b")
        store.save_session("edge/a", b"new")
        store.delete_session("edge/b")
        store.delete_session("never there")

    assert store.sessions() == {"edge/a": b"new"}


def test_what_is_due_is_told_by_its_headers_before_it_is_deleted(store: MessageStore) -> None:
    due, other = to("a", "b", ttl_s=5), to("a", ttl_s=50)
    append(store, message("1", due), message("2", due), message("stays", other), message("forever", to("b")))
    header = waiting(store, "a")[0].header
    with store.transaction():
        store.delivered({"a": ranges(positions(waiting(store, "a"))[:1])})

    found = store.due_headers(NOW_S + 10)
    limited = store.due_headers(NOW_S + 10, limit=2)
    with store.transaction():
        expired = store.expire(NOW_S + 10)

    assert sum(count for _, count in found) == sum(expired.values()) == 3
    assert {known for known, _ in found} == {header}
    assert sum(count for _, count in limited) == 2
    assert store.due_headers(NOW_S + 10) == []


def test_what_waits_is_counted_for_each_priority(store: MessageStore) -> None:
    append(store, message("1", to("a", priority=2)), message("2", to("a")), message("3", to("a")))

    row = store.ledger().endpoints["a"]

    assert row.pending == 3
    assert row.pending_by_priority == {2: 1, DEFAULT_PRIORITY: 2}
