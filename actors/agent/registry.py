"""Keeps the registry of the IoT Hub and what is known here the same: modules there, the scope here.

Understands: SyncRegistry, RefreshScope, GetProvisioning, SyncDue, SyncEnded
Tells:       SecurityActor (RegistrySynced), whoever asked (ProvisioningState)
Started by:  AgentRootActor; a restart begins anew

The work is done by a thread outside, one sync at a time: it takes as long as the cloud takes. Whatever goes
wrong there, what is known here goes on to count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from actors.agent.registry_waits import explain, state_of, wait_s
from actors.kernel.base import EdgeActor
from actors.ports.security import Registry, SyncOutcome
from actors.upstream.connection import CloudFault, Fault
from messaging.kinds import message

log = logging.getLogger(__name__)

REGISTRY: Final = "agent/registry"
FIRST_S: Final = 0.2  # until the first sync, unless modules are to be made: then it is for them, too
SPACING_S: Final = 1.0  # between two, whoever asks how often
OWN_S: Final = 5.0  # at most, between two tries at a stand-in of our own, whom that costs nothing
NO_CLOUD: Final = "no cloud"
CONNECTING: Final = "connecting"


@message
class SyncRegistry:
    """From SecurityActor: something changed here, or may have changed there. Answered with RegistrySynced."""

    ticket: int  # counts up


@message
class RegistrySynced:
    """A sync has ended that began after this ticket came; or the cloud is away, and nobody should wait."""

    ticket: int


@message
class RefreshScope:
    """Ask the cloud now who is in the scope: its link is back, or a user or `$edgeHub`'s method wants it."""


@message
class GetProvisioning:
    """Tell which device of which IoT Hub this edge is, and how they stand; gets ProvisioningState."""


@message
class ProvisioningState:
    """How this edge and its IoT Hub stand.

    `state` is one of: no cloud, connecting, linked, unknown device, or the value of a `Fault`.
    """

    host_name: str
    device_id: str
    state: str
    reason: str  # what is wrong and what to do; "": nothing
    synced_s: float  # when the cloud said last who is in the scope, seconds since 1970-01-01 UTC; 0: not yet
    identities: int  # that it named
    problems: tuple[tuple[str, str], ...]  # modules that it does not take, and why


@message
class SyncDue:
    """Timer: it is time for the next sync."""


@message
class SyncEnded:
    """From the thread that works: how a sync went. `kind` is the value of a Fault, "": it went well."""

    number: int
    kind: str
    reason: str
    status: int
    problems: tuple[tuple[str, str], ...]
    identities: int


