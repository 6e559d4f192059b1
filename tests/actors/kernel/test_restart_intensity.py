from __future__ import annotations

import pytest

from actors.kernel.restart_intensity import Verdict, decide


@pytest.mark.parametrize(
    ("failed_at_s", "now_s", "verdict"),
    [
        ((), 100.0, Verdict(True, (100.0,))),
        ((80.0, 90.0), 100.0, Verdict(True, (80.0, 90.0, 100.0))),
        ((96.0, 97.0, 98.0, 99.0), 100.0, Verdict(True, (96.0, 97.0, 98.0, 99.0, 100.0))),
        ((95.0, 96.0, 97.0, 98.0, 99.0), 100.0, Verdict(False, (95.0, 96.0, 97.0, 98.0, 99.0, 100.0))),
        ((70.1, 96.0, 97.0, 98.0, 99.0), 100.0, Verdict(False, (70.1, 96.0, 97.0, 98.0, 99.0, 100.0))),
        ((70.0, 96.0, 97.0, 98.0, 99.0), 100.0, Verdict(True, (96.0, 97.0, 98.0, 99.0, 100.0))),
    ],
    ids=["first", "third", "fifth", "sixth gives up", "within 30 s counts", "30 s ago does not"],
)
def test_five_restarts_in_thirty_seconds_are_allowed(
    failed_at_s: tuple[float, ...], now_s: float, verdict: Verdict
) -> None:
    assert decide(failed_at_s, now_s) == verdict


def test_a_slow_crash_loop_restarts_for_ever_and_remembers_only_what_counts() -> None:
    failed_at_s: tuple[float, ...] = ()

    for failure in range(1000):
        verdict = decide(failed_at_s, now_s=failure * 6.1)
        assert verdict.restart
        failed_at_s = verdict.failed_at_s

    assert len(failed_at_s) == 5
