from __future__ import annotations

import pytest

from actors.store.stored import (
    DEFAULT_PRIORITY,
    MAX_SEQ,
    EndpointLedger,
    Ledger,
    Totals,
    position_of,
    priority_of,
    seq_of,
)


@pytest.mark.parametrize("seq", [0, 1, MAX_SEQ])
@pytest.mark.parametrize("priority", [0, 1, 9, DEFAULT_PRIORITY])
def test_a_position_tells_priority_and_sequence_number(priority: int, seq: int) -> None:
    position = position_of(priority, seq)

    assert (priority_of(position), seq_of(position)) == (priority, seq)


def test_positions_order_by_priority_then_by_sequence_number() -> None:
    in_order = [(0, 9), (0, 10), (1, 3), (9, MAX_SEQ), (DEFAULT_PRIORITY, 0), (DEFAULT_PRIORITY, 1)]

    positions = [position_of(priority, seq) for priority, seq in in_order]

    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("priority", "seq"),
    [
        pytest.param(-1, 1, id="negative priority"),
        pytest.param(10, 1, id="priority between 9 and the default"),
        pytest.param(DEFAULT_PRIORITY + 1, 1, id="priority behind the default"),
        pytest.param(0, -1, id="negative sequence number"),
        pytest.param(0, MAX_SEQ + 1, id="sequence number too high"),
    ],
)
def test_a_position_out_of_range_is_refused(priority: int, seq: int) -> None:
    with pytest.raises(ValueError, match=r"priority|sequence number"):
        position_of(priority, seq)


BALANCED = EndpointLedger(
    accepted=10, delivered=4, expired=3, dropped=2, dropped_by_reason={"limit": 1, "poison": 1}, pending=1
)


@pytest.mark.parametrize(
    ("ledger", "named"),
    [
        pytest.param(Ledger(Totals(3, 1, 2), {"a": BALANCED}), [], id="balanced"),
        pytest.param(
            Ledger(Totals(3, 1, 1), {}), ["received 3"], id="a message is neither routed nor unrouted"
        ),
        pytest.param(
            Ledger(Totals(), {"a": BALANCED, "b": EndpointLedger(accepted=1)}),
            ["b: accepted 1"],
            id="an endpoint lost a message",
        ),
        pytest.param(
            Ledger(Totals(), {"a": EndpointLedger(accepted=1, dropped=1)}),
            ["a: dropped 1"],
            id="dropped for no reason",
        ),
    ],
)
def test_a_ledger_names_the_equations_that_do_not_hold(ledger: Ledger, named: list[str]) -> None:
    imbalances = ledger.imbalances()

    assert len(imbalances) == len(named)
    assert all(text.startswith(start) for text, start in zip(imbalances, named, strict=True))
