"""Removes what an edge left on Docker Engine: for `edge-actors down`.

Everything carries a label with the id of its edge, so it is found when all files of the edge are gone.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from messaging.errors import EngineAway, EnvironmentFault
from runtime.docker.engine import HOME_LABEL, MODULE_LABEL, away_reason, engine_socket, explanation

if TYPE_CHECKING:  # heavy
    from docker import APIClient

# A busy engine is a moment late in taking a network from a container that it has removed.
IN_USE_LIMIT_S: Final = 10.0
IN_USE_LOOK_S: Final = 0.1


class RemovedContainer(Struct, frozen=True):
    """A container of a module that is gone now."""

    module: str
    name: str
    was_running: bool


class RemovedFromEngine(Struct, frozen=True):
    """What `remove_containers` removed."""

    containers: tuple[RemovedContainer, ...]
    networks: tuple[str, ...]


def remove_containers(home_id: str) -> RemovedFromEngine:
    """Remove containers and network of an edge; those that run are killed.

    Raises:
        EngineAway: the engine does not answer, so nobody knows what it has.
        EnvironmentFault: it refused.
    """
    path = engine_socket(os.environ.get("DOCKER_HOST"))
    reason = away_reason(path)
    if reason is not None:
        raise EngineAway(reason)
    from docker import APIClient
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    client = None
    try:
        client = APIClient(f"unix://{path}", version="auto")
        return RemovedFromEngine(_containers(client, home_id), _networks(client, home_id))
    except APIError as exc:
        raise EnvironmentFault(
            f"containers of this edge cannot be removed: {explanation(exc)}; "
            f"see them with `docker ps -a --filter label={HOME_LABEL}={home_id}`"
        ) from exc
    except (DockerException, RequestException) as exc:
        raise EngineAway(away_reason(path) or f"Docker Engine did not answer: {exc}") from exc
    finally:
        if client is not None:
            client.close()


def _containers(client: APIClient, home_id: str) -> tuple[RemovedContainer, ...]:
    from docker.errors import NotFound

    removed = []
    for container in client.containers(all=True, filters={"label": f"{HOME_LABEL}={home_id}"}):
        try:
            client.remove_container(container["Id"], force=True)
        except NotFound:
            continue  # by somebody else meanwhile
        removed.append(_removed(container))
    return tuple(removed)


def _removed(container: dict[str, Any]) -> RemovedContainer:
    name = container["Names"][0].removeprefix("/") if container["Names"] else container["Id"][:12]
    module = container["Labels"].get(MODULE_LABEL, "unknown")
    return RemovedContainer(module, name, container["State"] == "running")


def _networks(client: APIClient, home_id: str) -> tuple[str, ...]:
    removed = []
    for network in client.networks(filters={"label": f"{HOME_LABEL}={home_id}"}):
        _remove_network(client, network["Id"])
        removed.append(network["Name"])
    return tuple(removed)


def _remove_network(client: APIClient, network_id: str) -> None:
    from docker.errors import APIError, NotFound

    ends_s = time.monotonic() + IN_USE_LIMIT_S
    while True:
        for endpoint in client.inspect_network(network_id)["Containers"] or ():
            # Somebody else's container that a user put on it, or one that the engine is still taking off.
            with suppress(NotFound):
                client.disconnect_container_from_network(endpoint, network_id, force=True)
        try:
            client.remove_network(network_id)
            return
        except APIError as exc:
            if exc.status_code != HTTPStatus.FORBIDDEN or time.monotonic() > ends_s:
                raise
        time.sleep(IN_USE_LOOK_S)
