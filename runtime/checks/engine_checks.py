"""Checks of the container engine, and of what containers see of the hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from messaging.errors import ConfigError, EngineAway, EnvironmentFault
from runtime.checks.container_probe import Probed, Question, probe
from runtime.checks.judge import (
    judge_container_clock,
    judge_dns,
    judge_engine_version,
    judge_log_rotation,
    read_engine_config,
)
from runtime.checks.outcome import Outcome, error, fatal, ignored, ok, skipped, warning
from runtime.checks.running_checks import NOT_RUNNING, WITH_TLS, edge_ca_pem
from runtime.checks.scene import Scene
from runtime.docker.engine import away_reason, engine_socket
from runtime.docker.network import network_name, remembered_gateway
from runtime.docker.request import gateway_name
from runtime.net import listening_sockets
from runtime.net.listening_sockets import Use

NO_CONTAINERS: Final = "no module of this edge is a container"
_MAY_NOT: Final = "may not be used by this user"


def engine_answers(scene: Scene) -> Outcome:
    """Ask the container engine for its version."""
    try:
        path = engine_socket(os.environ.get("DOCKER_HOST"))
    except ConfigError as exc:
        return error(str(exc))
    reason = away_reason(path)
    if reason is None:
        with scene.engine.calls() as client:
            version = client.version().get("Version", "")
        return ok(uri=f"unix://{path}", docker_version=version)
    if not scene.uses_containers:
        return ignored(f"{NO_CONTAINERS}, and {reason}")
    return fatal(reason) if _MAY_NOT in reason else error(reason)


def engine_is_new_enough(scene: Scene) -> Outcome:
    """See which version the engine has."""
    with scene.engine.calls() as client:
        found = client.version()
    return judge_engine_version(str(found.get("Version", "")), str(found.get("ApiVersion", "")))


def engine_names_dns(scene: Scene) -> Outcome:
    """See whether the engine is told which name servers containers ask."""
    path = scene.options.engine_config
    config = read_engine_config(_read(scene), str(path))
    return config if isinstance(config, Outcome) else judge_dns(config, str(path))


def engine_rotates_logs(scene: Scene) -> Outcome:
    """See whether the logs of containers are kept where they can be read, and not for ever."""
    path = scene.options.engine_config
    config = read_engine_config(_read(scene), str(path))
    if isinstance(config, Outcome):
        return config
    with scene.engine.calls() as client:
        driver = str(client.info().get("LoggingDriver", ""))
    return judge_log_rotation(config, driver, str(path))


def look_from_container(scene: Scene) -> Outcome:
    """Run a container on the network of the edge; its clock is that of this machine."""
    if not scene.uses_containers:
        return ignored(NO_CONTAINERS)
    if scene.agent is None:
        return skipped(NOT_RUNNING)
    gateway = remembered_gateway(scene.home.containers)
    if gateway is None:
        return skipped("this edge has no network for containers yet; its first container makes it")
    config = scene.hub_config
    name = gateway_name(config.host_names[0] if config and config.host_names else "localhost")
    ports = tuple(_hub_ports(scene, gateway).values())
    home_id = scene.run.path.name
    try:
        with scene.engine.calls() as client:
            found = probe(
                client,
                home_id,
                network_name(home_id),
                scene.options.diagnostics_image,
                Question(name, gateway, ports, edge_ca_pem(scene)),
            )
    except EngineAway:
        raise
    except EnvironmentFault as exc:
        return warning(
            f"nothing can be looked at from inside a container: {exc}; name an image that has python3 with "
            "--diagnostics-image-name"
        )
    scene.probe = found
    return judge_container_clock(found.time_s - scene.now_s)


def container_reaches_hub(use: Use) -> Callable[[Scene], Outcome]:
    """Return a check whether a container has TLS with the hub under the name that modules are told."""

    def look(scene: Scene) -> Outcome:
        found: Probed | None = scene.probe
        if found is None:
            return skipped("nothing could be looked at from inside a container")
        gateway = remembered_gateway(scene.home.containers)
        port = _hub_ports(scene, gateway or "").get(use)
        if port is None:
            return ignored("the hub does not listen for containers there")
        problem = found.problems[port]
        if not problem:
            return ok(address=f"{gateway}:{port}")
        return error(
            f"a container does not reach the hub at {gateway}:{port}: {problem}; let the network of Docker "
            "through the firewall of this machine: "
            f"`sudo iptables -I INPUT -p tcp -d {gateway} --dport {port} -j ACCEPT`",
            address=f"{gateway}:{port}",
        )

    return look


def _hub_ports(scene: Scene, gateway: str) -> dict[Use, int]:
    """Return the ports that the hub has for containers."""
    pid = next((module["pid"] for module in scene.modules if module["name"] == "edgeHub"), 0)
    return {
        use: place.port
        for use, place in (listening_sockets.listening_of(pid) if pid else ())
        if place.host in (gateway, "0.0.0.0") and use in WITH_TLS
    }


def _read(scene: Scene) -> str | None:
    try:
        return scene.options.engine_config.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
