"""Watches the envelopes of a process for inspectors: taps, the flow, and the hops of what was seen last.

It is the observer of the bus (messaging/bus.py) while somebody looks, and not there otherwise. Its methods
run in the threads of all actors, so each is short and none waits.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from actors.inspection.flow import Flow
from actors.inspection.tap import LARGEST_BYTES, Tap, Tapped
from messaging.clock import Clock
from messaging.envelope import Envelope, encode

MOST_HOPS: Final = 16_384
_MOST_KEYS: Final = 4096  # of receiver, sender and kind, for which it is remembered who taps them


class Hop(NamedTuple):
    """One envelope that an actor has handled."""

    id: int
    correlation_id: int
    kind: str
    sender: str
    to: str
    sent_s: float  # seconds since 1970-01-01 UTC
    handled_s: float  # when its handler was through
    took_s: float
    failed: bool
    size: int


_Matched = dict[tuple[str, str, str], tuple[Tap, ...]]


class EnvelopeWatch:
    """An Observer. What inspectors tell each other and their actor is not shown to them."""

    def __init__(self, own: str, clock: Clock) -> None:
        """Watch for nobody yet; `own` is the address of the actor that inspectors speak to."""
        self._own = own
        self._clock = clock
        # Together in one attribute, so that a thread never has the taps of one moment and matches of another.
        self._taps: tuple[tuple[Tap, ...], _Matched] = ((), {})
        # Of what Hop has, and plain: one is made for each envelope, and a Hop takes six times as long.
        self._hops: deque[tuple[Any, ...]] = deque(maxlen=MOST_HOPS)
        self.flow: Flow | None = None

    @property
    def taps(self) -> tuple[Tap, ...]:
        return self._taps[0]

    @taps.setter
    def taps(self, taps: tuple[Tap, ...]) -> None:
        self._taps = (taps, {})

    def received(self, envelope: Envelope, frame: bytes) -> None:
        """Keep it for those who want it; see Observer."""
        _, _, _, kind, to, sender, _, _, _, _, _ = envelope
        taps, matched = self._taps
        key = (to, sender, kind)
        wanted = matched.get(key)
        if wanted is None:
            wanted = tuple(tap for tap in taps if to != self._own and tap.wanted.fits(to, sender, kind))
            for tap in wanted:
                tap.kinds.setdefault(kind)
            if len(matched) < _MOST_KEYS:
                matched[key] = wanted
        if not wanted:
            return
        size = len(frame)
        if size > LARGEST_BYTES:
            frame = encode(envelope._replace(body=()))
        tapped: Tapped = (self._clock.now_s(), size, frame)
        for tap in wanted:
            tap.put(tapped)

    def handled(self, envelope: Envelope, frame: bytes, took_s: float, failed: bool) -> None:
        """Count it and remember the hop; see Observer."""
        _, _, id_, kind, to, sender, _, correlation_id, sent_s, _, _ = envelope
        if to == self._own:
            return
        now_s, size = self._clock.now_s(), len(frame)
        self._hops.append((id_, correlation_id, kind, sender, to, sent_s, now_s, took_s, failed, size))
        flow = self.flow
        if flow is not None:
            # A damaged envelope may have anything for the time when it was sent.
            waited_s = now_s - took_s - sent_s if type(sent_s) is float else 0.0
            flow.add(sender, to, kind, size, waited_s, took_s, failed)

    def hops(self, id_: int) -> list[Hop]:
        """Return the remembered hops of the envelopes that have this id, or answer to it."""
        return [Hop(*hop) for hop in list(self._hops) if id_ in hop[:2]]

    def hops_known(self) -> int:
        """Return how many hops are remembered."""
        return len(self._hops)

    def forget_hops(self) -> None:
        """Give their memory back."""
        self._hops.clear()
