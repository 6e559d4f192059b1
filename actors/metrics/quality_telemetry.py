"""What is sent about how an edge runs: which metrics, made anonymous how, in which form. Pure.

Source: spec sheet observability.md section 4
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from actors.metrics.registry import MS_TELEMETRY
from messaging.exposition import Family

MOST_BYTES: Final = 255_000  # of one message
MOST_SCRAPES: Final = 1000  # read for one upload
MOST_TRIES: Final = 20
_LEAST_WAIT_S: Final = 300.0
_LONGEST_WAIT_S: Final = 12 * 3600.0
_STEP_S: Final = 60.0
_LEFT_OUT_QUANTILES: Final = frozenset(("0.1", "0.5", "0.99"))
_REMOVED: Final = frozenset((MS_TELEMETRY, "iothub", "edge_device"))
_HASHED: Final = frozenset(("to", "from", "to_route_input", "from_route_output"))
_TICKS_AT_EPOCH: Final = 621_355_968_000_000_000  # 100 ns since the year 1

_SUM, _MEAN = "sum", "mean"
_PROCESS: Final = (("from", "to"), _MEAN)
_SIZE: Final = (("id",), _MEAN)
_FOLDED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "edgehub_gettwin_total": (("id",), _SUM),
    "edgehub_messages_received_total": (("route_output", "id"), _SUM),
    "edgehub_messages_sent_total": (("from", "to", "from_route_output", "to_route_input"), _SUM),
    "edgehub_message_size_bytes": _SIZE,
    "edgehub_message_size_bytes_sum": _SIZE,
    "edgehub_message_size_bytes_count": _SIZE,
    "edgehub_message_process_duration_seconds": _PROCESS,
    "edgehub_message_process_duration_seconds_sum": _PROCESS,
    "edgehub_message_process_duration_seconds_count": _PROCESS,
    "edgehub_direct_methods_total": (("from", "to"), _SUM),
    "edgehub_queue_length": (("endpoint",), _SUM),
    "edgehub_messages_dropped_total": (("from", "from_route_output"), _SUM),
    "edgehub_messages_unack_total": (("from", "from_route_output"), _SUM),
    "edgehub_client_connect_failed_total": (("id",), _SUM),
}

Tags = tuple[tuple[str, str], ...]


class Point(NamedTuple):
    """A number of one scrape, without anything that tells whose it is."""

    name: str
    tags: Tags
    value: float


class Scrape(NamedTuple):
    """What was found at one moment."""

    at_s: float  # seconds since 1970-01-01 UTC
    points: tuple[Point, ...]


class Series(NamedTuple):
    """A number over time: (seconds since 1970-01-01 UTC, value)."""

    name: str
    tags: Tags
    values: tuple[tuple[float, float], ...]


def points_of(families: Iterable[Family]) -> tuple[Point, ...]:
    """Return what may be sent of these metrics."""
    sums: dict[tuple[str, Tags], list[float]] = {}
    for family in families:
        for suffix, labels, value in family.samples:
            named = dict(labels)
            if named.get(MS_TELEMETRY) != "True" or named.get("quantile") in _LEFT_OUT_QUANTILES:
                continue
            name = family.name + suffix
            folded, _ = _FOLDED.get(name, ((), _SUM))
            tags = tuple(
                (label, _rewritten(label, text))
                for label, text in labels
                if label not in _REMOVED and label not in folded
            )
            sums.setdefault((name, tags), []).append(value)
    return tuple(Point(name, tags, _combined(name, values)) for (name, tags), values in sums.items())


def _combined(name: str, values: Sequence[float]) -> float:
    _, how = _FOLDED.get(name, ((), _SUM))
    return sum(values) / len(values) if how == _MEAN else sum(values)


def _rewritten(label: str, text: str) -> str:
    if label == "id":
        _, slash, module = text.partition("/")
        return f"device/{_module(module)}" if slash else "device"
    if label == "module_name":
        return _module(text)
    return hashed(text) if label in _HASHED else text


def _module(name: str) -> str:
    return name if name.startswith("$") else hashed(name)


def hashed(text: str) -> str:
    """Return what stands for a name."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def series_of(scrapes: Iterable[Scrape]) -> list[Series]:
    """Return the numbers of these scrapes by their names; of equal ones in a row the first and the last."""
    found: dict[tuple[str, Tags], list[tuple[float, float]]] = {}
    for at_s, points in scrapes:
        for name, tags, value in points:
            found.setdefault((name, tags), []).append((at_s, value))
    return [Series(name, tags, _condensed(values)) for (name, tags), values in found.items()]


def _condensed(values: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    last = len(values) - 1
    return tuple(
        one
        for at, one in enumerate(values)
        if at in (0, last) or not values[at - 1][1] == one[1] == values[at + 1][1]
    )


def bodies(series: Sequence[Series], most_bytes: int = MOST_BYTES) -> list[bytes]:
    """Return the bodies of the messages that say all this; a list that is too long is halved."""
    if not series:
        return []
    body = b"".join(map(_encoded, series))
    if len(body) <= most_bytes or len(series) == 1:
        return [body]
    middle = len(series) // 2
    return bodies(series[:middle], most_bytes) + bodies(series[middle:], most_bytes)


def _encoded(one: Series) -> bytes:
    # Lengths are in bytes; the reference counts UTF-16 units, which is the same for what is ASCII.
    name, tags = one.name.encode(), json.dumps(dict(one.tags)).encode()
    values = b"".join(struct.pack("<qd", ticks(at_s), value) for at_s, value in one.values)
    head = struct.pack("<i", len(name)) + name + struct.pack("<i", len(tags)) + tags
    return head + struct.pack("<i", len(one.values)) + values


def ticks(at_s: float) -> int:
    """Return a time as .NET counts it."""
    return _TICKS_AT_EPOCH + int(at_s * 1e7)


def wait_s(tries: int, draw: float = -1.0) -> float:
    """Return how long to wait after so many tries, 1 or more; `draw` from 0 to 1 spreads it."""
    share = random.random() if draw < 0 else draw
    return min(_LONGEST_WAIT_S, _LEAST_WAIT_S + (2.0 ** (tries - 1) - 1) * _STEP_S * (0.8 + 0.4 * share))
