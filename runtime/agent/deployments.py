"""Which deployment an edge starts with, and what one that comes while it runs finds on this machine.

A file named with --deployment is the truth of this device: it runs, whatever the cloud has. Without one the
cloud's deployment counts, and until it answers the last good one that came from it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import Struct

from actors.agent import process_permission
from actors.agent.deployment_keeper import KeptDeployment
from actors.agent.process_permission import Origin
from actors.manifest.cloud_deployment import no_deployment, parse_agent
from actors.manifest.deployment import Deployment, parse_deployment
from actors.manifest.hub_manifest import parse_hub_desired
from messaging.errors import ConfigError
from runtime.agent.last_deployment import LastDeployment
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.security.key_store import KeyStore

log = logging.getLogger(__name__)


class Chosen(Struct, frozen=True):
    """What an edge starts with."""

    deployment: Deployment
    folder: Path  # relative commands and working folders start here
    file_name: str = ""  # "": it comes from the cloud
    kept: KeptDeployment | None = None  # what it was made from, when it came from the cloud


def choose(
    settings: Settings,
    path: Path | None,
    has_cloud: bool,
    origin: Origin = Origin.CLOUD,
    first: Path | None = None,
) -> Chosen:
    """Return what the edge starts with. Reads only.

    Args:
        settings: Of the edge.
        path: The manifest that the user named, if he did.
        has_cloud: Whether a deployment may come from the cloud.
        origin: What the cloud's deployments count as: those of the stand-in that the edge runs for itself
            are as good as files, because only its owner can put them there.
        first: The manifest that is about to be put into a new stand-in, whose twins say the same then.

    Raises:
        DeploymentError: the manifest is wrong, or asks for what this device does not allow.
        ConfigError: the file cannot be read; there is neither a file nor a cloud.
    """
    if path is not None:
        deployment = read_deployment(path)
        process_permission.check(deployment, Origin.LOCAL, settings.process_allow)
        return Chosen(deployment, path.resolve().parent, path.name)
    if not has_cloud:
        raise ConfigError(
            "there is nothing to run: name a manifest with --deployment, or connect this edge to its IoT Hub "
            "with --connection-string-file"
        )
    kept = _last(Home(settings.home)) if first is None else _from_manifest(first)
    if kept is not None:
        try:
            deployment = parse_agent(kept.agent_desired, kept.agent_version)
            if kept.hub_desired:
                deployment = replace(deployment, hub=parse_hub_desired(kept.hub_desired, kept.hub_version))
            process_permission.check(deployment, origin, settings.process_allow)
            if first is None:
                log.info("starting with deployment %d, which the cloud sent last", kept.agent_version)
            return Chosen(deployment, settings.home, kept=kept)
        except ConfigError as exc:
            log.error("the last good deployment cannot be used any more: %s", exc)
    return Chosen(no_deployment(), settings.home)


def read_deployment(path: Path) -> Deployment:
    """Return the deployment in a file.

    Raises:
        DeploymentError: the manifest is wrong.
        ConfigError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"deployment '{path}' cannot be read: {exc.strerror}; name a manifest with --deployment"
        ) from exc
    return parse_deployment(content, str(path))


class EdgeDeployments:
    """Implements `actors.agent.deployment_keeper.DeploymentPlace`."""

    def __init__(
        self,
        put_in_place: Callable[[Deployment], Deployment],
        last: LastDeployment,
        allow: Sequence[Sequence[str]],
        origin: Origin = Origin.CLOUD,
    ) -> None:
        """Take who readies the hub, where the last good deployment is kept, and which commands may run.

        `origin` as in `choose`.
        """
        self._put_in_place = put_in_place
        self._last = last
        self._allow = allow
        self._origin = origin

    def prepare(self, deployment: Deployment) -> Deployment:
        """Check what this device allows, and have ready what the hub starts from; see DeploymentPlace."""
        process_permission.check(deployment, self._origin, self._allow)
        return self._put_in_place(deployment)

    def keep(self, kept: KeptDeployment) -> None:
        """Keep the last good deployment, encrypted; see DeploymentPlace."""
        self._last.keep(kept)


def _from_manifest(path: Path) -> KeptDeployment:
    """Return what the link will tell of the twins once they are made from this manifest."""
    from runtime.iothub.edge_manifest import content_of

    modules = content_of(json.loads(path.read_bytes()), path)["modulesContent"]
    agent, hub = (
        msgspec.json.encode(modules[name]["properties.desired"], order="sorted")
        for name in ("$edgeAgent", "$edgeHub")
    )
    return KeptDeployment(0, agent, 0, hub)


def _last(home: Home) -> KeptDeployment | None:
    if not home.last_deployment.exists():
        return None
    return LastDeployment(home.last_deployment, KeyStore.open(home.keys)).load()
