"""Counters, gauges and summaries of one process, and what they stand at.

Any thread may count, and a lock makes that right. What one thread alone counts, all the time, it adds to in
place (`Counter.cell`, `Summary.window`); it is a batch all the same and not a message. A series is there from
its first use on. There is no limit on who connects, and labels name identities, so the number of series has
one.

Source: spec sheet observability.md section 1
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from actors.metrics.window import QUANTILES, Window
from messaging.clock import Clock
from messaging.exposition import Family, Kind, Labels, Sample

log = logging.getLogger(__name__)

MOST_SERIES: Final = 50_000  # of all families together: some 20 MB, and a scrape of half a second
HISTOGRAM_AGE_S: Final = 3600.0
DURATION_AGE_S: Final = 600.0
MS_TELEMETRY: Final = "ms_telemetry"

Value = TypeVar("Value")
Of = tuple[str, ...]


class Registry:
    """All metrics of one process."""

    def __init__(
        self,
        clock: Clock,
        common: Labels = (),
        *,
        is_on: bool = True,
        histogram_age_s: float = HISTOGRAM_AGE_S,
    ) -> None:
        """Begin empty.

        Args:
            clock: For the windows of summaries.
            common: Labels that every series begins with.
            is_on: Without, nothing is counted.
            histogram_age_s: How far the quantiles of histograms look back.
        """
        self.clock = clock
        self.is_on = is_on
        self.histogram_age_s = histogram_age_s
        self.lock = threading.Lock()
        self._common = common
        self._families: list[Metric[Any]] = []
        self._series = 0
        self._told = False

    def counter(self, name: str, help: str, labels: Of = (), *, ms: str = "", plain: bool = False) -> Counter:
        """Return a counter; its name gets `_total`, unless it is a `plain` one without common labels."""
        return Counter(self, name if plain else f"{name}_total", "counter", help, labels, ms, plain)

    def gauge(self, name: str, help: str, labels: Of = (), *, ms: str = "") -> Gauge:
        """Return a gauge; `ms` is the value of the label `ms_telemetry`, "": without that label."""
        return Gauge(self, name, "gauge", help, labels, ms)

    def histogram(self, name: str, help: str, labels: Of = ()) -> Summary:
        """Return a summary of sizes or shares."""
        return Summary(self, name, help, labels, "", self.histogram_age_s)

    def duration(self, name: str, help: str, labels: Of = (), *, ms: str = "") -> Summary:
        """Return a summary of seconds; its name gets `_seconds`."""
        return Summary(self, f"{name}_seconds", help, labels, ms, DURATION_AGE_S)

    def add(self, family: Metric[Any]) -> None:
        """Know one family more."""
        self._families.append(family)

    def admits_another(self) -> bool:
        """Say whether there is room for a series more, and count it. The lock is held."""
        if self._series >= MOST_SERIES:
            if not self._told:
                self._told = True
                log.warning(
                    "metrics: further clients, endpoints and outputs are not counted by name: there are %d "
                    "series already; a restart begins anew",
                    MOST_SERIES,
                )
            return False
        self._series += 1
        return True

    def forget(self, count: int) -> None:
        """So many series are gone. The lock is held."""
        self._series -= count

    def collect(self) -> tuple[Family, ...]:
        """Return what everything stands at; families without a series are left out."""
        now_s = self.clock.monotonic_s()
        copies = [(family, family.copied(now_s)) for family in self._families]
        return tuple(
            Family(family.name, family.kind, family.help, family.samples(copy, self._common))
            for family, copy in copies
            if copy
        )


class Metric(Generic[Value]):
    """One family of series, by the values of its labels."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        kind: Kind,
        help: str,
        labels: Of,
        ms: str,
        plain: bool = False,
    ) -> None:
        self.name = name
        self.kind: Kind = kind
        self.help = help
        self._registry = registry
        self._labels = labels
        self._fixed: Labels = ((MS_TELEMETRY, ms),) if ms else ()
        self._plain = plain
        self._series: dict[Of, Value] = {}
        registry.add(self)

    def copied(self, now_s: float) -> Mapping[Of, tuple[float, ...]]:
        """Return the numbers of each series. Others count on meanwhile."""
        raise NotImplementedError

    def known(self) -> list[tuple[Of, Value]]:
        """Return the series of this moment."""
        with self._registry.lock:
            return list(self._series.items())

    def samples(self, copy: Mapping[Of, tuple[float, ...]], common: Labels) -> tuple[Sample, ...]:
        """Return the samples that these numbers make."""
        return tuple(Sample("", self._named(of, common), numbers[0]) for of, numbers in copy.items())

    def _named(self, of: Of, common: Labels) -> Labels:
        own = tuple(zip(self._labels, of, strict=True)) + self._fixed
        return own if self._plain else common + own


