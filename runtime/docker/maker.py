"""Makes the container of a module, once its image is there (docker/images.py).

One made from the same request is used again, with what it wrote inside; another request replaces it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from actors.manifest.module_spec import ModuleSpec
from actors.ports.modules import ModuleAccess
from messaging.errors import ConfigError, EnvironmentFault
from runtime.daemon.workload_server import SOCKET_NAME
from runtime.docker.engine import DockerEngine, engine_socket, explanation
from runtime.docker.images import ContainerImages, Progress, docker_settings
from runtime.docker.network import ensure_network, network_name
from runtime.docker.request import (
    LOG_OPTIONS,
    REQUEST_LABEL,
    SOCKET_FOLDER,
    ContainerRequest,
    Surroundings,
    container_names,
    create_request,
)

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

_PORT: Final = re.compile(r"(?:Bind for|listen (?:tcp4?|udp4?)) \S*?:(\d+)\b.*(?:allocated|in use)")


class ContainerNames(Struct, frozen=True):
    """What containers are told of the edge they belong to."""

    home_id: str
    device_id: str
    gateway_name: str
    home: Path
    allow_elevated: bool = True  # whether createOptions may ask for rights over this machine


class ContainerMaker:
    """Makes containers of one edge. Any thread may call; a call takes as long as Docker Engine does."""

    def __init__(
        self,
        engine: DockerEngine,
        names: ContainerNames,
        marker: Path,
        environment: Callable[[ModuleSpec, ModuleAccess], dict[str, str]],
        images: ContainerImages,
    ) -> None:
        self._engine = engine
        self._names = names
        self._marker = marker
        self._environment = environment
        self._log_driver: str | None = None  # the engine's; None: not asked yet
        self._images = images
        self._making_network = threading.Lock()

    def network(self, client: APIClient) -> str:
        """Make the network of this edge unless it is there; return the address of the gateway in it."""
        return ensure_network(client, self._names.home_id, self._marker, self._making_network)

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
            ImageRefused: the image is not the one that the deployment pins.
        """
        request = self._request(client, module, access, gateway)
        found = self._engine.container(client, module.name)
        if found is not None and found["Labels"].get(REQUEST_LABEL) == request.digest:
            if self._images.is_current(client, docker_settings(module), str(found["ImageID"])):
                return str(found["Id"])
            log.info("module %s: its image is another one by now; its container is made anew", module.name)
        self._images.have(client, module, progress)  # before anything that runs well is given up for it
        if found is not None:
            self.remove(client, found)
        for remark in request.remarks:
            log.warning("module %s: %s", module.name, remark)
        return self._create(client, module, request)

    def remove(self, client: APIClient, listed: Mapping[str, Any]) -> None:
        """Remove a container, as the list has it; one that is gone is no error."""
        from docker.errors import NotFound

        try:
            client.remove_container(listed["Id"], force=True)
        except NotFound:
            pass
        self._images.unused(str(listed["ImageID"]))

    def _request(
        self, client: APIClient, module: ModuleSpec, access: ModuleAccess, gateway: str
    ) -> ContainerRequest:
        names = self._names
        if self._log_driver is None:
            self._log_driver = str(client.info().get("LoggingDriver"))
        around = Surroundings(
            names.home_id,
            network_name(names.home_id),
            gateway,
            names.gateway_name,
            home=names.home,
            engine_socket=engine_socket(os.environ.get("DOCKER_HOST")),
            allow_elevated=names.allow_elevated,
            log_options=LOG_OPTIONS.get(self._log_driver, {}),
        )
        environment = self._environment(module, access) | {"IOTEDGE_GATEWAYHOSTNAME": names.gateway_name}
        folder = ""
        if access.workload_uri:
            folder = str(Path(access.workload_uri.removeprefix("unix://")).parent)
            environment["IOTEDGE_WORKLOADURI"] = f"unix://{SOCKET_FOLDER}/{SOCKET_NAME}"
        return create_request(module, environment, folder, around)

    def _create(self, client: APIClient, module: ModuleSpec, request: ContainerRequest) -> str:
        from docker.errors import APIError

        names = container_names(module.name, self._names.device_id, self._names.home_id)
        for name in names:
            try:
                made = client.create_container_from_config(request.body, name)  # type: ignore[no-untyped-call]
                return str(made["Id"])
            except APIError as exc:
                if exc.status_code != 409 or name == names[-1]:
                    raise ConfigError(
                        f"module '{module.name}': Docker Engine refuses to create its container: "
                        f"{explanation(exc)}; fix settings.createOptions in the deployment"
                    ) from exc
                log.info("container name %s is taken by somebody else's", name)
        raise AssertionError("the last name returned or raised")


class ContainerGone(EnvironmentFault):
    """The container is being removed, or was, by somebody else: another one has to be made."""


def why_not_started(client: APIClient, error: Any) -> EnvironmentFault:
    """Return why the engine refused to start a container, and the way out."""
    text = explanation(error)
    if (error.status_code == 404 and "No such container" in text) or "marked for removal" in text:
        return ContainerGone(f"its container is being removed: {text}; it is made anew")
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
