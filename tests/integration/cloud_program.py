"""The stand-in as its users run it: `edge-actors cloud run` in a process, `edge-actors cloud …` beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.integration.sdk_clients import loopback_address
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (sys.executable, "-m", "runtime.cli.main", "cloud")
START_LIMIT_S: Final = 20.0
LIMIT_S: Final = 30.0
READY: Final = "clients need this CA"


class CloudProgram:
    """One home, and the process that runs on it. `with CloudProgram() as cloud` starts and ends it."""

    def __init__(self, *options: str, prefix: Sequence[str] = (), address: str | None = None) -> None:
        self.address = address or loopback_address()
        self.home = Path(tempfile.mkdtemp(prefix="ea-cloud-"))
        self.ca_file = self.home / "cloud" / "ca.pem"
        self.log = self.home / "cloud" / "logs" / "cloud.log"
        self._printed = self.home / "printed"
        self._options = options
        self._prefix = tuple(prefix)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> CloudProgram:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.home)

    @property
    def command(self) -> list[str]:
        return [
            *self._prefix,
            *PROGRAM,
            "run",
            "--home",
            str(self.home),
            "--listen",
            self.address,
            *self._options,
        ]

    def start(self) -> float:
        """Start the process and wait until it serves; returns after how many seconds."""
        with self._printed.open("w") as printed:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
            )
        started = self.process

        def serves() -> bool:
            assert started.poll() is None, f"it ended: {self.printed()}"
            return any(READY in line for line in self.printed())

        return wait_until(serves, lambda: f"it starts: {self.printed()}", START_LIMIT_S)

    def printed(self) -> list[str]:
        """Return the lines that the last run has printed so far."""
        return self._printed.read_text().splitlines()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process with a signal and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        """kill -9."""
        self.end(signal.SIGKILL)

    def run(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run one command of the command line on this home."""
        command = [*PROGRAM, *arguments, "--home", str(self.home)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False, **settings
        )

    def do(self, *arguments: str) -> str:
        """Run a command that has to work, and return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ask(self, *arguments: str) -> Any:
        """Run a command that has to work, and return its JSON."""
        return json.loads(self.do(*arguments, "--json"))

    def refused(self, *arguments: str) -> tuple[int, str]:
        """Run a command that must not work; returns its exit code and what it said."""
        done = self.run(*arguments)
        assert done.returncode != 0, done.stdout
        assert done.stdout == ""
        return done.returncode, done.stderr.strip()

    @property
    def ca_pem(self) -> str:
        return self.ca_file.read_text()


def pss_kib(pid: int) -> int:
    """Return the proportional share of memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def is_root() -> bool:
    return os.geteuid() == 0
