"""The way of the hub's listening sockets back to an agent that did not start this hub.

The hub inherited them from an agent that is dead. It offers them on a Unix socket in the run directory; each
new agent takes duplicates (SCM_RIGHTS) and hands them to the next hub, so that nobody is refused meanwhile.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from messaging.errors import EnvironmentFault
from runtime.net import listening_sockets

log = logging.getLogger(__name__)

NAME: Final = "listening-sockets"
MOST: Final = 253  # descriptors in one message: SCM_MAX_FD of the Linux kernel
GIVE_LIMIT_S: Final = 2.0  # for the other side to take what it asked for
RETRY_S: Final = 0.02
PEER_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid of SO_PEERCRED, see unix(7)


class SocketOffer:
    """The hub's side: gives duplicates to every process of this user that asks, on a thread of its own."""

    def __init__(self, run_dir: Path, sockets: Sequence[socket.socket]) -> None:
        self._path = run_dir / NAME
        self._sockets = tuple(sockets)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def open(self) -> None:
        """Begin to offer.

        Raises:
            EnvironmentFault: the run directory cannot be written.
        """
        try:
            self._path.unlink(missing_ok=True)  # of a hub that was killed
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)
            self._listener.listen()
        except OSError as exc:
            self._listener.close()
            raise EnvironmentFault(f"{self._path} cannot be opened: {exc.strerror}") from exc
        self._thread.start()

    def close(self) -> None:
        """End the offer; the sockets stay open."""
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._closed:
            try:
                taker, _ = self._listener.accept()
                with taker:
                    self._give(taker)
            except OSError as exc:
                if not self._closed:
                    log.warning("the listening sockets could not be handed over: %s", exc)
                    time.sleep(RETRY_S)  # no descriptor left: it would fail again at once

    def _give(self, taker: socket.socket) -> None:
        uid = uid_of_peer(taker)
        if uid != os.geteuid():
            log.warning("user id %d asked for the listening sockets and was refused", uid)
            return
        taker.settimeout(GIVE_LIMIT_S)
        descriptors = [listener.fileno() for listener in self._sockets]
        socket.send_fds(taker, [b"%d" % len(descriptors)], descriptors)


def take(run_dir: Path, limit_s: float, has_ended: Callable[[], bool]) -> list[socket.socket] | None:
    """Return duplicates of the sockets that the hub of this run directory offers, in its order.

    A hub that has just been started is waited for.

    Args:
        run_dir: Of the edge; checked to be private.
        limit_s: How long to wait, in seconds.
        has_ended: Says when waiting makes no sense any more.

    Returns:
        The sockets, None when there was no offer in time.
    """
    ends_s = time.monotonic() + limit_s
    while not has_ended():
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            break
        taken = take_offered(run_dir, left_s)
        if taken is not None:
            return taken
        time.sleep(min(RETRY_S, max(0.0, left_s)))
    return None


def take_offered(run_dir: Path, limit_s: float = GIVE_LIMIT_S) -> list[socket.socket] | None:
    """Return duplicates of the sockets that are offered at this moment, None when nobody does.

    `limit_s` is for somebody who offers and then does not give.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.settimeout(limit_s)
        try:
            asker.connect(str(run_dir / NAME))
            return _receive(asker)
        except (OSError, ValueError):
            return None  # not there yet, of a dead hub, or ended while it gave


def _receive(asker: socket.socket) -> list[socket.socket]:
    """Raises OSError or ValueError: it was not what a hub gives."""
    if uid_of_peer(asker) != os.geteuid():
        raise ValueError("the offer is another user's")
    said, descriptors, flags, _ = socket.recv_fds(asker, 16, MOST)
    taken: list[socket.socket] = []
    try:
        if flags & socket.MSG_CTRUNC or int(said) != len(descriptors):
            raise ValueError("not all descriptors arrived")
        while descriptors:
            taken.append(listening_sockets.listener_of(descriptors[0]))
            descriptors.pop(0)
    except ValueError:
        for listener in taken:
            listener.close()
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return taken


def uid_of_peer(connection: socket.socket) -> int:
    """Return the user of the process at the other end of a Unix socket."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    uid: int = PEER_CREDENTIALS.unpack(packed)[1]
    return uid
