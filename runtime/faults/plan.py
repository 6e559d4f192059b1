"""When faults happen: pure, from the steps of a script, a seed, and what is told to have happened."""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.faults.scenario import After, At, Every, Step


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """One fault that is due."""

    at_s: float  # since the load runs
    step: int
    nth: int  # of its step, from 0


def chance_of(seed: int, *of: object) -> random.Random:
    """Return where the random choices of one thing come from: the same in each run of a seed."""
    return random.Random(" ".join(str(part) for part in (seed, *of)))


class Timeline:
    """What is due, and what waits for an event. Times are seconds since the load runs."""

    def __init__(self, steps: Sequence[Step], seed: int) -> None:
        self._steps = tuple(steps)
        self._due: list[Due] = []
        self._waiting: dict[str, list[Step]] = {}  # by event
        self._left = {step.number: step.times for step in steps}
        self._gaps: dict[int, list[float]] = {}  # of steps that repeat, before each that is not due yet
        self._seed = seed
        for step in steps:
            chance = chance_of(seed, "when", step.number)
            match step.when:
                case At(spread):
                    self._add(Due(spread.draw(chance), step.number, 0))
                case Every(spread, times):
                    first_s, *gaps = (spread.draw(chance) for _ in range(times))
                    self._gaps[step.number] = gaps[::-1]
                    self._add(Due(first_s, step.number, 0))
                case After(event, _):
                    self._waiting.setdefault(event, []).append(step)
        self.told("start", 0.0)

    def take(self, now_s: float) -> Due | None:
        """Return what is due next, and count it as begun; None when nothing is due yet."""
        if not self._due or self._due[0].at_s > now_s:
            return None
        return heapq.heappop(self._due)

    def next_s(self) -> float | None:
        """Return when the next is due; None when nothing is that waits for no event."""
        return self._due[0].at_s if self._due else None

    def ended(self, due: Due, now_s: float) -> None:
        """Note that a fault has happened and is over; the next of its step is due."""
        self._left[due.step] -= 1
        if gaps := self._gaps.get(due.step):
            gap_s = gaps.pop()
            is_late = due.at_s + gap_s < now_s  # it took long: then there is the gap behind its end
            self._add(Due(gap_s + (now_s if is_late else due.at_s), due.step, due.nth + 1))
        step = self._steps[due.step]
        if not self._left[due.step] and step.name:
            self.told(f"step {step.name}", now_s)
        self.told("fault ended", now_s)

    def told(self, event: str, now_s: float) -> None:
        """Note an event; steps that wait for it become due."""
        for step in self._waiting.pop(event, ()):
            assert isinstance(step.when, After)
            plus_s = step.when.plus.draw(chance_of(self._seed, "when", step.number))
            self._add(Due(now_s + plus_s, step.number, 0))

    def acknowledged(self, count: int, now_s: float) -> None:
        """Note how many messages publishers have been told to be stored."""
        for event in [name for name in self._waiting if name.endswith(" acknowledged")]:
            found = re.fullmatch(r"(\d+) acknowledged", event)
            if found and count >= int(found[1]):
                self.told(event, now_s)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The events that steps wait for."""
        return tuple(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether each fault of each step has happened and is over."""
        return not any(self._left.values())

    def _add(self, due: Due) -> None:
        heapq.heappush(self._due, due)


def in_turn(names: Sequence[str], seed: int, step: int, nth: int) -> str:
    """Return whom the nth fault of a step hits: by chance, and each as often as the others."""
    round_, place = divmod(nth, len(names))
    chosen = list(names)
    chance_of(seed, "whom", step, round_).shuffle(chosen)
    return chosen[place]
