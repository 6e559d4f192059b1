"""Decides what runs: takes deployments, tells the hub its routes and rules, and reports how the modules fare.

Understands: DesiredArrived and HubDesiredArrived of the cloud; Prepared; ListModules, GetReport and
             AskEdgeState; PeerUp, PeerDown, Routes and BrokerSet of the hub; and what ModuleTree does
Tells:       hub/router (SetRoutes), hub/broker (SetBroker), hub/twins (SetDesired), agent/link (WatchDesired,
             FetchHubDesired, ReportState); and whom ModuleTree does
Started by:  AgentRootActor, after SecurityActor; a restart leaves the supervisors as they are
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

import msgspec

from actors.addresses import BROKER, HUB, HUB_CLIENT, ROUTER, TWINS
from actors.agent.deployment_keeper import (
    APPLIED,
    FAILED,
    NOT_APPLIED,
    DeploymentKeeper,
    DeploymentStatus,
    Taken,
    shortened,
)
from actors.agent.edge_state import AskEdgeState, edge_state
from actors.agent.link_messages import DesiredArrived, FetchHubDesired, ReportState, WatchDesired
from actors.agent.module_list import (
    AgentReport,
    GetReport,
    ListModules,
    ModuleList,
    agent_report,
    entry,
    waiting,
)
from actors.agent.module_tree import RETRY_S, EnsureAgain, ModuleTree
from actors.agent.reported import UNKNOWN_PLATFORM, Platform, agent_state, stopped_state
from actors.agent_hub_messages import Clients, HubDesiredArrived, ListClients, Routes, SetDesired, set_routes
from actors.broker.settings import BrokerSet, set_broker
from actors.hub.config import route_texts
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_CLOUD,
    EDGE_HUB,
    BuiltInSettings,
    DesiredStatus,
    ModuleSpec,
    ModuleStatus,
)
from actors.metrics.agent_metrics import OFF, AgentMetrics
from actors.ports.modules import ModuleRecords, ModuleRuntime, Preparation
from messaging.envelope import Secret
from messaging.kinds import message
from messaging.lifecycle import (
    ActorRestarted,
    DeadlinePassed,
    PeerDown,
    PeerUp,
    RequestFailed,
    Watch,
)
from messaging.twin import Json

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5  # between two questions who is connected
ROUTES_LIMIT_S: Final = 5.0
HUB_DESIRED_LIMIT_S: Final = 30.0  # how long the first deployment waits for the routes
MOST_RESTARTS: Final = 3  # of a module on trial
REPORT_S: Final = 0.2  # what changes together is reported together


@message
class TellHubAgain:
    """Timer: tell an actor of the hub its routes, or its rules, once more."""

    address: str


@message
class ClientsDue:
    """Timer: ask the hub who is connected."""


@message
class Prepared:
    """From the module runtime: what a deployment needs is here, or is not to be had.

    `number` says for which deployment; `problems` are (module, reason), and while it goes on `doing` is what.
    `outdated` are modules that run with another image than the one its name means by now.
    """

    number: int
    is_done: bool
    doing: str
    problems: tuple[tuple[str, str], ...]
    outdated: tuple[str, ...]


@message
class StateDue:
    """Timer: tell the link what is to be reported."""


class AgentActor(ModuleTree):
    """Deployments and how they fare; the modules themselves are the tree's."""

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
        until_ready: bool = False,
        trial_s: float = 0.0,
        metrics: AgentMetrics = OFF,
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
            until_ready: Whether modules of one start order have to be ready before the next ones start.
            trial_s: For how long the modules that a deployment changes have to stay up, or the one before
                comes back; 0: it never does.
            metrics: Where to count.
        """
        super().__init__(
            keeper.deployment,
            security=security,
            runtime=runtime,
            records=records,
            stop_grace_s=stop_grace_s,
            hub_grace_s=hub_grace_s,
            cloud=cloud,
            until_ready=until_ready,
        )
        self._keeper = keeper
        self._metrics = metrics
        self._deployed_s = 0.0  # when what is being prepared came, monotonic
        self._agent_report = agent_report(agent_pid, started_at_s)
        self._link = link
        self._platform = platform
        self._routes: tuple[tuple[str, str, str], ...] = ()
        self._state_timer = 0
        self._deployments = 0  # that came while this behaviour lives
        self._preparing = ""  # what is fetched for one that is not in force yet
        self._version: int | None = None  # of the one in force meanwhile
        self._no_identities = ""  # why the modules have none
        self._hub_is_there = False
        self._connected: tuple[str, ...] = ()  # modules, while somebody waits for them
        self._clients_timer = 0
        self._trial_s = trial_s
        self._trial: frozenset[str] = frozenset()  # modules that have to stay up …
        self._trial_ends_s = 0.0  # … until then, monotonic

    # starting

    def on_start(self) -> None:
        self._version = self._keeper.version
        self.roll_out(self._keeper.deployment)
        self.context.watch_peer(HUB)
        if self._link:
            self.tell(self._link, Watch())
            self.tell(self._link, WatchDesired())

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self.tell(self._link, WatchDesired())
        self._report_soon()

    def on_desired_arrived(self, message: DesiredArrived) -> None:
        if not self._preparing and self.clock.monotonic_s() > self._trial_ends_s:
            self._keeper.stays_up()
        self._took(self._keeper.take_agent(message.desired.reveal(), message.version))

    def on_hub_desired_arrived(self, message: HubDesiredArrived) -> None:
        self._took(self._keeper.take_hub(message.desired.reveal(), message.version))

    def _took(self, taken: Taken) -> None:
        if taken is Taken.ASK_FOR_HUB:
            self.request(self._link, FetchHubDesired(), HUB_DESIRED_LIMIT_S)
        elif taken is Taken.ROLL_OUT and not self._stopping:
            self._prepare()
        if not self._preparing:
            self._version = self._keeper.version
        self._report_soon()

    def _prepare(self) -> None:
        """Fetch what the modules need; until all of it is here those of the deployment before go on."""
        self._deployments += 1
        self._deployed_s = self.clock.monotonic_s()
        self._preparing = self._preparing or "it is being prepared"
        number, tell_self = self._deployments, self.context.tell_self
        deployment = self._keeper.deployment

        def on_progress(found: Preparation) -> None:
            """In a foreign thread."""
            problems, outdated = tuple(found.problems.items()), tuple(sorted(found.outdated))
            tell_self(Prepared(number, found.is_done, found.doing, problems, outdated))

        credentials = tuple(deployment.runtime.registry_credentials.values())
        self._runtime.prepare(tuple(deployment.modules.values()), credentials, on_progress)

    def on_prepared(self, message: Prepared) -> None:
        if message.number != self._deployments or self._stopping:
            return
        if not message.is_done:
            self._preparing = message.doing
            log.info("before the deployment: %s", message.doing)
            return
        self._preparing = ""
        for name, problem in message.problems:
            log.warning("module %s: %s", name, problem)
        before, now = self._deployment.modules, self._keeper.deployment.modules
        self._trial = frozenset(name for name, spec in now.items() if before.get(name) != spec)
        self._trial_ends_s = self.clock.monotonic_s() + self._trial_s
        self._version = self._keeper.version
        self.roll_out(self._keeper.deployment, message.outdated)
        self._metrics.deployed(self.clock.monotonic_s() - self._deployed_s)
        self._report_soon()
        if self._hub_is_there:
            self._tell_hub(ROUTER, BROKER)
            self._tell_twins()

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._went_unanswered(message.address, f"{message.address} does not answer", 0.0)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._went_unanswered(message.address, message.reason, RETRY_S)

    def _went_unanswered(self, address: str, reason: str, wait_s: float) -> None:
        if address in (ROUTER, BROKER):
            self.set_timer(wait_s, TellHubAgain(address))
        elif address == self._link:
            log.warning("the routes of edgeHub cannot be had, it starts without: %s", reason)
            self._took(self._keeper.go_on_without_hub())
        else:
            log.warning("the identities of the modules are not there yet: %s", reason)
            self._no_identities = reason
            self._report_soon()
            self.set_timer(wait_s, EnsureAgain())

    def identities_came(self) -> None:
        """See ModuleTree."""
        self._no_identities = ""
        self._report_soon()

    def on_peer_up(self, message: PeerUp) -> None:
        self._hub_is_there = True
        self._tell_hub(ROUTER, BROKER)
        self._tell_twins()

        self.go_on_if_ready()

    def on_peer_down(self, message: PeerDown) -> None:
        self._hub_is_there = False

    # who is connected, while a group waits for that

    def group_waits(self) -> None:
        """See ModuleTree."""
        if not self._clients_timer:
            self._clients_timer = self.set_timer(LOOK_S, ClientsDue())

    def connected_modules(self) -> Collection[str]:
        """See ModuleTree."""
        return (EDGE_HUB, *self._connected) if self._hub_is_there else ()

    def on_clients_due(self, message: ClientsDue) -> None:
        self._clients_timer = 0
        if self._awaited:
            if self._hub_is_there:
                self.tell(HUB_CLIENT, ListClients())
            self.group_waits()

    def on_clients(self, message: Clients) -> None:
        self._connected = tuple(who.partition("/")[2] for who in message.connected if "/" in who)
        self.go_on_if_ready()

    def on_tell_hub_again(self, message: TellHubAgain) -> None:
        if self._hub_is_there:  # else it is told when it is back
            self._tell_hub(message.address)

    def _tell_hub(self, *addresses: str) -> None:
        """Put the deployment's routes and rules in force at a hub that may have started with others."""
        hub = self._keeper.deployment.hub
        if ROUTER in addresses:
            self.request(ROUTER, set_routes(route_texts(hub), hub.ttl_s), ROUTES_LIMIT_S)
        if BROKER in addresses and hub.broker is not None:
            self.request(BROKER, set_broker(hub.broker), ROUTES_LIMIT_S)

    def _tell_twins(self) -> None:
        """Tell the hub the desired properties that the deployment has; repeated they are no news."""
        twins = self._keeper.deployment.twins.items()
        self.tell(TWINS, SetDesired(tuple((name, msgspec.json.encode(desired)) for name, desired in twins)))

    def on_broker_set(self, message: BrokerSet) -> None:
        """The rules of the broker are in force."""

    def on_routes(self, message: Routes) -> None:
        bad = tuple((name, text, problem) for name, text, problem, _, _ in message.bad)
        if bad != self._routes:
            for name, _, problem in bad:
                log.error("route '%s' is left out: %s; correct it in the deployment", name, problem)
        self._routes = bad

    # what is reported to the cloud

    def on_state_due(self, message: StateDue) -> None:
        self._state_timer = 0
        self.tell(self._link, ReportState(msgspec.json.encode(self._state())))

    def _state(self) -> Json:
        return agent_state(
            self._deployment,
            self._version,
            self._status(),
            {**self._reports, EDGE_AGENT: self._agent_report},
            self._platform,
        )

    def modules_changed(self) -> None:
        """See ModuleTree."""
        self._report_soon()
        if self._trial and self._trial_s:
            self._judge_trial()

    def _judge_trial(self) -> None:
        """Take a deployment back whose modules do not stay up."""
        if self.clock.monotonic_s() > self._trial_ends_s:
            self._trial = frozenset()
            return
        for name in sorted(self._trial & self._reports.keys()):
            report = self._reports[name]
            if not self.is_as_deployed(name):
                continue  # how it fared before says nothing
            if report.restarts >= MOST_RESTARTS or report.status == ModuleStatus.FAILED:
                self._trial = frozenset()
                self._took(self._keeper.roll_back(f"module '{name}' does not stay up: {report.description}"))
                return

    def modules_stop(self) -> None:
        """See ModuleTree."""
        if self._link:
            state = msgspec.json.encode(stopped_state(self._state()))
            self.tell(self._link, ReportState(state, is_last=True))

    def _report_soon(self) -> None:
        if self._link and not self._state_timer and not self._stopping:
            self._state_timer = self.set_timer(REPORT_S, StateDue())

    def _status(self) -> DeploymentStatus:
        """Return what becomes of the deployment: a module that has never run for want of something counts."""
        status = self._keeper.status
        if status.code != APPLIED:
            return status
        if self._preparing and self._version is None:
            return DeploymentStatus(NOT_APPLIED, shortened(f"the first deployment: {self._preparing}"))
        if self._no_identities:
            return DeploymentStatus(
                FAILED, shortened(f"the modules have no identities yet: {self._no_identities}")
            )
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
            "version": self._version,
            "code": status.code,
            "description": status.description,
            "local": self._keeper.is_local,
        }
        self.reply(ModuleList(tuple(entries), self._routes, about))

    def on_get_report(self, message: GetReport) -> None:
        self.reply(AgentReport(Secret(msgspec.json.encode(self._state()))))

    def on_ask_edge_state(self, message: AskEdgeState) -> None:
        self.reply(edge_state(self._supervised.keys(), self._reports, hub_is_there=self._hub_is_there))

    def describe(self) -> dict[str, Any]:
        return {
            "modules": {name: report.status for name, report in self._reports.items()},
            "bad_routes": len(self._routes),
            "stopping": self._stopping,
        }