class RegistryActor(EdgeActor):
    """Says when to sync, and how it went."""

    def __init__(self, registry: Registry | None, *, security: str, random: Callable[[], float]) -> None:
        """Keep what is needed.

        Args:
            registry: None for an edge without a cloud.
            security: Address of the SecurityActor.
            random: Returns numbers from 0 to 1.
        """
        self._registry = registry
        self._security = security
        self._random = random
        self._number = 0  # of the last sync that began
        self._running = False
        self._again = False
        self._ticket = 0  # the highest that came
        self._covered = 0  # the highest that the running sync is for
        self._timer = 0
        self._ended_s = float("-inf")  # monotonic
        self._fault: CloudFault | None = None
        self._told: tuple[Fault, int] | None = None  # of what the log has last
        self._failures = 0
        self._synced_s = 0.0
        self._problems: tuple[tuple[str, str], ...] = ()
        self._identities = 0

    def on_start(self) -> None:
        if self._registry is not None:
            self._timer = self.set_timer(FIRST_S, SyncDue())

    def on_sync_registry(self, message: SyncRegistry) -> None:
        self._ticket = max(self._ticket, message.ticket)
        if self._registry is None or (self._fault is not None and not self._running):
            self.tell(self._security, RegistrySynced(message.ticket))
        self._want()

    def on_refresh_scope(self, message: RefreshScope) -> None:
        self._want()

    def on_sync_due(self, message: SyncDue) -> None:
        self._timer = 0
        if not self._running:
            self._begin()

    def on_sync_ended(self, message: SyncEnded) -> None:
        if message.number != self._number:
            return  # of an earlier incarnation of this actor
        self._running = False
        self._ended_s = self.clock.monotonic_s()
        fault = CloudFault(Fault(message.kind), message.reason, message.status) if message.kind else None
        self._failures = self._failures + 1 if fault else 0
        if fault is None or fault.kind is not Fault.UNREACHABLE or self._failures > 1:
            self._log_change(fault)  # what is just starting is there at the next try
        self._log_problems(message.problems)
        self._fault = fault
        self._problems = message.problems
        self._identities = message.identities or self._identities
        if fault is None:
            self._synced_s = self.clock.now_s()
        self.tell(self._security, RegistrySynced(self._ticket if fault else self._covered))
        again, self._again = self._again, False
        if again and fault is None:
            self._want()
        else:
            wait = wait_s(fault, self._failures, bool(message.problems), self._random())
            is_near = self._registry is not None and self._registry.is_own and fault is not None
            self._set_timer(min(wait, OWN_S) if is_near else wait)

    def on_get_provisioning(self, message: GetProvisioning) -> None:
        registry = self._registry
        if registry is None:
            self.reply(ProvisioningState("", "", NO_CLOUD, "", 0.0, 0, ()))
            return
        fault = self._fault
        state = CONNECTING if not self._failures and not self._synced_s else state_of(fault)
        reason = "" if fault is None else _explain(fault, registry)
        self.reply(
            ProvisioningState(
                registry.host_name,
                registry.device_id,
                state,
                reason,
                self._synced_s,
                self._identities,
                self._problems,
            )
        )

    def describe(self) -> dict[str, Any]:
        return {
            "state": NO_CLOUD if self._registry is None else state_of(self._fault),
            "running": self._running,
            "failures": self._failures,
            "synced_s": self._synced_s,
        }

    def _want(self) -> None:
        """Sync as soon as that may be."""
        if self._registry is None:
            return
        if self._running:
            self._again = True
            return
        if self._fault is not None and self._fault.kind is Fault.THROTTLED:
            return  # the cloud has asked us to wait
        wait = self._ended_s + SPACING_S - self.clock.monotonic_s()
        if wait > 0:
            self._set_timer(wait)
        else:
            self._begin()

    def _begin(self) -> None:
        registry = self._registry
        assert registry is not None
        self._running = True
        self._again = False
        self._covered = self._ticket
        self._number += 1
        if self._timer:
            self.context.cancel_timer(self._timer)
            self._timer = 0
        number, context = self._number, self.context

        def done(outcome: SyncOutcome) -> None:
            fault = outcome.fault
            kind, reason, status = (fault.kind.value, fault.reason, fault.status) if fault else ("", "", 0)
            context.tell_self(SyncEnded(number, kind, reason, status, outcome.problems, outcome.identities))

        registry.start_sync(done)

    def _set_timer(self, after_s: float) -> None:
        if self._timer:
            self.context.cancel_timer(self._timer)
        self._timer = self.set_timer(after_s, SyncDue())

    def _log_change(self, fault: CloudFault | None) -> None:
        registry = self._registry
        assert registry is not None
        kind = None if fault is None else (fault.kind, fault.status)
        if fault is None:
            if self._told is not None or not self._synced_s:
                log.info("device '%s' is known at %s, modules too", registry.device_id, registry.host_name)
        elif kind != self._told:
            log.error("%s", _explain(fault, registry))
        self._told = kind

    def _log_problems(self, problems: tuple[tuple[str, str], ...]) -> None:
        registry = self._registry
        assert registry is not None
        for name, reason in problems if problems != self._problems else ():
            log.error("module '%s' has no identity at %s: %s", name, registry.host_name, reason)


def _explain(fault: CloudFault, registry: Registry) -> str:
    return explain(fault, registry.device_id, registry.host_name, registry.is_own)
