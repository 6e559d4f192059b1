"""Turns a deployment into running modules: one supervisor each, started in order, stopped in reverse.

Understands: DesiredArrived and HubDesiredArrived of the cloud; ListModules, StartModule, StopModule,
             RestartModule (passed on), StopModules, KillModules; ModuleReported and ModuleRemoved of its
             children; ModulesEnsured; PeerUp, PeerDown and Routes of the hub
Tells:       SecurityActor (EnsureModules, ForgetModule, ModuleReported), hub/router (SetRoutes),
             hub/twins (SetDesired), agent/link (WatchDesired, FetchHubDesired, ReportState)
Started by:  AgentRootActor, after SecurityActor; a restart leaves the supervisors as they are

A new deployment reaches a module that it changes by a new supervisor: the one there is hands the module over,
and its successor takes it on as after a restart of the agent. Modules that it does not change hear nothing.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Final

import msgspec

from actors.agent_link import (
    DesiredArrived,
    FetchHubDesired,
    HubDesiredArrived,
    ReportState,
    WatchDesired,
)
from actors.base import ChildSpec, EdgeActor
from actors.deployment_keeper import APPLIED, FAILED, DeploymentKeeper, DeploymentStatus, Taken, shortened
from actors.hub_config import route_texts
from actors.module_list import ListModules, ModuleList, agent_report, entry, waiting
from actors.module_spec import (
    EDGE_AGENT,
    EDGE_CLOUD,
    EDGE_HUB,
    BuiltInSettings,
    DesiredStatus,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    twin_hash,
)
from actors.planner import CommandKind, CurrentModule, plan
from actors.ports import ModuleAccess, ModuleRecords, ModuleRuntime, Preparation
from actors.reported import UNKNOWN_PLATFORM, Platform, agent_state, stopped_state
from actors.rollout import order_of, start_groups
from actors.router import Routes, set_routes
from actors.security import EnsureModules, ForgetModule, ModulesEnsured
from actors.supervisor import (
    GetModule,
    HandOver,
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
from messaging.lifecycle import (
    ActorRestarted,
    ActorStopped,
    DeadlinePassed,
    PeerDown,
    PeerUp,
    RequestFailed,
    Watch,
)
from messaging.nearest import did_you_mean
from messaging.twin import Json

log = logging.getLogger(__name__)

HUB_PROCESS: Final = "hub"
HUB_ROUTER: Final = "hub/router"
HUB_TWINS: Final = "hub/twins"
ROUTES_LIMIT_S: Final = 5.0
ENSURE_LIMIT_S: Final = 10.0
HUB_DESIRED_LIMIT_S: Final = 30.0  # how long the first deployment waits for the routes
RETRY_S: Final = 1.0
REPORT_S: Final = 0.2  # what changes together is reported together


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
class TellRoutesAgain:
    """Timer: tell the hub its routes once more."""


@message
class EnsureAgain:
    """Timer: ask for the identities once more."""


@message
class Prepared:
    """From the module runtime: what a deployment needs is here, or is not to be had.

    `number` says for which deployment; `problems` are (module, reason), and while it goes on `doing` is what.
    """

    number: int
    is_done: bool
    doing: str
    problems: tuple[tuple[str, str], ...]


@message
class StateDue:
    """Timer: tell the link what is to be reported."""


class AgentActor(EdgeActor):
    """One deployment. The supervisors do the work."""

    group_limit_s: ClassVar[float] = 5.0  # for how long a group that does not answer holds up the next

    def __init__(
        self,
        keeper: DeploymentKeeper,
        *,
        security: str,
        runtime: ModuleRuntime,
        records: ModuleRecords,
        stop_grace_s: float,
        hub_grace_s: float | None = None,
        agent_pid: int,
        started_at_s: float,
        link: str = "",
        platform: Platform = UNKNOWN_PLATFORM,
        cloud: ModuleSpec | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            keeper: What should run.
            security: Address of the SecurityActor.
            runtime: Runs modules.
            records: What is known of modules of former runs.
            stop_grace_s: How long a module may take to end after SIGTERM …
            hub_grace_s: … and edgeHub; None: as long as any.
            agent_pid: Of this process, for the list.
            started_at_s: When this process began, seconds since 1970-01-01 UTC.
            link: Address of the AgentLinkActor; "" when there is no cloud.
            platform: On what this edge runs, for what is reported.
            cloud: The stand-in that is supervised whatever the deployment says; None: there is none.
        """
        self._keeper = keeper
        self._deployment = keeper.deployment  # the one in force, or the one before while that is prepared
        self._security = security
        self._runtime = runtime
        self._records = records
        self._stop_grace_s = stop_grace_s
        self._hub_grace_s = stop_grace_s if hub_grace_s is None else hub_grace_s
        self._agent_report = agent_report(agent_pid, started_at_s)
        self._link = link
        self._platform = platform
        self._cloud = cloud
        self._groups: list[tuple[str, ...]] = []
        self._to_start: list[tuple[str, ...]] = []
        self._due: set[str] = set()  # modules whose group has been reached
        self._access: dict[str, ModuleAccess] | None = None  # None: not told yet
        self._problems: dict[str, str] = {}
        self._awaited: set[str] = set()  # of the group that is starting or stopping
        self._group_timer = 0
        self._children: list[str] = []  # names, in order of start
        self._leaving: set[str] = set()  # of these, who hands over or is removed
        self._reports: dict[str, ModuleReported] = {}
        self._routes: tuple[tuple[str, str, str], ...] = ()
        self._state_timer = 0
        self._deployments = 0  # that came while this behaviour lives
        self._hub_is_there = False
        self._stop_asked: Envelope | None = None
        self._stopping = False

    # starting

    def on_start(self) -> None:
        self._roll_out()
        self.context.watch_peer(HUB_PROCESS)
        if self._link:
            self.tell(self._link, Watch())
            self.tell(self._link, WatchDesired())

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self.tell(self._link, WatchDesired())
        self._report_soon()

    def on_desired_arrived(self, message: DesiredArrived) -> None:
        self._took(self._keeper.take_agent(message.desired.reveal(), message.version))

    def on_hub_desired_arrived(self, message: HubDesiredArrived) -> None:
        self._took(self._keeper.take_hub(message.desired.reveal(), message.version))

    def _took(self, taken: Taken) -> None:
        if taken is Taken.ASK_FOR_HUB:
            self.request(self._link, FetchHubDesired(), HUB_DESIRED_LIMIT_S)
        elif taken is Taken.ROLL_OUT and not self._stopping:
            self._prepare()
        self._report_soon()

    def _prepare(self) -> None:
        """Fetch what the modules need; until all of it is here those of the deployment before go on."""
        self._deployments += 1
        number, tell_self = self._deployments, self.context.tell_self
        deployment = self._keeper.deployment

        def on_progress(found: Preparation) -> None:
            """In a foreign thread."""
            tell_self(Prepared(number, found.is_done, found.doing, tuple(found.problems.items())))

        credentials = tuple(deployment.runtime.registry_credentials.values())
        self._runtime.prepare(tuple(deployment.modules.values()), credentials, on_progress)

    def on_prepared(self, message: Prepared) -> None:
        if message.number != self._deployments or self._stopping:
            return
        if not message.is_done:
            log.info("before the deployment: %s", message.doing)
            return
        for name, problem in message.problems:
            log.warning("module %s: %s", name, problem)
        self._roll_out()
        if self._hub_is_there:
            self._tell_routes()
            self._tell_twins()

    def _roll_out(self) -> None:
        """Begin to make true what the deployment in force says; goes on as modules and identities answer."""
        deployment = self._deployment = self._keeper.deployment
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
        if not self._awaited:
            self._start_next_group()

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._went_unanswered(message.address, f"{message.address} does not answer", 0.0)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._went_unanswered(message.address, message.reason, RETRY_S)

    def _went_unanswered(self, address: str, reason: str, wait_s: float) -> None:
        if address == HUB_ROUTER:
            self.set_timer(wait_s, TellRoutesAgain())
        elif address == self._link:
            log.warning("the routes of edgeHub cannot be had, it starts without: %s", reason)
            self._took(self._keeper.go_on_without_hub())
        else:
            log.warning("the identities of the modules are not there yet: %s", reason)
            self.set_timer(wait_s, EnsureAgain())

    def on_ensure_again(self, message: EnsureAgain) -> None:
        if self._access is None:
            self._ask_for_identities()

    def on_group_limit(self, message: GroupLimit) -> None:
        if self._awaited and not self._stopping:
            log.warning("modules %s start slowly; going on with the others", ", ".join(sorted(self._awaited)))
            self._awaited.clear()
            self._start_next_group()

    # from the supervisors and the hub

    def on_module_reported(self, message: ModuleReported) -> None:
        name = message.name
        self._reports[name] = message
        self.tell(self._security, message)
        self._report_soon()
        if self._stopping or name not in self._due or name in self._leaving:
            return
        if message.order != self._order(name):
            self._hand_over(name)
        elif name in self._awaited:
            self._awaited.discard(name)
            if not self._awaited:
                self._start_next_group()

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
            self._report_soon()
        if left_on_purpose and wanted:
            self._start_child(self._supervised[name])  # also to be stopped in order
        if self._stopping:
            self._awaited.discard(name)
            self._stop_next_group()
        elif message.reason and not left_on_purpose:
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
        hub = self._keeper.deployment.hub
        self.request(HUB_ROUTER, set_routes(route_texts(hub), hub.ttl_s), ROUTES_LIMIT_S)

    def _tell_twins(self) -> None:
        """Tell the hub the desired properties that the deployment has; repeated they are no news."""
        twins = self._keeper.deployment.twins.items()
        self.tell(
            HUB_TWINS, SetDesired(tuple((name, msgspec.json.encode(desired)) for name, desired in twins))
        )

    def on_routes(self, message: Routes) -> None:
        bad = tuple((name, text, problem) for name, text, problem, _, _ in message.bad)
        if bad != self._routes:
            for name, _, problem in bad:
                log.error("route %s is left out: %s", name, problem)
        self._routes = bad

    # what is reported to the cloud

    def on_state_due(self, message: StateDue) -> None:
        self._state_timer = 0
        self.tell(self._link, ReportState(msgspec.json.encode(self._state())))

    def _state(self) -> Json:
        keeper = self._keeper
        return agent_state(
            self._deployment,
            keeper.version,
            self._status(),
            {**self._reports, EDGE_AGENT: self._agent_report},
            self._platform,
        )

    def _report_soon(self) -> None:
        if self._link and not self._state_timer and not self._stopping:
            self._state_timer = self.set_timer(REPORT_S, StateDue())

    def _status(self) -> DeploymentStatus:
        """Return what becomes of the deployment: a module that has never run for want of something counts."""
        status = self._keeper.status
        if status.code != APPLIED:
            return status
        causes = [
            f"module '{name}': {report.description}"
            for name, report in self._reports.items()
            if name != EDGE_CLOUD
            and report.desired == DesiredStatus.RUNNING
            and report.status in (ModuleStatus.BACKOFF, ModuleStatus.FAILED)
            and report.started_s is None
        ]
        return DeploymentStatus(FAILED, shortened("; ".join(causes))) if causes else status

    # questions and commands

    def on_list_modules(self, message: ListModules) -> None:
        deployment = self._deployment
        problems = deployment.hub_environment.problems
        agent = deployment.edge_agent or ModuleSpec(EDGE_AGENT, BuiltInSettings())
        entries = [entry(agent, self._agent_report, ())]
        for name in (name for group in self._groups for name in group):
            spec = self._supervised[name]
            entries.append(entry(spec, self._reports.get(name) or waiting(spec), problems))
        status = self._status()
        about = {
            "version": self._keeper.version,
            "code": status.code,
            "description": status.description,
            "local": self._keeper.is_local,
        }
        self.reply(ModuleList(tuple(entries), self._routes, about))

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
            if self._link:
                self.tell(self._link, ReportState(msgspec.json.encode(stopped_state(self._state()))))
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
            self._group_timer = self.set_timer(self.group_limit_s, GroupLimit())

    def _want(self, name: str) -> None:
        """Have a supervisor at work for the module as the deployment says."""
        report = self._reports.get(name)
        if name not in self._children:
            self._start_child(self._supervised[name])
        elif name not in self._leaving:
            if report is not None and report.order == self._order(name):
                return  # not concerned
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
                process=HUB_PROCESS if name == EDGE_HUB else "",
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
