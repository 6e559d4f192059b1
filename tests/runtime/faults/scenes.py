"""A scene without an edge: one process that plays a part of it, and lines to a server that answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runtime.faults.doing import CLASSES
from runtime.faults.findings import Findings
from runtime.faults.line import Line
from runtime.faults.plan import chance_of
from runtime.faults.scene import Fault
from runtime.faults.yaml_reader import Spread
from runtime.home import Home
from tests.waiting import wait_until

LIMIT_S = 20.0


class PlayedEdge:
    """The hub is a Python program of the test; who else is asked for is not there."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.place = Home(self.home)
        self.log = folder / "edge.log"
        self.hub: subprocess.Popen[str] | None = None
        self.agents_started = 0

    def play_hub(self, program: str) -> None:
        """Start the hub, and wait until it says that it runs."""
        self.hub = subprocess.Popen(
            [sys.executable, "-u", "-c", program], cwd=self.home, stdout=subprocess.PIPE, text=True
        )
        assert self.hub.stdout is not None
        assert self.hub.stdout.readline() == "ready\n"

    def pid_of(self, name: str) -> int | None:
        lives = name == "edgeHub" and self.hub is not None and self.hub.poll() is None
        return self.hub.pid if lives and self.hub else None

    def kill(self, name: str) -> bool:
        if self.pid_of(name) is None or self.hub is None:
            return False
        self.hub.kill()
        self.hub.wait(LIMIT_S)
        return True

    def kill_agent(self) -> None:
        """There is none."""

    def start(self) -> None:
        self.agents_started += 1

    def is_well(self) -> bool:
        return True

    def wait_until_well(self) -> None:
        """It is as well as it gets."""

    def wait_for(self, is_so: Callable[[], bool], what: str, **_: Any) -> None:
        wait_until(is_so, what, LIMIT_S)

    def close(self) -> None:
        if self.hub is not None:
            self.hub.kill()
            self.hub.communicate()


class Echo:
    """Sends back what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(accepted,), daemon=True).start()

    @staticmethod
    def _answer(accepted: socket.socket) -> None:
        try:
            while data := accepted.recv(4096):
                accepted.sendall(data)
        except OSError:
            pass
        finally:
            accepted.close()


class PlayedScene:
    """What faults look at. `with PlayedScene(folder) as scene`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.edge = PlayedEdge(folder)
        self.stack = ExitStack()
        self.stack.callback(self.edge.close)
        self.seed = 1
        self.cloud = None
        self.registry: Any = None
        self.disk = None
        self.hit: set[str] = set()
        self.findings = Findings("played", 1)
        self.publishers: list[Any] = []
        self.scenario = SimpleNamespace(uses=lambda *_: False)
        self.line: Any = None

    def __enter__(self) -> PlayedScene:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def chance(self, *of: object) -> Any:
        return chance_of(self.seed, *of)

    def add_line(self) -> Line:
        """Have a line to a server that answers."""
        echo = Echo()
        self.stack.callback(echo.close)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = self.stack.enter_context(Line(("127.0.0.1", port), echo.address))

        def shape(profile: Any) -> None:
            line.profile = profile

        self.line = SimpleNamespace(lines=(line,), shape=shape, address=("127.0.0.1", port))
        return line

    def fault(self, name: str, **values: Any) -> Fault:
        """Return a fault of this scene; `for_s` stands for `for`."""
        if "for_s" in values:
            values["for"] = Spread(values.pop("for_s"))
        fault = CLASSES[name](self, 0, values)  # type: ignore[arg-type]
        fault.prepare()
        return fault
