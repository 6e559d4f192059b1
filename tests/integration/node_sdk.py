"""Runs scripts that use the official Node SDKs, which `scripts/setup test` installs below tests/node."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "node"
LIMIT_S = 60.0


NODE = shutil.which("node")
WHY_NOT = "the Node SDKs are not installed; type scripts/setup test, which says what it needs"

needs_node = pytest.mark.skipif(
    NODE is None or not (FOLDER / "node_modules" / "azure-iothub").is_dir(), reason=WHY_NOT
)


def need_node() -> str:
    """Return the path of node; the test is skipped, and says what to type, where the SDKs are not there."""
    if NODE is None or not (FOLDER / "node_modules" / "azure-iothub").is_dir():
        pytest.skip(WHY_NOT)
    return NODE


def need_port(address: str, port: int) -> None:
    """Skip the test where this user may not listen there."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address, port))
        except PermissionError:
            pytest.skip(f"an SDK or an edge needs port {port}, which only root may use here")


def run_scene(script: str, scene: str, ca_file: Path, **environment: str) -> Any:
    """Run a scene of a script below tests/node and return the JSON that it prints."""
    ended = subprocess.run(
        [need_node(), FOLDER / script, scene],
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(ca_file), "NODE_NO_WARNINGS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


class NodeProgram:
    """One running program that prints JSON lines; `with` ends it by closing its input."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [need_node(), str(FOLDER / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=FOLDER,
        )
        self._said: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> NodeProgram:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LIMIT_S)
        finally:
            self._process.kill()
            self._process.wait()

    def next(self) -> Any:
        """Return what it says next."""
        said = self._said.get(timeout=LIMIT_S)
        assert said is not None, f"the program ended with {self._process.wait(LIMIT_S)}"
        return said

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)
