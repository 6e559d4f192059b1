from __future__ import annotations

import math
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.metrics import registry as metric_registry
from actors.metrics.registry import Registry
from actors.metrics.window import SLICE_SAMPLES, SLICES, Window
from messaging.clock import ManualClock
from messaging.exposition import encode_text

COMMON = (("iothub", "hub"), ("edge_device", "edge1"), ("instance_number", "n"))


def samples(registry: Registry) -> dict[tuple[str, ...], float]:
    """Return the samples by name and values of labels, as Prometheus reads them."""
    text = encode_text(registry.collect()).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_series_is_there_from_its_first_use_on_with_the_common_labels_first() -> None:
    registry = Registry(ManualClock(), COMMON)
    counter = registry.counter("edgehub_x", "help", ("id",), ms="True")
    assert registry.collect() == ()

    counter.add(("d/m",), 2)
    counter.add(("d/m",))

    [family] = registry.collect()
    assert (family.name, family.kind) == ("edgehub_x_total", "counter")
    [sample] = family.samples
    assert sample.labels == (*COMMON, ("id", "d/m"), ("ms_telemetry", "True"))
    assert sample.value == 3


def test_a_plain_counter_has_neither_the_ending_nor_the_common_labels() -> None:
    registry = Registry(ManualClock(), COMMON)

    registry.counter("edgeagent_calls_count", "help", ("method_name",), plain=True).add(("ping",))

    assert encode_text(registry.collect()).decode().splitlines()[1:] == [
        "# TYPE edgeagent_calls_count counter",
        'edgeagent_calls_count{method_name="ping"} 1',
    ]


def test_a_summary_has_exactly_the_quantiles_of_the_reference() -> None:
    registry = Registry(ManualClock())
    summary = registry.duration("d", "help")

    for value in range(1, 11):
        summary.observe(value)

    assert samples(registry) == {
        ("d_seconds", "0.1"): 1,
        ("d_seconds", "0.5"): 5,
        ("d_seconds", "0.9"): 9,
        ("d_seconds", "0.99"): 10,
        ("d_seconds_sum",): 55,
        ("d_seconds_count",): 10,
    }


def test_after_the_window_the_quantiles_are_nan_and_sum_and_count_stay() -> None:
    clock = ManualClock()
    registry = Registry(clock, histogram_age_s=3600)
    registry.histogram("h", "help").observe(7.0)

    clock.advance(3599)
    before = samples(registry)
    clock.advance(3600 / SLICES + 1)
    after = samples(registry)

    assert before["h", "0.5"] == 7.0
    assert math.isnan(after["h", "0.5"])
    assert (after["h_sum",], after["h_count",]) == (7.0, 1)


def test_a_window_stays_small_and_its_quantiles_near_whatever_is_observed() -> None:
    window = Window(600.0)

    for value in range(100_000):
        window.observe(value, 1, value, 5.0)

    assert all(len(part.samples) <= SLICE_SAMPLES for part in window._slices)
    for quantile, found in zip((0.1, 0.5, 0.9, 0.99), window.quantiles(5.0), strict=True):
        assert abs(found - quantile * 100_000) < 100_000 / SLICE_SAMPLES * 2
    assert window.count == 100_000


def test_slices_of_unequal_density_weigh_by_what_was_observed_in_them() -> None:
    window = Window(500.0)
    for value in range(1000):
        window.observe(value, 1, value, 0.0)
    for _ in range(10):
        window.observe(5000.0, 1, 5000.0, 100.0)

    low, middle, high, highest = window.quantiles(100.0)

    assert abs(low - 100) < 40
    assert abs(middle - 500) < 40
    assert abs(high - 909) < 40
    assert highest < 5000
    assert window.quantiles(650.0) == (5000.0,) * 4


def test_many_observations_at_once_weigh_as_many() -> None:
    registry = Registry(ManualClock())

    registry.histogram("h", "help").window(()).observe(100.0, 10, 1040.0, registry.clock.monotonic_s())

    found = samples(registry)
    assert (found["h_sum",], found["h_count",], found["h", "0.9"]) == (1040, 10, 100)


def test_nothing_is_counted_while_it_is_off() -> None:
    registry = Registry(ManualClock(), is_on=False)

    registry.counter("c", "help").add()
    registry.gauge("g", "help").set(1)
    registry.histogram("h", "help").observe(1)

    assert registry.collect() == ()


def test_a_gauge_may_get_all_its_series_anew() -> None:
    registry = Registry(ManualClock())
    gauge = registry.gauge("g", "help", ("m",))
    gauge.set_all({("a",): 1, ("b",): 2})

    gauge.set_all({("b",): 3})

    assert samples(registry) == {("g", "b"): 3}


def test_beyond_a_limit_of_series_known_ones_go_on_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metric_registry, "MOST_SERIES", 2)
    registry = Registry(ManualClock())
    counter = registry.counter("c", "help", ("id",))

    for who in ("a", "b", "c", "d", "a"):
        counter.add((who,))

    assert samples(registry) == {("c_total", "a"): 2, ("c_total", "b"): 1}
    assert [record.getMessage() for record in caplog.records] == [
        "metrics: further clients, endpoints and outputs are not counted by name: "
        "there are 2 series already; a restart begins anew"
    ]


def test_threads_that_count_at_the_same_time_lose_nothing() -> None:
    registry = Registry(ManualClock())
    counter = registry.counter("c", "help")

    def count() -> None:
        for _ in range(5_000):
            counter.add()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert samples(registry) == {("c_total",): 20_000}
