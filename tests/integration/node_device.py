"""A device or module that runs the unmodified official Node SDK, in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.node_sdk import FOLDER, need_node
from tests.integration.sdk_peer import LIMIT_S, SdkPeer, ended


class NodeDevice(SdkPeer):
    """A context manager: its process ends with it."""

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
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        super().__init__(self._process.stdout, self._process.stdin)

    def __enter__(self) -> NodeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        ended(self._process)
        self._reader.join(LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def open(self, **options: Any) -> NodeDevice:
        """Connect."""
        self.ask("open", options)
        return self
