"""What runs modules and remembers them, as Protocols, and the values that these take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from actors.agent.restart_policy import RestartState
from actors.manifest.module_spec import DesiredStatus, ModuleSpec
from actors.manifest.registries import RegistryCredential


class ModuleAccess(Struct, frozen=True):
    """With what a module reaches the workload API and introduces itself to the hub."""

    generation_id: str = ""
    workload_uri: str = ""


class ModuleRun(Struct, frozen=True):
    """A module that runs. Its start tells one run of a name from another."""

    pid: int
    started_at_s: float  # seconds since 1970-01-01 UTC
    not_isolated: str = ""  # why it has the rights of the edge itself; "" when it has not, or is a part of it
    spec_hash: str | None = None  # from what it was made; None when the run itself does not say
    image_id: str = ""  # the engine's id of the image; "" for a process
    has_check: bool = False  # whether it says by a check of its own when it is healthy …
    is_healthy: bool = True  # … and whether it does; one without a check is healthy
    remarks: tuple[str, ...] = ()  # what a user should know of it: what of its settings has no effect


class ModuleEnd(Struct, frozen=True):
    """How a run ended; code and signal are None when nobody saw it."""

    exit_code: int | None
    signal: int | None
    started_at_s: float  # seconds since 1970-01-01 UTC
    ended_at_s: float  # the same
    engine_away: bool = False  # out of sight or ended with the container engine: no fault of the module's
    out_of_memory: bool = False  # killed for want of memory, it or a process of its


OnExit = Callable[[ModuleEnd], None]


class ModuleHealth(Struct, frozen=True):
    """What the module's own check says of a run, when that changes."""

    healthy: bool
    started_at_s: float  # of the run; seconds since 1970-01-01 UTC


OnHealth = Callable[[ModuleHealth], None]


class Preparation(Struct, frozen=True):
    """How far everything is fetched that a deployment needs: for a container its image.

    `problems` says by module why something is not to be had; `outdated` are modules whose container was made
    from another image than the one its name means by now.
    """

    is_done: bool
    doing: str = ""  # fit to be shown; "" when nothing is going on
    problems: Mapping[str, str] = field(default_factory=dict)
    outdated: frozenset[str] = frozenset()


OnPreparation = Callable[[Preparation], None]


class ModuleRuntime(Protocol):
    """Runs modules, as processes or as containers. Any thread may call.

    `on_exit` is called in a foreign thread, once per run, maybe before `start` has returned; the name can be
    started again by then.
    """

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module.

        Raises:
            StartLater: it cannot be started yet; see `when_possible`.
            EdgeError: it cannot be started; says why, and what to do.
        """
        ...

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        """Call once, in any thread, when a module whose start raised StartLater can be tried again.

        Without effect when its last start did not fail that way.
        """
        ...

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        """Tell from now on, in a foreign thread, when the health of a module changes.

        Healthy is also one without a check of its own.
        """
        ...

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds. Returns at once.

        Where nothing runs, a start that was postponed is given up.
        """
        ...

    def kill(self, name: str) -> None:
        """Kill a module. Returns at once."""
        ...

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        """Take over what runs under `name`, whoever started it; or tell how it ended, or None.

        For a run that this process watches already, `on_exit` takes the place of the one before.
        """
        ...

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        """Fetch what these modules need before any of them is replaced. Returns at once.

        `on_progress` is called in a foreign thread while it goes on, and once with `is_done`, maybe before
        this returns. The next call takes the place of this one, whose `on_progress` is not called any more.

        Args:
            modules: All that the coming deployment wants, also those that stay as they are.
            credentials: Of its registries.
            on_progress: Whom to tell.
        """
        ...

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """Take these for the deployment in force: its accounts count, and what it needs is kept.

        What the deployment before it needed is kept as well, for a return to it.
        """
        ...

    def rest(self, name: str) -> None:
        """Give back what is held for the next start: it ended, and stays so until somebody asks for it."""
        ...

    def remove(self, name: str) -> None:
        """Forget a module that has ended."""
        ...

    def names(self) -> tuple[str, ...]:
        """Return what was started and not removed, running or not."""
        ...


class ModuleRecord(Struct, frozen=True):
    """What outlives the agent of one module: from what it was made, and how it fared."""

    spec_hash: str
    startup_order: int
    desired: DesiredStatus
    restart: RestartState
    by_hand: DesiredStatus | None = None  # what a user asked for since the deployment
    started_at_s: float | None = None  # the last run; seconds since 1970-01-01 UTC
    parts: Mapping[str, str] = field(default_factory=dict)  # `part_hashes` of what it was made from


class ModuleRecords(Protocol):
    """Keeps the records of all modules. Any thread may call; each module's are its supervisor's to write."""

    def all(self) -> Mapping[str, ModuleRecord]:
        """Return all that are readable, by module."""
        ...

    def load(self, name: str) -> ModuleRecord | None:
        """Return the record of a module, None when there is none or it is damaged."""
        ...

    def save(self, name: str, record: ModuleRecord, durable: bool = True) -> None:
        """Keep a record; `durable` also through a power cut, which takes the time of a sync to disk.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Forget a module; one that is not there is no error."""
        ...
