"""Source of the rows: spec sheet observability.md sections 4 and 13."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.metrics.quality_telemetry import (
    MOST_BYTES,
    Point,
    Scrape,
    Series,
    bodies,
    hashed,
    points_of,
    series_of,
    ticks,
    wait_s,
)
from messaging.exposition import Family, Sample

COMMON = (("iothub", "h.azure-devices.net"), ("edge_device", "d1"), ("instance_number", "n1"))
MS = (("ms_telemetry", "True"),)


def family(name: str, *series: tuple[dict[str, str], float]) -> Family:
    samples = tuple(Sample("", COMMON + tuple(labels.items()) + MS, value) for labels, value in series)
    return Family(name, "gauge", "", samples)


def only(*families: Family) -> Point:
    [point] = points_of(families)
    return point


def decode(body: bytes) -> list[tuple[str, dict[str, str], list[tuple[int, float]]]]:
    """Read a body as the receiver does."""
    found, at = [], 0

    def text() -> str:
        nonlocal at
        (length,) = struct.unpack_from("<i", body, at)
        at += 4 + length
        return body[at - length : at].decode()

    while at < len(body):
        name, tags = text(), json.loads(text())
        (count,) = struct.unpack_from("<i", body, at)
        at += 4
        values = [struct.unpack_from("<qd", body, at + 16 * number) for number in range(count)]
        at += 16 * count
        found.append((name, tags, values))
    return found


def test_a_name_is_hashed_as_the_reference_does() -> None:
    assert hashed("temp") == base64.b64encode(hashlib.sha256(b"temp").digest()).decode()


@pytest.mark.parametrize(
    ("label", "text", "sent"),
    [
        ("id", "d1", "device"),
        ("id", "d1/temp", f"device/{hashed('temp')}"),
        ("id", "d1/$edgeHub", "device/$edgeHub"),
        ("module_name", "edgeHub", hashed("edgeHub")),
        ("module_name", "host", hashed("host")),
        ("module_name", "$edgeHub", "$edgeHub"),
        ("from", "d1/temp", hashed("d1/temp")),
        ("to", "upstream", hashed("upstream")),
        ("to_route_input", "", hashed("")),
        ("from_route_output", "o1", hashed("o1")),
        ("module_version", "1.0", "1.0"),
        ("operation", " SendMessageToCloud", " SendMessageToCloud"),
    ],
)
def test_a_label_leaves_the_device_only_as_it_may(label: str, text: str, sent: str) -> None:
    point = only(family("edgehub_operation_retry_total", ({label: text}, 1.0)))

    assert point.tags == (("instance_number", "n1"), (label, sent))


def test_only_what_is_marked_is_sent() -> None:
    samples = (
        Sample("", (*COMMON, ("ms_telemetry", "False")), 1),
        Sample("", COMMON, 2),
        Sample("", COMMON + MS, 3),
    )

    assert only(Family("x", "gauge", "", samples)).value == 3


def test_of_quantiles_only_the_nine_of_ten_is_sent_and_sum_and_count() -> None:
    samples = (
        *(
            Sample("", (*COMMON, *MS, ("quantile", text)), float(text))
            for text in ("0.1", "0.5", "0.9", "0.99")
        ),
        Sample("_sum", COMMON + MS, 7),
        Sample("_count", COMMON + MS, 8),
    )

    found = points_of([Family("x_seconds", "summary", "", samples)])

    assert [(point.name, point.value) for point in found] == [
        ("x_seconds", 0.9),
        ("x_seconds_sum", 7),
        ("x_seconds_count", 8),
    ]


def test_messages_of_all_modules_are_one_number() -> None:
    received = family(
        "edgehub_messages_received_total",
        ({"id": "d1/a", "route_output": "o"}, 5.0),
        ({"id": "d1/b", "route_output": "p"}, 7.0),
    )

    assert only(received) == Point("edgehub_messages_received_total", (("instance_number", "n1"),), 12.0)


def test_times_of_messages_are_averaged_by_priority() -> None:
    process = family(
        "edgehub_message_process_duration_seconds",
        ({"from": "d1/a", "to": "upstream", "priority": "0", "quantile": "0.9"}, 1.0),
        ({"from": "d1/b", "to": "upstream", "priority": "0", "quantile": "0.9"}, 3.0),
        ({"from": "d1/b", "to": "upstream", "priority": "2", "quantile": "0.9"}, 9.0),
    )

    found = {dict(point.tags)["priority"]: point.value for point in points_of([process])}

    assert found == {"0": 2.0, "2": 9.0}


def test_a_gauge_that_never_changed_is_two_points() -> None:
    scrapes = [Scrape(3600.0 * hour, (Point("g", (), 4.0),)) for hour in range(24)]

    assert series_of(scrapes) == [Series("g", (), ((0.0, 4.0), (23 * 3600.0, 4.0)))]


def test_of_each_run_of_equal_values_the_first_and_the_last_are_kept() -> None:
    values = [1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 1.0]
    scrapes = [Scrape(float(at), (Point("g", (), value),)) for at, value in enumerate(values)]

    [series] = series_of(scrapes)

    assert series.values == ((0, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 1))


def test_time_is_counted_as_dot_net_does() -> None:
    at_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    assert ticks(at_s) == 639_028_224_000_000_000


def test_a_body_is_read_as_it_was_meant() -> None:
    one = Series("edgehub_x", (("instance_number", "n1"), ("id", "device")), ((0.0, 1.5), (10.0, 2.0)))
    other = Series("edgehub_ü", (("id", "gerät"),), ((5.0, -1.0),))

    [body] = bodies([one, other])

    assert decode(body) == [
        ("edgehub_x", {"instance_number": "n1", "id": "device"}, [(ticks(0), 1.5), (ticks(10), 2.0)]),
        ("edgehub_ü", {"id": "gerät"}, [(ticks(5), -1.0)]),
    ]


def test_what_is_too_long_is_sent_in_parts_that_say_all_of_it() -> None:
    series = [
        Series(f"m{number:05}" + "x" * 200, (("id", "device"),), ((0.0, 1.0),)) for number in range(2500)
    ]

    found = bodies(series)

    assert sum(map(len, found)) > 600_000
    assert len(found) >= 3
    assert all(len(body) <= MOST_BYTES for body in found)
    assert [entry[0] for body in found for entry in decode(body)] == [one.name for one in series]


def test_without_metrics_there_is_no_message() -> None:
    assert bodies(series_of([])) == []


@given(st.lists(st.tuples(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))))
def test_any_names_and_tags_come_through(entries: list[tuple[str, dict[str, str]]]) -> None:
    series = [Series(name, tuple(tags.items()), ((1.0, 2.0),)) for name, tags in entries]

    found = [entry for body in bodies(series, 100) for entry in decode(body)]

    assert [(name, tags) for name, tags, _ in found] == entries


@pytest.mark.parametrize(
    ("tries", "draw", "seconds"),
    [(1, 0.0, 300.0), (2, 0.0, 348.0), (2, 1.0, 372.0), (5, 0.5, 1200.0), (20, 0.5, 43_200.0)],
)
def test_waits_grow_from_five_minutes_to_half_a_day(tries: int, draw: float, seconds: float) -> None:
    assert wait_s(tries, draw) == pytest.approx(seconds)
