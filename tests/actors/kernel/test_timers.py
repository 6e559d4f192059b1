"""What an actor has to hear later."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from actors.kernel.timers import Timers


def test_messages_are_taken_when_they_are_due_and_not_before() -> None:
    timers = Timers()
    timers.add(5.0, "later")
    timers.add(3.0, "first")

    assert timers.next_due_s() == 3.0
    assert timers.take(2.9) is None
    assert timers.take(3.0) == "first"
    assert timers.take(3.0) is None
    assert timers.next_due_s() == 5.0


def test_of_messages_that_are_due_at_once_the_one_set_first_comes_first() -> None:
    timers = Timers()
    for message in ("a", "b", "c"):
        timers.add(1.0, message)

    assert [timers.take(1.0) for _ in range(4)] == ["a", "b", "c", None]


def test_one_that_is_cancelled_is_never_taken_and_cancelling_again_is_no_error() -> None:
    timers = Timers()
    cancelled, kept = timers.add(1.0, "cancelled"), timers.add(2.0, "kept")
    timers.cancel(cancelled)
    timers.cancel(cancelled)
    timers.cancel(99)

    assert timers.next_due_s() == 2.0
    assert timers.take(5.0) == "kept"
    timers.cancel(kept)
    assert timers.next_due_s() is None


def test_after_clear_nothing_is_due_and_new_ones_are_kept() -> None:
    timers = Timers()
    timers.cancel(timers.add(1.0, "a"))
    timers.add(2.0, "b")

    timers.clear()
    timers.add(3.0, "c")

    assert (timers.take(9.0), timers.take(9.0)) == ("c", None)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans())))
def test_whatever_is_not_cancelled_is_taken_once_in_order(wanted: list[tuple[float, bool]]) -> None:
    timers = Timers()
    ids = [timers.add(due_s, number) for number, (due_s, _) in enumerate(wanted)]
    for timer_id, (_, stays) in zip(ids, wanted, strict=True):
        if not stays:
            timers.cancel(timer_id)

    taken = []
    assert timers.earliest_s == (timers.next_due_s() if timers.next_due_s() is not None else math.inf)
    while (message := timers.take(100.0)) is not None:
        taken.append(message)
        assert timers.earliest_s == (timers.next_due_s() if timers.next_due_s() is not None else math.inf)

    kept = [number for number, (_, stays) in enumerate(wanted) if stays]
    assert taken == sorted(kept, key=lambda number: (wanted[number][0], number))
