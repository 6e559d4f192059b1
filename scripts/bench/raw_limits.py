"""What disk, SQLite and TLS of this machine allow, to read the durable figures of the same run by.

python -m scripts.bench.raw_limits [DIRECTORY]
"""

import asyncio
import multiprocessing
import os
import sqlite3
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from scripts.bench.mqtt_link import Link, Target
from scripts.bench.peer_mosquitto import PeerUnusable, make_certificate
from scripts.bench.processes import written_bytes

WRITES = 200
BLOCK = b"\0" * 4096
BODY_BYTES = 256
KEPT_BATCHES = 4  # that a queue in motion holds
ECHO_LIMIT_S = 10


def fdatasync_ms(directory: Path, writes: int = WRITES) -> dict[str, float]:
    """Return p50 and p99, in ms, of appending 4 KiB to a file and syncing it."""
    took_ns = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(writes):
            start_ns = time.perf_counter_ns()
            file.write(BLOCK)
            os.fdatasync(file.fileno())
            took_ns.append(time.perf_counter_ns() - start_ns)
    took_ns.sort()
    return {"p50": took_ns[writes // 2] / 1e6, "p99": took_ns[writes * 99 // 100] / 1e6}


def sqlite_rows(directory: Path, seconds: float, batch: int) -> dict[str, float]:
    """Return rows a second and bytes written for each, of a queue in SQLite that passes messages on.

    WAL with synchronous=FULL as in the hub's database; a transaction stores a batch and deletes an older one.
    """
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        connection = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE messages (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
            body, stored = os.urandom(BODY_BYTES), 0
            before_bytes, began_s = written_bytes(os.getpid()), time.monotonic()
            while time.monotonic() < began_s + seconds:
                rows = [(number, body) for number in range(stored, stored + batch)]
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO messages VALUES (?, ?)", rows)
                connection.execute("DELETE FROM messages WHERE number < ?", (stored - KEPT_BATCHES * batch,))
                connection.execute("COMMIT")
                stored += batch
            took_s = time.monotonic() - began_s
        finally:
            connection.close()
        return {
            "per_s": stored / took_s,
            "bytes": (written_bytes(os.getpid()) - before_bytes) / stored,
        }


def tls_echo(seconds: float, window: int) -> dict[str, float]:
    """Return messages a second and ms of one round trip over TLS to a process that sends everything back.

    The server does what asyncio with uvloop does for any Python program; the client is the generator's.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        context = multiprocessing.get_context("spawn")
        ready, port = context.Event(), context.Value("i", 0)
        server = context.Process(target=_serve_echo, args=(folder, ready, port), daemon=True)
        server.start()
        try:
            if not ready.wait(ECHO_LIMIT_S):
                raise PeerUnusable(f"TLS echo: the server does not listen after {ECHO_LIMIT_S} s")
            target = Target("127.0.0.1", port.value, f"{folder}/server.pem")
            link = Link(target, target.tls())
            try:
                flooded = _echo(link, seconds, window)
                times_ms = sorted(took_s * 1e3 for took_s in _echo(link, seconds, 1)[1])
            finally:
                link.socket.close()
        finally:
            server.terminate()
            server.join()
    return {
        "per_s": flooded[0],
        "p50": times_ms[len(times_ms) // 2],
        "p99": times_ms[len(times_ms) * 99 // 100],
    }


def _echo(link: Link, seconds: float, window: int) -> tuple[float, list[float]]:
    """Send a window of bodies at a time and wait for all of it; return bodies a second, and each time."""
    data, times_s, began_s = bytes(BODY_BYTES * window), [], time.perf_counter()
    while (sent_s := time.perf_counter()) < began_s + seconds:
        link.write(data)
        while link.unsent:
            link.flush()
        missing = len(data)
        while missing:
            missing -= len(link.read())
        times_s.append(time.perf_counter() - sent_s)
    return len(times_s) * window / (time.perf_counter() - began_s), times_s


def _serve_echo(folder: str, ready: Any, port: Any) -> None:
    import uvloop

    async def serve() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=tls)
        port.value = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    uvloop.run(serve())


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory; on tmpfs a sync costs nothing."""
    mounts = (line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines())
    around = {str(folder) for folder in (directory.resolve(), *directory.resolve().parents)}
    return max(((point, kind) for point, kind in mounts if point in around), key=lambda m: len(m[0]))[1]


def main() -> int:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    sync_ms = fdatasync_ms(directory)
    where = f"{directory} ({file_system(directory)})"
    print(f"{where}: fdatasync {sync_ms['p50']:.3f} ms p50, {sync_ms['p99']:.3f} ms p99")
    rows, echo = sqlite_rows(directory, 2, 100), tls_echo(1, 100)
    print(
        f"SQLite: {rows['per_s']:,.0f} rows/s in commits of 100, {rows['bytes']:,.0f} bytes written for each"
    )
    print(
        f"TLS echo: {echo['per_s']:,.0f}/s in hundreds, alone {echo['p50']:.3f} ms p50, {echo['p99']:.3f} p99"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