class Counter(Metric[list[float]]):
    """Only grows."""

    def cell(self, of: Of) -> list[float]:
        """Return what one thread alone adds to in place, for what is counted all the time."""
        registry = self._registry
        with registry.lock:
            cell = self._series.get(of)
            if cell is None:
                cell = [0.0]
                if registry.admits_another():
                    self._series[of] = cell
            return cell

    def add(self, of: Of = (), count: float = 1) -> None:
        """Count so many more."""
        registry = self._registry
        if not registry.is_on:
            return
        with registry.lock:
            cell = self._series.get(of)
            if cell is not None:
                cell[0] += count
            elif registry.admits_another():
                self._series[of] = [count]

    def copied(self, now_s: float) -> Mapping[Of, tuple[float, ...]]:
        return {of: (cell[0],) for of, cell in self.known() if cell[0]}


class Gauge(Metric[float]):
    """Stands at a number."""

    def set(self, value: float, of: Of = ()) -> None:
        """Stand at this number."""
        registry = self._registry
        if registry.is_on:
            with registry.lock:
                if of in self._series or registry.admits_another():
                    self._series[of] = value

    def set_all(self, values: Mapping[Of, float]) -> None:
        """Have exactly these series."""
        registry = self._registry
        if registry.is_on:
            with registry.lock:
                registry.forget(len(self._series))
                self._series = {of: value for of, value in values.items() if registry.admits_another()}

    def copied(self, now_s: float) -> Mapping[Of, tuple[float, ...]]:
        return {of: (value,) for of, value in self.known()}


class Summary(Metric[Window]):
    """Quantiles over a while, sum and count since the start."""

    def __init__(self, registry: Registry, name: str, help: str, labels: Of, ms: str, age_s: float) -> None:
        super().__init__(registry, name, "summary", help, labels, ms)
        self._age_s = age_s

    def window(self, of: Of) -> Window:
        """Return what one thread alone observes into, for what is observed all the time."""
        registry = self._registry
        with registry.lock:
            window = self._series.get(of)
            if window is None:
                window = Window(self._age_s)
                if registry.admits_another():
                    self._series[of] = window
            return window

    def observe(self, value: float, of: Of = ()) -> None:
        """Take an observation."""
        registry = self._registry
        if not registry.is_on:
            return
        now_s = registry.clock.monotonic_s()
        with registry.lock:
            window = self._series.get(of)
            if window is None:
                if not registry.admits_another():
                    return
                window = self._series[of] = Window(self._age_s)
            window.observe(value, 1, value, now_s)

    def copied(self, now_s: float) -> Mapping[Of, tuple[float, ...]]:
        return {
            of: (*window.quantiles(now_s), window.sum, float(window.count))
            for of, window in self.known()
            if window.count
        }

    def samples(self, copy: Mapping[Of, tuple[float, ...]], common: Labels) -> tuple[Sample, ...]:
        found: list[Sample] = []
        for of, numbers in copy.items():
            named = self._named(of, common)
            found += (
                Sample("", (*named, ("quantile", f"{quantile:g}")), value)
                for quantile, value in zip(QUANTILES, numbers, strict=False)
            )
            found += (Sample("_sum", named, numbers[-2]), Sample("_count", named, numbers[-1]))
        return tuple(found)


Source = Callable[[], Iterable[Family]]
"""Makes families at the moment they are asked for. In the thread of the actor of metrics."""


def gauges(
    name: str, help: str, common: Labels, labels: Of, values: Mapping[Of, float], kind: Kind = "gauge"
) -> Family:
    """Return a family of numbers that somebody else keeps."""
    samples = tuple(
        Sample("", common + tuple(zip(labels, of, strict=True)), float(value)) for of, value in values.items()
    )
    return Family(name, kind, help, samples)
