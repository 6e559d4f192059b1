"""A whole edge in processes of its own, driven by its command line as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.sdk_clients import loopback_address
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "scripts" / "samples" / "deployment.json"
PROGRAM = (sys.executable, "-m", "runtime.cli.main")


class EdgeProgram:
    """An edge on a home of its own. `start` it, ask it with `run` and `json`, end it with `close`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.address = loopback_address()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EDGE_ACTORS_")},
            "EDGE_ACTORS_HOME": str(home),
            "EDGE_ACTORS_LISTEN": self.address,
            "EDGE_ACTORS_HOSTNAME": self.address,
            "PYTHONPATH": str(ROOT),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.output = home.with_name(f"{home.name}.output")

    def start(self, *arguments: str, deployment: Path = SAMPLE) -> None:
        """Start the edge and wait until all its modules run."""
        self.start_without_waiting(*arguments, deployment=deployment)
        self.wait_for_modules("running", {"edgeAgent", "edgeHub", "filter", "sensor"})

    def start_without_waiting(self, *arguments: str, deployment: Path = SAMPLE) -> None:
        """Start the edge."""
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [*PROGRAM, "run", "--deployment", str(deployment), *arguments],
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def wait_for_modules(self, status: str, names: set[str]) -> None:
        """Wait until these modules are at a status."""

        def are() -> bool:
            assert self.process is None or self.process.poll() is None, self.output.read_text()
            modules = self.modules()
            return all(name in modules and modules[name]["status"] == status for name in names)

        wait_until(are, f"{', '.join(sorted(names))} are {status}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call `edge-actors` with these arguments."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )

    def json(self, *arguments: str) -> Any:
        """Call `edge-actors` with these arguments and --json; it must succeed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def modules(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what `list` says by module, nothing while the edge does not answer."""
        done = self.run("list", "--json")
        return {module["name"]: module for module in json.loads(done.stdout)} if done.stdout else {}

    @property
    def iothub(self) -> str:
        """The name of the IoT Hub that the edge runs for itself."""
        return str(json.loads((self.home / "provisioned.json").read_text())["hostName"])

    def wait_for_message(self) -> None:
        """Wait until a message has come all the way to the cloud."""
        arrived = self.home / "upstream.jsonl"
        wait_until(lambda: arrived.exists() and arrived.stat().st_size > 0, "a message is upstream")

    def run_for_a_message(self) -> None:
        """Start the edge, and stop it when a message has come all the way."""
        self.start()
        self.wait_for_message()
        self.stop()

    def stop(self) -> None:
        """End the edge with SIGTERM, and wait for that."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.wait() == 0, self.output.read_text()

    def wait(self) -> int:
        """Wait for the end of the edge; returns its exit code."""
        assert self.process is not None
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        """End the edge and whatever it left, however the test went."""
        self.run("down", "--purge")
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(LIMIT_S)
