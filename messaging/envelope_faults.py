"""What goes wrong with envelopes on purpose, for fault scripts: rules, and how often each has happened.

A process that was not started for faults has none of this. Rules are asked in the thread of the receiving
actor, in front of decoding; what they decide by chance comes from their own seed.
"""

from __future__ import annotations

import enum
import random
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct, field

from messaging.envelope import Envelope, decode
from messaging.errors import EnvelopeError

OWN_NAME: Final = "faults"  # of the actor that takes the rules: they never hit it


class Action(enum.StrEnum):
    """What happens to an envelope."""

    DROP = "drop"
    DELAY = "delay"  # those of its sender that come behind it wait as well: the order stays
    DOUBLE = "double"
    REORDER = "reorder"  # it waits, and others overtake it
    CORRUPT = "corrupt"  # its end is missing
    FAIL = "fail"  # the handler raises
    HANG = "hang"  # the handler takes so long


class Rule(Struct, frozen=True):
    """Which envelopes, and what happens to them."""

    number: int  # of the rule, chosen by whoever sets it
    action: Action
    to: str = ""  # an address; "" is any
    kind: str = ""
    sender: str = ""
    times: int = 1
    skip: int = 0  # how many that match are let through first
    chance: float = 1.0  # with which one that matches is hit
    delay_s: float = 0.0  # of DELAY, REORDER and HANG
    seed: int = 0

    def matches(self, envelope: Envelope) -> bool:
        return (
            self.to in ("", envelope.to)
            and self.kind in ("", envelope.kind)
            and self.sender in ("", envelope.sender)
        )


class Verdict(NamedTuple):
    """What becomes of a frame: what the actor gets now, what it gets later, and what its handler does."""

    now: tuple[bytes, ...] = ()
    later: tuple[tuple[float, bytes], ...] = ()  # when, on the monotonic clock
    fails: bool = False
    hangs_s: float = 0.0


class _Held(Struct):
    """What waits between one sender and one actor."""

    until_s: float  # of what is delayed: everything behind it waits, too
    overtakable: list[tuple[float, int]] = field(default_factory=list)  # until when, of which rule


class EnvelopeFaults:
    """The rules of one process. Any thread may call."""

    def __init__(self, hang: Callable[[float], None]) -> None:
        """Start without rules; `hang` takes its time: so many seconds."""
        self.hang = hang
        self._lock = threading.Lock()
        self._rules: dict[int, Rule] = {}
        self._chance: dict[int, random.Random] = {}
        self._skipped: dict[int, int] = {}
        self._hit: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._held: dict[tuple[str, str], _Held] = {}

    def add(self, rule: Rule) -> None:
        """Follow a rule from now on; one of the same number goes."""
        with self._lock:
            self._rules[rule.number] = rule
            self._chance[rule.number] = random.Random(rule.seed)
            self._skipped[rule.number] = self._hit[rule.number] = 0
            self._counts.setdefault(rule.number, 0)

    def remove(self, number: int) -> None:
        """Forget a rule; its count stays."""
        with self._lock:
            self._rules.pop(number, None)

    def counts(self) -> dict[int, int]:
        """Return how often each rule has had its effect, by number."""
        with self._lock:
            return dict(self._counts)

    def judge(self, frame: bytes, now_s: float) -> Verdict:
        """Decide about a frame that an actor is about to take; `now_s` is monotonic."""
        try:
            envelope = decode(frame)
        except EnvelopeError:
            return Verdict((frame,))
        if envelope.to.endswith(f"/{OWN_NAME}"):
            return Verdict((frame,))
        with self._lock:
            way = envelope.sender, envelope.to
            rule = self._rule_for(envelope)
            verdict = Verdict((frame,)) if rule is None else self._apply(rule, frame, way, now_s)
            return self._in_order(verdict, way, now_s, is_new=rule is None)

    def _rule_for(self, envelope: Envelope) -> Rule | None:
        for number, rule in self._rules.items():
            if self._hit[number] >= rule.times or not rule.matches(envelope):
                continue
            if self._skipped[number] < rule.skip:
                self._skipped[number] += 1
                continue
            if self._chance[number].random() < rule.chance:
                self._hit[number] += 1
                return rule
        return None

    def _apply(self, rule: Rule, frame: bytes, way: tuple[str, str], now_s: float) -> Verdict:
        if rule.action is Action.REORDER:
            # Counted when another one has overtaken it: until then nothing has happened.
            held = self._held.setdefault(way, _Held(0.0))
            held.overtakable.append((now_s + rule.delay_s, rule.number))
            return Verdict(later=((now_s + rule.delay_s, frame),))
        self._counts[rule.number] += 1
        match rule.action:
            case Action.DROP:
                return Verdict()
            case Action.DOUBLE:
                return Verdict((frame, frame))
            case Action.CORRUPT:
                return Verdict((frame[: len(frame) * 3 // 4],))
            case Action.FAIL:
                return Verdict((frame,), fails=True)
            case Action.HANG:
                return Verdict((frame,), hangs_s=rule.delay_s)
            case _:
                held = self._held.setdefault(way, _Held(0.0))
                held.until_s = max(held.until_s, now_s + rule.delay_s)
                return Verdict(later=((held.until_s, frame),))

    def _in_order(self, verdict: Verdict, way: tuple[str, str], now_s: float, *, is_new: bool) -> Verdict:
        """Keep what comes now behind what was delayed, and count what it overtakes."""
        held = self._held.get(way)
        if held is None:
            return verdict
        if verdict.now and held.until_s > now_s:
            return Verdict(later=tuple((held.until_s, frame) for frame in verdict.now))
        if is_new:
            for until_s, number in held.overtakable:
                if until_s > now_s:
                    self._counts[number] += 1
            held.overtakable.clear()
        if held.until_s <= now_s and not held.overtakable:
            del self._held[way]
        return verdict
