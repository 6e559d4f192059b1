"""Who talks to whom: how many envelopes, how large, how long they waited and how long they took."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

MOST_LINKS: Final = 2048
OTHERS: Final = ("…", "…", "…")  # sender, receiver and kind of all links beyond that number
PER_OCTAVE: Final = 4  # buckets for each doubling of a time: a percentile is told within 19 %
_LONGEST_US: Final = 2**30  # a quarter of an hour, and all that is more


class LinkCounts(NamedTuple):
    """What has gone from one actor to another, of one kind, since somebody began to look."""

    sender: str  # "" for what has no sender
    to: str
    kind: str
    envelopes: int
    failed: int  # handlers that raised
    bytes: int
    waited: tuple[int, ...]  # how many waited how long in the mailbox, by bucket
    took: tuple[int, ...]  # how many handlers took how long


class _Link:
    __slots__ = ("bytes", "count", "failed", "took", "waited")

    def __init__(self) -> None:
        self.count = self.failed = self.bytes = 0
        self.waited: list[int] = []
        self.took: list[int] = []


class Flow:
    """Counts by link. The envelopes of one receiver are added by its own thread."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, str, str], _Link] = {}

    def add(
        self, sender: str, to: str, kind: str, size: int, waited_s: float, took_s: float, failed: bool
    ) -> None:
        """Count one envelope."""
        key = (sender, to, kind)
        link = self._links.get(key)
        if link is None:
            link = self._new_link(key)
        link.count += 1
        link.bytes += size
        link.failed += failed
        _count(link.waited, waited_s)
        _count(link.took, took_s)

    def counts(self) -> tuple[LinkCounts, ...]:
        """Return all links. From any thread."""
        return tuple(
            LinkCounts(*key, link.count, link.failed, link.bytes, tuple(link.waited), tuple(link.took))
            for key, link in self._links.copy().items()
        )

    def _new_link(self, key: tuple[str, str, str]) -> _Link:
        sender, to, kind = key
        if sender.startswith("cli-"):  # each of these processes lives for one command
            key = ("cli", to, kind)
        if key not in self._links and len(self._links) >= MOST_LINKS:
            key = OTHERS
        return self._links.setdefault(key, _Link())


def _count(buckets: list[int], seconds: float) -> None:
    bucket = bucket_of(seconds)
    if bucket >= len(buckets):
        buckets.extend([0] * (bucket + 1 - len(buckets)))
    buckets[bucket] += 1


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a time; 0 up to a microsecond, and for what is no time at all."""
    if not seconds > 1e-6:
        return 0
    return math.ceil(math.log2(min(seconds * 1e6, _LONGEST_US)) * PER_OCTAVE)


def quantile_s(buckets: Sequence[int], share: float) -> float | None:
    """Return the time that this share of all counted ones did not exceed; None when nothing was counted."""
    total = sum(buckets)
    if not total:
        return None
    wanted = math.ceil(share * total)
    bucket = next(at for at, counted in enumerate(itertools.accumulate(buckets)) if counted >= wanted)
    return float(2 ** (bucket / PER_OCTAVE) * 1e-6)


def since(before: Sequence[LinkCounts], now: Sequence[LinkCounts]) -> list[LinkCounts]:
    """Return what was added between two looks; links without anything new are left out."""
    earlier = {link[:3]: link for link in before}
    found = []
    for link in now:
        known = earlier.get(link[:3])
        if known is not None:
            link = LinkCounts(
                *link[:3],
                link.envelopes - known.envelopes,
                link.failed - known.failed,
                link.bytes - known.bytes,
                _minus(link.waited, known.waited),
                _minus(link.took, known.took),
            )
        if link.envelopes > 0:
            found.append(link)
    return found


def _minus(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    padded: list[Any] = [*before, *[0] * (len(now) - len(before))]
    return tuple(a - b for a, b in zip(now, padded, strict=True))
