from __future__ import annotations

import pytest

from actors.restart_intensity import Verdict, decide


@pytest.mark.parametrize(
    ("restarts", "now_s", "verdict"),
    [
        ((), 100.0, Verdict(False, (100.0,))),
        ((80.0, 90.0), 100.0, Verdict(False, (80.0, 90.0, 100.0))),
        ((96.0, 97.0, 98.0, 99.0), 100.0, Verdict(False, (96.0, 97.0, 98.0, 99.0, 100.0))),
        ((95.0, 96.0, 97.0, 98.0, 99.0), 100.0, Verdict(True, (95.0, 96.0, 97.0, 98.0, 99.0))),
        ((70.0, 96.0, 97.0, 98.0, 99.0), 100.0, Verdict(True, (70.0, 96.0, 97.0, 98.0, 99.0))),
        ((69.9, 96.0, 97.0, 98.0, 99.0), 100.0, Verdict(False, (96.0, 97.0, 98.0, 99.0, 100.0))),
    ],
    ids=["first", "third", "fifth restart", "sixth escalates", "30 s ago counts", "over 30 s ago does not"],
)
def test_five_restarts_in_thirty_seconds_are_allowed(
    restarts: tuple[float, ...], now_s: float, verdict: Verdict
) -> None:
    assert decide(restarts, now_s) == verdict


def test_a_slow_crash_loop_restarts_for_ever_and_remembers_only_what_counts() -> None:
    restarts: tuple[float, ...] = ()

    for failure in range(1000):
        verdict = decide(restarts, now_s=failure * 6.1)
        assert not verdict.escalate
        restarts = verdict.restarts

    assert len(restarts) == 5


def test_a_limit_of_zero_escalates_at_once() -> None:
    assert decide((), 0.0, limit=0).escalate
