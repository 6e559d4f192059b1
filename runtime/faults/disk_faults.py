"""Faults of the disk: full, and a database that was damaged. Slow and failing ones: see `call_faults`."""

from __future__ import annotations

import os
import shutil
from typing import Final

from runtime.faults.edge import RunFailed
from runtime.faults.guard import DISK
from runtime.faults.scene import Fault
from runtime.faults.tmpfs import FILLER
from runtime.storage.store_place import database_of

FILL_AT_ONCE: Final = 64 * 1024
PAGE_BYTES: Final = 4096


class FullDisk(Fault):
    """No byte is left on the disk of the messages."""

    def begin(self, nth: int) -> float | None:
        self._file = self.scene.folder / DISK / FILLER
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
