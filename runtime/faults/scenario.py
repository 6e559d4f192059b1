"""A fault script as values: an edge, a load, steps in time, expectations. Read by `schema`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.faults.yaml_reader import Spread

VERSION: Final = 1
UPSTREAM: Final = "$upstream"
BYSTANDERS: Final = ("bystander1", "bystander2")  # run in every scenario and must go on running
PARTS: Final = ("agent", "hub", "both", "cloud")


@dataclass(frozen=True, slots=True)
class RouteOfLoad:
    """What every publisher sends on one output goes to one consumer, or to the cloud."""

    output: str
    into: str  # a consumer, or UPSTREAM
    priority: int | None = None
    ttl_s: int = 0  # 0: as long as the edge keeps any


@dataclass(frozen=True, slots=True)
class ModuleOfEdge:
    """A module that runs besides the bystanders: a program, or a container."""

    command: tuple[str, ...]
    image: str = ""
    restart: str = "always"


@dataclass(frozen=True, slots=True)
class EdgeOfScenario:
    """The edge to start."""

    routes: Mapping[str, RouteOfLoad]
    cloud: str  # `own`, or `behind a line`
    protocol: str  # to the cloud
    settings: Mapping[str, str]  # by the name of the environment variable
    hub_env: Mapping[str, str]
    modules: Mapping[str, ModuleOfEdge]
    ttl_s: int
    most_bytes: int  # of the message database; 0: no limit of its own
    disk_bytes: int  # of the disk for messages; 0: the disk of the home


@dataclass(frozen=True, slots=True)
class Presence:
    """How long a consumer is connected, and then not."""

    there: Spread
    away: Spread


@dataclass(frozen=True, slots=True)
class Load:
    """Who sends and who receives."""

    publishers: int
    rate_per_s: float  # of each publisher
    size_bytes: int
    over: str  # how publishers connect: `mqtt` or `amqp`
    consumers: Mapping[str, Presence | None]  # None: always connected

    @property
    def publisher_names(self) -> tuple[str, ...]:
        return tuple(f"pub{number}" for number in range(1, self.publishers + 1))


@dataclass(frozen=True, slots=True)
class At:
    """Once, so long after the load runs."""

    at: Spread


@dataclass(frozen=True, slots=True)
class Every:
    """Again and again: `times` times."""

    every: Spread
    times: int


@dataclass(frozen=True, slots=True)
class After:
    """Once, so long after an event."""

    event: str
    plus: Spread


@dataclass(frozen=True, slots=True)
class Step:
    """A fault and when it happens."""

    number: int
    name: str
    when: At | Every | After
    fault: str
    values: Mapping[str, Any]  # of the fault, by the keys of Python

    @property
    def times(self) -> int:
        return self.when.times if isinstance(self.when, Every) else 1


@dataclass(frozen=True, slots=True)
class Expectation:
    """What has to hold in the end."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file."""

    path: Path
    name: str
    about: str
    edge: EdgeOfScenario
    load: Load
    steps: tuple[Step, ...]
    expect: tuple[Expectation, ...]
    needs: tuple[str, ...]  # of the machine: see `needs`

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each publisher sends on, in turn."""
        return tuple(sorted({route.output for route in self.edge.routes.values()}))

    def expected(self, name: str, default: Any = None) -> Any:
        """Return the value of an expectation, the default where there is none."""
        return next((one.value for one in self.expect if one.name == name), default)

    def uses(self, *faults: str) -> bool:
        """Return whether one of these faults is among the steps."""
        return any(step.fault in faults for step in self.steps)
