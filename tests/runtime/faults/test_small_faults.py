"""One small example of a fault each, by its real means and without an edge: it happens and is counted."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.faults.clock import seen_clock
from runtime.faults.container_image import SlowRegistry
from runtime.faults.machine_faults import EngineGate
from runtime.faults.needs import _NEEDS
from runtime.faults.process_faults import LOOK_AGAIN_S
from runtime.faults.tmpfs import Tmpfs
from runtime.machine import process_table
from runtime.storage.message_db import MessageDb
from tests.runtime.faults.scenes import LIMIT_S, PlayedScene

BUSY = """
import mmap, os, time
file = os.open("hub.db-wal", os.O_RDWR | os.O_CREAT, 0o600)
print("ready")
while True:
    try:
        os.pwrite(file, b"x" * 100, 0)
        os.fsync(file)
        mmap.mmap(-1, 1 << 20).close()
    except OSError:
        pass
    time.sleep(0.01)
"""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[PlayedScene]:
    with PlayedScene(tmp_path) as made:
        yield made


def needs(what: str) -> None:
    reason = _NEEDS[what]()
    if reason:
        pytest.skip(reason)


# processes


def test_kill(scene: PlayedScene) -> None:
    scene.edge.play_hub(BUSY)
    fault = scene.fault("kill", who=("hub",), settle=0.0)

    assert fault.begin(0) is None

    assert scene.edge.pid_of("edgeHub") is None
    assert fault.count == 1
    assert scene.hit == {"edgeHub"}


def test_a_kill_that_waits_for_what_publishers_are_told(scene: PlayedScene) -> None:
    one, other = SimpleNamespace(told=[1.0]), SimpleNamespace(told=[1.0])
    scene.publishers = [one, other]
    fault = scene.fault("kill", who=("hub",), settle=1.0)
    scene.edge.play_hub(BUSY)
    assert fault.begin(0) is None, "each has been told something"
    scene.edge.play_hub(BUSY)
    one.told.append(2.0)

    waits_s = [fault.begin(1), fault.go_on()]
    lived = scene.edge.pid_of("edgeHub")
    other.told.append(2.0)

    assert waits_s == [LOOK_AGAIN_S, LOOK_AGAIN_S]
    assert lived is not None
    assert fault.go_on() is None
    assert scene.edge.pid_of("edgeHub") is None
    assert fault.count == 2


def test_stop(scene: PlayedScene) -> None:
    scene.edge.play_hub(BUSY)
    pid = scene.edge.pid_of("edgeHub")
    assert pid is not None
    fault = scene.fault("stop", who=("hub",), for_s=2.0)

    assert fault.begin(0) == 2.0
    stopped = process_table.read_stat(pid)
    assert fault.go_on() is None
    scene.edge.wait_for(
        lambda: (stat := process_table.read_stat(pid)) is not None and stat.state != "T", "it goes on"
    )

    assert stopped is not None
    assert stopped.state == "T"
    assert fault.count == 1


def test_a_stop_is_undone_however_the_run_ends(scene: PlayedScene) -> None:
    scene.edge.play_hub(BUSY)
    fault = scene.fault("stop", who=("hub",), for_s=2.0)
    fault.begin(0)

    fault.finish()

    assert scene.edge.hub is not None
    scene.edge.hub.send_signal(signal.SIGTERM)
    assert scene.edge.hub.wait(LIMIT_S) == -signal.SIGTERM


# the link


def exchange(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(100)


def test_cut_link(scene: PlayedScene) -> None:
    scene.add_line()
    with socket.create_connection(scene.line.address, LIMIT_S) as connection:
        assert exchange(connection, b"one") == b"one"
        fault = scene.fault("cut link", for_s=1.0)

        assert fault.begin(0) == 1.0

        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(scene.line.address, LIMIT_S)
    assert fault.go_on() is None
    with socket.create_connection(scene.line.address, LIMIT_S) as connection:
        assert exchange(connection, b"two") == b"two"
    assert fault.count == 1


def test_slow_link(scene: PlayedScene) -> None:
    scene.add_line()
    fault = scene.fault("slow link", by=0.05, rate=0, for_s=1.0)

    fault.begin(0)
    with socket.create_connection(scene.line.address, LIMIT_S) as connection:
        answer = exchange(connection, b"late")
    fault.go_on()

    assert answer == b"late"
    assert fault.count >= 4


def test_half_open_link(scene: PlayedScene) -> None:
    scene.add_line()
    with socket.create_connection(scene.line.address, LIMIT_S) as connection:
        assert exchange(connection, b"one") == b"one"
        fault = scene.fault("half-open link", for_s=1.0)
        fault.begin(0)
        connection.sendall(b"into the void")
        scene.edge.wait_for(lambda: scene.line.lines[0].swallowed_bytes == 13, "it is swallowed")

        fault.go_on()

    assert fault.count == 13


# disk


def test_full_disk(scene: PlayedScene) -> None:
    needs("root")
    with Tmpfs(scene.folder / "disk", 1_000_000) as disk:
        fault = scene.fault("full disk", for_s=0.15)

        assert fault.begin(0) == 0.1
        with pytest.raises(OSError, match="No space left"):
            (disk.path / "more").write_bytes(b"x")
        while fault.go_on() is not None:
            pass
        (disk.path / "more").write_bytes(b"x")

        assert fault.count > 900_000


@pytest.mark.parametrize(
    ("name", "values"),
    [("slow sync", {"by": 0.02}), ("write error", {"nth": 1, "count": 3}), ("no memory", {})],
)
def test_calls_of_the_hub(scene: PlayedScene, name: str, values: dict[str, float]) -> None:
    needs("strace")
    scene.edge.play_hub(BUSY)
    fault = scene.fault(name, for_s=1.0, **values)

    fault.begin(0)
    trace = scene.folder / "strace-0-0"
    scene.edge.wait_for(lambda: trace.read_bytes().count(fault.mark) >= 3, "three calls are hit")  # type: ignore[attr-defined]
    fault.go_on()

    assert fault.count >= 3
    assert scene.edge.pid_of("edgeHub") is not None
    assert not trace.exists()


@pytest.mark.parametrize("how", ["flip bits", "tear"])
def test_damage_database(scene: PlayedScene, how: str) -> None:
    database = scene.edge.place.message_db
    MessageDb.open(database).close()
    before = database.read_bytes()
    scene.edge.play_hub(BUSY)
    fault = scene.fault("damage database", how=how, count=8)

    fault.begin(0)

    after = database.read_bytes()
    assert after[:4096] == before[:4096], "its head is whole"
    assert len(after) < len(before) if how == "tear" else 1 <= _bits(before, after) <= 8
    assert (scene.folder / "damaged-0-0.db").read_bytes() == after
    assert (fault.count, scene.edge.agents_started) == (1, 1)


def _bits(before: bytes, after: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True))


# machine


def test_move_clock(tmp_path: Path) -> None:
    home = tmp_path / "home"
    program = """
