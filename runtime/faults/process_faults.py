"""Faults of processes: SIGKILL, SIGSTOP, a reboot."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import Final

from runtime.faults.edge import LIMIT_S, RunFailed
from runtime.faults.scene import Fault
from runtime.machine import process_table

MOST_UNSUPERVISED_S: Final = 0.4  # between the death of an agent and the start of the next
CLOUD_AWAY_S: Final = 0.3
LOOK_AGAIN_S: Final = 0.1
_MODULES: Final = {"hub": "edgeHub", "cloud": "edgeCloud"}


class Kill(Fault):
    """SIGKILL."""

    _told: tuple[int, ...] = ()  # of each publisher, how often by the last time

    def begin(self, nth: int) -> float | None:
        self._nth = nth
        self._dead = ""  # who is to be started again
        settles = self.scene.chance("settle", self.step, nth).random() < self.values["settle"]
        self._settles_by_s = time.monotonic() + LIMIT_S if settles else 0.0
        return self.go_on()

    def go_on(self) -> float | None:
        if self._dead:
            (self.scene.line if self._dead == "cloud" else self.scene.edge).start()
            return None
        told = tuple(len(publisher.told) for publisher in self.scene.publishers)
        if self._settles_by_s and any(now == before for now, before in zip(told, self._told, strict=False)):
            if time.monotonic() > self._settles_by_s:
                raise RunFailed(f"a publisher is told nothing any more; log: {self.scene.edge.log}")
            self.scene.edge.is_well()  # which starts what waits longer and longer after so many crashes
            return LOOK_AGAIN_S
        self._told = told
        return self._kill(self.whom(self._nth))

    def _kill(self, who: str) -> float | None:
        scene, edge = self.scene, self.scene.edge
        scene.hit.add(_MODULES.get(who, who))
        if who == "cloud" and scene.cloud is not None:
            scene.cloud.kill()
            self._dead = who
            self.count += 1
            return CLOUD_AWAY_S
        name = "edgeHub" if who == "both" else _MODULES.get(who, who)
        if name != "agent" and not edge.kill(name):
            edge.wait_until_well()  # none to kill: the one before is not back
            if not edge.kill(name):
                raise RunFailed(f"there is no {name} to kill")
        self.count += 1
        if who not in ("agent", "both"):
            return None
        edge.kill_agent()
        self._dead = "agent"
        return scene.chance("agent", self.step, self._nth).uniform(0.0, MOST_UNSUPERVISED_S)


class Stop(Fault):
    """SIGSTOP, and SIGCONT."""

    _pids: tuple[int, ...] = ()

    def begin(self, nth: int) -> float | None:
        scene, edge = self.scene, self.scene.edge
        who = self.whom(nth)
        names = ("agent", "edgeHub") if who == "both" else (_MODULES.get(who, who),)
        pids = [
            scene.cloud.pid if name == "edgeCloud" and scene.cloud else edge.pid_of(name) for name in names
        ]
        self._pids = tuple(pid for pid in pids if pid is not None)
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)
            edge.wait_for(
                lambda pid=pid: (stat := process_table.read_stat(pid)) is None or stat.state == "T",  # type: ignore[misc]
                f"{who} stands still",
            )
            self.count += 1
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        self.finish()
        return None

    def finish(self) -> None:
        for pid in self._pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self._pids = ()


class Reboot(Fault):
    """All processes die at once, what was in memory is gone; later the edge starts."""

    def begin(self, nth: int) -> float | None:
        scene = self.scene
        scene.edge.kill_everything()
        shutil.rmtree(scene.edge.run.path, ignore_errors=True)  # /run is in memory
        self.count += 1
        seconds: float = self.values["off"].draw(scene.chance("off", self.step, nth))
        return seconds

    def go_on(self) -> float | None:
        self.scene.edge.start()
        return None
