"""What the checks look at: a home, the edge on it, its IoT Hub, the container engine. Read when needed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.hub import config
from actors.hub.config import HubConfig
from actors.manifest.cloud_deployment import parse_agent
from actors.upstream.protocol import DEFAULT, UpstreamProtocol
from messaging.errors import ConfigError, EdgeError
from runtime.agent.embedded_cloud import read_kept
from runtime.agent.last_deployment import LastDeployment
from runtime.config.settings import Settings
from runtime.docker.engine import EngineCalls
from runtime.home import Home
from runtime.run_directory import AGENT, Lock, LockHolder, RunDirectory
from runtime.security.key_store import KeyStore
from runtime.storage.store_place import database_of
from runtime.upstream.provisioning import load

if TYPE_CHECKING:
    from actors.manifest.deployment import Deployment
    from runtime.upstream.provisioning import Provisioned

ENGINE_CONFIG: Final = Path("/etc/docker/daemon.json")
NTP_SERVER: Final = "pool.ntp.org:123"


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say of how is looked."""

    ntp_server: str = NTP_SERVER
    engine_config: Path = ENGINE_CONFIG
    iothub_hostname: str = ""  # in the place of the one that this edge is linked to
    diagnostics_image: str = ""  # with python3; "": this machine's own Python, in an empty image
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """The IoT Hub, as far as it takes to reach it."""

    host_name: str
    https_port: int
    ca_pem: str
    is_own: bool  # the stand-in that this edge runs for itself


class Scene:
    """Everything there is to look at. Used by one thread."""

    def __init__(self, home: Path, options: Options) -> None:
        self.home = Home(home)
        self.run = RunDirectory.of(home)
        self.options = options
        self.settings: Settings | None = None  # since they were found well-formed
        self.probe: Any = None  # what was seen from inside a container

    @property
    def now_s(self) -> float:
        return time.time()

    @cached_property
    def agent(self) -> LockHolder | None:
        """The agent that runs on the home."""
        self.run.check()
        return Lock(self.run, AGENT).holder()

    @cached_property
    def hub_config(self) -> HubConfig | None:
        """What the hub was told last."""
        try:
            return config.decode(self.home.hub_config.read_bytes(), str(self.home.hub_config))
        except (OSError, ConfigError):
            return None

    @cached_property
    def database(self) -> Path:
        """Where messages are kept."""
        return database_of(self.home)

    @cached_property
    def provisioned(self) -> Provisioned | None:
        """Which device of which IoT Hub this edge was last. Raises ConfigError when that is damaged."""
        return load(self.home)

    @cached_property
    def cloud(self) -> CloudPlace | None:
        """The IoT Hub of this edge; None when it has none yet."""
        found = self.provisioned
        named = self.options.iothub_hostname
        if named and (found is None or named != found.host_name):
            return CloudPlace(named, 443, found.ca_pem if found else "", False)
        if found is None:
            return None
        kept = read_kept(self.home)
        own = kept is not None and kept.in_use
        return CloudPlace(found.host_name, found.https_port, found.ca_pem, own)

    @cached_property
    def deployment(self) -> Deployment | None:
        """The deployment that the cloud sent last; None when there is none, or none that can be read."""
        try:
            kept = LastDeployment(self.home.last_deployment, KeyStore.open(self.home.keys)).load()
            return None if kept is None else parse_agent(kept.agent_desired, kept.agent_version)
        except (OSError, EdgeError):
            return None

    @property
    def protocol(self) -> UpstreamProtocol:
        """How the edge speaks to the cloud."""
        if self.hub_config is not None:
            return self.hub_config.cloud_protocol
        return DEFAULT if self.settings is None else self.settings.upstream_protocol

    @cached_property
    def modules(self) -> tuple[dict[str, Any], ...]:
        """The modules of the edge that runs, as the agent lists them. Raises EdgeError when it does not."""
        return self.listing[0]

    @cached_property
    def listing(self) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
        """Modules and deployment of the edge that runs. Raises EdgeError when it does not."""
        from actors.addresses import AGENT as AGENT_ACTOR
        from actors.agent.module_list import ListModules, ModuleList
        from runtime.cli.running import running_edge

        with running_edge(self.home.path) as edge:
            found = edge.ask(AGENT_ACTOR, ListModules(), ModuleList)
        return found.modules, found.deployment

    @cached_property
    def uses_containers(self) -> bool:
        """Whether modules of this edge are containers."""
        if os.path.exists(self.home.containers):  # also where we may not look
            return True
        try:
            return any(module["type"] == "docker" for module in self.modules)
        except EdgeError:
            return False

    @cached_property
    def engine(self) -> EngineCalls:
        """The container engine; containers of this edge are found by its run directory."""
        return EngineCalls(self.run.path.name)

    def close(self) -> None:
        """Give connections back."""
        if "engine" in self.__dict__:
            self.engine.close()
