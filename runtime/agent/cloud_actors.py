"""The actors by which the agent process has to do with the cloud, when this edge has one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.addresses import AGENT
from actors.agent.link import AgentLinkActor
from actors.agent.methods import AgentMethodsActor
from actors.kernel.base import ChildSpec
from actors.metrics.agent_metrics import AgentMetrics
from actors.upstream.connection import CloudConnections
from actors.upstream.protocol import UpstreamProtocol
from runtime.home import Home
from runtime.upstream.provisioning import Provisioned

if TYPE_CHECKING:
    from runtime.upstream.connections import UpstreamConnections

log = logging.getLogger(__name__)


class AgentLinkChoice:
    """How the agent speaks to the cloud: a deployment may choose anew while it does."""

    def __init__(self, protocol: UpstreamProtocol) -> None:
        self._protocol = protocol
        self._connections: UpstreamConnections | None = None

    def connections(self) -> CloudConnections:
        """Return what makes the agent's connections, for an actor that starts."""
        from runtime.upstream.connections import UpstreamConnections

        self._connections = UpstreamConnections(self._protocol)
        return self._connections

    def choose(self, protocol: UpstreamProtocol) -> None:
        """Speak like this from now on; a connection that speaks otherwise is lost."""
        if protocol is not self._protocol:
            log.info("the agent speaks %s to the cloud from now on, not %s", protocol, self._protocol)
            self._protocol = protocol
            if self._connections is not None:
                self._connections.speak(protocol)


def cloud_actors(
    provisioned: Provisioned,
    home: Home,
    make_connections: Callable[[], CloudConnections],
    metrics: AgentMetrics,
) -> tuple[ChildSpec, ...]:
    """Return what runs besides security and agent."""

    def methods() -> AgentMethodsActor:
        from runtime.support.log_worker import ModuleLogWorker

        worker = ModuleLogWorker(home, provisioned.host_name, provisioned.device_id)
        return AgentMethodsActor(AGENT, worker, metrics)

    def link() -> AgentLinkActor:
        return AgentLinkActor(
            provisioned.device_id,
            provisioned.host_name,
            make_connections(),
            ca_pem=provisioned.ca_pem,
            https_port=provisioned.https_port,
            metrics=metrics,
        )

    return ChildSpec("methods", methods), ChildSpec("link", link, exported=True)
