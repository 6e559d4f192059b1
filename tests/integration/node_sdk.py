"""Runs scripts that use the official Node SDKs, which `scripts/setup test` installs below tests/node."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "node"
LIMIT_S = 60


def need_node() -> str:
    """Return the path of node; the test is skipped, and says what to type, where the SDKs are not there."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "azure-iothub").is_dir():
        pytest.skip("the Node SDKs are not installed; type scripts/setup test, which says what it needs")
    return node


def need_port(address: str, port: int) -> None:
    """Skip the test where this user may not listen there."""
    with socket.socket() as listening:
        try:
            listening.bind((address, port))
        except PermissionError:
            pytest.skip(f"the Node SDK needs port {port}, which only root may use here")


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
