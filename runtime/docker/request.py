"""What Docker is asked to create for a module: its createOptions, and what makes it a module of this edge.

Pure. Property names of createOptions are matched without regard to case, as Docker does; what is not known
here is passed on as it is.

Source: spec sheet agent.md sections 1.3, 4.2 and 4.3
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from actors.manifest.module_spec import DockerSettings, ModuleSpec, spec_hash
from runtime.docker import options
from runtime.docker.engine import HOME_LABEL, MODULE_LABEL
from runtime.docker.limits import refuse_home, take_elevated

SPEC_LABEL: Final = "net.edge-actors.spec"  # hash of what the deployment says
REQUEST_LABEL: Final = "net.edge-actors.request"  # hash of the whole request, so also of what we add
REMARKS_LABEL: Final = "net.edge-actors.remarks"  # what a user should know of it, as a JSON list
SOCKET_FOLDER: Final = "/var/run/iotedge"  # where modules of the reference have it
HUB_NAME: Final = "edgeHub"
AGENT_NAME: Final = "edgeAgent"  # whose metrics are asked for; nothing else of it is for containers
# Whoever restarts or removes containers beside us would work against the restart policy of the deployment.
LEFT_OUT: Final = ("RestartPolicy", "AutoRemove")
_OPTION: Final = "createOptions: HostConfig."
_KEEPER: Final = "is left out: restarts and removal follow the deployment"
_NOT_ALLOWED: Final = "is left out: this device does not allow it (setting allow_elevated_docker_permissions)"
# As much as the log of a process module may have. The engine itself limits nothing.
LOG_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "json-file": {"max-size": "10m", "max-file": "3"},
    "local": {"max-size": "10m", "max-file": "3"},
}


class Surroundings(Struct, frozen=True):
    """What all containers of an edge share."""

    home_id: str
    network: str
    gateway: str  # address at which the hub is reached
    gateway_name: str  # and under which name
    home: Path
    engine_socket: str
    allow_elevated: bool = True  # whether createOptions may ask for rights over this machine
    log_options: Mapping[str, str] = field(default_factory=dict)  # for a container that names no log driver


class ContainerRequest(Struct, frozen=True):
    """The body of `POST /containers/create`, and what a user should know of it."""

    body: dict[str, Any]
    remarks: tuple[str, ...]

    @property
    def digest(self) -> str:
        return str(self.body["Labels"][REQUEST_LABEL])


def gateway_name(hostname: str) -> str:
    """Return under which name containers reach the hub: our host name, unless that is an address.

    `localhost` is the container itself in there, and an address need not be one that the hub listens on.
    The hub's certificate covers edgeHub too.
    """
    is_address = re.fullmatch(r"[0-9.]+", hostname) is not None
    return HUB_NAME if is_address or hostname.casefold() == "localhost" else hostname


def container_names(module: str, device_id: str, home_id: str) -> tuple[str, ...]:
    """Return the names for a container in order of preference: the first that is free is taken.

    The module's own is left out when Docker does not allow it: it has to have two characters.
    """
    device = re.sub(r"[^A-Za-z0-9_.-]", "-", device_id).lstrip("_.-") or "edge"
    names = (module, f"{device}-{module}", f"{device}-{module}-{home_id}")
    return tuple(name for name in names if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", name))


def create_request(
    module: ModuleSpec, environment: Mapping[str, str], socket_folder: str, around: Surroundings
) -> ContainerRequest:
    """Return what to ask Docker for.

    Args:
        module: Of type docker.
        environment: The module's own of the manifest and the IOTEDGE_* ones; `Env` of createOptions wins.
        socket_folder: The folder of the module's workload socket on this machine; "" when it has none.
        around: What all containers of this edge share.

    Raises:
        ConfigError: the home of the edge would be bound into the container.
    """
    settings = module.settings
    assert isinstance(settings, DockerSettings)
    body: dict[str, Any] = json.loads(settings.create_options)
    host = options.part(body, "HostConfig")
    refuse_home(module.name, host, around.home)
    left_out = [f"{_OPTION}{name} {_KEEPER}" for name in LEFT_OUT if options.pop(host, name)]
    if not around.allow_elevated:
        # Whoever wants the host's network has to name it twice.
        endpoints = options.get(options.get(body, "NetworkingConfig") or {}, "EndpointsConfig") or {}
        options.pop(endpoints, "host")
        left_out += [f"{_OPTION}{name} {_NOT_ALLOWED}" for name in take_elevated(host, around.engine_socket)]
    if around.log_options and not options.get(host, "LogConfig"):
        options.pop(host, "LogConfig")
        host["LogConfig"] = {"Type": "", "Config": dict(around.log_options)}
    options.pop(body, "Image")
    body["Image"] = settings.image
    body["Env"] = _merged_env(environment, options.pop(body, "Env") or ())
    if socket_folder:
        options.append(host, "Binds", [f"{socket_folder}:{SOCKET_FOLDER}"])
    _join_network(body, host, module.name, around.network)
    mode = str(options.get(host, "NetworkMode") or "")
    if mode != "none" and not mode.startswith("container:"):
        given = {str(entry).partition(":")[0].casefold() for entry in options.get(host, "ExtraHosts") or ()}
        names = dict.fromkeys((around.gateway_name, HUB_NAME, AGENT_NAME))
        options.append(
            host, "ExtraHosts", [f"{name}:{around.gateway}" for name in names if name.casefold() not in given]
        )
    labels = options.pop(body, "Labels") or {}
    body["Labels"] = labels | {
        HOME_LABEL: around.home_id,
        MODULE_LABEL: module.name,
        SPEC_LABEL: spec_hash(module),
    }
    if left_out:
        body["Labels"][REMARKS_LABEL] = json.dumps(left_out)
    body["Labels"][REQUEST_LABEL] = _digest(body)
    return ContainerRequest(body, tuple(left_out))


def _join_network(body: dict[str, Any], host: dict[str, Any], module: str, network: str) -> None:
    """Put the container on our network unless its createOptions say where it belongs."""
    networking = options.part(body, "NetworkingConfig")
    if options.get(networking, "EndpointsConfig") or options.get(host, "NetworkMode") not in (
        None,
        "",
        "default",
    ):
        return
    options.pop(host, "NetworkMode")
    host["NetworkMode"] = network
    options.pop(networking, "EndpointsConfig")
    networking["EndpointsConfig"] = {network: {"Aliases": [module]}}


def _merged_env(ours: Mapping[str, str], given: Iterable[object]) -> list[str]:
    merged = dict(ours)
    for entry in given:
        name, _, value = str(entry).partition("=")
        merged[name] = value
    return [f"{name}={value}" for name, value in sorted(merged.items())]


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
