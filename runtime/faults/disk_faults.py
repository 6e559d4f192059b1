"""Faults of the disk: full, slow, failing, and a database that was damaged.

System calls of the living hub are delayed or made to fail by strace, which says of each one that it did.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from runtime.faults.edge import RunFailed
from runtime.faults.scene import Fault
from runtime.store_place import database_of

FILL_AT_ONCE: Final = 64 * 1024
FILLER: Final = "filler"
SYNCS: Final = "fsync,fdatasync"
WRITES: Final = "pwrite64,write"
PAGE_BYTES: Final = 4096


class FullDisk(Fault):
    """No byte is left on the disk of the messages."""

    def begin(self, nth: int) -> float | None:
        self._file = self.scene.folder / "disk" / FILLER
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        self._fill()
        self._ends_in_s = self.lasts_s(nth)
        return 0.1

    def go_on(self) -> float | None:
        """Take what was freed meanwhile, and in the end give all back."""
        self._ends_in_s -= 0.1
        if self._ends_in_s > 0:
            self._fill()
            return 0.1
        self.finish()
        return None

    def finish(self) -> None:
        if hasattr(self, "_file") and self._file.exists():
            os.close(self._descriptor)
            self._file.unlink()

    def _fill(self) -> None:
        block = bytes(FILL_AT_ONCE)
        while block:
            try:
                self.count += os.write(self._descriptor, block)
            except OSError:
                block = block[: len(block) // 2]


class _Tampered(Fault):
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


class SlowSync(_Tampered):
    """Each fsync takes longer."""

    mark = b"(DELAYED)"

    def begin(self, nth: int) -> float | None:
        return self.inject(SYNCS, f"delay_enter={int(self.values['by'] * 1e6)}", nth)


class WriteError(_Tampered):
    """Writes to the message database fail with EIO."""

    mark = b"(INJECTED)"

    def begin(self, nth: int) -> float | None:
        first, count = self.values["nth"], self.values["count"]
        database = database_of(self.scene.edge.place)
        files = [option for path in (database, f"{database}-wal") for option in ("-P", str(path))]
        return self.inject(WRITES, f"error=EIO:when={first}..{first + count - 1}", nth, *files)


class DamageDatabase(Fault):
    """The hub dies, and what it starts with is damaged."""

    def begin(self, nth: int) -> float | None:
        scene, edge = self.scene, self.scene.edge
        edge.kill_agent()  # first: it would start the hub again at once
        if not edge.kill("edgeHub"):
            raise RunFailed("there is no hub to kill")
        edge.wait_for(lambda: edge.pid_of("edgeHub") is None, "the hub is dead", with_agent=False)
        database = database_of(edge.place)
        content = bytearray(database.read_bytes())
        chance = scene.chance("damage", self.step, nth)
        if self.values["how"] == "tear":
            os.truncate(database, max(PAGE_BYTES, len(content) * 2 // 3 - 100))
        else:
            # Behind the first page: a file without its head is the easy case.
            for _ in range(self.values["count"]):
                content[chance.randrange(min(PAGE_BYTES, len(content) - 1), len(content))] ^= 1 << (
                    chance.randrange(8)
                )
            database.write_bytes(content)
        evidence = scene.folder / f"damaged-{self.step}-{nth}.db"
        shutil.copyfile(database, evidence)
        self.count += 1
        edge.start()
        return None
