"""How the hub's listening sockets come back to a new agent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.agent.hub_sockets import HubSockets, Wanted
from runtime.config.listen_addresses import parse_address
from runtime.net import socket_handover
from runtime.net.listening_sockets import ENVIRONMENT_NAME, Use, address_of, bind
from runtime.net.socket_handover import NAME, SocketOffer, take

ROOT = Path(__file__).parents[3]
LIMIT_S = 5.0

# What a hub does with its sockets, until its standard input ends.
OFFER_UNTIL_END = """
import sys
from pathlib import Path
from runtime.config.listen_addresses import parse_address
from runtime.net.listening_sockets import address_of, bind
from runtime.net.socket_handover import SocketOffer
sockets = bind([parse_address("127.0.0.1:0"), parse_address("127.0.0.1:0")])
SocketOffer(Path(sys.argv[1]), sockets).open()
print(*map(address_of, sockets), flush=True)
sys.stdin.read()
"""
TAKE_AS_NOBODY = """
import os, sys
from pathlib import Path
from runtime.net.socket_handover import take
os.setuid(65534)
print(take(Path(sys.argv[1]), 0.3, lambda: False))
"""


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ea-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def offered(run_dir: Path) -> Iterator[list[socket.socket]]:
    sockets = bind([parse_address("127.0.0.1:0"), parse_address("127.0.0.1:0")])
    offer = SocketOffer(run_dir, sockets)
    offer.open()
    yield sockets
    offer.close()
    assert not (run_dir / NAME).exists()
    for listener in sockets:
        listener.close()


def never() -> bool:
    return False


def test_the_taken_sockets_serve_after_the_hub_was_killed(run_dir: Path) -> None:
    hub = subprocess.Popen(
        [sys.executable, "-c", OFFER_UNTIL_END, str(run_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert hub.stdout is not None
    addresses = hub.stdout.readline().split()

    taken = take(run_dir, LIMIT_S, never)
    hub.kill()
    hub.communicate()

    assert taken is not None
    assert [str(address_of(listener)) for listener in taken] == addresses
    for listener in taken:
        assert not listener.get_inheritable()
        with socket.create_connection(listener.getsockname(), LIMIT_S) as client:
            accepted, _ = listener.accept()
            accepted.sendall(b"there")
            accepted.close()
            assert client.recv(10) == b"there"
        listener.close()


def test_every_agent_that_comes_gets_them(run_dir: Path, offered: list[socket.socket]) -> None:
    for _ in range(3):
        taken = take(run_dir, LIMIT_S, never)

        assert taken is not None
        assert [s.getsockname() for s in taken] == [s.getsockname() for s in offered]
        for listener in taken:
            listener.close()


def test_the_offer_is_for_this_user_alone(run_dir: Path, offered: list[socket.socket]) -> None:
    assert (run_dir / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_gets_nothing(
    run_dir: Path, offered: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir.chmod(0o755)
    (run_dir / NAME).chmod(0o666)

    said = subprocess.run(
        [sys.executable, "-c", TAKE_AS_NOBODY, str(run_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said == "None\n"
    assert "user id 65534 asked for the listening sockets and was refused" in caplog.text


def test_a_hub_that_is_just_starting_is_waited_for(run_dir: Path) -> None:
    hub = subprocess.Popen(
        [sys.executable, "-c", OFFER_UNTIL_END, str(run_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    taken = take(run_dir, 20.0, never)

    hub.communicate()
    assert taken is not None
    assert len(taken) == 2
    for listener in taken:
        listener.close()


def test_the_socket_file_of_a_dead_hub_gives_nothing_and_stands_in_nobodys_way(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / NAME))

    assert take(run_dir, 0.1, never) is None

    offer = SocketOffer(run_dir, [])
    offer.open()
    assert take(run_dir, LIMIT_S, never) == []
    offer.close()


def test_a_hub_that_does_not_answer_is_given_up(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(run_dir / NAME))
        hung.listen()

        began_s = time.monotonic()
        assert take(run_dir, 0.2, never) is None

    assert 0.15 < time.monotonic() - began_s < 2.0


def test_a_hub_that_ended_is_not_waited_for(run_dir: Path) -> None:
    began_s = time.monotonic()

    assert take(run_dir, 60.0, lambda: True) is None

    assert time.monotonic() - began_s < 1.0


def test_what_is_no_listening_socket_is_not_taken_and_closed(run_dir: Path) -> None:
    pipe, other = os.pipe()
    good, *_ = bind([parse_address("127.0.0.1:0")])
    there, here = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    with there, here, good:
        socket.send_fds(there, [b"2"], [good.fileno(), pipe])

        with pytest.raises(ValueError, match="is no socket"):
            socket_handover._receive(here)

        assert len(os.listdir("/proc/self/fd")) == before
    os.close(pipe)
    os.close(other)


@pytest.mark.parametrize("said", [b"", b"3", b"x"], ids=["nothing", "more than came", "no number"])
def test_an_offer_that_is_none_is_refused(said: bytes) -> None:
    [good] = bind([parse_address("127.0.0.1:0")])
    there, here = socket.socketpair()
    with there, here, good:
        if said:
            socket.send_fds(there, [said], [good.fileno()])
        there.close()

        with pytest.raises(ValueError, match=r"arrived|invalid literal"):
            socket_handover._receive(here)


def test_a_run_directory_that_cannot_be_written_is_told(run_dir: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"missing/listening-sockets cannot be opened"):
        SocketOffer(run_dir / "missing", []).open()


# which sockets the agent keeps


def wanted(*addresses: str) -> HubSockets:
    return HubSockets([Wanted(Use.MQTT, parse_address(address)) for address in addresses])


def listened_on(sockets: HubSockets) -> list[tuple[str, int]]:
    """Return address and descriptor in the order in which the hub inherits them."""
    _, descriptors = sockets.to_environment()
    found = []
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            found.append((str(address_of(listener)), descriptor))
    return found


def test_sockets_whose_addresses_stay_are_kept_others_closed_and_new_ones_bound(
    run_dir: Path, offered: list[socket.socket]
) -> None:
    stays, goes = (str(address_of(listener)) for listener in offered)
    [free] = bind([parse_address("127.0.0.2:0")])
    new = str(address_of(free))
    free.close()
    sockets = wanted(new, stays)

    assert sockets.take_back(run_dir, never)
    kept_inode = os.stat(f"/proc/self/fd/{offered[0].fileno()}").st_ino
    assert not sockets.must_wait_for_hub()
    sockets.bind()

    (first, _), (second, descriptor) = listened_on(sockets)
    assert (first, second) == (new, stays)
    assert os.stat(f"/proc/self/fd/{descriptor}").st_ino == kept_inode
    offered[1].close()
    [again] = bind([parse_address(goes)])  # nobody has it any more
    again.close()
    sockets.close()


def test_binding_again_changes_nothing() -> None:
    sockets = wanted("127.0.0.1:0")
    sockets.bind()
    before = listened_on(sockets)

    sockets.bind()

    assert listened_on(sockets) == before
    sockets.close()
    assert listened_on(sockets) == []


def test_an_address_that_overlaps_with_one_of_the_hub_waits_for_its_end(
    run_dir: Path, offered: list[socket.socket]
) -> None:
    port = address_of(offered[0]).port
    sockets = wanted(f"0.0.0.0:{port}")
    sockets.take_back(run_dir, never)

    assert sockets.must_wait_for_hub()

    offered[0].close()  # the hub ended
    sockets.bind()
    assert [address for address, _ in listened_on(sockets)] == [f"0.0.0.0:{port}"]
    sockets.close()


def test_an_address_of_somebody_else_is_told_and_what_was_taken_is_kept(
    run_dir: Path, offered: list[socket.socket]
) -> None:
    [foreign] = bind([parse_address("127.0.0.1:0")])
    stays = str(address_of(offered[0]))
    sockets = wanted(stays, str(address_of(foreign)))
    sockets.take_back(run_dir, never)

    with foreign, pytest.raises(EnvironmentFault, match="is in use"):
        sockets.bind()

    assert stays in [address for address, _ in listened_on(sockets)]
    sockets.close()


def test_an_optional_address_that_cannot_be_had_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    [foreign] = bind([parse_address("127.0.0.1:0")])
    sockets = HubSockets(
        [
            Wanted(Use.WEB, address_of(foreign), is_optional=True),
            Wanted(Use.PLAIN_MQTT, parse_address("127.0.0.1:0")),
        ]
    )

    sockets.bind()
    sockets.bind()

    environment, _ = sockets.to_environment()
    assert [entry.partition("=")[0] for entry in environment[ENVIRONMENT_NAME].split(",")] == ["mqtt"]
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith("no MQTT and AMQP over WebSocket, and no HTTPS: cannot listen on ")
    assert told.endswith("or choose another port with the setting hub.web_listen")
    foreign.close()
    sockets.bind()
    environment, _ = sockets.to_environment()
    assert [entry.partition("=")[0] for entry in environment[ENVIRONMENT_NAME].split(",")] == [
        "https",
        "mqtt",
    ]
    sockets.close()


def test_a_needed_address_that_cannot_be_had_leaves_no_other_bound() -> None:
    [foreign] = bind([parse_address("127.0.0.1:0")])
    [free] = bind([parse_address("127.0.0.1:0")])
    address = address_of(free)
    free.close()
    sockets = HubSockets([Wanted(Use.MQTT, address), Wanted(Use.WEB, address_of(foreign))])

    with foreign, pytest.raises(EnvironmentFault, match=r"with the setting hub\.web_listen"):
        sockets.bind()

    [again] = bind([address])
    again.close()
