"""What happens to clients' connections when the process that serves them is killed, or ends them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.agent.connection_keeper import NAME, ConnectionKeeper, GivenConnections
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
LIMIT_S = 10.0

# A hub that never reads: it gives what it accepts to be kept, and says so.
SERVE = """
import socket, sys
from pathlib import Path
from runtime.agent.connection_keeper import GivenConnections
given = GivenConnections(Path(sys.argv[1]))
given.open()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
accepted = []
while True:
    accepted.append(listener.accept()[0])
    given.give(accepted[-1])
    print("given", flush=True)
"""


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ea-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def keeper(run_dir: Path) -> Iterator[ConnectionKeeper]:
    made = ConnectionKeeper(run_dir)
    made.open()
    yield made
    made.close()
    assert not (run_dir / NAME).exists()


@pytest.fixture
def given(run_dir: Path, keeper: ConnectionKeeper) -> Iterator[GivenConnections]:
    made = GivenConnections(run_dir)
    made.open()
    wait_until(lambda: made._line is not None, "the hub has found the agent")
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and the server's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), LIMIT_S)
        accepted, _ = listener.accept()
    with client, accepted:
        yield client, accepted


def served(run_dir: Path) -> tuple[subprocess.Popen[str], socket.socket]:
    """Return a hub process, and a client of it whose connection was given."""
    hub = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(run_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout is not None
    client = socket.create_connection(("127.0.0.1", int(hub.stdout.readline())), LIMIT_S)
    assert hub.stdout.readline() == "given\n"
    return hub, client


def kill(hub: subprocess.Popen[str]) -> None:
    hub.send_signal(signal.SIGKILL)
    hub.communicate()


def test_a_client_of_a_killed_hub_hears_an_end_and_may_write_until_it_closes(
    run_dir: Path, keeper: ConnectionKeeper
) -> None:
    hub, client = served(run_dir)
    wait_until(lambda: len(keeper._kept) == 1, "the connection is kept")
    client.sendall(b"never read")

    kill(hub)

    with client:
        assert client.recv(1) == b""
        for _ in range(3):  # without a keeper the first of these fails
            client.sendall(b"x" * 100_000)
    wait_until(lambda: not keeper._kept, "nothing is kept of a client that has closed")


def test_without_a_keeper_the_same_client_is_reset(run_dir: Path) -> None:
    hub, client = served(run_dir)
    client.sendall(b"never read")

    kill(hub)

    with client, pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_client_that_does_not_close_is_dropped_in_time(run_dir: Path) -> None:
    now_s = [0.0]
    keeper = ConnectionKeeper(run_dir, lambda: now_s[0])
    keeper.open()
    try:
        hub, client = served(run_dir)
        wait_until(lambda: len(keeper._kept) == 1, "the connection is kept")
        kill(hub)
        with client:
            assert client.recv(1) == b""
            assert len(keeper._kept) == 1

            now_s[0] = 1_000.0
            client.sendall(b"still here")  # wakes the keeper

            wait_until(lambda: not keeper._kept, "it is dropped")
    finally:
        keeper.close()


def test_an_end_reaches_the_client_though_a_duplicate_is_open(
    keeper: ConnectionKeeper, given: GivenConnections, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, accepted = pair
    given.give(accepted)
    wait_until(lambda: len(keeper._kept) == 1, "the connection is kept")

    given.end(accepted)
    accepted.close()

    assert client.recv(1) == b""
    wait_until(lambda: not keeper._kept, "the duplicate is closed")


def test_a_connection_that_the_client_resets_is_not_kept(
    keeper: ConnectionKeeper, given: GivenConnections, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, accepted = pair
    given.give(accepted)
    wait_until(lambda: len(keeper._kept) == 1, "the connection is kept")

    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()

    wait_until(lambda: not keeper._kept, "the duplicate is closed")
    given.end(accepted)


def test_a_client_that_only_ends_its_half_is_kept_and_answered(
    keeper: ConnectionKeeper, given: GivenConnections, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, accepted = pair
    given.give(accepted)
    wait_until(lambda: len(keeper._kept) == 1, "the connection is kept")

    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    accepted.sendall(b"answer")

    assert client.recv(10) == b"answer"
    assert len(keeper._kept) == 1


def test_the_next_agent_is_given_all_that_are_open(
    run_dir: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, accepted = pair
    given = GivenConnections(run_dir)
    given.open()  # nobody there yet
    given.give(accepted)
    for _ in range(2):
        agent = ConnectionKeeper(run_dir)
        agent.open()
        wait_until(lambda: len(agent._kept) == 1, "the connection is kept")  # noqa: B023
        agent.close()

    accepted.sendall(b"unharmed")
    assert client.recv(10) == b"unharmed"
    given.end(accepted)
    given.close()


def test_more_connections_than_one_message_carries_are_given_to_the_next_agent(run_dir: Path) -> None:
    given = GivenConnections(run_dir)
    many = [one for _ in range(150) for one in socket.socketpair()]
    for one in many:
        given.give(one)

    given.open()
    agent = ConnectionKeeper(run_dir)
    agent.open()
    wait_until(lambda: len(agent._kept) == len(many), "all are kept")

    for one in many:
        given.end(one)
        one.close()
    wait_until(lambda: not agent._kept, "none is kept")
    given.close()
    agent.close()


def test_an_agent_keeps_descriptors_for_itself(
    run_dir: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.agent.connection_keeper.resource.getrlimit", lambda _: (256, 256))
    keeper = ConnectionKeeper(run_dir)
    keeper.open()
    given = GivenConnections(run_dir)
    given.open()
    wait_until(lambda: given._line is not None, "the hub has found the agent")
    client, accepted = pair
    given.give(accepted)

    accepted.close()  # without `end`: a duplicate would hold it open

    assert client.recv(1) == b""
    assert not keeper._kept
    given.close()
    keeper.close()


def test_what_is_no_socket_is_not_kept(keeper: ConnectionKeeper, run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line, open(os.devnull, "rb") as file:
        line.connect(str(run_dir / NAME))
        socket.send_fds(line, [b"+"], [file.fileno()])
        line.shutdown(socket.SHUT_WR)

        assert line.recv(1) == b""

    assert not keeper._kept


def test_the_socket_is_for_this_user_alone(keeper: ConnectionKeeper, run_dir: Path) -> None:
    assert (run_dir / NAME).stat().st_mode & 0o777 == 0o600


def test_a_run_directory_that_is_not_there_is_named(run_dir: Path) -> None:
    keeper = ConnectionKeeper(run_dir / "missing")

    with pytest.raises(EnvironmentFault, match="missing/connections cannot be opened"):
        keeper.open()

    keeper.close()
