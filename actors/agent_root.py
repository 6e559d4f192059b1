"""The root of the agent process: security first, then the agent with its modules.

Understands: StopEdge, and what RootActor does
Tells:       AgentActor (StopModules), itself (Stop)
Started by:  the main program of the agent process
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from actors.agent import AgentActor, ModulesStopped, StopModules
from actors.base import ChildSpec
from actors.root import RootActor
from actors.security import SecurityActor
from messaging.kinds import message
from messaging.lifecycle import Stop

log = logging.getLogger(__name__)

AGENT_PROCESS: Final = "agent"
SECURITY: Final = "agent/security"
AGENT: Final = "agent/agent"


@message
class StopEdge:
    """End the modules in order, then all actors."""


class AgentRootActor(RootActor):
    """Two children; the end of the edge goes through here."""

    def __init__(self, security: Callable[[], SecurityActor], agent: Callable[[], AgentActor]) -> None:
        super().__init__(
            (
                ChildSpec("security", security, exported=True),
                ChildSpec("agent", agent, exported=True),
            )
        )

    def on_stop_edge(self, message: StopEdge) -> None:
        if self.has_started("agent"):
            self.tell(AGENT, StopModules())
        else:
            self.tell(self.address, Stop())  # no module was started yet

    def on_modules_stopped(self, message: ModulesStopped) -> None:
        self.tell(self.address, Stop())
