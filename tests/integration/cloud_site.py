"""An edge that runs what a stand-in of IoT Hub says, and how a service sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import HUB as HUB_PATH
from tests.actors.manifests import manifest
from tests.integration.cloud_program import CloudProgram
from tests.integration.edge_process import UP, EdgeProcess
from tests.waiting import wait_until

EDGE: Final = "edge1"
LIMIT_S: Final = 30.0


class Site:
    """A stand-in, and an edge that is a device of it."""

    def __init__(self, folder: Path, edge: EdgeProcess | None = None) -> None:
        self.folder = folder
        self.cloud = CloudProgram()
        self.cloud.start()
        self.edge = edge or EdgeProcess()
        self.cloud.do("device", "create", EDGE, "--edge")
        self.settings = {
            "EDGE_ACTORS_CONNECTION_STRING": self.cloud.do("connection-string", "--device", EDGE),
            "EDGE_ACTORS_CLOUD_CA": str(self.cloud.ca_file),
            "EDGE_ACTORS_PROCESS_ALLOW": "/bin/sh -c 'echo $0 up && exec sleep 1000'",
        }

    def start(self, **settings: str) -> None:
        self.edge.start(from_file=False, **self.settings, **settings)

    def deploy(self, modules: dict[str, Any], *changes: tuple[tuple[str, ...], Any]) -> None:
        changes = (((*AGENT_PATH, "modules"), modules), ((*HUB_PATH, "routes"), UP), *changes)
        self.apply(manifest(*changes))

    def apply(self, content: dict[str, Any]) -> None:
        """Apply a manifest, which may be layered."""
        file = self.folder / "deployment.json"
        file.write_text(json.dumps(content))
        self.cloud.do("deploy", EDGE, str(file))

    def twin(self, module: str = "$edgeAgent") -> dict[str, Any]:
        twin = self.cloud.ask("twin", "get", EDGE, "--module", module)
        properties = twin["properties"]
        assert isinstance(properties, dict)
        return properties

    def call(self, method: str, **payload: Any) -> dict[str, Any]:
        """Call a method of `$edgeAgent`; returns status and payload."""
        module = ("--module", "$edgeAgent")
        answer = self.cloud.ask("method", EDGE, method, *module, "--payload", json.dumps(payload))
        assert isinstance(answer, dict)
        return answer

    def wait_for_report(
        self, holds: Callable[[dict[str, Any]], bool], limit_s: float = LIMIT_S
    ) -> dict[str, Any]:
        """Wait until something holds of what `$edgeAgent` has reported, and return that."""
        reported: dict[str, Any] = {}

        def is_so() -> bool:
            nonlocal reported
            reported = self.twin()["reported"]
            return holds(reported)

        wait_until(is_so, lambda: f"{reported}\n{self.edge.log.read_text()}", limit_s)
        return reported

    def close(self) -> None:
        self.edge.close()
        self.cloud.__exit__()


def code(reported: dict[str, Any]) -> int | None:
    status = reported.get("lastDesiredStatus", {}).get("code")
    assert status is None or isinstance(status, int)
    return status
