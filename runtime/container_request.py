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
from dataclasses import dataclass
from typing import Any, Final

from actors.module_spec import DockerSettings, ModuleSpec, spec_hash
from runtime.docker_engine import HOME_LABEL, MODULE_LABEL

SPEC_LABEL: Final = "net.edge-actors.spec"  # hash of what the deployment says
REQUEST_LABEL: Final = "net.edge-actors.request"  # hash of the whole request, so also of what we add
SOCKET_FOLDER: Final = "/var/run/iotedge"  # where modules of the reference have it
HUB_NAME: Final = "edgeHub"
# Whoever restarts or removes containers beside us would work against the restart policy of the deployment.
LEFT_OUT: Final = ("RestartPolicy", "AutoRemove")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all containers of an edge share."""

    home_id: str
    network: str
    gateway: str  # address at which the hub is reached
    gateway_name: str  # and under which name


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """The body of `POST /containers/create`, and which of the createOptions were left out of it."""

    body: dict[str, Any]
    left_out: tuple[str, ...]

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
    """
    settings = module.settings
    assert isinstance(settings, DockerSettings)
    body: dict[str, Any] = json.loads(settings.create_options)
    host = _part(body, "HostConfig")
    left_out = tuple(name for name in LEFT_OUT if _pop(host, name))
    _pop(body, "Image")
    body["Image"] = settings.image
    body["Env"] = _merged_env(environment, _pop(body, "Env") or ())
    if socket_folder:
        _append(host, "Binds", [f"{socket_folder}:{SOCKET_FOLDER}"])
    _join_network(body, host, module.name, around.network)
    mode = str(_get(host, "NetworkMode") or "")
    if mode != "none" and not mode.startswith("container:"):
        given = {str(entry).partition(":")[0].casefold() for entry in _get(host, "ExtraHosts") or ()}
        names = dict.fromkeys((around.gateway_name, HUB_NAME))
        _append(
            host, "ExtraHosts", [f"{name}:{around.gateway}" for name in names if name.casefold() not in given]
        )
    labels = _pop(body, "Labels") or {}
    body["Labels"] = labels | {
        HOME_LABEL: around.home_id,
        MODULE_LABEL: module.name,
        SPEC_LABEL: spec_hash(module),
    }
    body["Labels"][REQUEST_LABEL] = _digest(body)
    return ContainerRequest(body, left_out)


def _join_network(body: dict[str, Any], host: dict[str, Any], module: str, network: str) -> None:
    """Put the container on our network unless its createOptions say where it belongs."""
    networking = _part(body, "NetworkingConfig")
    if _get(networking, "EndpointsConfig") or _get(host, "NetworkMode") not in (None, "", "default"):
        return
    _pop(host, "NetworkMode")
    host["NetworkMode"] = network
    _pop(networking, "EndpointsConfig")
    networking["EndpointsConfig"] = {network: {"Aliases": [module]}}


def _merged_env(ours: Mapping[str, str], given: Iterable[str]) -> list[str]:
    merged = dict(ours)
    for entry in given:
        name, _, value = entry.partition("=")
        merged[name] = value
    return [f"{name}={value}" for name, value in sorted(merged.items())]


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# properties whatever their case


def _name(options: Mapping[str, Any], wanted: str) -> str | None:
    folded = wanted.casefold()
    return next((name for name in options if name.casefold() == folded), None)


def _get(options: Mapping[str, Any], wanted: str) -> Any:
    name = _name(options, wanted)
    return None if name is None else options[name]


def _pop(options: dict[str, Any], wanted: str) -> Any:
    name = _name(options, wanted)
    return None if name is None else options.pop(name)


def _part(options: dict[str, Any], wanted: str) -> dict[str, Any]:
    """Return the object of this name, in place and properly spelt; an empty one when there is none."""
    part: dict[str, Any] = _pop(options, wanted) or {}
    options[wanted] = part
    return part


def _append(options: dict[str, Any], wanted: str, more: list[str]) -> None:
    options[wanted] = [*(_pop(options, wanted) or ()), *more]
