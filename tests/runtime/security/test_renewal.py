"""When a certificate is due: rows of security-daemon.md section 3.3."""

from __future__ import annotations

import pytest

from runtime.security.renewal import DEFAULT_THRESHOLD, Threshold, threshold

DAY_S = 86_400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80%", Threshold(percent=80)),
        ("1%", Threshold(percent=1)),
        ("90min", Threshold(before_end_s=5400)),
        ("7day", Threshold(before_end_s=7 * DAY_S)),
    ],
)
def test_a_threshold_is_a_share_or_a_time_before_the_end(text: str, expected: Threshold) -> None:
    assert threshold(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0%", "100%", "80 %", "7days", "-1day", "7", "1.5day", "min", "٣day", "7day "]
)
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1% to 99% of its life, or how long before its end"):
        threshold(text)


@pytest.mark.parametrize(
    ("text", "due_day"), [("80%", 72), ("50%", 45), ("7day", 83), ("1440min", 89)], ids=str
)
def test_a_certificate_of_ninety_days_is_due_on_that_day(text: str, due_day: int) -> None:
    wanted = threshold(text)

    assert wanted.time_s(0, 90 * DAY_S) == due_day * DAY_S
    assert not wanted.is_due(0, 90 * DAY_S, due_day * DAY_S - 1)
    assert wanted.is_due(0, 90 * DAY_S, due_day * DAY_S)


def test_one_that_is_shorter_than_its_threshold_is_due_at_once() -> None:
    assert threshold("7day").is_due(0, 5 * DAY_S, 0)


def test_one_that_is_not_valid_yet_is_not_due() -> None:
    assert not DEFAULT_THRESHOLD.is_due(100 * DAY_S, 190 * DAY_S, 0)
