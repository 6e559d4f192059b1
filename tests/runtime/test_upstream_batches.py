"""Which messages leave together over AMQP, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.cloud_connection import CloudFault, Fault
from runtime.upstream_batches import BATCH_AGE_S, Batch, Batches


def batches(*sizes_bytes: int, most_messages: int = 10, most_bytes: int = 1000) -> Batches:
    made = Batches(most_messages, most_bytes)
    for number, size_bytes in enumerate(sizes_bytes):
        made.add(number, bytes(size_bytes), 0.0)
    return made


def leave(made: Batches, now_s: float = 0.0) -> list[int]:
    """Take what leaves next, as a delivery that is known by its first number."""
    batch = made.take(now_s)
    made.sent(batch.numbers[0], batch)
    return batch.numbers


def answer(made: Batches, delivery: int) -> Batch:
    """Answer the delivery whose turn it is; return what it carried."""
    made.answered(delivery, None)
    answered = made.next_answer()
    assert answered is not None
    return answered[0]


def test_the_first_message_leaves_at_once() -> None:
    assert batches(10).due_s(0.0) == 0.0


def test_nothing_is_due_where_nothing_waits() -> None:
    assert batches().due_s(0.0) is None


@pytest.mark.parametrize(
    ("sizes_bytes", "now_s", "due_s"),
    [
        pytest.param([10], 0.0, BATCH_AGE_S, id="one waits for others"),
        pytest.param([10], BATCH_AGE_S, 0.0, id="not for ever"),
        pytest.param([10] * 10, 0.0, 0.0, id="as many as may leave together"),
        pytest.param([992], 0.0, 0.0, id="as large as may be"),
        pytest.param([10] * 9, BATCH_AGE_S / 2, BATCH_AGE_S / 2, id="the oldest counts"),
    ],
)
def test_behind_one_that_is_under_way_a_batch_is_filled(
    sizes_bytes: list[int], now_s: float, due_s: float
) -> None:
    made = batches(1)
    leave(made)

    for number, size_bytes in enumerate(sizes_bytes, 1):
        made.add(number, bytes(size_bytes), 0.0)

    assert made.due_s(now_s) == pytest.approx(due_s)


def test_with_the_answer_the_next_one_leaves_at_once() -> None:
    made = batches(1)
    leave(made)
    made.add(1, b"", 0.0)

    answer(made, 0)

    assert made.due_s(0.0) == 0.0


def test_answers_count_in_the_order_of_sending() -> None:
    fault = CloudFault(Fault.QUOTA, "no more today", 403)
    made = batches(1, 1, 1, most_messages=1)
    for _ in range(3):
        leave(made)

    made.answered(2, None)
    made.answered(1, fault)
    assert made.next_answer() is None
    made.answered(0, None)
    made.answered("of another link", None)

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


def test_those_that_were_refused_together_leave_one_by_one_before_all_others() -> None:
    made = batches(1, 1, 1, 1, 1, most_messages=3)
    assert leave(made) == [0, 1, 2]
    made.again_one_by_one(answer(made, 0))

    left = []
    while (due_s := made.due_s(0.0)) is not None:
        assert due_s == 0.0
        left.append(leave(made))
        if len(left) <= 3:
            assert made.due_s(0.0) is None or len(left) == 3
        answer(made, left[-1][0])

    assert left == [[0], [1], [2], [3, 4]]


@given(st.lists(st.integers(0, 1200), max_size=60), st.integers(1, 12), st.integers(1, 1500))
def test_all_leave_in_order_within_the_limits(sizes: list[int], most_messages: int, most_bytes: int) -> None:
    made = batches(*sizes, most_messages=most_messages, most_bytes=most_bytes)

    left = []
    while made.due_s(0.0) is not None:
        batch = made.take(0.0)
        assert len(batch.messages) <= most_messages
        assert batch.size_bytes <= most_bytes or len(batch.messages) == 1
        left += batch.numbers

    assert left == list(range(len(sizes)))
    assert made.due_s(0.0) is None


@given(st.lists(st.booleans(), max_size=60))
def test_each_number_is_given_back_exactly_once(answers: list[bool]) -> None:
    made = batches(*[1] * len(answers), most_messages=4)
    told: list[int] = []
    deliveries = []
    while made.due_s(1.0) is not None and len(deliveries) < len(answers) // 8:
        deliveries.append(leave(made)[0])
    for delivery, is_answered in zip(deliveries, answers, strict=False):
        if is_answered:
            made.answered(delivery, None)
    while (answered := made.next_answer()) is not None:
        told += answered[0].numbers

    told += made.take_all()

    assert sorted(told) == list(range(len(answers)))
    assert made.take_all() == []
