"""The hub's own copy of the identities, in a private file: the agent may be dead when the hub starts."""

from __future__ import annotations

import logging
from pathlib import Path

import msgpack

from runtime.atomic_file import write_private_file

log = logging.getLogger(__name__)

Entries = tuple[tuple[str, bytes, bytes, bool], ...]


class IdentityFile:
    """Implements `actors.identities.IdentityCopy`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Entries | None:
        """Return the copy; None when there is none, or a damaged one, which the agent's answer replaces."""
        try:
            entries = msgpack.unpackb(self._path.read_bytes(), use_list=False)
            return tuple((str(i), bytes(first), bytes(second), bool(on)) for i, first, second, on in entries)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, msgpack.UnpackException) as exc:
            log.warning("%s is damaged (%s): waiting for the agent to send the identities", self._path, exc)
            return None

    def save(self, entries: Entries) -> None:
        """Replace the copy."""
        write_private_file(self._path, msgpack.packb(entries))
