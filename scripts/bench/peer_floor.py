"""A broker that decides nothing: what generator, kernel and OpenSSL leave of a window for any other.

python -m scripts.bench.peer_floor < settings.json       serves until it is terminated

It knows one subscriber, to whom it sends each PUBLISH as it came, packet id and all, and tells packets apart
only by their length, which is the same for all of a run. Nothing is parsed, routed or kept. With a file to
sync, what a round of reads brought is written over a part of that file and synced before it is acknowledged,
as the log of a database is; that is the floor of whatever answers after the disk.
"""

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench import mqtt_wire
from scripts.bench.mqtt_link import READ_BYTES, RECORD_BYTES
from scripts.bench.peer_mosquitto import (
    PeerUnusable,
    free_port,
    make_certificate,
    publishers_of,
    wait_for_port,
)
from scripts.bench.processes import EdgeProcess

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 5
LOG_BYTES = 8 << 20  # of the file, written round and round: blocks that are there need no journal
MORE_S = 0.0005  # how long reads are gathered for one sync, as far as there are any
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01"


class FloorPeer:
    """The floor in a process of its own; a context manager."""

    version = "as scripts/bench/peer_floor.py has it"

    def __init__(self, directory: Path | None = None) -> None:
        """Sync to a file in `directory`; None: to none."""
        self.name = "floor" if directory is None else "floor+sync"
        self.configuration = "answers and forwards, nothing else" + ("" if directory is None else "; syncs")
        self._log_directory = directory

    def __enter__(self) -> "FloorPeer":
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-floor-")
        self.directory = Path(self._temporary.name)
        make_certificate(self.directory)
        self.ports = {"plain": free_port(), "tls": free_port()}
        log = None if self._log_directory is None else str(self._log_directory)
        settings = {"ports": self.ports, "directory": str(self.directory), "log_directory": log}
        command = [sys.executable, "-m", "scripts.bench.peer_floor"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            json.dump(settings, stdin)
        try:
            for port in self.ports.values():
                wait_for_port(port, self._process, START_LIMIT_S)
        except PeerUnusable as error:
            self.__exit__()
            raise PeerUnusable(f"{self.name}: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(START_LIMIT_S)
        self._temporary.cleanup()

    def processes(self) -> list[EdgeProcess]:
        return [EdgeProcess(self._process.pid, "broker", self.name)]

    def load(
        self, transport: str, publishers: int, *, subscribers: int = 1, json: bool = False
    ) -> dict[str, Any]:
        """Return target, publishers and subscriber for the generator; topics as long as the hub's."""
        if subscribers != 1:
            raise PeerUnusable(f"{self.name}: it knows one subscriber, not {subscribers}")
        target = {"host": "127.0.0.1", "port": self.ports[transport]}
        if transport == "tls":
            target["ca_file"] = str(self.directory / "server.pem")
        return {
            "target": target,
            "publishers": publishers_of(publishers),
            "subscribers": [{"client_id": "consumer", "filters": ["devices/bench-edge/#"]}],
        }


@dataclass(slots=True)
class Connection:
    """One client: what was read of it and is no whole packet yet, what it could not be sent yet."""

    socket: socket.socket
    tls: ssl.SSLObject | None
    incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    rest: bytes = b""
    unsent: bytearray = field(default_factory=bytearray)
    is_open: bool = False  # the TLS handshake is over
    is_waited_for: bool = False  # to take more

    def read(self) -> bytes | None:
        """Return what one read of the socket brought; None when it is closed."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            return None
        if not data or self.tls is None:
            return data or None
        self.incoming.write(data)
        parts = []
        try:
            if not self.is_open:
                self.tls.do_handshake()
                self.is_open = True
            while self.incoming.pending:
                if not (part := self.tls.read(RECORD_BYTES)):
                    return None
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return None
        if self.outgoing.pending:
            self._send(self.outgoing.read())
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Send what the kernel takes, `flush` the rest."""
        if self.tls is not None:
            rest = memoryview(data)
            while rest:
                rest = rest[self.tls.write(rest) :]
            data = self.outgoing.read()
        self._send(data)

    def _send(self, data: bytes) -> None:
        self.unsent += data
        self.flush()

    def flush(self) -> None:
        """Send more of what is left."""
        try:
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent.clear()

    def whole_packets(self, data: bytes) -> tuple[bytes, int]:
        """Return as many whole packets as there are, and the size of each."""
        if self.rest:
            data = self.rest + data
        place = mqtt_wire.frame(data, 0) if data else None
        if place is None:
            self.rest = data
            return b"", 0
        size = place[1]
        whole = len(data) - len(data) % size
        self.rest = data[whole:]
        return data[:whole], size


class Floor:
    """The server: one thread, plain epoll, as the generator."""

    def __init__(self, ports: dict[str, int], directory: Path, log_directory: Path | None) -> None:
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(directory / "server.pem", directory / "server.key")
        self._poll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        for transport, port in ports.items():
            listener = socket.create_server(("127.0.0.1", port))
            self._listeners[listener.fileno()] = (listener, transport == "tls")
            self._poll.register(listener.fileno(), select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._subscriber: Connection | None = None
        self._log = None if log_directory is None else _log_file(log_directory)
        self._log_at = 0

    def serve(self) -> None:
        """Serve for ever."""
        poll = self._poll.poll
        while True:
            found = self._round(poll())
            if self._log is not None:
                until_s = time.monotonic() + MORE_S
                while found and time.monotonic() < until_s and (events := poll(0)):
                    found += self._round(events)
            if found:
                self._answer(found)

    def _round(self, events: list[tuple[int, int]]) -> list[tuple[Connection, bytes, int]]:
        """Read what is there; return the runs of PUBLISH in it."""
        found = []
        for fd, event in events:
            if fd in self._listeners:
                self._accept(*self._listeners[fd])
                continue
            connection = self._connections[fd]
            if event & select.EPOLLOUT:
                connection.flush()
                self._watch(connection)
            if not event & ~select.EPOLLOUT:
                continue
            data = connection.read()
            if data is None:
                self._close(connection)
            elif connection is self._subscriber and data[:1] == b"\x40":
                pass
            else:
                packets, size = connection.whole_packets(data)
                if packets[:1] == b"\x32":
                    found.append((connection, packets, size))
                elif packets:
                    self._greet(connection, packets)
        return found

    def _greet(self, connection: Connection, packets: bytes) -> None:
        if packets[0] == 0x10:
            connection.write(CONNACK)
        elif packets[0] == 0x82:
            self._subscriber = connection
            connection.write(SUBACK)

    def _answer(self, found: list[tuple[Connection, bytes, int]]) -> None:
        if self._log is not None:
            data = b"".join([packets for _, packets, _ in found])
            if self._log_at + len(data) > LOG_BYTES:
                self._log_at = 0
            os.pwrite(self._log, data, self._log_at)
            self._log_at += len(data)
            os.fdatasync(self._log)
        answers: dict[int, tuple[Connection, list[bytes]]] = {}
        for connection, packets, size in found:
            body_at = mqtt_wire.frame(packets, 0)[0]  # type: ignore[index]
            id_at = body_at + 2 + int.from_bytes(packets[body_at : body_at + 2], "big")
            acks = bytearray(b"\x40\x02\x00\x00" * (len(packets) // size))
            acks[2::4], acks[3::4] = packets[id_at::size], packets[id_at + 1 :: size]
            answers.setdefault(connection.socket.fileno(), (connection, []))[1].append(bytes(acks))
        for connection, parts in answers.values():
            connection.write(b"".join(parts))
            self._watch(connection)
        if self._subscriber is not None:
            self._subscriber.write(b"".join([packets for _, packets, _ in found]))
            self._watch(self._subscriber)

    def _accept(self, listener: socket.socket, is_tls: bool) -> None:
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(accepted, None)
        if is_tls:
            connection.tls = self._tls.wrap_bio(connection.incoming, connection.outgoing, server_side=True)
        self._connections[accepted.fileno()] = connection
        self._poll.register(accepted.fileno(), select.EPOLLIN)

    def _watch(self, connection: Connection) -> None:
        if bool(connection.unsent) != connection.is_waited_for:
            connection.is_waited_for = not connection.is_waited_for
            also = select.EPOLLOUT if connection.is_waited_for else 0
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN | also)

    def _close(self, connection: Connection) -> None:
        fd = connection.socket.fileno()
        self._poll.unregister(fd)
        del self._connections[fd]
        connection.socket.close()
        if connection is self._subscriber:
            self._subscriber = None


def _log_file(directory: Path) -> int:
    """Return a file without a name whose blocks are on the disk."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"\0" * LOG_BYTES)
        file.flush()
        os.fsync(file.fileno())
        return os.dup(file.fileno())


def main() -> int:
    settings = json.load(sys.stdin)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log_directory = settings["log_directory"]
    Floor(
        settings["ports"],
        Path(settings["directory"]),
        None if log_directory is None else Path(log_directory),
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
