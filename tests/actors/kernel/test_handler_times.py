"""How long handlers take, as it is sampled."""

from __future__ import annotations

import pytest

from actors.kernel.handler_times import EVERY, KEPT, HandlerTimes


def test_without_a_message_there_is_nothing_to_tell() -> None:
    assert HandlerTimes().percentiles() is None


@pytest.mark.parametrize(
    ("times", "p50_s", "p99_s"),
    [
        ([0.25], 0.25, 0.25),
        ([1.0, 2.0, 3.0], 2.0, 2.0),
        ([0.5] * 99 + [8.0], 0.5, 0.5),
        ([0.5] * 98 + [8.0, 8.0], 0.5, 8.0),
    ],
    ids=["one", "three", "one slow of 100", "two slow of 100"],
)
def test_percentiles_are_those_of_the_times(times: list[float], p50_s: float, p99_s: float) -> None:
    known = HandlerTimes()
    for handled, took_s in enumerate(times):
        known.add(handled, took_s)

    assert known.percentiles() == (p50_s, p99_s)


def test_each_of_the_first_messages_is_timed_and_then_one_in_seventeen() -> None:
    known = HandlerTimes()
    timed = []
    for handled in range(KEPT + 3 * EVERY):
        if handled >= known.next_at:
            timed.append(handled)
            known.add(handled, 1.0)

    assert timed == [*range(KEPT), KEPT, KEPT + EVERY, KEPT + 2 * EVERY]


def test_old_times_give_way_to_new_ones() -> None:
    known = HandlerTimes()
    handled = 0
    for took_s in (1.0, 4.0):
        for _ in range(KEPT):
            known.add(handled, took_s)
            handled = known.next_at

    assert known.percentiles() == (4.0, 4.0)