import sys
from pathlib import Path
from types import SimpleNamespace
from runtime.faults import clock
home = Path(sys.argv[1])
clock.go_wrong(home)
import time
right = time.time()
clock.set_clock(home, -86400.0)
print(round((time.time() - right) / 86400))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "-1\n"
    assert len(seen_clock(home, -86400.0)) == 1
    assert seen_clock(home, 5.0) == set()


def test_stop_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = socket.socket(socket.AF_UNIX)
    engine.bind(str(tmp_path / "docker.sock"))
    engine.listen()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    gate = EngineGate(tmp_path / "gate.sock")
    gate.open()
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(gate.path))
    far, _ = engine.accept()
    client.sendall(b"ping")
    assert far.recv(10) == b"ping"

    gate.close()

    assert client.recv(10) == b"", "the connection has ended"
    with pytest.raises(FileNotFoundError):
        socket.socket(socket.AF_UNIX).connect(str(gate.path))
    assert gate.cut == 1
    for one in (client, far, engine):
        one.close()


def test_slow_pull(scene: PlayedScene) -> None:
    with SlowRegistry() as registry:
        scene.registry = registry
        host, _, rest = registry.image.partition(":")
        fault = scene.fault("slow pull", for_s=1.0)
        fault.begin(0)
        with socket.create_connection((host, int(rest.partition("/")[0])), LIMIT_S) as client:
            scene.edge.wait_for(lambda: registry.asked == 1, "it is asked")

            fault.go_on()

            assert client.recv(10) == b""
    assert fault.count == 1
