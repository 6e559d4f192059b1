"""How long the link waits, and how much it has on its way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.upstream.connection import Fault
from actors.upstream.rate import (
    FIRST_IN_FLIGHT,
    SLOW_S,
    Bucket,
    Window,
    is_final,
    is_probed,
    patience_s,
    retry_s,
)
from actors.upstream.source import ranges_of


@pytest.mark.parametrize(
    ("kind", "failures", "wait_s"),
    [
        (Fault.UNREACHABLE, 1, 0.0),
        (Fault.UNREACHABLE, 2, 0.5),
        (Fault.UNREACHABLE, 3, 1.0),
        (Fault.UNREACHABLE, 50, 60.0),
        (Fault.TIMEOUT, 1, 0.0),
        (Fault.UNAUTHORIZED, 1, 1.0),
        (Fault.UNAUTHORIZED, 4, 8.0),
        (Fault.UNAUTHORIZED, 50, 60.0),
        (Fault.THROTTLED, 1, 1.0),
        (Fault.QUOTA, 1, 30.0),
        (Fault.QUOTA, 50, 600.0),
        (Fault.CLOCK, 50, 30.0),
        (Fault.UNTRUSTED, 50, 30.0),
    ],
)
def test_the_wait_doubles_up_to_a_limit_and_is_spread_over_its_upper_half(
    kind: Fault, failures: int, wait_s: float
) -> None:
    assert retry_s(kind, failures, 1.0) == wait_s
    assert retry_s(kind, failures, 0.0) == wait_s / 2


@pytest.mark.parametrize("kind", Fault)
def test_every_fault_is_probed_final_or_waited_for(kind: Fault) -> None:
    assert not (is_probed(kind) and is_final(kind))
    assert retry_s(kind, 100, 1.0) <= 600.0


def test_a_large_message_on_a_slow_line_is_waited_for() -> None:
    assert patience_s(20.0, 0) == 20.0
    assert patience_s(20.0, 262_144) > 262_144 / 3000  # 25 kbit/s


def test_the_window_grows_while_messages_arrive_in_good_time() -> None:
    window = Window(64)
    first = window.limit
    for number in range(100):
        window.arrived(float(number), number + 0.3)

    assert first == FIRST_IN_FLIGHT
    assert window.limit == 64


def test_the_window_shrinks_once_for_all_that_were_sent_before_and_never_to_nothing() -> None:
    window = Window(64)
    for _ in range(16):
        window.arrived(0.0, SLOW_S * 2)
    once = window.limit
    at_s = 10.0
    for _ in range(10):
        window.arrived(at_s, at_s + SLOW_S * 2)
        at_s += SLOW_S * 2

    assert once == FIRST_IN_FLIGHT // 2
    assert window.limit == 1


@given(
    per_s=st.floats(0.5, 5000.0),
    steps=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=300),
)
def test_never_more_than_the_rate_goes_whatever_the_pauses(per_s: float, steps: list[float]) -> None:
    bucket, now_s, taken = Bucket(per_s), 100.0, 0
    for step in steps:
        now_s += step
        while bucket.take(now_s) and taken < 20_000:
            taken += 1
        assert taken <= (now_s - 100.0) * per_s + max(1.0, per_s / 10) + 1e-6


@given(per_s=st.floats(0.5, 5000.0), count=st.integers(1, 200))
def test_who_waits_as_long_as_told_may_go(per_s: float, count: int) -> None:
    bucket, now_s = Bucket(per_s), 100.0
    for _ in range(count):
        if not bucket.take(now_s):
            now_s += bucket.wait_s()
            assert bucket.take(now_s)


def test_without_a_rate_nobody_waits() -> None:
    bucket = Bucket(None)

    assert all(bucket.take(0.0) for _ in range(100_000))


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_exactly_their_positions(positions: set[int]) -> None:
    ranges = ranges_of(list(positions))

    assert {position for first, last in ranges for position in range(first, last + 1)} == positions
    assert all(ranges[i][1] + 1 < ranges[i + 1][0] for i in range(len(ranges) - 1))
