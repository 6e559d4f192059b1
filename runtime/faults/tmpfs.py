"""A small disk in memory, for messages: `with Tmpfs(path, size) as disk`. Only root may mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from runtime.faults.edge import RunFailed

FILLER: Final = "filler"  # the file that fills it
_LEFT_OUT = shutil.ignore_patterns(FILLER, "*-reserve")


class Tmpfs:
    """A file system of its own at `path`, which is made."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._size_bytes = size_bytes

    def __enter__(self) -> Tmpfs:
        self.path.mkdir(mode=0o700)
        options = f"size={self._size_bytes},mode=0700,uid={os.geteuid()}"
        self._run("mount", "-t", "tmpfs", "-o", options, "edge-actors-faults", str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what is on it for the bundle."""
        shutil.copytree(self.path, self.path.with_name(f"{self.path.name}-content"), ignore=_LEFT_OUT)
        self._run("umount", "--lazy", str(self.path))

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunFailed(f"{command[0]}: {done.stderr.strip()}")
