"""A device or module that runs the unmodified official Node SDK, in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

from tests.integration.node_sdk import FOLDER, need_node

LIMIT_S: Final = 60.0


class NodeDevice:
    """Moved by `ask`; what happens to it comes by `event`. A context manager: its process ends with it."""

    def __init__(
        self,
        credential: str,
        ca_file: Path,
        *,
        transport: str = "mqtt",
        certificate_files: tuple[Path, Path] | None = None,
    ) -> None:
        kind = "module" if ";ModuleId=" in credential else "device"
        environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(ca_file), "NODE_NO_WARNINGS": "1"}
        if certificate_files is not None:
            environment["CLIENT_CERT"], environment["CLIENT_KEY"] = map(str, certificate_files)
        self._process = subprocess.Popen(
            [need_node(), str(FOLDER / "device.js"), credential, kind, transport],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ids = itertools.count(1)
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> NodeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Let the device do something and return the result; RuntimeError with what the SDK says if not."""
        request_id = next(self._ids)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([request_id, name, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._answers.get(timeout=LIMIT_S)
        assert answer["id"] == request_id
        if "error" in answer:
            raise RuntimeError("{name}: {message}".format(**answer["error"]))
        return answer["result"]

    def open(self, **options: Any) -> NodeDevice:
        """Connect."""
        self.ask("open", options)
        return self

    def event(self, name: str) -> dict[str, Any]:
        """Wait for something to happen; what happens before is dropped."""
        while True:
            event = self._events.get(timeout=LIMIT_S)
            if event["event"] == name:
                return event

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            (self._events if "event" in said else self._answers).put(said)
