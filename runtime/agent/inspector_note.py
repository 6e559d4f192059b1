"""The note in the run directory that tells inspectors how to speak to the edge, and who they speak to.

A file and not a message: an edge of another version may not even understand the question.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import asdict

from actors.inspection.version import PROTOCOL
from messaging.envelope import VERSION as ENVELOPES
from messaging.version import VERSION
from runtime.run_directory import RunDirectory
from runtime.storage.atomic_file import write_private_file

if TYPE_CHECKING:  # a command that reads the note has no actors
    from actors.kernel.base import EdgeActor
    from actors.kernel.hosts import ThreadSystem

FILE: Final = "inspector.json"
FAULTS_ALLOWED: Final = (
    "faults: allowed; this edge was started with --allow-faults and may be sent messages and disturbed"
)


class InspectorNote(Struct, frozen=True):
    """What an inspector has to know of an edge before it says anything."""

    version: str = VERSION  # of the program
    envelopes: int = ENVELOPES  # version of the envelopes
    protocol: int = PROTOCOL  # version of what is said in them
    allows_faults: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether this program understands that edge."""
        return (self.envelopes, self.protocol) == (ENVELOPES, PROTOCOL)


def inspector(system: ThreadSystem, allows_faults: bool) -> EdgeActor:
    """Return the inspector of this process, which is loaded with the first command that asks for it."""
    from actors.inspection.inspector import InspectorActor

    bus = system.bus
    return InspectorActor(bus.observe, system.sights, bus.dead_letters, allows_faults=allows_faults)


def write_note(run: RunDirectory, allows_faults: bool) -> None:
    """Write the note of this edge."""
    note = InspectorNote(allows_faults=allows_faults)
    write_private_file(run.path / FILE, json.dumps(asdict(note)).encode(), durable=False)


def read_note(run: RunDirectory) -> InspectorNote | None:
    """Return the note of the edge that runs there; None when it left none that can be read."""
    try:
        values = json.loads((run.path / FILE).read_bytes())
        return InspectorNote(
            str(values["version"]),
            int(values["envelopes"]),
            int(values["protocol"]),
            bool(values["allows_faults"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def may_be_disturbed(home: Path) -> bool:
    """Return whether the edge that runs on `home` was started with --allow-faults."""
    note = read_note(RunDirectory.of(home))
    return note is not None and note.allows_faults
