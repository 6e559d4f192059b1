"""Faults inside of the edge: actors that fail or hang, envelopes that get lost or come late."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

from actors.kernel.faults import FAULTS_OF, AddFault, FaultCounts, ListFaults, RemoveFault
from messaging.address import process_of
from messaging.envelope_faults import Action
from runtime.faults.edge import LIMIT_S, LOOK_S, RunFailed
from runtime.faults.scene import Fault

LOOK_AGAIN_S: Final = 0.2
WAIT_S: Final = 20.0  # for envelopes that a rule could hit
NUMBERS: Final = 1000  # of rules of one step


class _RuleFault(Fault):
    """Sets a rule in one process and reads how often it had its effect."""

    action: ClassVar[Action]
    _number = 0
    _so_far = 0

    def set_rule(self, nth: int, to: str, **more: Any) -> None:
        self._number = self.step * NUMBERS + nth + 1
        self._process = process_of(to)
        seed = self.scene.chance("envelopes", self.step, nth).randrange(1 << 30)
        self._wanted = AddFault(self._number, self.action.value, to, seed=seed, **more)
        self._ask(self._wanted)
        self._so_far = 0
        self._ends_s = time.monotonic() + WAIT_S

    def look(self) -> int:
        """Return how often the rule has had its effect; to a process that started anew it is given anew."""
        counts = self._ask(ListFaults())
        if self._number not in counts:
            counts = self._ask(self._wanted)
            self._ends_s = time.monotonic() + WAIT_S
        now = counts.get(self._number, 0)
        self.count += max(0, now - self._so_far)
        self._so_far = now
        return now

    def remove(self) -> None:
        if self._number:
            self.look()
            self._ask(RemoveFault(self._number))
            self._number = 0

    def _ask(self, question: object) -> dict[int, int]:
        ends_s = time.monotonic() + LIMIT_S
        while True:
            answer = self.scene.edge.ask(FAULTS_OF[self._process], question, FaultCounts)
            if answer is not None:
                return answer.counts
            if time.monotonic() > ends_s:
                raise RunFailed(f"{self._process} takes no faults; log: {self.scene.edge.log}")
            self.scene.edge.look_after_agent()
            time.sleep(LOOK_S)


class KillActor(_RuleFault):
    """The handler of an actor raises."""

    action = Action.FAIL

    def begin(self, nth: int) -> float | None:
        self.set_rule(nth, self.values["actor"])
        return 0.0

    def go_on(self) -> float | None:
        if self.look() == 0 and time.monotonic() < self._ends_s:
            return LOOK_AGAIN_S
        self.remove()
        return None


class HangActor(_RuleFault):
    """The handler of an actor does not return."""

    action = Action.HANG

    def begin(self, nth: int) -> float | None:
        self._lasts_s = self.lasts_s(nth)
        self.set_rule(nth, self.values["actor"], delay_s=self._lasts_s)
        return 0.0

    def go_on(self) -> float | None:
        if not self._number:
            return None
        if self.look() == 0 and time.monotonic() < self._ends_s:
            return LOOK_AGAIN_S
        self.remove()
        return self._lasts_s


class EnvelopeFault(_RuleFault):
    """Some envelopes to one actor are hit, until there were enough."""

    def begin(self, nth: int) -> float | None:
        values = self.values
        by = values.get("by")
        self.set_rule(
            nth,
            values["to"],
            kind=values["kind"],
            sender=values["from"],
            times=values["count"],
            skip=values["skip"],
            chance=values["chance"],
            delay_s=by.draw(self.scene.chance("by", self.step, nth)) if by else 0.0,
        )
        return LOOK_AGAIN_S

    def go_on(self) -> float | None:
        if self.look() < self.values["count"] and time.monotonic() < self._ends_s:
            return LOOK_AGAIN_S
        self.remove()
        return None


class Drop(EnvelopeFault):
    action = Action.DROP


class Delay(EnvelopeFault):
    action = Action.DELAY


class Double(EnvelopeFault):
    action = Action.DOUBLE


class Reorder(EnvelopeFault):
    action = Action.REORDER


class Corrupt(EnvelopeFault):
    action = Action.CORRUPT
