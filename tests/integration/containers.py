"""Containers of tests: manifests for them, and an engine that a test may stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from runtime.docker.engine import away_reason
from tests.waiting import wait_until

START_LIMIT_S = 30.0


def container(image: str, *command: str, host: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """Return a module that runs a command in a container; `host` is its HostConfig."""
    options = {"Cmd": list(command), "HostConfig": host or {}}
    module = {"type": "docker", "status": "running", "restartPolicy": "always"}
    return module | {"settings": {"image": image, "createOptions": json.dumps(options)}} | others


class PrivateEngine:
    """A Docker Engine of its own beside the machine's, with its own socket and files. Needs root."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ea-docker-"))
        self.socket = self.folder / "docker.sock"
        self.log = self.folder / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """What DOCKER_HOST has to be for it."""
        return f"unix://{self.socket}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder = self.folder
        arguments = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--bridge", "none"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", *arguments, "--host", self.host, "--pidfile", f"{folder}/pid"],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            )
        started = self._process

        def answers() -> bool:
            assert started.poll() is None, self.log.read_text()
            return away_reason(str(self.socket)) is None

        wait_until(answers, self.log.read_text, START_LIMIT_S)

    def stop(self) -> None:
        """Stop it as a service manager would: it ends its containers."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(START_LIMIT_S)

    def freeze(self) -> None:
        """Have it answer nobody, as one whose disk hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.is_running:
            self.thaw()
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
