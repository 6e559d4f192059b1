"""What is looked at while a script runs: when it has recovered from a fault, what memory the hub takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.faults.scenario import UPSTREAM
from runtime.faults.scene import Scene

WARM_UP_S: Final = 3.0  # in which a hub takes what it needs
LEAST_SAMPLES: Final = 5
SAMPLE_S: Final = 0.5


@dataclass(slots=True)
class Recovery:
    """Waits until all is as before a fault."""

    since_s: float  # monotonic, when the fault ended
    before: tuple[int, ...]  # what each publisher had been told by then
    cloud_before: int
    took_s: float | None = None
    upstream_took_s: float | None = None

    @classmethod
    def begin(cls, scene: Scene) -> Recovery:
        scene.reader.read()
        return cls(
            time.monotonic(),
            tuple(len(publisher.acknowledged) for publisher in scene.publishers),
            scene.reader.received,
        )

    def look(self, scene: Scene) -> bool:
        """Return whether it is over."""
        if self.took_s is None and scene.edge.is_well():
            more = zip(scene.publishers, self.before, strict=True)
            if all(len(publisher.acknowledged) > before for publisher, before in more):
                self.took_s = time.monotonic() - self.since_s
        if self.upstream_took_s is None and any(
            route.into == UPSTREAM for route in scene.scenario.edge.routes.values()
        ):
            scene.reader.read()
            if scene.reader.received > self.cloud_before:
                self.upstream_took_s = time.monotonic() - self.since_s
            else:
                return False
        return self.took_s is not None


@dataclass(slots=True)
class Memory:
    """Samples of one hub after the other; the slope is that of the longest life."""

    _lives: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    _next_s: float = 0.0

    def look(self, pid: int | None) -> None:
        """Take a sample, when it is time for one."""
        now_s = time.monotonic()
        if pid is None or now_s < self._next_s:
            return
        self._next_s = now_s + SAMPLE_S
        used = pss_bytes(pid)
        if used is not None:
            self._lives.setdefault(pid, []).append((now_s, used))

    def bytes_per_min(self) -> float | None:
        """Return how fast it grew after its warm-up, None when there are too few samples."""
        best: list[tuple[float, int]] = []
        for samples in self._lives.values():
            warm = [one for one in samples if one[0] >= samples[0][0] + WARM_UP_S]
            best = max(best, warm, key=len)
        return slope(best) * 60 if len(best) >= LEAST_SAMPLES else None


def slope(points: list[tuple[float, int]]) -> float:
    """Return the slope of the line that fits best, by least squares."""
    middle = sum(x for x, _ in points) / len(points)
    level = sum(y for _, y in points) / len(points)
    width = sum((x - middle) ** 2 for x, _ in points)
    return sum((x - middle) * (y - level) for x, y in points) / width if width else 0.0


def pss_bytes(pid: int) -> int | None:
    """Return the memory of a process, shared pages by their share; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)
