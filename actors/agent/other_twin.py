"""A look at the twin of an identity that has no connection of its own: connect, read, leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from actors.upstream.connection import CloudConnection
from actors.upstream.events import Connected, Done, Failed, Lost, Observer
from messaging.twin import Json

_QUESTION: Final = 1  # the only one on its connection


class OtherTwin:
    """One such look at a time. Used by the actor that owns it."""

    def __init__(self, read: Callable[[Json], None], failed: Callable[[str], None]) -> None:
        """Keep what is needed: who is told the desired properties with `$version`, or why there are none."""
        self._read = read
        self._failed = failed
        self._connection: CloudConnection | None = None
        self._observer: Observer | None = None

    @property
    def is_asked_for(self) -> bool:
        """Whether an answer is still to come."""
        return self._connection is not None

    def fetch(self, connection: CloudConnection, observer: Observer) -> None:
        """Read the twin over a connection that was made for it."""
        self._connection, self._observer = connection, observer
        connection.open()

    def is_for(self, observer: Observer | None) -> bool:
        """Whether what this observer has seen belongs here."""
        return observer is not None and observer is self._observer

    def on_event(self, event: object) -> None:
        """Take what the observer has seen."""
        match event:
            case Connected() if self._connection is not None:
                self._connection.get_twin(_QUESTION)
            case Done(_, answer):
                self.forget()
                self._read(msgspec.json.decode(answer)["desired"])
            case Failed(_, fault) | Lost(fault):
                self.forget()
                self._failed(fault.reason)

    def forget(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._observer = None
