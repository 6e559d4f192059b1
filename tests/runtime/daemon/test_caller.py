"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from runtime.daemon import caller as caller_module
from runtime.daemon.caller import (
    Caller,
    ModuleContainer,
    ModuleProcess,
    Peer,
    is_module,
    is_user,
    parse_cgroup,
    parse_stat,
)
from tests.runtime.module_processes import module_process

CALLER = Caller(pid=120, uid=1000, session_id=100, started_at_ticks=5010, container_id=None)
MODULE = ModuleProcess(pid=100, session_id=100, started_at_ticks=5000)
CONTAINER = "0123456789abcdef" * 4

CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("caller", "uid", "expected"),
    [
        (CALLER, 1000, True),
        (CALLER, 0, False),
        (replace(CALLER, uid=0), 1000, False),
        (replace(CALLER, pid=0), 1000, False),
        (None, 1000, False),
    ],
    ids=["his", "root's", "of root", "not visible", "ended"],
)
def test_a_debug_socket_serves_the_programs_of_one_user(
    caller: Caller | None, uid: int, expected: bool
) -> None:
    assert is_user(caller, uid) is expected


@pytest.mark.parametrize(
    ("caller", "process", "expected"),
    [
        (CALLER, MODULE, True),
        (replace(CALLER, pid=100, started_at_ticks=5000), MODULE, True),
        (replace(CALLER, session_id=101), MODULE, False),
        (replace(CALLER, started_at_ticks=4999), MODULE, False),
        (replace(CALLER, pid=0), MODULE, False),
        (replace(CALLER, uid=0), MODULE, True),
        (replace(CALLER, uid=0, session_id=1), MODULE, False),
        (CALLER, None, False),
        (None, MODULE, False),
        (None, None, False),
    ],
    ids=[
        "a child of the module",
        "the module itself",
        "another session",
        "older than the module",
        "a process that cannot be seen",
        "root inside the module",
        "root outside",
        "the module does not run",
        "the caller ended",
        "neither",
    ],
)
def test_is_module(caller: Caller | None, process: ModuleProcess | None, expected: bool) -> None:
    assert is_module(caller, process) is expected


@pytest.mark.parametrize("name", ["cat", "a b", "a) S 1 2 3", "((", ""])
def test_a_stat_file_is_read_whatever_the_command_is_called(name: str) -> None:
    rest = "S 1 41 42 0 -1 4194560 96 0 0 0 0 0 0 0 20 0 1 0 4711 3100672 218 18446744073709551615"

    assert parse_stat(f"43 ({name}) {rest}\n") == (42, 4711)


@pytest.mark.parametrize("text", ["", "43", "43 (cat)", "43 (cat) S 1 41 42", "43 (cat) " + "x " * 30])
def test_a_stat_file_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_stat(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0::/\n", None),
        ("0::/user.slice/session-2.scope\n", None),
        (f"0::/system.slice/docker-{CONTAINER}.scope\n", CONTAINER),
        (f"12:pids:/docker/{CONTAINER}\n11:cpu:/docker/{CONTAINER}\n", CONTAINER),
        (f"0::/docker/{'f' * 64}/docker/{CONTAINER}\n", CONTAINER),
        (f"0::/docker/{CONTAINER}f\n", None),
    ],
    ids=["root", "session", "cgroup 2 with systemd", "cgroup 1", "container in a container", "65 digits"],
)
def test_the_container_of_a_process_is_read_from_its_cgroup(text: str, expected: str | None) -> None:
    assert parse_cgroup(text) == expected


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(10)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield listener


@pytest.fixture(params=["SO_PEERPIDFD", "pidfd_open"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test as on a new and as on an older kernel."""
    if request.param == "pidfd_open":
        monkeypatch.setattr(caller_module, "_SO_PEERPIDFD", 9999)
    else:
        with socket.socketpair()[0] as one:
            try:
                os.close(one.getsockopt(socket.SOL_SOCKET, caller_module._SO_PEERPIDFD))
            except OSError:
                pytest.skip("this kernel has no SO_PEERPIDFD (Linux 6.5)")
    return str(request.param)


def _start(listening: socket.socket) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CONNECT, listening.getsockname()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    return process


@pytest.mark.usefixtures("kernel")
def test_a_process_in_a_session_of_its_own_is_told_from_ours(listening: socket.socket) -> None:
    with _start(listening) as process, listening.accept()[0] as connection:
        peer = Peer(connection)
        caller = peer.caller()
        peer.close()
        module = module_process(process.pid)
        process.communicate()

    assert caller is not None
    assert (caller.pid, caller.uid, caller.session_id) == (process.pid, os.getuid(), process.pid)
    assert is_module(caller, module)
    assert not is_module(caller, module_process(os.getpid()))


@pytest.mark.usefixtures("kernel")
def test_a_peer_that_ended_is_nobody_even_before_it_is_reaped(listening: socket.socket) -> None:
    with _start(listening) as process, listening.accept()[0] as connection:
        peer = Peer(connection)
        assert peer.caller() is not None

        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        zombie = peer.caller()
        process.wait()
        reaped = peer.caller()
        peer.close()

    assert zombie is None
    assert reaped is None


@pytest.mark.usefixtures("kernel")
def test_a_peer_that_ended_before_it_was_accepted_is_nobody(listening: socket.socket) -> None:
    with _start(listening) as process:
        process.communicate()

    with listening.accept()[0] as connection:
        peer = Peer(connection)
        caller = peer.caller()
        peer.close()
        peer.close()

    assert peer.pid == process.pid
    assert caller is None


@pytest.mark.parametrize(
    ("container_id", "pid", "expected"),
    [("5f" * 32, 100, True), ("60" * 32, 100, False), (None, 100, False), ("5f" * 32, 0, False)],
    ids=["inside", "inside of another", "outside of any", "not to be seen"],
)
def test_a_container_module_is_known_by_its_cgroup(
    container_id: str | None, pid: int, expected: bool
) -> None:
    caller = Caller(pid, uid=1000, session_id=1, started_at_ticks=1, container_id=container_id)

    assert is_module(caller, ModuleContainer("5f" * 32)) is expected
