"""How long until something is sent again."""

from __future__ import annotations

import pytest

from actors.store.redelivery import wait_s


@pytest.mark.parametrize(
    ("times", "expected"),
    [(0, 0.5), (1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (10_000, 60.0)],
)
def test_the_wait_doubles_up_to_the_longest(times: int, expected: float) -> None:
    assert wait_s(times, first_s=0.5, longest_s=60.0) == expected
