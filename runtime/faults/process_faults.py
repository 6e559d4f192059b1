"""Faults of processes: SIGKILL, SIGSTOP, a reboot."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Final

from runtime import process_table
from runtime.faults.edge import RunFailed
from runtime.faults.scene import Fault

MOST_UNSUPERVISED_S: Final = 0.4  # between the death of an agent and the start of the next
CLOUD_AWAY_S: Final = 0.3
_MODULES: Final = {"hub": "edgeHub", "cloud": "edgeCloud"}


class Kill(Fault):
    """SIGKILL."""

    def begin(self, nth: int) -> float | None:
        scene, edge = self.scene, self.scene.edge
        self._who = self.whom(nth)
        scene.hit.add(_MODULES.get(self._who, self._who))
        if self._who == "cloud" and scene.cloud is not None:
            scene.cloud.kill()
            self.count += 1
            return CLOUD_AWAY_S
        name = "edgeHub" if self._who == "both" else _MODULES.get(self._who, self._who)
        if name != "agent" and not edge.kill(name):
            edge.wait_until_well()  # none to kill: the one before is not back
            if not edge.kill(name):
                raise RunFailed(f"there is no {name} to kill")
        if self._who in ("agent", "both"):
            edge.kill_agent()
            self.count += 1
            return scene.chance("agent", self.step, nth).uniform(0.0, MOST_UNSUPERVISED_S)
        self.count += 1
        return None

    def go_on(self) -> float | None:
        if self._who == "cloud":
            self.scene.line.start()
        else:
            self.scene.edge.start()
        return None


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
