"""The agent's hold on the hub's listening sockets: bound once, kept over every restart of the hub."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from messaging.errors import EdgeError
from runtime import listening_sockets, socket_handover
from runtime.listening_sockets import ListenAddress, address_of

log = logging.getLogger(__name__)

TAKE_LIMIT_S: Final = 5.0  # a hub that was started a moment ago needs a part of a second


class HubSockets:
    """The sockets for the addresses of the settings, in their order. Any thread may call."""

    def __init__(self, wanted: Sequence[ListenAddress]) -> None:
        self._wanted = tuple(wanted)
        self._held: list[socket.socket] = []
        self._lock = threading.RLock()

    def take_back(self, run_dir: Path, has_ended: Callable[[], bool]) -> bool:
        """Take duplicates from a hub that outlived its agent; returns whether it gave them.

        `has_ended` says whether that hub has ended meanwhile.
        """
        taken = socket_handover.take(run_dir, TAKE_LIMIT_S, has_ended)
        if taken is None:
            return False
        self._held = taken
        return True

    def must_wait_for_hub(self) -> bool:
        """Return whether an address that the hub should not have any more keeps a wanted one from us."""
        _, missing, removed = self._sorted()
        return any(_is_in_the_way(listener, missing) for listener in removed)

    def bind(self) -> None:
        """Have a socket for every address: kept where there is one, bound where not; close all others.

        Raises:
            EnvironmentFault: an address cannot be had.
        """
        with self._lock:
            kept, missing, removed = self._sorted()
            for listener in removed:
                if _is_in_the_way(listener, missing):
                    self._close(listener)
            bound = dict(zip(missing, listening_sockets.bind(missing), strict=True))
            for listener in removed:
                self._close(listener)
            have = kept | bound
            self._held = [have[address] for address in self._wanted]

    def listen_also(self, address: ListenAddress, at: int) -> None:
        """Want and bind one more address, the `at`-th; the hub has it from its next start on.

        Raises:
            EnvironmentFault: it cannot be had.
        """
        with self._lock:
            before = self._wanted
            self._wanted = (*before[:at], address, *before[at:])
            try:
                self.bind()
            except EdgeError:
                self._wanted = before
                raise

    def to_environment(self) -> tuple[Mapping[str, str], tuple[int, ...]]:
        """Return environment and descriptors for the hub process."""
        return listening_sockets.to_environment(self._held)

    def close(self) -> None:
        """Close what we hold; a hub that lives has its own."""
        with self._lock:
            for listener in self._held:
                listener.close()
            self._held = []

    def _close(self, listener: socket.socket) -> None:
        if listener in self._held:
            log.info("not listening on %s any more", address_of(listener))
            self._held.remove(listener)
            listener.close()

    def _sorted(self) -> tuple[dict[ListenAddress, socket.socket], list[ListenAddress], list[socket.socket]]:
        """Return what is held and wanted, what is wanted only, and what is held only."""
        removed = list(self._held)
        kept: dict[ListenAddress, socket.socket] = {}
        for wanted in self._wanted:
            fitting = next((have for have in removed if wanted.is_met_by(address_of(have))), None)
            if fitting is not None:
                kept[wanted] = fitting
                removed.remove(fitting)
        return kept, [wanted for wanted in self._wanted if wanted not in kept], removed


def _is_in_the_way(listener: socket.socket, missing: Iterable[ListenAddress]) -> bool:
    return any(address_of(listener).stands_in_the_way_of(wanted) for wanted in missing)
