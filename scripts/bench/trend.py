"""A straight line through samples, and how sure its slope is."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 8  # independent samples, below which an interval says nothing


@dataclass(frozen=True, slots=True)
class Slope:
    """Least squares of y over x, in units of y per unit of x, with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    independent: (
        float  # samples that the interval rests on, fewer than were taken when they follow each other
    )

    def verdict(self, below: float) -> bool | None:
        """Return whether the slope is below a bar; None when the interval holds the bar."""
        if self.high < below:
            return True
        return False if self.low >= below else None


def slope_of(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Return the slope of the line through the samples.

    Samples of a process that breathes lean on each other, so that n of them say less than n would. The
    interval counts them as n (1 - r) / (1 + r), r being how alike neighbouring residuals are, as usual for a
    first order autoregression.

    Raises:
        ValueError: fewer than `FEWEST` samples, or all at one x.
    """
    count = len(xs)
    if count < FEWEST:
        raise ValueError(f"{count} samples; a slope needs {FEWEST} at least")
    line = statistics.linear_regression(xs, ys)
    rest = [y - line.intercept - line.slope * x for x, y in zip(xs, ys, strict=True)]
    squares = sum(value * value for value in rest)
    if squares == 0:
        return Slope(line.slope, line.slope, line.slope, float(count))
    alike = sum(one * other for one, other in itertools.pairwise(rest)) / squares
    alike = min(max(alike, 0.0), 1 - 1e-9)
    independent = count * (1 - alike) / (1 + alike)
    if independent <= 3:
        return Slope(line.slope, -math.inf, math.inf, independent)
    mean_x = statistics.fmean(xs)
    spread_x = sum((x - mean_x) ** 2 for x in xs) / count
    error = math.sqrt(squares / count / (independent - 2) / spread_x)
    half = student_t(independent - 2) * error
    return Slope(line.slope, line.slope - half, line.slope + half, independent)


def student_t(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, within 1 % from three degrees of freedom on.

    Source: M. Abramowitz, I. A. Stegun: Handbook of Mathematical Functions, 26.7.5.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
