"""Notices that a home was copied or moved here, from another machine or another folder.

`HOME/place` holds a checksum of the machine's id and the home's path. A copy works like the original, which
is what makes it dangerous: two edges with one identity.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from runtime.storage.atomic_file import write_private_file

FILE: Final = "place"
MACHINE_ID: Final = Path("/etc/machine-id")  # see machine-id(5); containers often have none


def came_from_elsewhere(home: Path, machine_id: Path = MACHINE_ID) -> bool:
    """Return whether this home was at another place when an edge ran on it last; from now on it is here.

    Raises:
        EnvironmentFault: the home cannot be written.
    """
    try:
        machine = machine_id.read_bytes()
    except OSError:
        machine = b""
    # A checksum, because the id itself should not leave the machine.
    here = hashlib.sha256(b"\0".join((machine, os.fsencode(os.path.realpath(home))))).hexdigest()[:32]
    path = home / FILE
    try:
        before = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        before = ""
    if before != here:
        write_private_file(path, here.encode())
    return before not in ("", here)
