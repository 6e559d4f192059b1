"""Metrics as values, and as the text that Prometheus and all that speak its language read.

Source: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgpack

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "summary"]
Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One number. `suffix` follows the name of the family: "", `_sum` or `_count`."""

    suffix: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """All series of one name. The name of a counter has its `_total` already."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def encode_text(families: Iterable[Family]) -> bytes:
    """Return the text of these families; one without samples is left out."""
    lines: list[str] = []
    for name, kind, help_text, samples in families:
        if not samples:
            continue
        escaped = help_text.replace("\\", r"\\").replace("\n", r"\n")
        lines += (f"# HELP {name} {escaped}", f"# TYPE {name} {kind}")
        for suffix, labels, value in samples:
            inner = ",".join([f'{label}="{_escaped(text)}"' for label, text in labels])
            of = f"{{{inner}}}" if inner else ""
            lines.append(f"{name}{suffix}{of} {number(value)}")
    lines.append("")
    return "\n".join(lines).encode()


def number(value: float) -> str:
    """Return a value as the format has it: whole numbers without a point."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def pack(families: Iterable[Family]) -> bytes:
    """Return families as bytes for an envelope; labels repeat, so little is left of them."""
    return zlib.compress(msgpack.packb(tuple(families)), level=1)


def unpack(packed: bytes) -> tuple[Family, ...]:
    """Return the families of which `pack` made bytes."""
    return tuple(
        Family(name, kind, help_text, tuple(Sample(*sample) for sample in samples))
        for name, kind, help_text, samples in msgpack.unpackb(zlib.decompress(packed), use_list=False)
    )


def _escaped(text: str) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text
