"""The line of an inspector to the edge that runs on a home: to both of its processes."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from actors.addresses import INSPECTOR, INSPECTOR_OF_AGENT
from actors.inspection.version import PROTOCOL
from messaging.client import Client, NobodyThere, RequestRefused
from messaging.errors import AskTimeout, ConfigError, EnvironmentFault
from messaging.lifecycle import InspectorAwake, WakeInspector
from messaging.version import VERSION
from runtime.agent.inspector_note import InspectorNote, read_note
from runtime.run_directory import AGENT, Lock, RunDirectory

T = TypeVar("T")

INSPECTORS: Final = {"agent": INSPECTOR_OF_AGENT, "hub": INSPECTOR}
ANSWER_LIMIT_S: Final = 3.0
NOTE_LIMIT_S: Final = 1.0  # between the lock of an edge that starts and its note
_LOOK_S: Final = 0.05


class InspectedEdge:
    """Asks the inspectors of agent and hub."""

    def __init__(self, run: RunDirectory, note: InspectorNote, client: Client) -> None:
        self.run = run
        self.note = note
        self.client = client

    def ask(self, process: str, question: object, answer: type[T], timeout_s: float = ANSWER_LIMIT_S) -> T:
        """Ask the inspector of one process.

        Raises:
            ProcessSilent: it does not answer; says why.
            EnvironmentFault: the edge has ended.
            ConfigError: it refused; says why.
        """
        try:
            return ask(self.client, process, question, answer, timeout_s)
        except ProcessSilent as exc:
            if Lock(self.run, AGENT).holder() is None:
                raise EnvironmentFault(f"the edge on home {self.run.home} has ended") from exc
            raise

    @property
    def allows_faults(self) -> bool:
        """Whether messages may be sent and faults made."""
        return self.note.allows_faults


def ask(
    client: Client, process: str, question: object, answer: type[T], timeout_s: float = ANSWER_LIMIT_S
) -> T:
    """Ask the inspector of one process, once it was woken; raises ProcessSilent or ConfigError."""
    try:
        try:
            return client.ask(INSPECTORS[process], question, answer, timeout_s)
        except NobodyThere:
            client.ask(process, WakeInspector(), InspectorAwake, timeout_s)
            return client.ask(INSPECTORS[process], question, answer, timeout_s)
    except NobodyThere as exc:
        # A process that was stopped looks like none: it does not take the connection.
        raise NotThere(f"the {process} does not run, or hangs") from exc
    except AskTimeout as exc:
        raise ProcessSilent(f"the {process} did not answer within {timeout_s:g} s") from exc
    except RequestRefused as exc:
        raise ConfigError(exc.reason) from exc


class ProcessSilent(EnvironmentFault):
    """One process of the edge does not answer; the other one may."""


class NotThere(ProcessSilent):
    """That process of the edge does not run, or does nothing."""


@contextmanager
def inspected(home: Path) -> Iterator[InspectedEdge]:
    """Open a line to the edge that runs on `home`.

    Raises:
        EnvironmentFault: none runs that this user may inspect, or it is of another version; says which.
    """
    run, note = find_edge(home)
    with Client.outside(run.path) as client:
        yield InspectedEdge(run, note, client)


def find_edge(home: Path) -> tuple[RunDirectory, InspectorNote]:
    """Return where the edge on `home` runs, and what it says of itself; raises as `inspected`."""
    run = RunDirectory.of(home)
    run.check()
    lock = Lock(run, AGENT)
    holder = lock.holder()
    if holder is None:
        raise EnvironmentFault(_why_none(home))
    ends_s = time.monotonic() + NOTE_LIMIT_S
    while (note := read_note(run)) is None:
        if time.monotonic() >= ends_s or lock.holder() is None:
            raise EnvironmentFault(
                f"the edge on home {home} (pid {holder.pid}) is of a version that has no inspector; "
                f"restart it with this one, {VERSION}"
            )
        time.sleep(_LOOK_S)  # it is just starting
    if not note.is_ours:
        raise EnvironmentFault(
            f"the edge on home {home} (pid {holder.pid}) is edge-actors {note.version} and speaks version "
            f"{note.protocol} of the inspector's protocol; this is edge-actors {VERSION} with version "
            f"{PROTOCOL}: inspect it with the program that it was started with, or restart it with this one"
        )
    return run, note


def _why_none(home: Path) -> str:
    """Say why there is no edge that we can speak to."""
    nobody = f"no edge runs on home {home}; start one with `edge-actors run --home {home}`"
    try:
        owner = os.stat(home).st_uid
    except PermissionError:
        return (
            f"home {home} is closed to user {_name(os.geteuid())}; an edge is inspected by the user that it "
            "runs as alone: run this as that user"
        )
    except OSError:
        return nobody
    if owner == os.geteuid():
        return nobody
    return (
        f"home {home} belongs to user {_name(owner)}; an edge is inspected by the user that it runs as "
        f"alone: run this as that user, `sudo -u {_name(owner)} edge-actors inspect …`"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
