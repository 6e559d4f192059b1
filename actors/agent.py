"""Turns a deployment into running modules: one supervisor each, started in order, stopped in reverse.

Understands: ListModules, StartModule, StopModule, RestartModule (passed on), StopModules, KillModules;
             ModuleReported and ModuleRemoved of its children; ModulesEnsured;
             PeerUp, PeerDown and Routes of the hub
Tells:       SecurityActor (EnsureModules, ForgetModule, ModuleReported), hub/router (SetRoutes),
             hub/twins (SetDesired)
Started by:  AgentRootActor, after SecurityActor; a restart leaves the supervisors as they are
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any, ClassVar, Final

import msgspec

from actors.base import ChildSpec, EdgeActor
from actors.deployment import Deployment
from actors.hub_config import route_texts
from actors.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    BuiltInSettings,
    DesiredStatus,
    DockerSettings,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    twin_hash,
)
from actors.planner import CommandKind, CurrentModule, plan
from actors.ports import ModuleAccess, ModuleRecords, ModuleRuntime
from actors.router import Routes, set_routes
from actors.security import EnsureModules, ForgetModule, ModulesEnsured
from actors.supervisor import (
    GetModule,
    KillModule,
    ModuleRemoved,
    ModuleReported,
    RemoveModule,
    RestartModule,
    StartModule,
    StopModule,
    SupervisorActor,
)
from actors.twins import SetDesired
from messaging.address import child_of
from messaging.envelope import Envelope
from messaging.kinds import message
from messaging.lifecycle import ActorStopped, DeadlinePassed, PeerDown, PeerUp, RequestFailed
from messaging.nearest import did_you_mean

log = logging.getLogger(__name__)

HUB_PROCESS: Final = "hub"
HUB_ROUTER: Final = "hub/router"
HUB_TWINS: Final = "hub/twins"
ROUTES_LIMIT_S: Final = 5.0
ENSURE_LIMIT_S: Final = 10.0
RETRY_S: Final = 1.0


@message
class ListModules:
    """Tell how all modules are doing. Answered with ModuleList."""


@message
class ModuleList:
    """All modules of the deployment in order of start, edgeAgent first.

    A module has: name, type (docker, process, built-in), image or command, desired, status, description, pid
    (0: none), restarts, since_s, exit_code, exit_signal, not_isolated (why it runs with the rights of the
    edge, "" if it does not), settings (of edgeHub: those that have not the effect that was asked for, as
    (variable, problem)). `routes` are those left out: (name, text, problem).
    """

    modules: tuple[dict[str, Any], ...]
    routes: tuple[tuple[str, str, str], ...]


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
    """Timer: the modules of this group had their time to report."""

    group: int


@message
class TellRoutesAgain:
    """Timer: tell the hub its routes once more."""


@message
class EnsureAgain:
    """Timer: ask for the identities once more."""


def start_groups(deployment: Deployment) -> list[tuple[str, ...]]:
    """Return the modules in groups to start one after the other: edgeHub, then by start order.

    edgeHub comes first whatever its order: the others are its clients.
    """
    orders: dict[int, list[str]] = {}
    for name, spec in deployment.modules.items():
        orders.setdefault(spec.startup_order, []).append(name)
    hub = [(EDGE_HUB,)] if deployment.edge_hub is not None else []
    return hub + [tuple(orders[order]) for order in sorted(orders)]


class AgentActor(EdgeActor):
    """One deployment. The supervisors do the work."""

    group_limit_s: ClassVar[float] = 5.0  # for how long a group that does not answer holds up the next

    def __init__(
        self,
        deployment: Deployment,
        *,
        security: str,
        runtime: ModuleRuntime,
        records: ModuleRecords,
        stop_grace_s: float,
        hub_grace_s: float | None = None,
        agent_pid: int,
        started_at_s: float,
    ) -> None:
        """Keep what is needed.

        Args:
            deployment: What should run.
            security: Address of the SecurityActor.
            runtime: Runs modules.
            records: What is known of modules of former runs.
            stop_grace_s: How long a module may take to end after SIGTERM …
            hub_grace_s: … and edgeHub; None: as long as any.
            agent_pid: Of this process, for the list.
            started_at_s: When this process began, seconds since 1970-01-01 UTC.
        """
        self._deployment = deployment
        self._security = security
        self._runtime = runtime
        self._records = records
        self._stop_grace_s = stop_grace_s
        self._hub_grace_s = stop_grace_s if hub_grace_s is None else hub_grace_s
        self._agent_pid = agent_pid
        self._started_at_s = started_at_s
        self._groups = start_groups(deployment)
        self._to_start = list(enumerate(self._groups))
        self._access: dict[str, ModuleAccess] | None = None  # None: not told yet
        self._problems: dict[str, str] = {}
        self._awaited: set[str] = set()  # of the group that is starting or stopping
        self._children: list[str] = []  # names, in order of start
        self._reports: dict[str, ModuleReported] = {}
        self._routes: tuple[tuple[str, str, str], ...] = ()
        self._hub_is_there = False
        self._stop_asked: Envelope | None = None
        self._stopping = False

    # starting

    def on_start(self) -> None:
        for warning in self._deployment.warnings:
            log.warning("%s", warning)
        read = self._deployment.hub_environment
        for name, problem in read.problems:
            log.warning("edgeHub's variable %s: %s", name, problem)
        for name, reason in read.notes:
            log.info("edgeHub's variable %s has no effect: %s", name, reason)
        for name in self._plan():
            self._start_child(_gone(name))
            self.tell(child_of(self.address, name), RemoveModule())
        self.context.watch_peer(HUB_PROCESS)
        self._ask_for_identities()
        self._start_next_group()

    def on_modules_ensured(self, message: ModulesEnsured) -> None:
        self._access = {}
        for name, generation_id, workload_uri, problem in message.entries:
            self._access[name] = ModuleAccess(generation_id, workload_uri)
            if problem:
                self._problems[name] = problem
        if not self._awaited:
            self._start_next_group()

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        if message.address == HUB_ROUTER:
            self.on_tell_routes_again(TellRoutesAgain())
            return
        log.warning("the identities of the modules are not there yet: %s does not answer", message.address)
        self._ask_for_identities()

    def on_request_failed(self, message: RequestFailed) -> None:
        if message.address == HUB_ROUTER:
            self.set_timer(RETRY_S, TellRoutesAgain())
            return
        log.warning("the identities of the modules are not there yet: %s", message.reason)
        self.set_timer(RETRY_S, EnsureAgain())

    def on_ensure_again(self, message: EnsureAgain) -> None:
        self._ask_for_identities()

    def on_group_limit(self, message: GroupLimit) -> None:
        started = len(self._groups) - len(self._to_start) - 1
        if message.group == started and self._awaited and not self._stopping:
            log.warning("modules %s start slowly; going on with the others", ", ".join(sorted(self._awaited)))
            self._awaited.clear()
            self._start_next_group()

    # from the supervisors and the hub

    def on_module_reported(self, message: ModuleReported) -> None:
        self._reports[message.name] = message
        self.tell(self._security, message)
        if not self._stopping and message.name in self._awaited:
            self._awaited.discard(message.name)
            if not self._awaited:
                self._start_next_group()

    def on_module_removed(self, message: ModuleRemoved) -> None:
        self.tell(self._security, ForgetModule(message.name))
        if message.name in self._children:
            self.context.stop_child(message.name)

    def on_actor_stopped(self, message: ActorStopped) -> None:
        name = message.address.removeprefix(f"{self.address}/")
        if name in self._children:
            self._children.remove(name)
        if self._stopping:
            self._awaited.discard(name)
            self._stop_next_group()
        elif message.reason:
            # Its module may be well; a new supervisor is started together with a new behaviour of ours.
            raise RuntimeError(f"{message.address} {message.reason}")

    def on_peer_up(self, message: PeerUp) -> None:
        self._hub_is_there = True
        self._tell_routes()
        self._tell_twins()

    def on_peer_down(self, message: PeerDown) -> None:
        self._hub_is_there = False

    def on_tell_routes_again(self, message: TellRoutesAgain) -> None:
        if self._hub_is_there:  # else they are told when it is back
            self._tell_routes()

    def _tell_routes(self) -> None:
        """Put the deployment's routes in force at a hub that may have started with others."""
        hub = self._deployment.hub
        self.request(HUB_ROUTER, set_routes(route_texts(hub), hub.ttl_s), ROUTES_LIMIT_S)

    def _tell_twins(self) -> None:
        """Tell the hub the desired properties that the deployment has; repeated they are no news."""
        twins = self._deployment.twins.items()
        self.tell(
            HUB_TWINS, SetDesired(tuple((name, msgspec.json.encode(desired)) for name, desired in twins))
        )

    def on_routes(self, message: Routes) -> None:
        bad = tuple((name, text, problem) for name, text, problem, _, _ in message.bad)
        if bad != self._routes:
            for name, _, problem in bad:
                log.error("route %s is left out: %s", name, problem)
        self._routes = bad

    # questions and commands

    def on_list_modules(self, message: ListModules) -> None:
        names = [name for group in self._groups for name in group]
        supervised = self._deployment.supervised
        modules = (self._agent_entry(), *(self._entry(supervised[name]) for name in names))
        self.reply(ModuleList(modules, self._routes))

    def on_start_module(self, message: StartModule) -> None:
        self._pass_on(message.name, message)

    def on_stop_module(self, message: StopModule) -> None:
        self._pass_on(message.name, message)

    def on_restart_module(self, message: RestartModule) -> None:
        self._pass_on(message.name, message)

    def describe(self) -> dict[str, Any]:
        return {
            "modules": {name: report.status for name, report in self._reports.items()},
            "bad_routes": len(self._routes),
            "stopping": self._stopping,
        }

    # stopping

    def on_stop_modules(self, message: StopModules) -> None:
        self._stop_asked = self.envelope
        self._begin_to_stop()

    def on_kill_modules(self, message: KillModules) -> None:
        for name in self._children:
            self.tell(child_of(self.address, name), KillModule())
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._to_start.clear()
            self._awaited.clear()
        self._stop_next_group()

    def _stop_next_group(self) -> None:
        """Stop the supervisors of the youngest group that is left, all at once; each ends its module."""
        if self._awaited:
            return
        if not self._children:
            if self._stop_asked is not None:
                self.reply(ModulesStopped(), self._stop_asked)
                self._stop_asked = None
            return
        youngest = self._children[-1]
        group = next((group for group in self._groups if youngest in group), (youngest,))
        self._awaited = set(group) & set(self._children)
        for name in sorted(self._awaited):
            self.context.stop_child(name)

    # helpers

    def _plan(self) -> list[str]:
        """Log what this deployment changes; return the modules that are in it no more."""
        records = self._records.all()
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
            for name in self._runtime.names()
            if name not in records
        ]
        # Twins have no keeper yet, so there is none to be told of a change.
        twins = {name: twin_hash(desired) for name, desired in self._deployment.twins.items()}
        commands = plan(self._deployment, current, twins)
        for command in commands:
            if command.kind is not CommandKind.START:  # its supervisor tells when that is done
                log.info("plan: %s %s: %s", command.kind.value, command.module, command.reason)
        return [command.module for command in commands if command.kind is CommandKind.REMOVE]

    def _ask_for_identities(self) -> None:
        names = tuple(name for name in self._deployment.modules)
        self.context.request(self._security, EnsureModules(names), ENSURE_LIMIT_S)

    def _start_next_group(self) -> None:
        if not self._to_start or self._stopping:
            return
        number, names = self._to_start[0]
        if self._access is None and names != (EDGE_HUB,):
            return  # goes on when the identities are there
        self._to_start.pop(0)
        self._awaited = set(names)
        supervised = self._deployment.supervised
        for name in names:
            self._start_child(supervised[name])
            # One that outlived our own restart has reported long ago.
            self.tell(child_of(self.address, name), GetModule())
        self.set_timer(self.group_limit_s, GroupLimit(number))

    def _start_child(self, spec: ModuleSpec) -> None:
        name = spec.name
        access = (self._access or {}).get(name, ModuleAccess())
        problem = self._problems.get(name, "")

        def build() -> SupervisorActor:
            return SupervisorActor(
                spec,
                access,
                problem,
                agent=self.address,
                runtime=self._runtime,
                records=self._records,
                stop_grace_s=self._hub_grace_s if name == EDGE_HUB else self._stop_grace_s,
                process=HUB_PROCESS if name == EDGE_HUB else "",
            )

        self._children.append(name)
        self.context.start_child(ChildSpec(name, build))

    def _pass_on(self, name: str, command: object) -> None:
        kind = type(command).__name__
        supervised = self._deployment.supervised
        if name in self._children and name in supervised:
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

    def _entry(self, spec: ModuleSpec) -> dict[str, Any]:
        report = self._reports.get(spec.name)
        if report is None:
            description = "waits for its turn"
            report = ModuleReported(
                spec.name, ModuleStatus.UNKNOWN.value, spec.status.value, 0, 0, None, None, None, description
            )
        settings = self._deployment.hub_environment.problems if spec.name == EDGE_HUB else ()
        return _about(spec) | asdict(report) | {"settings": settings}

    def _agent_entry(self) -> dict[str, Any]:
        spec = self._deployment.edge_agent or ModuleSpec(EDGE_AGENT, BuiltInSettings())
        running = ModuleStatus.RUNNING.value
        since_s = self._started_at_s
        report = ModuleReported(
            EDGE_AGENT, running, running, self._agent_pid, 0, since_s, None, None, "this edge"
        )
        return _about(spec) | asdict(report) | {"settings": ()}


def _about(spec: ModuleSpec) -> dict[str, Any]:
    match spec.settings:
        case DockerSettings(image=image):
            return {"type": "docker", "image": image}
        case ProcessSettings(command=command):
            return {"type": "process", "command": command}
        case BuiltInSettings():
            return {"type": "built-in"}


def _gone(name: str) -> ModuleSpec:
    """Stand in for the specification of a module that is only there to be removed."""
    return ModuleSpec(name, ProcessSettings(()), status=DesiredStatus.UNKNOWN)
