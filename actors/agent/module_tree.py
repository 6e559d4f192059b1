"""Keeps the modules of a deployment: one supervisor each, started in order, stopped in reverse.

Understands: StartModule, StopModule, RestartModule (passed on), StopModules, KillModules; ModuleReported and
             ModuleRemoved of its children; ModulesEnsured
Tells:       SecurityActor (EnsureModules, ForgetModule, ModuleReported), its supervisors
Started by:  as a part of AgentActor; a restart leaves the supervisors as they are

A new deployment reaches a module that it changes by a new supervisor: the one there hands the module over,
and its successor takes it on as after a restart of the agent. Modules that it does not change hear nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import ClassVar, Final

from actors.addresses import HUB
from actors.agent.module_report import ModuleReported
from actors.agent.planner import CommandKind, CurrentModule, plan
from actors.agent.readiness import waited_for
from actors.agent.rollout import order_of, start_groups
from actors.agent.security import EnsureModules, ForgetModule, ModulesEnsured
from actors.agent.supervisor import SupervisorActor
from actors.agent.supervisor_messages import (
    GetModule,
    HandOver,
    KillModule,
    ModuleRemoved,
    RemoveModule,
    RestartModule,
    StartModule,
    StopModule,
)
from actors.kernel.base import ChildSpec, EdgeActor
from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_CLOUD,
    EDGE_HUB,
    DesiredStatus,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    twin_hash,
)
from actors.ports.modules import ModuleAccess, ModuleRecords, ModuleRuntime
from messaging.address import child_of
from messaging.envelope import Envelope
from messaging.kinds import message
from messaging.lifecycle import ActorStopped, RequestFailed
from messaging.nearest import did_you_mean

log = logging.getLogger(__name__)

ENSURE_LIMIT_S: Final = 10.0
RETRY_S: Final = 1.0


@message
class StopModules:
    """The edge is stopping: end all modules, last started first. Answered with ModulesStopped."""


@message
class ModulesStopped:
    """No module runs any more."""


@message
class KillModules:
    """The user does not want to wait: end all modules at once. No answer of its own."""


@message
class GroupLimit:
    """Timer: the modules of the group that starts had their time to report."""


@message
class EnsureAgain:
    """Timer: ask for the identities once more."""


class ModuleTree(EdgeActor):
    """The supervisors of one deployment at a time. They do the work."""

    group_limit_s: ClassVar[float] = 5.0  # for how long a group that does not answer holds up the next
    ready_limit_s: ClassVar[float] = 60.0  # the same for one whose modules have to be ready

    def __init__(
        self,
        deployment: Deployment,
        *,
        security: str,
        runtime: ModuleRuntime,
        records: ModuleRecords,
        stop_grace_s: float,
        hub_grace_s: float | None,
        cloud: ModuleSpec | None,
        until_ready: bool,
    ) -> None:
        """Keep what is needed; see AgentActor."""
        self._until_ready = until_ready
        self._deployment = deployment  # the one in force, or the one before while that is prepared
        self._security = security
        self._runtime = runtime
        self._records = records
        self._stop_grace_s = stop_grace_s
        self._hub_grace_s = stop_grace_s if hub_grace_s is None else hub_grace_s
        self._cloud = cloud
        self._groups: list[tuple[str, ...]] = []
        self._to_start: list[tuple[str, ...]] = []
        self._outdated: frozenset[str] = frozenset()
        self._due: set[str] = set()  # modules whose group has been reached
        self._access: dict[str, ModuleAccess] | None = None  # None: not told yet
        self._problems: dict[str, str] = {}
        self._awaited: set[str] = set()  # of the group that is starting or stopping
        self._group_timer = 0
        self._children: list[str] = []  # names, in order of start
        self._leaving: set[str] = set()  # of these, who hands over or is removed
        self._reports: dict[str, ModuleReported] = {}
        self._stop_asked: Envelope | None = None
        self._stopping = False
        self._stops_at_once = False

    # for AgentActor

    def modules_changed(self) -> None:
        """Take note that a module is doing otherwise, or is gone."""

    def identities_came(self) -> None:
        """Take note that the modules of the deployment have their identities."""

    def connected_modules(self) -> Collection[str]:
        """Return the modules that are connected to the hub, and edgeHub while it is there."""
        return ()

    def group_waits(self) -> None:
        """Take note that the modules of a group have to be ready before the next one starts."""

    def modules_stop(self) -> None:
        """Take note that all modules are about to be stopped, for the end of the edge."""

    # starting

    def roll_out(self, deployment: Deployment, outdated: Iterable[str] = ()) -> None:
        """Begin to make true what a deployment says; goes on as modules and identities answer.

        Args:
            deployment: What shall run.
            outdated: Modules that run with another image than the one its name means by now.
        """
        self._deployment = deployment
        self._outdated = frozenset(outdated)
        for warning in deployment.warnings:
            log.warning("%s", warning)
        for name, problem in deployment.hub_environment.problems:
            log.warning("edgeHub's variable %s: %s", name, problem)
        for name, reason in deployment.hub_environment.notes:
            log.info("edgeHub's variable %s has no effect: %s", name, reason)
        self._groups = [*([(EDGE_CLOUD,)] if self._cloud else []), *start_groups(deployment)]
        self._to_start = list(self._groups)
        self._due.clear()
        self._awaited.clear()
        for name in self._plan():
            self._remove(name)
        self._access = None
        self._ask_for_identities()
        self._start_next_group()

    def on_modules_ensured(self, message: ModulesEnsured) -> None:
        if not {name for name, _, _, _ in message.entries} >= self._deployment.modules.keys():
            return  # asked for a deployment that is in force no more
        self._access = {}
        self._problems = {}
        for name, generation_id, workload_uri, problem in message.entries:
            self._access[name] = ModuleAccess(generation_id, workload_uri)
            if problem:
                self._problems[name] = problem
        self.identities_came()
        if not self._awaited:
            self._start_next_group()

    def on_ensure_again(self, message: EnsureAgain) -> None:
        if self._access is None:
            self._ask_for_identities()

    def on_group_limit(self, message: GroupLimit) -> None:
        if self._awaited and not self._stopping:
            log.warning("modules %s start slowly; going on with the others", ", ".join(sorted(self._awaited)))
            self._awaited.clear()
            self._start_next_group()

    # from the supervisors

    def on_module_reported(self, message: ModuleReported) -> None:
        name = message.name
        self._reports[name] = message
        self.tell(self._security, message)
        self.modules_changed()
        if self._stopping or name not in self._due or name in self._leaving:
            return
        if message.order != self._order(name):
            self._hand_over(name)
        elif name in self._awaited:
            self.go_on_if_ready()

    def on_module_removed(self, message: ModuleRemoved) -> None:
        name = message.name
        if name not in self._deployment.modules:  # else a newer deployment has it again
            self.tell(self._security, ForgetModule(name))
        if name in self._children:
            self.context.stop_child(name)

    def on_actor_stopped(self, message: ActorStopped) -> None:
        name = message.address.removeprefix(f"{self.address}/")
        left_on_purpose = name in self._leaving
        self._leaving.discard(name)
        if name in self._children:
            self._children.remove(name)
        wanted = name in self._due
        if not wanted:
            self._reports.pop(name, None)
            self.modules_changed()
        if left_on_purpose and wanted:
            self._start_child(self._supervised[name])  # also to be stopped in order
        if self._stopping:
            self._awaited.discard(name)
            self._stop_next_group()
        elif message.reason and not left_on_purpose:
            # Its module may be well; a new supervisor is started together with a new behaviour of ours.
            raise RuntimeError(f"{message.address} {message.reason}")

    # commands

    def on_start_module(self, message: StartModule) -> None:
        self._pass_on(message.name, message)

    def on_stop_module(self, message: StopModule) -> None:
        self._pass_on(message.name, message)

    def on_restart_module(self, message: RestartModule) -> None:
        self._pass_on(message.name, message)

    # stopping

    def on_stop_modules(self, message: StopModules) -> None:
        self._stop_asked = self.envelope
        self._begin_to_stop()

    def on_kill_modules(self, message: KillModules) -> None:
        for name in self._children:
            self.tell(child_of(self.address, name), KillModule())
        self._stops_at_once = True  # else those of older groups would be started again meanwhile
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self.modules_stop()
            self._to_start.clear()
            self._awaited.clear()
        self._stop_next_group()

    def _stop_next_group(self) -> None:
        """Stop the supervisors of the youngest group that is left, all at once; each ends its module."""
        if self._awaited and not self._stops_at_once:
            return
        if not self._children:
            if self._stop_asked is not None:
                self.reply(ModulesStopped(), self._stop_asked)
                self._stop_asked = None
            return
        youngest = self._children[-1]
        group = next((group for group in self._groups if youngest in group), (youngest,))
        wanted = set(self._children) & set(self._children if self._stops_at_once else group)
        for name in sorted(wanted - self._awaited):
            self.context.stop_child(name)
        self._awaited = wanted

    # helpers

    @property
    def _supervised(self) -> dict[str, ModuleSpec]:
        cloud = {EDGE_CLOUD: self._cloud} if self._cloud else {}
        return {**cloud, **self._deployment.supervised}

    def _plan(self) -> list[str]:
        """Log what this deployment changes; return the modules that are in it no more."""
        deployment = self._deployment
        records = {name: record for name, record in self._records.all().items() if name != EDGE_CLOUD}
        current = [
            CurrentModule(
                name,
                record.restart.status,
                record.startup_order,
                record.spec_hash,
                record.desired,
                record.parts,
            )
            for name, record in records.items()
        ]
        current += [
            CurrentModule(name, ModuleStatus.UNKNOWN, 0, None)
            for name in {*self._runtime.names(), *self._children} - {EDGE_CLOUD}
            if name not in records
        ]
        # Whether a twin changes is for the hub to see, which keeps them.
        twins = {name: twin_hash(desired) for name, desired in deployment.twins.items()}
        commands = plan(deployment, current, twins)
        for command in commands:
            if command.kind is not CommandKind.START:  # its supervisor tells when that is done
                log.info("plan: %s %s: %s", command.kind.value, command.module, command.reason)
        return [command.module for command in commands if command.kind is CommandKind.REMOVE]

    def _ask_for_identities(self) -> None:
        names = tuple(self._deployment.modules)
        self.request(self._security, EnsureModules(names), ENSURE_LIMIT_S)

    def _start_next_group(self) -> None:
        """Go on with the next group in which something is to be done."""
        while self._to_start and not self._awaited and not self._stopping:
            names = self._to_start[0]
            if self._access is None and names not in ((EDGE_HUB,), (EDGE_CLOUD,)):
                return  # goes on when the identities are there
            self._to_start.pop(0)
            self._due.update(names)
            for name in names:
                self._want(name)
            self.context.cancel_timer(self._group_timer)
            limit_s = self.ready_limit_s if self._until_ready else self.group_limit_s
            self._group_timer = self.set_timer(limit_s, GroupLimit())
        if self._awaited and self._until_ready:
            self.group_waits()

    def is_as_deployed(self, name: str) -> bool:
        """Tell whether what was last reported of a module is of the deployment in force."""
        report = self._reports.get(name)
        is_settled = name in self._due and name not in self._leaving
        return is_settled and report is not None and report.order == self._order(name)

    def go_on_if_ready(self) -> None:
        """Start the next group once nobody of this one is waited for any more."""
        if not self._awaited or self._stopping:
            return
        known = {name: self._reports[name] for name in self._awaited if self.is_as_deployed(name)}
        connected = self.connected_modules()
        waiting = waited_for(self._awaited, known, until_ready=self._until_ready, connected=connected)
        self._awaited = set(waiting)
        if not self._awaited:
            self._start_next_group()

    def _want(self, name: str) -> None:
        """Have a supervisor at work for the module as the deployment says."""
        report = self._reports.get(name)
        if name not in self._children:
            self._start_child(self._supervised[name])
        elif name not in self._leaving:
            if report is not None and report.order == self._order(name):
                if name in self._outdated and report.status == ModuleStatus.RUNNING:
                    log.info("module %s: its image is another one by now; it is restarted with that", name)
                    self.tell(child_of(self.address, name), RestartModule(name))
                return  # else not concerned
            self._hand_over(name)
        self._awaited.add(name)

    def _hand_over(self, name: str) -> None:
        """Have the supervisor leave its module as it is; a new one comes when it is gone."""
        self._leaving.add(name)
        self.tell(child_of(self.address, name), HandOver())
        self.context.stop_child(name)

    def _remove(self, name: str) -> None:
        if name not in self._children:
            self._start_child(_gone(name))
        if name not in self._leaving:
            self._leaving.add(name)
            self.tell(child_of(self.address, name), RemoveModule())

    def _given(self, spec: ModuleSpec) -> tuple[ModuleSpec, ModuleAccess, str]:
        """Return what the supervisor of a module is given."""
        access = (self._access or {}).get(spec.name, ModuleAccess())
        return spec, access, self._problems.get(spec.name, "")

    def _order(self, name: str) -> str:
        return order_of(*self._given(self._supervised[name]))

    def _start_child(self, spec: ModuleSpec) -> None:
        name = spec.name
        given = self._given(spec)

        def build() -> SupervisorActor:
            return SupervisorActor(
                *given,
                agent=self.address,
                runtime=self._runtime,
                records=self._records,
                stop_grace_s=self._hub_grace_s if name == EDGE_HUB else self._stop_grace_s,
                process=HUB if name == EDGE_HUB else "",
            )

        self._children.append(name)
        self.context.start_child(ChildSpec(name, build))
        # One that outlived our own restart has reported long ago.
        self.tell(child_of(self.address, name), GetModule())

    def _pass_on(self, name: str, command: object) -> None:
        kind = type(command).__name__
        supervised = self._supervised
        if name in self._children and name in supervised and name not in self._leaving:
            self.forward(child_of(self.address, name), command)
            return
        if name == EDGE_AGENT:
            reason = "edgeAgent is this edge itself; end it with `edge-actors down`, start it with `run`"
        elif name in supervised:
            reason = f"module '{name}' waits for its turn, the edge is still starting or stops; try again"
        else:
            hint = did_you_mean(name, supervised)
            hint = hint or f"; there are: {', '.join(supervised) or 'none'}"
            reason = f"there is no module '{name}' in the deployment{hint}"
        self.reply(RequestFailed(kind, self.address, reason))


def _gone(name: str) -> ModuleSpec:
    """Stand in for the specification of a module that is only there to be removed."""
    return ModuleSpec(name, ProcessSettings(()), status=DesiredStatus.UNKNOWN)
