"""Makes the container of a module, after pulling its image when this device has none.

One made from the same request is used again, with what it wrote inside; another request replaces it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.module_spec import DockerSettings, ImagePullPolicy, ModuleSpec
from actors.ports import ModuleAccess
from messaging.errors import ConfigError, EnvironmentFault
from runtime.container_network import ensure_network, network_name
from runtime.container_request import (
    REQUEST_LABEL,
    SOCKET_FOLDER,
    ContainerRequest,
    Surroundings,
    container_names,
    create_request,
)
from runtime.docker_engine import DockerEngine, explanation
from runtime.workload_server import SOCKET_NAME

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

_PORT: Final = re.compile(r"(?:Bind for|listen (?:tcp4?|udp4?)) \S*?:(\d+)\b.*(?:allocated|in use)")
MEGABYTE: Final = 1_000_000

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """What containers are told of the edge they belong to."""

    home_id: str
    device_id: str
    gateway_name: str


class ContainerMaker:
    """Makes containers of one edge. Any thread may call; a call takes as long as Docker Engine does."""

    def __init__(
        self,
        engine: DockerEngine,
        names: ContainerNames,
        marker: Path,
        environment: Callable[[ModuleSpec, ModuleAccess], dict[str, str]],
    ) -> None:
        self._engine = engine
        self._names = names
        self._marker = marker
        self._environment = environment

    def network(self, client: APIClient) -> str:
        """Make the network of this edge unless it is there; return the address of the gateway in it."""
        return ensure_network(client, self._names.home_id, self._marker)

    def remove_unused_network(self, client: APIClient) -> bool:
        """Remove the network unless there are containers of this edge; returns whether there were none."""
        if self._engine.containers(client):
            return False
        client.remove_network(network_name(self._names.home_id))
        return True

    def container(
        self, client: APIClient, module: ModuleSpec, access: ModuleAccess, gateway: str, progress: Progress
    ) -> str:
        """Return the id of the container of a module, ready to be started.

        Args:
            client: Of the engine.
            module: What the deployment says.
            access: What the module needs to reach us.
            gateway: The address at which it looks for the hub.
            progress: Told what takes its time, fit to be shown.

        Raises:
            ConfigError: the deployment cannot be followed; says why, and what to do.
        """
        request = self._request(module, access, gateway)
        found = self._engine.containers(client).get(module.name)
        if found is not None:
            if found["Labels"].get(REQUEST_LABEL) == request.digest:
                return str(found["Id"])
            client.remove_container(found["Id"], force=True)
        for option in request.left_out:
            log.warning(
                "module %s: HostConfig.%s of its createOptions is left out; restarts and removal follow "
                "the deployment",
                module.name,
                option,
            )
        from docker.errors import ImageNotFound

        try:
            return self._create(client, module, request)
        except ImageNotFound:
            pull_image(client, module, progress)
        return self._create(client, module, request)

    def _request(self, module: ModuleSpec, access: ModuleAccess, gateway: str) -> ContainerRequest:
        names = self._names
        around = Surroundings(names.home_id, network_name(names.home_id), gateway, names.gateway_name)
        environment = self._environment(module, access) | {"IOTEDGE_GATEWAYHOSTNAME": names.gateway_name}
        folder = ""
        if access.workload_uri:
            folder = str(Path(access.workload_uri.removeprefix("unix://")).parent)
            environment["IOTEDGE_WORKLOADURI"] = f"unix://{SOCKET_FOLDER}/{SOCKET_NAME}"
        return create_request(module, environment, folder, around)

    def _create(self, client: APIClient, module: ModuleSpec, request: ContainerRequest) -> str:
        """Raises docker.errors.ImageNotFound as it is, everything else in our words."""
        from docker.errors import APIError, ImageNotFound

        names = container_names(module.name, self._names.device_id, self._names.home_id)
        for name in names:
            try:
                made = client.create_container_from_config(request.body, name)  # type: ignore[no-untyped-call]
                return str(made["Id"])
            except ImageNotFound:
                raise
            except APIError as exc:
                if exc.status_code != 409 or name == names[-1]:
                    raise ConfigError(
                        f"module '{module.name}': Docker Engine refuses to create its container: "
                        f"{explanation(exc)}; fix settings.createOptions in the deployment"
                    ) from exc
                log.info("container name %s is taken by somebody else's", name)
        raise AssertionError("the last name returned or raised")


def pull_image(client: APIClient, module: ModuleSpec, progress: Progress) -> None:
    """Pull the image of a module, unless its imagePullPolicy forbids that.

    Raises:
        ConfigError: it is to be had nowhere; says why, and what to do.
    """
    settings = module.settings
    assert isinstance(settings, DockerSettings)
    image = settings.image
    way_out = f"pull it (`docker pull {image}`), or fix settings.image in the deployment"
    missing = f"module '{module.name}': image '{image}' not found on this device"
    if module.image_pull_policy is ImagePullPolicy.NEVER:
        raise ConfigError(f"{missing}, and imagePullPolicy is 'never'; {way_out}")
    from docker.errors import APIError, ImageNotFound

    log.info("module %s: image %s is being pulled", module.name, image)
    progress(f"image '{image}' is not on this device and is being pulled")
    try:
        lines: Iterable[Mapping[str, Any]] = client.pull(image, stream=True, decode=True)
        problem = _follow_pull(lines, image, progress)
    except ImageNotFound as exc:
        problem = explanation(exc)
    except APIError as exc:
        problem = explanation(exc)
    if problem:
        raise ConfigError(f"{missing}; {way_out}; the engine says: {problem}")
    log.info("module %s: image %s is there", module.name, image)


def _follow_pull(lines: Iterable[Mapping[str, Any]], image: str, progress: Progress) -> str:
    """Tell how far a pull is, line by line; return what went wrong, "" when nothing did.

    Source: Docker Engine API v1.41, POST /images/create
    """
    parts: dict[str, tuple[int, int]] = {}
    for line in lines:
        if "error" in line:
            return " ".join(str(line["error"]).split())
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            parts[str(line.get("id"))] = (int(detail["current"]), int(detail["total"]))
            done, total = (sum(column) / MEGABYTE for column in zip(*parts.values(), strict=True))
            progress(
                f"image '{image}' is not on this device and is being pulled: {done:.1f} of {total:.1f} MB"
            )
    return ""


def why_not_started(client: APIClient, error: Any) -> EnvironmentFault:
    """Return why the engine refused to start a container, and the way out."""
    text = explanation(error)
    taken = _PORT.search(text)
    if taken is None:
        return EnvironmentFault(
            f"Docker Engine cannot start its container: {text}; fix settings in the deployment"
        )
    holder = _holder_of(client, int(taken[1]))
    return EnvironmentFault(
        f"port {taken[1]} is taken by {holder}; stop that, or choose another port in "
        "HostConfig.PortBindings of its createOptions"
    )


def _holder_of(client: APIClient, port: int) -> str:
    for container in client.containers():
        if any(bound.get("PublicPort") == port for bound in container.get("Ports") or ()):
            return f"container '{container['Names'][0].removeprefix('/')}'"
    return "a process that is no container"
