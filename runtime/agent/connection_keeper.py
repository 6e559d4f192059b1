"""The agent keeps a duplicate of each client's connection, so that none is reset when the hub is killed.

What a killed process has not read has TCP reset its connections, and whatever a client writes then fails. The
Python SDK does not survive that with Python 3.10 to 3.12: `ssl` tells of an EOF where it should tell of a
reset (python/cpython issue 115627), paho 1.6.1 catches the latter alone (eclipse-paho/paho.mqtt.python issue
750), its thread ends, nobody tells the SDK that the connection is gone, and it never sends or receives again.
With a duplicate in another process nothing happens at the hub's death but what the keeper does: it says that
no more will come, as at an orderly end, and reads what clients still write until they have closed.

The hub gives duplicates one way, over a Unix socket in the run directory (SCM_RIGHTS), once a client has
proved who it is. Its end of a connection is a shutdown, for close alone would leave the connection to the
duplicate; that shutdown, like a reset, is what has the keeper close its own. So nothing is counted or
confirmed, a duplicate too many or too few does no harm, and a hub without a keeper is like any other server.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from messaging.errors import EnvironmentFault
from runtime.net.socket_handover import uid_of_peer

log = logging.getLogger(__name__)

NAME: Final = "connections"
AT_ONCE: Final = 200  # duplicates in one message; SCM_MAX_FD of the Linux kernel is 253
RETRY_S: Final = 1.0  # between two looks for an agent, which may be restarting
FULL_S: Final = 0.01  # before what the agent had no room for is given again
CLOSE_LIMIT_S: Final = 10.0  # for clients of a hub that has ended to close
READ_BYTES: Final = 64 * 1024
SPARE_DESCRIPTORS: Final = 256  # of the agent, for everything but duplicates
_GONE: Final = select.EPOLLHUP | select.EPOLLERR


class GivenConnections:
    """The hub's side. Any thread may `give` and `end`; a thread of its own finds each new agent."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / NAME
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()  # over each duplicate given: a closed descriptor may be another file's
        self._line: socket.socket | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connections-given", daemon=True)

    def open(self) -> None:
        """Look for the agent, now and whenever it has ended."""
        self._thread.start()

    def close(self) -> None:
        """Give no more. The agent takes this for the end of the hub."""
        self._closed.set()
        with self._lock:
            if self._line is not None:
                self._line.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()

    def give(self, connection: socket.socket) -> None:
        """Have a connection kept until `end`."""
        with self._lock:
            self._connections.add(connection)
            if self._line is not None:
                with suppress(OSError):  # no room, or an agent that ends: then it is not kept
                    _send(self._line, [connection])

    def end(self, connection: socket.socket) -> None:
        """End a connection that was given; its descriptor is still to be closed."""
        with self._lock:
            self._connections.discard(connection)
        with suppress(OSError):  # the peer was first
            connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._closed.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
                try:
                    line.connect(str(self._path))
                except OSError:
                    self._closed.wait(RETRY_S)
                    continue
                with self._lock:
                    self._line = line
                    waiting = set(self._connections)
                    if self._closed.is_set():
                        return
                try:
                    self._give_all(line, waiting)
                    line.recv(1)  # nothing is ever said: it returns at the end of the agent
                except OSError as exc:
                    log.debug("the agent keeps no connections now: %s", exc)
                finally:
                    with self._lock:
                        self._line = None

    def _give_all(self, line: socket.socket, waiting: set[socket.socket]) -> None:
        while waiting and not self._closed.is_set():
            with self._lock:
                waiting &= self._connections
                some = list(waiting)[:AT_ONCE]
                try:
                    if some:
                        _send(line, some)
                    waiting.difference_update(some)
                    continue
                except OSError as exc:
                    if exc.errno not in (errno.EAGAIN, errno.ETOOMANYREFS):
                        raise
            self._closed.wait(FULL_S)


def _send(line: socket.socket, connections: Iterable[socket.socket]) -> None:
    descriptors = [connection.fileno() for connection in connections]
    socket.send_fds(line, [b"+"], descriptors, socket.MSG_DONTWAIT)


