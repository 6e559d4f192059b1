"""Which messages leave together over AMQP, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.upstream.connection import CloudFault, Fault
from runtime.upstream.batches import LONG_LINE_S, PROOFS, Batch, Batches

REFUSED = CloudFault(Fault.REFUSED, "no", 400)


def batches(*sizes_bytes: int, most_messages: int = 10, most_bytes: int = 1000) -> Batches:
    made = Batches(most_messages, most_bytes)
    for number, size_bytes in enumerate(sizes_bytes):
        made.add(number, bytes(size_bytes))
    return made


def leave(made: Batches, now_s: float = 0.0) -> list[int]:
    """Take what leaves next, as a delivery that is known by its first number."""
    batch = made.take(now_s)
    made.sent(batch.numbers[0], batch)
    return batch.numbers


def answer(made: Batches, delivery: int, now_s: float = 0.0) -> Batch:
    """Answer the delivery whose turn it is; return what it carried."""
    made.answered(delivery, None, now_s)
    answered = made.next_answer()
    assert answered is not None
    return answered[0]


def proven(count: int, took_s: float = LONG_LINE_S, **limits: int) -> Batches:
    """Return a line over which so many batches were taken, each answered after so long."""
    made = batches(**limits)
    for number in range(-count, 0):
        made.add(number, b"")
        leave(made)
        answer(made, number, took_s)
    return made


def test_the_first_message_leaves_at_once() -> None:
    assert batches(10).is_due


def test_nothing_is_due_where_nothing_waits() -> None:
    assert not batches().is_due


def test_behind_one_that_is_under_way_nothing_leaves_before_the_answer() -> None:
    made = batches(1)
    leave(made)

    for number in range(1, 30):
        made.add(number, b"")
    assert not made.is_due
    answer(made, 0)

    assert made.is_due
    assert leave(made) == list(range(1, 11))
    assert not made.is_due


@pytest.mark.parametrize(
    ("proofs", "took_s", "waiting_bytes", "is_due"),
    [
        pytest.param(PROOFS, LONG_LINE_S, [1] * 10, True, id="full by number, on a long line"),
        pytest.param(PROOFS, LONG_LINE_S, [992], True, id="full by bytes, on a long line"),
        pytest.param(PROOFS, LONG_LINE_S, [1] * 9, False, id="not full"),
        pytest.param(PROOFS - 1, LONG_LINE_S, [1] * 10, False, id="too few answers so far"),
        pytest.param(PROOFS, LONG_LINE_S / 2, [1] * 10, False, id="a short line, where waiting costs little"),
    ],
)
def test_a_batch_leaves_behind_another_when_it_is_worth_it(
    proofs: int, took_s: float, waiting_bytes: list[int], is_due: bool
) -> None:
    made = proven(proofs, took_s)
    made.add(0, b"")
    leave(made)

    for number, size_bytes in enumerate(waiting_bytes, 1):
        made.add(number, bytes(size_bytes))

    assert made.is_due is is_due


def test_once_something_was_refused_nothing_leaves_behind_another_on_this_connection() -> None:
    made = proven(PROOFS, most_messages=2)
    for number in range(4):
        made.add(number, b"")
    leave(made)
    made.again_in_parts(answer(made, 0))
    for number in range(100, 100 + 4 * PROOFS):
        made.add(number, b"")

    left = []
    while made.is_due:
        left.append(leave(made))
        assert not made.is_due
        answer(made, left[-1][0], LONG_LINE_S)

    assert left[:4] == [[0], [1], [2, 3], [100, 101]]
    assert len(left) > 2 * PROOFS


def test_answers_count_in_the_order_of_sending() -> None:
    made = proven(PROOFS, most_messages=1)
    for number in range(3):
        made.add(number, b"")
    fault = CloudFault(Fault.QUOTA, "no more today", 403)
    for _ in range(3):
        leave(made)

    made.answered(2, None, 1.0)
    made.answered(1, fault, 1.0)
    assert made.next_answer() is None
    made.answered(0, None, 1.0)
    made.answered("of another link", None, 1.0)

    told = [made.next_answer() for _ in range(4)]
    assert [one and (one[0].numbers, one[1]) for one in told] == [
        ([0], None),
        ([1], fault),
        ([2], None),
        None,
    ]


def test_a_message_larger_than_a_batch_leaves_alone() -> None:
    made = batches(10, 5000, 10)

    assert [leave(made), leave(made), leave(made)] == [[0], [1], [2]]


def test_the_peer_may_take_less_at_once() -> None:
    made = batches(100, 100, 100)

    assert made.take(0.0, peer_most_bytes=216).numbers == [0, 1]


@given(
    count=st.integers(1, 60),
    most_messages=st.integers(1, 20),
    poison=st.sets(st.integers(0, 59), max_size=5),
    runs_ahead=st.booleans(),
)
@example(count=20, most_messages=2, poison={16}, runs_ahead=False)
def test_what_is_refused_together_is_halved_until_those_to_blame_are_alone(
    count: int, most_messages: int, poison: set[int], runs_ahead: bool
) -> None:
    made = proven(PROOFS if runs_ahead else 0, most_messages=most_messages)
    took_s = LONG_LINE_S if runs_ahead else 0.0  # many answers over a long line would be proof enough
    for number in range(count):
        made.add(number, b"")
    arrived: list[int] = []
    refused: list[int] = []
    deliveries = 0
    first_refused = count

    while made.is_due:
        under_way = []
        while made.is_due:
            under_way.append(leave(made))
        deliveries += len(under_way)
        for numbers in reversed(under_way):
            made.answered(numbers[0], REFUSED if poison & set(numbers) else None, took_s)
        while (told := made.next_answer()) is not None:
            batch, fault = told
            if fault is None:
                arrived += batch.numbers
            elif len(batch.numbers) == 1:
                refused += batch.numbers
            else:
                first_refused = min(first_refused, batch.numbers[0])
                made.again_in_parts(batch)

    assert sorted(refused) == sorted(poison & set(range(count)))
    assert sorted(arrived + refused) == list(range(count))
    if not runs_ahead:
        assert arrived == sorted(arrived)
    # Behind the first refusal, too, those that were refused go before all that had not left.
    again = [number for number in arrived if number >= first_refused]
    assert refused == sorted(refused)
    assert len([1 for one, two in pairwise(again) if two < one]) <= 1
    halvings = most_messages.bit_length() + 1
    assert deliveries <= count // most_messages + 1 + 2 * len(poison) * halvings


@given(st.lists(st.integers(0, 1200), max_size=60), st.integers(1, 12), st.integers(1, 1500))
def test_all_leave_in_order_within_the_limits(sizes: list[int], most_messages: int, most_bytes: int) -> None:
    made = batches(*sizes, most_messages=most_messages, most_bytes=most_bytes)

    left = []
    while made.is_due:
        batch = made.take(0.0)
        assert len(batch.messages) <= most_messages
        assert batch.size_bytes <= most_bytes or len(batch.messages) == 1
        left += batch.numbers

    assert left == list(range(len(sizes)))
    assert not made.is_due


@given(count=st.integers(0, 60), left=st.integers(0, 12), answered=st.integers(0, 12), refused=st.booleans())
def test_each_number_is_given_back_exactly_once_and_in_order(
    count: int, left: int, answered: int, refused: bool
) -> None:
    made = proven(PROOFS, most_messages=4)
    for number in range(count):
        made.add(number, b"")
    told: list[int] = []
    deliveries = []
    while made.is_due and len(deliveries) < left:
        deliveries.append(leave(made)[0])
    for delivery in deliveries[:answered]:
        made.answered(delivery, None, LONG_LINE_S)
    while (found := made.next_answer()) is not None:
        if refused and not told:
            made.again_in_parts(found[0])
            break
        told += found[0].numbers

    rest = made.take_all()

    assert sorted(told + rest) == list(range(count))
    assert rest == sorted(rest)
    assert made.take_all() == []
    assert not made.is_due
