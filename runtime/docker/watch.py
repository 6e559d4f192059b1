"""Which containers of this edge run, and who is told of their ends and their health.

Ends and health come from the event stream of the engine (docker/engine.py), in its thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from actors.ports.modules import ModuleEnd, ModuleHealth, ModuleRun, OnExit, OnHealth
from runtime.docker.engine import ContainerDied, ContainerHealth
from runtime.docker.state import end_of, end_with_code, is_listed_unhealthy

log = logging.getLogger(__name__)


class Watched(Struct, eq=False):
    """A container that runs, or is about to."""

    container_id: str
    on_exit: OnExit
    run: ModuleRun | None = None  # None while it is being started
    died: ContainerDied | None = None  # an end that came before its start was known


class ContainerWatch:
    """The containers that are looked after, by module. Any thread may call."""

    def __init__(self, is_out_of_memory: Callable[[str], bool]) -> None:
        """Keep what is needed.

        Args:
            is_out_of_memory: Asks the engine whether it killed a container, by id, for want of memory.
        """
        self._is_out_of_memory = is_out_of_memory
        self._changed = threading.Condition()
        self._watched: dict[str, Watched] = {}
        self._on_health: dict[str, OnHealth] = {}

    def begin(self, name: str, container_id: str, on_exit: OnExit) -> Watched:
        """Look after a container from now on, before it is started: it may end at once."""
        watched = Watched(container_id, on_exit)
        with self._changed:
            self._watched[name] = watched
        return watched

    def settle(self, name: str, watched: Watched, run: ModuleRun, ended: Mapping[str, Any] | None) -> None:
        """Note the run of a container; tell its end if that came meanwhile: seen, or by inspection."""
        with self._changed:
            watched.run = run
            died = watched.died
            end = None
            if died is not None and died.at_s >= run.started_at_s:
                end = end_with_code(run, died.exit_code, died.at_s, died.with_engine)
            elif ended is not None:
                end = end_of(ended)
            if end is None or self._watched.get(name) is not watched:
                return
            del self._watched[name]
            self._changed.notify_all()
        self._tell_end(watched, end)

    def forget(self, name: str, watched: Watched) -> None:
        """Look after it no more: it does not run."""
        with self._changed:
            if self._watched.get(name) is watched:
                del self._watched[name]
                self._changed.notify_all()

    def get(self, name: str) -> Watched | None:
        """Return what is known of a container that runs or is about to."""
        with self._changed:
            return self._watched.get(name)

    def take_over(self, name: str, on_exit: OnExit) -> ModuleRun | None:
        """Tell somebody else of the end of a run; return that run, None when there is none."""
        with self._changed:
            watched = self._watched.get(name)
            if watched is None or watched.run is None:
                return None
            watched.on_exit = on_exit
            return watched.run

    def names(self) -> list[str]:
        """Return the modules that run or are about to."""
        with self._changed:
            return list(self._watched)

    def running(self) -> dict[str, Watched]:
        """Return those whose run is known."""
        with self._changed:
            return {name: watched for name, watched in self._watched.items() if watched.run is not None}

    def wait_until_none(self, limit_s: float) -> None:
        """Wait until nothing runs any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._watched, limit_s)

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        """Tell the health of a module from now on."""
        with self._changed:
            self._on_health[name] = on_health

    def tell_health(self, name: str, health: ModuleHealth) -> None:
        """Tell the health of a module to whom it concerns."""
        with self._changed:
            on_health = self._on_health.get(name)
        if on_health is not None:
            on_health(health)

    # in the thread of the engine's events

    def on_event(self, event: ContainerDied | ContainerHealth) -> None:
        """The engine tells something of a container."""
        if isinstance(event, ContainerDied):
            self._on_died(event)
            return
        watched = self.get(event.module)
        run = watched.run if watched is not None and watched.container_id == event.container_id else None
        if run is not None and event.at_s >= run.started_at_s:  # else told twice, as below
            self.tell_health(event.module, ModuleHealth(event.healthy, run.started_at_s))

    def on_away(self) -> None:
        """Nobody knows how the modules are doing."""
        with self._changed:
            lost = {name: watched for name, watched in self._watched.items() if watched.run is not None}
            for name in lost:
                del self._watched[name]
            self._changed.notify_all()
        for watched in lost.values():
            _tell_lost(watched)

    def catch_up(self, running: Mapping[str, Watched], listed: Mapping[str, Mapping[str, Any]]) -> None:
        """Tell what became of containers while the engine was out of sight; it took the ended ones along.

        Args:
            running: Those that ran when it came back.
            listed: What it has now.
        """
        for name, watched in running.items():
            assert watched.run is not None
            if name in listed and listed[name]["State"] == "running":
                healthy = not is_listed_unhealthy(listed[name])
                self.tell_health(name, ModuleHealth(healthy, watched.run.started_at_s))
                continue
            with self._changed:
                if self._watched.get(name) is not watched:
                    continue
                del self._watched[name]
                self._changed.notify_all()
            _tell_lost(watched)

    def _on_died(self, died: ContainerDied) -> None:
        with self._changed:
            watched = self._watched.get(died.module)
            if watched is None or watched.container_id != died.container_id:
                return
            if watched.run is None:
                watched.died = died
                return
            if died.at_s < watched.run.started_at_s:
                return  # told twice: events are asked for from a moment back
            del self._watched[died.module]
            self._changed.notify_all()
        self._tell_end(watched, end_with_code(watched.run, died.exit_code, died.at_s, died.with_engine))

    def _tell_end(self, watched: Watched, end: ModuleEnd) -> None:
        if end.exit_code and not end.engine_away and self._is_out_of_memory(watched.container_id):
            end = replace(end, out_of_memory=True)
        watched.on_exit(end)


def _tell_lost(watched: Watched) -> None:
    assert watched.run is not None
    watched.on_exit(ModuleEnd(None, None, watched.run.started_at_s, time.time(), engine_away=True))
