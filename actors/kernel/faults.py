"""Takes fault scripts' wishes for the envelopes of one process. There only with `--allow-faults`.

Understands: AddFault, RemoveFault, ListFaults; Described, which only an actor sends that was made to fail
Tells:       the actor that is to fail or hang (Describe), for want of anything else to hit
Started by:  the root of the process
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.addresses import AGENT_PROCESS, HUB
from actors.kernel.base import EdgeActor
from messaging.bus import Faults
from messaging.envelope_faults import OWN_NAME, Action, EnvelopeFaults, Rule
from messaging.kinds import message
from messaging.lifecycle import Describe, Described

FAULTS_OF: Final = {process: f"{process}/{OWN_NAME}" for process in (AGENT_PROCESS, HUB)}


@message
class AddFault:
    """Follow a rule from now on; see `messaging.envelope_faults.Rule`. Answered with FaultCounts."""

    number: int
    action: str
    to: str = ""
    kind: str = ""
    sender: str = ""
    times: int = 1
    skip: int = 0
    chance: float = 1.0
    delay_s: float = 0.0
    seed: int = 0


@message
class RemoveFault:
    """Forget a rule. Answered with FaultCounts."""

    number: int


@message
class ListFaults:
    """Tell how often each rule has had its effect. Answered with FaultCounts."""


@message
class FaultCounts:
    """How often each rule has had its effect since the process began."""

    counts: dict[int, int]


class FaultsActor(EdgeActor):
    """Keeps the rules; the cells of the process ask them."""

    def __init__(self, faults: EnvelopeFaults, use: Callable[[Faults], None]) -> None:
        """Keep what is needed; `use` has the rules asked from now on."""
        self._faults = faults
        self._use = use

    def on_add_fault(self, message: AddFault) -> None:
        rule = Rule(
            message.number,
            Action(message.action),
            message.to,
            message.kind,
            message.sender,
            message.times,
            message.skip,
            message.chance,
            message.delay_s,
            message.seed,
        )
        self._faults.add(rule)
        self._use(self._faults)
        if rule.action in (Action.FAIL, Action.HANG) and rule.to and not rule.kind:
            self.tell(rule.to, Describe())
        self._answer()

    def on_remove_fault(self, message: RemoveFault) -> None:
        self._faults.remove(message.number)
        self._answer()

    def on_list_faults(self, message: ListFaults) -> None:
        self._answer()

    def on_described(self, message: Described) -> None:
        """Nobody wants to know."""

    def _answer(self) -> None:
        self.reply(FaultCounts(self._faults.counts()))
