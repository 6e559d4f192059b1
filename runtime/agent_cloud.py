"""The actors by which the agent process has to do with the cloud, when this edge has one."""

from __future__ import annotations

from actors.agent_link import AgentLinkActor
from actors.base import ChildSpec
from runtime.provisioning import Provisioned
from runtime.upstream import SdkConnections


def cloud_actors(provisioned: Provisioned) -> tuple[ChildSpec, ...]:
    """Return what runs besides security and agent."""

    def link() -> AgentLinkActor:
        return AgentLinkActor(
            provisioned.device_id, provisioned.host_name, SdkConnections(), ca_pem=provisioned.ca_pem
        )

    return (ChildSpec("link", link, exported=True),)
