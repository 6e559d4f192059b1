"""Source of the rows: spec sheet observability.md section 3, availability rules."""

from __future__ import annotations

import pytest

from actors.metrics.availability import Clocks, Seen, advance


@pytest.mark.parametrize(
    ("status", "desired", "after"),
    [
        ("running", "running", Clocks(10, 10)),
        ("running", "stopped", Clocks(10, 10)),
        ("unhealthy", "running", Clocks(10, 10)),
        ("backoff", "running", Clocks(0, 10)),
        ("failed", "running", Clocks(0, 10)),
        ("downloading", "running", Clocks(0, 10)),
        ("stopped", "running", Clocks(0, 10)),
        ("stopped", "stopped", Clocks(0, 0)),
        ("failed", "stopped", Clocks(0, 0)),
        ("unknown", "unknown", Clocks(0, 0)),
    ],
)
def test_clocks_go_on_by_status_and_desired_status(status: str, desired: str, after: Clocks) -> None:
    assert advance({}, [Seen("m", status, desired)], 10, ["m"]) == {"m": after}


def test_a_module_counts_from_the_look_after_the_one_that_found_it() -> None:
    seen = [Seen("m", "running", "running")]

    first = advance({}, seen, 10, [])
    second = advance(first, seen, 5, ["m"])

    assert first == {"m": Clocks(0, 0)}
    assert second == {"m": Clocks(5, 5)}


def test_the_clocks_of_a_module_that_is_not_deployed_pause() -> None:
    before = {"gone": Clocks(3, 4)}

    assert advance(before, [], 10, ["gone"]) == before
    assert advance(before, [Seen("gone", "running", "running")], 10, []) == before


def test_what_an_agent_was_killed_for_is_expected_only() -> None:
    before = {"edgeAgent": Clocks(0, 1200)}

    assert advance(before, [Seen("edgeAgent", "running", "running")], 0, []) == before
