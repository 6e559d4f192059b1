"""A client of the management API: requests over its Unix socket, as `iotedge` makes them."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

LIMIT_S = 30.0
CLI_VERSION = "2020-07-07"  # what `iotedge` asks for; security-daemon.md section 6


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("management", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(str(self._path))


def call(
    path: Path, method: str, target: str, version: str = CLI_VERSION, body: bytes | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers (names in small letters) of one request; version "" sends none."""
    if version:
        target += f"{'&' if '?' in target else '?'}api-version={version}"
    connection = UnixConnection(path)
    try:
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        content = response.read()
        return response.status, content, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def call_json(path: Path, method: str, target: str, version: str = CLI_VERSION) -> tuple[int, Any]:
    """Return status and JSON of one request; None for no body."""
    status, content, headers = call(path, method, target, version)
    if not content:
        return status, None
    assert headers["content-type"] == "application/json"
    return status, json.loads(content)


def frames(content: bytes) -> list[tuple[int, bytes]]:
    """Take the body of logs apart into (stream, payload)."""
    found = []
    while content:
        assert content[1:4] == b"\0\0\0", content[:8]
        length = int.from_bytes(content[4:8], "big")
        found.append((content[0], content[8 : 8 + length]))
        content = content[8 + length :]
    return found
