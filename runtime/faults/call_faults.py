"""Faults of system calls: slow syncs, writes that fail, no more memory.

Calls of the living hub are delayed or made to fail by strace, which says of each one that it did.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from runtime.faults.edge import RunFailed
from runtime.faults.scene import Fault
from runtime.storage.store_place import database_of

SYNCS: Final = "fsync,fdatasync"
WRITES: Final = "pwrite64,write"
MEMORY: Final = "mmap,brk"


class TamperedCalls(Fault):
    """System calls of the hub are not what they are."""

    _strace: subprocess.Popen[bytes] | None = None
    _trace: Path
    mark = b""  # what strace writes behind a call that it has changed

    def inject(self, calls: str, what: str, nth: int, *more: str) -> float | None:
        """Have strace change calls of the hub that lives now."""
        pid = self.scene.edge.pid_of("edgeHub")
        if pid is None:
            self.scene.edge.wait_until_well()
            pid = self.scene.edge.pid_of("edgeHub")
        self._trace = self.scene.folder / f"strace-{self.step}-{nth}"
        command = ["strace", "-f", "-qq", "-p", str(pid), "-e", f"trace={calls}", "-o", str(self._trace)]
        self._strace = subprocess.Popen(
            [*command, "-e", f"inject={calls}:{what}", *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.scene.edge.wait_for(lambda: self._is_traced(pid), "strace has attached to the hub")
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        self.finish()
        return None

    def finish(self) -> None:
        if self._strace is None:
            return
        self._strace.terminate()
        self._strace.wait()
        if self._trace.exists():
            self.count += self._trace.read_bytes().count(self.mark)
            self._trace.unlink()
        self._strace = None

    def _is_traced(self, pid: int | None) -> bool:
        assert self._strace is not None
        if self._strace.poll() is not None:
            said = self._strace.stderr.read().decode(errors="replace") if self._strace.stderr else ""
            raise RunFailed(f"strace cannot trace the hub: {said.strip()}")
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError as exc:
            raise RunFailed("the hub died when strace attached") from exc
        return f"TracerPid:\t{self._strace.pid}" in status


class SlowSync(TamperedCalls):
    """Each fsync takes longer."""

    mark = b"(DELAYED)"

    def begin(self, nth: int) -> float | None:
        return self.inject(SYNCS, f"delay_enter={int(self.values['by'] * 1e6)}", nth)


class WriteError(TamperedCalls):
    """Writes to the message database fail with EIO."""

    mark = b"(INJECTED)"

    def begin(self, nth: int) -> float | None:
        first, count = self.values["nth"], self.values["count"]
        database = database_of(self.scene.edge.place)
        files = [option for path in (database, f"{database}-wal") for option in ("-P", str(path))]
        return self.inject(WRITES, f"error=EIO:when={first}..{first + count - 1}", nth, *files)


class NoMemory(TamperedCalls):
    """The hub gets no more memory than it has."""

    mark = b"(INJECTED)"

    def begin(self, nth: int) -> float | None:
        return self.inject(MEMORY, "error=ENOMEM", nth)
