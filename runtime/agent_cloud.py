"""The actors by which the agent process has to do with the cloud, when this edge has one."""

from __future__ import annotations

from actors.addresses import AGENT
from actors.agent_link import AgentLinkActor
from actors.agent_methods import AgentMethodsActor
from actors.base import ChildSpec
from runtime.home import Home
from runtime.provisioning import Provisioned


def cloud_actors(provisioned: Provisioned, home: Home) -> tuple[ChildSpec, ...]:
    """Return what runs besides security and agent."""

    def methods() -> AgentMethodsActor:
        from runtime.log_worker import ModuleLogWorker

        worker = ModuleLogWorker(home, provisioned.host_name, provisioned.device_id)
        return AgentMethodsActor(AGENT, worker)

    def link() -> AgentLinkActor:
        from runtime.upstream import SdkConnections

        return AgentLinkActor(
            provisioned.device_id,
            provisioned.host_name,
            SdkConnections(),
            ca_pem=provisioned.ca_pem,
            https_port=provisioned.https_port,
        )

    return ChildSpec("methods", methods), ChildSpec("link", link, exported=True)
