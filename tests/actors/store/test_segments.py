"""Batches, segments and runs: every message goes to exactly its endpoints, in order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.store.stored import (
    DEFAULT_PRIORITY,
    MESSAGE_OVERHEAD_BYTES,
    Match,
    Run,
    Segment,
    gathered,
    position_of,
    runs_of,
    segments_of,
    with_its_headers,
)

matches = st.lists(
    st.builds(
        Match,
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([0, 9, DEFAULT_PRIORITY]),
        st.sampled_from([None, 60.0]),
    ),
    max_size=2,
    unique_by=lambda match: match.endpoint_id,
).map(tuple)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[tuple[bytes, tuple[Match, ...]]], list[tuple[int, bytes]]]:
    """Headers with their matches, and entries with distinct bodies."""
    routes = draw(st.lists(matches, min_size=1, max_size=3))
    headers = draw(
        st.lists(st.tuples(st.binary(max_size=3), st.sampled_from(routes)), min_size=1, max_size=6)
    )
    indexes = draw(st.lists(st.integers(0, len(headers) - 1), max_size=12))
    return headers, [(index, b"body %d" % number) for number, index in enumerate(indexes)]


Sent = dict[tuple[str, int], list[tuple[bytes, bytes]]]


def sent(batch: tuple[list[tuple[bytes, tuple[Match, ...]]], list[tuple[int, bytes]]], into: Sent) -> None:
    headers, entries = batch
    for index, body in entries:
        header, its_matches = headers[index]
        for endpoint_id, priority, _ in its_matches:
            into.setdefault((endpoint_id, priority), []).append((header, body))


def arrived(segments: Sequence[Segment]) -> Sent:
    """Return what each queue gets, in order of position."""
    found: dict[tuple[str, int], list[tuple[int, tuple[bytes, bytes]]]] = {}
    ends = {
        position_of(priority, seq): priority
        for priority in (0, 9, DEFAULT_PRIORITY)
        for seq in range(1, 1 + sum(len(segment.entries) for segment in segments))
    }
    for endpoint_id, run in runs_of(segments, first_seq=1):
        assert run.entries
        for position, (index, body) in enumerate(run.entries, run.first_position):
            queue = found.setdefault((endpoint_id, ends[position]), [])
            queue.append((position, (run.headers[index], body)))
    assert all(len({position for position, _ in queue}) == len(queue) for queue in found.values())
    return {key: [one for _, one in sorted(queue)] for key, queue in found.items()}


@given(st.lists(batches(), max_size=4))
def test_every_message_of_some_batches_goes_to_exactly_its_endpoints_in_order(
    some: list[tuple[list[tuple[bytes, tuple[Match, ...]]], list[tuple[int, bytes]]]],
) -> None:
    expected: Sent = {}
    for batch in some:
        sent(batch, expected)

    segments = [segment for headers, entries in some for segment in segments_of(headers, entries)]

    assert arrived(segments) == expected
    assert arrived(gathered(segments)) == expected


@given(batches())
def test_a_segment_that_is_a_part_of_a_batch_has_only_the_headers_it_uses(
    batch: tuple[list[tuple[bytes, tuple[Match, ...]]], list[tuple[int, bytes]]],
) -> None:
    headers, entries = batch

    segments = segments_of(headers, entries)

    assert sum(len(segment.entries) for segment in segments) == len(entries)
    for segment in segments:
        used = {index for index, _ in segment.entries}
        assert len(segments) == 1 or len(headers) == 1 or used == set(range(len(segment.headers)))


A, B, AB = Match("a", 0, None), Match("b", 0, None), Match("b", 9, 5.0)


def lone(text: str, *its_matches: Match) -> Segment:
    return Segment(its_matches, (b"h",), ((0, text.encode()),))


@pytest.mark.parametrize(
    ("segments", "order"),
    [
        pytest.param([lone("1", A), lone("2", B), lone("3", A)], "132", id="alternating endpoints"),
        pytest.param([lone("1", A), lone("2"), lone("3", A)], "132", id="unrouted between"),
        pytest.param([lone("1", B), lone("2", AB), lone("3", B)], "132", id="two priorities of an endpoint"),
        pytest.param([lone("1", A), lone("2", A, B), lone("3", A)], "123", id="a queue in two of them"),
        pytest.param(
            [lone("1", A), lone("2", A._replace(ttl_s=5.0)), lone("3", A)], "123", id="two times to live"
        ),
        pytest.param([lone("1", A), lone("2", A)], "12", id="all the same"),
        pytest.param([], "", id="none"),
    ],
)
def test_segments_for_the_same_endpoints_become_neighbours_where_no_queue_notices(
    segments: list[Segment], order: str
) -> None:
    found = gathered(segments)

    assert b"".join(body for segment in found for _, body in segment.entries).decode() == order


def test_neighbours_with_the_same_headers_become_one_segment() -> None:
    other = lone("4", A)._replace(headers=(b"other",))

    assert gathered([lone("1", A), lone("2", B), lone("3", A), other]) == [
        Segment((A,), (b"h",), ((0, b"1"), (0, b"3"))),
        other,
        lone("2", B),
    ]


def test_an_empty_batch_makes_no_segment_and_an_empty_segment_no_run() -> None:
    assert segments_of([(b"h", (A,))], []) == segments_of([], []) == []
    assert list(runs_of([Segment((A,), (b"h",), ()), lone("x", A)], 5)) == [
        ("a", Run(position_of(0, 5), (b"h",), ((0, b"x"),)))
    ]


@given(
    st.integers(0, 1 << 40),
    st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=9),
    st.integers(-12, 12),
    st.integers(-12, 12),
)
def test_a_cut_run_has_exactly_the_messages_between_two_positions(
    start: int, entries: list[tuple[int, bytes]], first: int, last: int
) -> None:
    headers = (b"0", b"1", b"22", b"333", b"4444")
    run = Run(start, headers, entries)
    whole = {start + number: (headers[index], body) for number, (index, body) in enumerate(entries)}

    part = run.cut(start + first, start + last)

    found = {}
    if part is not None:
        assert part.last_position == part.first_position + len(part.entries) - 1
        found = {
            position: (part.headers[index], body)
            for position, (index, body) in enumerate(part.entries, part.first_position)
        }
        assert part.size_bytes == sum(
            len(header) + len(body) + MESSAGE_OVERHEAD_BYTES for header, body in found.values()
        )
    assert found == {place: one for place, one in whole.items() if start + first <= place <= start + last}


def test_a_part_of_a_batch_leaves_the_headers_behind_that_it_does_not_use() -> None:
    headers = [b"%d" % number for number in range(100)]

    assert with_its_headers(headers, [(7, b"x"), (3, b"y"), (7, b"z")]) == (
        (b"7", b"3"),
        ((0, b"x"), (1, b"y"), (0, b"z")),
    )