class ConnectionKeeper:
    """The agent's side, on a thread of its own."""

    def __init__(self, run_dir: Path, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._path = run_dir / NAME
        self._monotonic_s = monotonic_s
        self._most = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._epoll = select.epoll()
        self._hubs: dict[int, socket.socket] = {}
        self._kept: dict[int, tuple[socket.socket, int]] = {}  # with the descriptor of its hub
        self._ends_s: dict[int, float] = {}  # of the connections of a hub that has ended
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="connection-keeper", daemon=True)

    def open(self) -> None:
        """Take what a hub gives.

        Raises:
            EnvironmentFault: the run directory cannot be written.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(0, soft - SPARE_DESCRIPTORS)
        try:
            self._path.unlink(missing_ok=True)  # of an agent that was killed
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)
            self._listener.listen()
        except OSError as exc:
            raise EnvironmentFault(f"{self._path} cannot be opened: {exc.strerror}") from exc
        for descriptor in (self._listener.fileno(), self._wake_reader):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._thread.start()

    def close(self) -> None:
        """Keep nothing any more."""
        if self._thread.is_alive():
            os.write(self._wake_writer, b".")
            self._thread.join()
            self._path.unlink(missing_ok=True)
        for one in (*self._hubs.values(), *(kept for kept, _ in self._kept.values()), self._listener):
            one.close()
        self._epoll.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _run(self) -> None:
        while True:
            wait_s = None
            if self._ends_s:
                wait_s = max(0.0, next(iter(self._ends_s.values())) - self._monotonic_s())
            for descriptor, events in self._epoll.poll(wait_s):
                if descriptor == self._wake_reader:
                    return
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._hubs:
                    self._take(descriptor)
                elif descriptor in self._kept:  # not closed by what was looked at before
                    self._look(descriptor, events)
            now_s = self._monotonic_s()
            for descriptor in [one for one, ends_s in self._ends_s.items() if ends_s <= now_s]:
                self._drop(descriptor)

    def _accept(self) -> None:
        try:
            hub, _ = self._listener.accept()
        except OSError as exc:
            log.warning("the hub's connections cannot be kept: %s", exc)
            time.sleep(RETRY_S)  # no descriptor left: it would fail again at once
            return
        if (uid := uid_of_peer(hub)) != os.geteuid():
            log.warning("user id %d offered connections to keep and was refused", uid)
            hub.close()
            return
        self._hubs[hub.fileno()] = hub
        self._epoll.register(hub, select.EPOLLIN)

    def _take(self, hub: int) -> None:
        descriptors: list[int] = []
        try:
            said, descriptors, _, _ = socket.recv_fds(self._hubs[hub], 1, AT_ONCE, socket.MSG_CMSG_CLOEXEC)
        except OSError as exc:
            log.warning("the hub's connections cannot be kept: %s", exc)
            said = b""
        for descriptor in descriptors:
            if len(self._kept) >= self._most:
                os.close(descriptor)
                continue
            try:
                kept = socket.socket(fileno=descriptor)
            except OSError:  # the hub gives nothing else
                os.close(descriptor)
                continue
            self._kept[descriptor] = kept, hub
            self._epoll.register(descriptor, 0)  # what is _GONE is told always
        if not said:
            self._end(hub)

    def _end(self, hub: int) -> None:
        """A hub has ended: say so on all that is left of its connections."""
        self._epoll.unregister(hub)
        self._hubs.pop(hub).close()
        left = [one for one, (_, its) in self._kept.items() if its == hub and one not in self._ends_s]
        if left:
            log.info("the hub has ended: %d connections end in order", len(left))
        ends_s = self._monotonic_s() + CLOSE_LIMIT_S
        for descriptor in left:
            try:
                self._kept[descriptor][0].shutdown(socket.SHUT_WR)
            except OSError:
                self._drop(descriptor)
                continue
            self._ends_s[descriptor] = ends_s
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _look(self, descriptor: int, events: int) -> None:
        if not events & _GONE:
            with suppress(BlockingIOError, OSError):
                if self._kept[descriptor][0].recv(READ_BYTES, socket.MSG_DONTWAIT):
                    return  # what nobody will answer; the client sends it again
        self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        # By hand: epoll forgets a descriptor by itself only when the hub's is closed, too.
        self._epoll.unregister(descriptor)
        self._kept.pop(descriptor)[0].close()
        self._ends_s.pop(descriptor, None)
