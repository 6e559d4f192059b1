"""Leaves nothing of a run whose runner is killed, or breaks off: `with Guard(folder, keep=False)`.

A shell in a session of its own reads from the runner. When that ends without a word, the shell becomes
`python -m runtime.faults.guard FOLDER`: it ends edge and stand-in, unmounts the disk and removes the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

from runtime.iothub.cloud_home import CloudHome
from runtime.machine import process_table

MARK: Final = "FAULTS_OF"  # in the environment of agent and stand-in: the folder of the run
CLOUD_HOME: Final = "cloud-home/home"
DISK: Final = "disk"
LIMIT_S: Final = 60.0
KEEP: Final = "--keep"
_SHELL: Final = 'read -r word; [ "$word" = over ] || exec "$@"'
_SOURCES: Final = Path(__file__).resolve().parents[2]


class Guard:
    """Watches over one run."""

    def __init__(self, folder: Path, *, keep: bool) -> None:
        """Watch over a run in a folder, which stays if it is to be kept."""
        path = [str(_SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "runtime.faults.guard", str(folder.absolute()), *[KEEP] * keep]
        self._shell = subprocess.Popen(
            ["sh", "-c", _SHELL, "faults-guard", *command],
            env={**_plain_environment(), "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.PIPE,
            start_new_session=True,  # it is to outlive the runner, whatever ends that
        )

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._shell.stdin is not None
        if kind is None:
            self._shell.stdin.write(b"over\n")
        self._shell.stdin.close()
        self._shell.wait(LIMIT_S)


def end(folder: Path, *, keep: bool) -> None:
    """End what a run has started in a folder; removes that, too, unless it is to be kept."""
    marked = process_table.find({MARK: str(folder)})
    process_table.signal_and_wait(marked, signal.SIGKILL, LIMIT_S)
    home = folder / "home"
    if home.exists():
        down = [sys.executable, "-m", "runtime.cli.main", "down", "--home", str(home)]
        subprocess.run(down, stdout=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
    if (folder / CLOUD_HOME).exists():
        CloudHome.in_home(folder / CLOUD_HOME).run.remove()
    if os.path.ismount(folder / DISK):
        subprocess.run(["umount", "--lazy", str(folder / DISK)], check=False)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGE_ACTORS_")}


if __name__ == "__main__":
    end(Path(sys.argv[1]), keep=KEEP in sys.argv[2:])
