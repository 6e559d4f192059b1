"""The agent process with a cloud in memory, in virtual time; modules are fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from actors.addresses import AGENT, SECURITY
from actors.agent.agent import AgentActor
from actors.agent.deployment_keeper import DeploymentKeeper, KeptDeployment
from actors.agent.link import AgentLinkActor
from actors.agent.link_messages import LINK
from actors.agent.module_list import ListModules
from actors.agent.registry import RegistryActor
from actors.agent.root import AgentRootActor
from actors.agent.security import SecurityActor
from actors.kernel.base import ChildSpec
from actors.kernel.memory_system import MemorySystem
from actors.manifest.cloud_deployment import no_deployment
from actors.manifest.deployment import Deployment
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.registry import Registry
from messaging.kinds import kind_named
from messaging.lifecycle import PeerUp
from messaging.twin import difference
from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import manifest
from tests.fakes.cloud_connections import MemoryCloud
from tests.fakes.module_records import FakeModuleRecords
from tests.fakes.module_runtime import FakeModuleRuntime
from tests.fakes.security import FakeSecurity


def no_registry() -> RegistryActor:
    return RegistryActor(None, security=SECURITY, random=lambda: 0.0)


EDGE_AGENT_ID = "edge1/$edgeAgent"
EDGE_HUB_ID = "edge1/$edgeHub"


def process(order: int | None = None, **others: Any) -> dict[str, Any]:
    module: dict[str, Any] = {"type": "process", "status": "running", "settings": {"command": ["/bin/x"]}}
    module |= {"restartPolicy": "always"}
    if order is not None:
        module["startupOrder"] = order
    return module | others


class FakePlace:
    """Implements `DeploymentPlace`. `fault` is raised once by `prepare`, `full` by every `keep`."""

    def __init__(self) -> None:
        self.prepared: list[Deployment] = []
        self.kept: KeptDeployment | None = None
        self.fault: Exception | None = None
        self.full: Exception | None = None

    def prepare(self, deployment: Deployment) -> Deployment:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.prepared.append(deployment)
        hub = deployment.edge_hub
        # As the real one does, for what the hub is made from.
        made = None if hub is None else replace(hub, version=f"{hub.version}+{len(hub.env)}")
        return replace(deployment, edge_hub=made)

    def keep(self, kept: KeptDeployment) -> None:
        if self.full is not None:
            raise self.full
        self.kept = kept


def keeper_without_deployment(place: FakePlace) -> DeploymentKeeper:
    """Return the keeper of an edge that waits for its first deployment."""
    return DeploymentKeeper(no_deployment(), place)


class CloudEdge:
    """One edge with a link to a cloud in memory; `desired` of the two twins can be set before `start`."""

    def __init__(
        self,
        keeper: Callable[[FakePlace], DeploymentKeeper] = keeper_without_deployment,
        until_ready: bool = False,
        trial_s: float = 0.0,
    ) -> None:
        self._trial_s = trial_s
        self._until_ready = until_ready
        self.system = MemorySystem(seed=7, process="agent")
        self.cloud = MemoryCloud()
        self.metrics = AgentMetrics(Registry(self.system.clock))
        self.runtime = FakeModuleRuntime(self.system.clock)
        self.records = FakeModuleRecords()
        self.security_actor = SecurityActor
        self.security = FakeSecurity(self.system.clock.now_s())
        for name in ("$edgeAgent", "$edgeHub"):
            self.security.ensure_module(name, 0.0)
        self.place = FakePlace()
        self.keeper = keeper(self.place)
        self._take = self.system.mailbox("cli/ask")
        self.router = self.system.mailbox("hub/router")
        self.hub_client = self.system.mailbox("hub/client")
        self.twins = self.system.mailbox("hub/twins")
        self.methods = self.system.mailbox("agent/methods")

    def start(self) -> CloudEdge:
        link = ChildSpec("link", self._link)

        def root() -> AgentRootActor:
            return AgentRootActor(
                lambda: self.security_actor(self.security), no_registry, self._agent, (link,)
            )

        self.system.start("agent", root)
        self.system.run()
        return self

    def _link(self) -> AgentLinkActor:
        return AgentLinkActor("edge1", "hub.example", self.cloud, metrics=self.metrics)

    def _agent(self) -> AgentActor:
        return AgentActor(
            self.keeper,
            security=SECURITY,
            runtime=self.runtime,
            records=self.records,
            stop_grace_s=10.0,
            agent_pid=77,
            started_at_s=5.0,
            link=LINK,
            until_ready=self._until_ready,
            trial_s=self._trial_s,
            metrics=self.metrics,
        )

    def counted(self, name: str) -> float:
        """Return the number of a metric of one series, 0 for one that there is not yet."""
        found = [family for family in self.metrics.registry.collect() if family.name == name]
        return found[0].samples[-1].value if found else 0.0

    def deploy(self, modules: dict[str, Any], *changes: tuple[tuple[str, ...], Any], **hub: Any) -> None:
        """Put a deployment into the twins, as the service does; `hub` is laid over that of `$edgeHub`."""
        made = manifest(((*AGENT_PATH, "modules"), modules), *changes)
        for name in ("$edgeHub", "$edgeAgent"):
            desired = made["modulesContent"][name]["properties.desired"] | (hub if name == "$edgeHub" else {})
            self.replace_desired(f"edge1/{name}", desired)

    def replace_desired(self, identity: str, desired: dict[str, Any]) -> None:
        """Replace desired properties; what is not in them any more is told as null."""
        self.cloud.patch_desired(identity, difference(self.cloud.desired[identity].values, desired))
        self.system.run()

    def tell(self, to: str, message: object, sender: str = "cli/ask") -> None:
        self.system.bus.send(to, message, sender=sender)
        self.system.run()

    def hub_is_there(self) -> None:
        self.tell(AGENT, PeerUp("hub", 7))

    def modules(self) -> dict[str, dict[str, Any]]:
        return {module["name"]: module for module in self.listed().modules}

    def listed(self) -> Any:
        bus = self.system.bus
        asked = bus.next_id()
        deadline_s = self.system.clock.monotonic_s() + 5.0
        bus.send(AGENT, ListModules(), sender="cli/ask", correlation_id=asked, deadline_s=deadline_s)
        self.system.run()
        [answer] = [e for e in self._take() if e.correlation_id == asked]
        kind = kind_named(answer.kind)
        assert kind is not None
        return kind.build(*answer.body)

    def statuses(self) -> dict[str, str]:
        return {name: module["status"] for name, module in self.modules().items()}

    @property
    def reported(self) -> dict[str, Any]:
        """What the cloud has of `$edgeAgent`."""
        values = self.cloud.reported[EDGE_AGENT_ID].values
        return json.loads(json.dumps(values))
