"""An edge with containers, and what tests see of it from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.docker.engine import HOME_LABEL, MODULE_LABEL
from runtime.docker.leftovers import remove_containers
from tests.integration.containers import container
from tests.integration.edge_process import LIMIT_S, EdgeProcess
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import APIClient


class ContainerEdge(EdgeProcess):
    """An edge whose containers the test looks at from outside, with an engine's client of its own."""

    def __init__(self, client: APIClient) -> None:
        super().__init__()
        self.client = client

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the containers of this edge by module."""
        found = self.client.containers(all=True, filters={"label": f"{HOME_LABEL}={self.run.path.name}"})
        return {one["Labels"][MODULE_LABEL]: one for one in found}

    def mount(self) -> dict[str, Any]:
        """Return a HostConfig with which containers reach the named pipe of the test."""
        return {"Binds": [f"{self.pipe}:{self.pipe}"]}

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine tells of the container of a module."""
        found: dict[str, Any] = self.client.inspect_container(self.containers()[name]["Id"])
        return found

    def give_account(self, address: str, username: str, password: str) -> None:
        """Write an account at a registry into the deployment file."""
        content = json.loads(self.deployment.read_text())
        desired = content["modulesContent"]["$edgeAgent"]["properties.desired"]
        account = {"address": address, "username": username, "password": password}
        desired["runtime"]["settings"]["registryCredentials"] = {"test": account}
        self.deployment.write_text(json.dumps(content))

    def started_again(self) -> None:
        """Have the next agent run what the deployment file says by now; the one before is killed."""
        self.kill_agent()
        self.start()

    def wait_for_containers(self, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
        """Wait until something holds of the containers of this edge."""
        wait_until(
            lambda: holds(self.containers()), lambda: f"{self.containers()}\n{self.log.read_text()}", LIMIT_S
        )

    def close(self) -> None:
        super().close()
        remove_containers(self.run.path.name)


def health_check(image: str, **others: Any) -> dict[str, Any]:
    """Return a module that is healthy until something is in its file /ill; a new run empties it."""
    module = container(image, "sh", "-c", ": >/ill; exec sleep 1000", **others)
    check = {"Test": ["CMD", "sh", "-c", "! test -s /ill"], "Interval": 100_000_000, "Retries": 1}
    options = json.loads(module["settings"]["createOptions"]) | {"Healthcheck": check}
    module["settings"]["createOptions"] = json.dumps(options)
    return module


def make_ill(edge: ContainerEdge, name: str) -> None:
    executed = edge.client.exec_create(edge.containers()[name]["Id"], ["sh", "-c", "echo >/ill"])
    edge.client.exec_start(executed["Id"])
