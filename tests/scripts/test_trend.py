"""Slopes of samples whose line is known, and how sure they are told to be."""

import math
import random

import pytest

from scripts.bench.trend import slope_of, student_t


def test_a_clean_line_has_its_own_slope() -> None:
    xs = [float(x) for x in range(20)]

    slope = slope_of(xs, [3.0 + 0.5 * x for x in xs])

    assert slope.value == pytest.approx(0.5)
    assert slope.low == pytest.approx(0.5, abs=1e-6)
    assert slope.high == pytest.approx(0.5, abs=1e-6)


def test_the_interval_holds_the_true_slope_nineteen_times_in_twenty() -> None:
    generator = random.Random(7)
    xs = [x / 30 for x in range(60)]
    held = 0
    for _ in range(400):
        ys = [2.0 * x + generator.gauss(0, 1) for x in xs]
        slope = slope_of(xs, ys)
        held += slope.low <= 2.0 <= slope.high

    assert 0.92 <= held / 400 <= 0.98


def test_samples_that_lean_on_each_other_are_counted_as_fewer() -> None:
    generator = random.Random(7)
    xs, rest, leaning, free = [], 0.0, [], []
    for x in range(300):
        xs.append(float(x))
        free.append(generator.gauss(0, 1))
        rest = 0.95 * rest + generator.gauss(0, 1)
        leaning.append(rest)

    assert slope_of(xs, leaning).independent < 60
    assert slope_of(xs, free).independent > 200


@pytest.mark.parametrize(
    ("below", "expected"),
    [
        pytest.param(10.0, True, id="the whole interval is below"),
        pytest.param(0.1, False, id="the whole interval is above"),
        pytest.param(1.0, None, id="the interval holds the bar"),
    ],
)
def test_a_slope_is_judged_by_its_interval(below: float, expected: bool | None) -> None:
    xs = [float(x) for x in range(20)]

    slope = slope_of(xs, [x + (-1) ** x for x in range(20)])

    assert slope.verdict(below) is expected


def test_few_samples_have_no_slope() -> None:
    with pytest.raises(ValueError, match="7 samples"):
        slope_of([1.0] * 7, [1.0] * 7)


@pytest.mark.parametrize(("freedom", "expected"), [(3, 3.182), (5, 2.571), (10, 2.228), (100, 1.984)])
def test_quantiles_are_those_of_the_table(freedom: int, expected: float) -> None:
    assert student_t(freedom) == pytest.approx(expected, rel=0.01)
    assert math.isclose(student_t(1e9), 1.96, abs_tol=0.001)
