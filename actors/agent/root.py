"""The root of the agent process: security first, the registry, the link, then the agent with its modules.

Understands: StopEdge, StartAnew; ModuleReported of the hub that it had replaced; and what RootActor does
Tells:       AgentActor (StopModules; RestartModule for a hub of another version), itself (Stop)
Started by:  the main program of the agent process
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from actors.addresses import AGENT
from actors.agent.agent import AgentActor
from actors.agent.module_report import ModuleReported
from actors.agent.module_tree import ModulesStopped, StopModules
from actors.agent.registry import RegistryActor
from actors.agent.security import SecurityActor
from actors.agent.supervisor_messages import RestartModule
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.root import RootActor
from actors.manifest.module_spec import EDGE_HUB
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, Hello, RequestFailed, Stop
from messaging.version import VERSION

log = logging.getLogger(__name__)

METRICS_LOOP: Final = "agent/metrics-loop"
REPLACE_LIMIT_S: Final = 30.0  # for a hub to be stopped and started; then the order is given again


@message
class StopEdge:
    """End the modules in order, then all actors."""


@message
class StartAnew:
    """End all in order and begin again with the settings of now. Answered with StartsAnew, or refused."""


@message
class StartsAnew:
    """The end has begun."""


class AgentRootActor(RootActor):
    """Security, registry, the link to the cloud when there is one, agent; the edge ends through here."""

    def __init__(
        self,
        security: Callable[[], SecurityActor],
        registry: Callable[[], RegistryActor],
        agent: Callable[[], AgentActor],
        cloud: Sequence[ChildSpec] = (),
        start_anew: Callable[[], str] = lambda: "this edge cannot start anew by itself; end it and start it",
        metrics: Callable[[], EdgeActor] | None = None,
        inspector: Callable[[], EdgeActor] | None = None,
        faults: Callable[[], EdgeActor] | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            security, registry, agent: Make these actors.
            cloud: What runs besides.
            start_anew: Has the main program end this run and begin another; returns why not, or "".
            metrics: Makes the actor that tells metrics; None for none.
            inspector: Makes the actor that `edge-actors inspect` speaks to; None for none.
            faults: Makes the actor that fault scripts speak to; None for none.
        """
        self._start_anew = start_anew
        super().__init__(
            (
                *([ChildSpec("faults", faults, exported=True)] if faults else []),
                ChildSpec("security", security, exported=True),
                ChildSpec("registry", registry, exported=True),
                *cloud,
                ChildSpec("agent", agent, exported=True),
                *([ChildSpec("metrics", metrics, METRICS_LOOP, exported=True)] if metrics else []),
            ),
            inspector,
        )
        self._replaced = 0  # incarnation of the hub that was of another version
        self._order = 0  # the request to replace it, while it has no answer
        self._is_replaced = False
        self._warned_of = 0  # incarnation of one that came back with another version all the same

    def accepts(self, hello: Hello) -> bool:
        """Replace a hub of another version, once: what comes back is what is installed now."""
        if hello.version == VERSION:
            return True
        version = hello.version or "unknown"
        if not self._replaced:
            self._replaced = hello.epoch
            log.info("the hub is of version %s and is replaced by one of %s", version, VERSION)
        elif hello.epoch not in (self._replaced, self._warned_of):
            self._warned_of = hello.epoch
            log.error(
                "the hub is of version %s, this agent of %s: the program was exchanged while it ran; "
                "end it with `edge-actors down` and start it again",
                version,
                VERSION,
            )
        if hello.epoch == self._replaced and not self._is_replaced and not self._order:
            # While the edge starts the hub may have no supervisor yet; then its next Hello orders it again.
            self._order = self.request(AGENT, RestartModule(EDGE_HUB), REPLACE_LIMIT_S)
        return hello.epoch != self._replaced

    def on_module_reported(self, message: ModuleReported) -> None:
        self._is_replaced = True

    def on_request_failed(self, message: RequestFailed) -> None:
        self._order = 0

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._order = 0

    def on_stop_edge(self, message: StopEdge) -> None:
        if self.has_started("agent"):
            self.tell(AGENT, StopModules())
        else:
            self.start_no_more()
            self.tell(self.address, Stop())  # no module was started yet

    def on_start_anew(self, message: StartAnew) -> None:
        problem = self._start_anew()
        self.reply(RequestFailed("StartAnew", self.address, problem) if problem else StartsAnew())

    def on_modules_stopped(self, message: ModulesStopped) -> None:
        self.tell(self.address, Stop())
