"""What faults and expectations find: the edge, its cloud, the clients, and the choices of a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.faults.clients import Client, Consumer, Publisher
from runtime.faults.cloud import CloudBehindLine, CloudReader
from runtime.faults.container_image import SlowRegistry
from runtime.faults.edge import Edge, RunFailed
from runtime.faults.findings import Findings
from runtime.faults.plan import chance_of, in_turn
from runtime.faults.power import RecordedDisk
from runtime.faults.scenario import Scenario


@dataclass(slots=True)
class Scene:
    """One run."""

    scenario: Scenario
    seed: int
    folder: Path
    edge: Edge
    cloud: CloudBehindLine | None
    reader: CloudReader
    findings: Findings
    stack: ExitStack = field(default_factory=ExitStack)  # what is closed when all is over
    registry: SlowRegistry | None = None
    disk: RecordedDisk | None = None  # of the hub, where the power will be cut
    publishers: list[Publisher] = field(default_factory=list)
    consumers: dict[str, Consumer] = field(default_factory=dict)
    hit: set[str] = field(default_factory=set)  # modules that a fault was meant for

    def chance(self, *of: object) -> random.Random:
        """Return where the random choices of one thing come from."""
        return chance_of(self.seed, *of)

    @property
    def clients(self) -> list[Client]:
        return [*self.publishers, *self.consumers.values()]

    def client(self, name: str) -> Client:
        return next(client for client in self.clients if client.name == name)

    @property
    def line(self) -> CloudBehindLine:
        """The cloud behind its line; the schema has seen to it that there is one."""
        if self.cloud is None:
            raise RunFailed("there is no line")
        return self.cloud

    @property
    def acknowledged(self) -> int:
        return sum(len(publisher.acknowledged) for publisher in self.publishers)


class Fault:
    """What one step of a scenario does. `begin`, then `go_on` as often as it wants, `finish` in any case."""

    def __init__(self, scene: Scene, step: int, values: Mapping[str, Any]) -> None:
        self.scene = scene
        self.step = step
        self.values = values
        self.count = 0  # of what proves that it happened

    def prepare(self) -> None:
        """Do what has to be done before the edge is started."""

    def begin(self, nth: int) -> float | None:
        """Do it; returns in how many seconds to `go_on`, None when it is over."""
        raise NotImplementedError

    def go_on(self) -> float | None:
        """Go on with it, or undo it; returns as `begin` does."""
        return None

    def finish(self) -> None:
        """Leave nothing of it behind, however the run went."""

    def whom(self, nth: int) -> str:
        """Return whom the nth hits."""
        return in_turn(self.values["who"], self.scene.seed, self.step, nth)

    def lasts_s(self, nth: int) -> float:
        """Return for how long the nth lasts."""
        seconds: float = self.values["for"].draw(self.scene.chance("for", self.step, nth))
        return seconds
