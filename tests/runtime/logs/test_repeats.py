"""What is told of lines that come again and again."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.logs.repeats import (
    BURST_LINES,
    BURST_S,
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    MOST_KNOWN,
    PAUSE_S,
    Repeats,
)


def record(text: str, level: int = logging.WARNING, line: int = 1, at_s: float = 0.0) -> logging.LogRecord:
    made = logging.LogRecord("actors.x", level, "x.py", line, text, (), None)
    made.created = at_s
    return made


def take(repeats: Repeats, text: str, now_s: float, level: int = logging.WARNING, line: int = 1) -> list[str]:
    return [told.getMessage() for told in repeats.take(record(text, level, line, now_s), now_s)]


def due(repeats: Repeats, now_s: float) -> list[str]:
    return [told.getMessage() for told in repeats.due(now_s)]


def test_the_first_of_many_is_told_at_once_and_the_others_as_a_count() -> None:
    repeats = Repeats()

    told = [take(repeats, "disk full", second / 10) for second in range(20)]

    assert told == [["disk full"], *[[]] * 19]
    assert due(repeats, FIRST_WAIT_S - 0.1) == []
    assert due(repeats, FIRST_WAIT_S) == ["disk full (again: 19, the last at 00:00:01 UTC)"]


def test_a_line_that_did_not_come_again_is_told_when_it_does_later() -> None:
    repeats = Repeats()

    assert take(repeats, "disk full", 0.0) == ["disk full"]
    assert take(repeats, "disk full", FIRST_WAIT_S) == ["disk full"]


def test_what_comes_again_after_a_pause_is_told_at_once_but_goes_on() -> None:
    repeats = Repeats()

    told_s = [second for second in range(0, 3600, 10) if take(repeats, "no image", float(second))]

    assert told_s[:5] == [0, 10, 20, 40, 80]
    assert len(told_s) < 15

    counted = due(repeats, 4200.0)
    assert len(counted) == 1
    ends_s = 4200.0 + LONGEST_WAIT_S + PAUSE_S + 2 * LONGEST_WAIT_S
    assert take(repeats, "no image", ends_s) == ["no image"]
    assert take(repeats, "no image", ends_s + FIRST_WAIT_S) == ["no image"]


def test_the_longer_it_goes_on_the_rarer_it_is_told() -> None:
    repeats = Repeats()

    told_s = [second for second in range(7200) if take(repeats, "no cloud", float(second))]

    waits_s = [later - earlier for earlier, later in pairwise(told_s)]
    assert waits_s[:4] == [5, 10, 20, 40]
    assert waits_s[-1] == LONGEST_WAIT_S
    assert len(told_s) < 25


def test_lines_that_differ_are_each_told_up_to_a_limit_for_their_place() -> None:
    repeats = Repeats()

    told = [take(repeats, f"client {number} refused", 1.0) for number in range(BURST_LINES + 7)]

    assert sum(map(len, told)) == BURST_LINES
    assert take(repeats, "something else", 1.0, line=2) == ["something else"]
    last = f"client {BURST_LINES + 6} refused"
    assert f"{last} (lines like this left out: 7, the last at 00:00:01 UTC)" in due(repeats, 1.0 + BURST_S)


def test_a_place_that_goes_on_and_on_is_told_less_of() -> None:
    repeats = Repeats()

    told = [len(take(repeats, f"client {number} is back", number / 100)) for number in range(100 * 600)]

    assert sum(told) < 1200


def test_lines_at_debug_are_all_told() -> None:
    repeats = Repeats()

    told = [take(repeats, "same", 0.0, logging.DEBUG) for _ in range(200)]

    assert told == [["same"]] * 200


def test_what_follows_the_first_line_is_told_once() -> None:
    repeats = Repeats()
    for _ in range(2):
        take(repeats, "it failed\nTraceback\n  where", 0.0)

    assert due(repeats, FIRST_WAIT_S) == ["it failed (again: 1, the last at 00:00:00 UTC)"]


def test_another_level_or_another_error_is_another_line() -> None:
    repeats = Repeats()
    failed = [record("it failed") for _ in range(2)]
    for one, error in zip(failed, (KeyError("a"), KeyError("b")), strict=True):
        one.exc_info = (type(error), error, None)

    assert take(repeats, "x", 0.0) == take(repeats, "x", 0.0, logging.ERROR) == ["x"]
    assert [len(list(repeats.take(one, 0.0))) for one in failed] == [1, 1]


def test_what_was_left_out_is_told_at_the_end() -> None:
    repeats = Repeats()
    for _ in range(3):
        take(repeats, "x", 0.0)

    assert [told.getMessage() for told in repeats.rest()] == ["x (again: 2, the last at 00:00:00 UTC)"]


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 300), st.floats(0, 3)), max_size=400))
def test_every_line_is_told_or_counted_and_memory_is_bounded(lines: list[tuple[int, int, float]]) -> None:
    repeats = Repeats()
    now_s, told = 0.0, list[str]()
    for text, place, step_s in lines:
        now_s += step_s
        told += take(repeats, f"t{text}", now_s, line=place)
        assert len(repeats) <= 2 * MOST_KNOWN
    told += [one.getMessage() for one in repeats.rest()]

    counted = Counter[str]()
    for one in told:
        _, _, remark = one.partition(" (")
        counted["all"] += int(remark.partition(": ")[2].partition(",")[0]) if remark else 1
    assert counted["all"] == len(lines)
