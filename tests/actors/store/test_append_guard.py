from __future__ import annotations

import pytest

from actors.store.append_guard import AppendGuard


@pytest.mark.parametrize(
    ("batches", "accepted"),
    [
        pytest.param([(1, 0), (1, 1), (1, 2)], [True, True, True], id="one after the other"),
        pytest.param([(1, 1)], [False], id="the first is missing"),
        pytest.param([(1, 0), (1, 2), (1, 3)], [True, False, False], id="after a gap nothing more"),
        pytest.param([(1, 0), (1, 2), (1, 1)], [True, False, False], id="the missing one comes too late"),
        pytest.param([(1, 0), (1, 0)], [True, False], id="the same once more"),
        pytest.param([(1, 0), (2, 0), (1, 1), (2, 1)], [True, True, False, True], id="taken over"),
        pytest.param([(1, 0), (2, 1), (1, 1)], [True, False, False], id="taken over, with a gap"),
        pytest.param([(1, 0), (1, 2), (2, 0)], [True, False, True], id="a new connection starts again"),
    ],
)
def test_batches_of_a_connection_are_accepted_without_a_gap_or_not_at_all(
    batches: list[tuple[int, int]], accepted: list[bool]
) -> None:
    guard = AppendGuard()

    assert [not guard.check("edge/sensor", epoch, index) for epoch, index in batches] == accepted


def test_after_a_failure_a_connection_is_shut_and_other_identities_are_not() -> None:
    guard = AppendGuard()
    guard.check("edge/sensor", 5, 0)
    guard.check("edge/other", 3, 0)

    guard.failed("edge/sensor", 5)

    assert "batch 1 of 'edge/sensor'" in guard.check("edge/sensor", 5, 1)
    assert not guard.check("edge/other", 3, 1)
    assert not guard.check("edge/sensor", 6, 0)


def test_a_failure_of_an_earlier_connection_does_not_shut_the_new_one() -> None:
    guard = AppendGuard()
    guard.check("edge/sensor", 5, 0)
    guard.check("edge/sensor", 6, 0)

    guard.failed("edge/sensor", 5)

    assert not guard.check("edge/sensor", 6, 1)
