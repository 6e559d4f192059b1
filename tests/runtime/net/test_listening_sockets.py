import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.config.listen_addresses import parse_address
from runtime.net import listening_sockets
from runtime.net.listening_sockets import ENVIRONMENT_NAME, Use, bind, from_environment, to_environment

ROOT = Path(__file__).parents[3]

BIND_LOW_PORT_AS_NOBODY = """
import os
from messaging.errors import EnvironmentFault
from runtime.config.listen_addresses import parse_address
from runtime.net.listening_sockets import bind
os.setuid(65534)
try:
    bind([parse_address("127.0.0.1:77")])
except EnvironmentFault as fault:
    print(fault)
"""

ANSWER_ONE_CLIENT = """
import os
from runtime.net import listening_sockets
for use, listener in listening_sockets.from_environment(os.environ):
    connection, _ = listener.accept()
    connection.sendall(b"%s, hello from %d" % (use.encode(), os.getpid()))
    connection.close()
"""


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6 loopback")


def port_of(listener: socket.socket) -> int:
    port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("127.0.0.1:8883", "127.0.0.1", 8883),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::]:8883", "::", 8883),
        ("[fe80::1]:65535", "fe80::1", 65535),
    ],
)
def test_a_listen_address_is_an_ip_address_and_a_port(text: str, address: str, port: int) -> None:
    parsed = parse_address(text)

    assert (str(parsed.address), parsed.port, str(parsed)) == (address, port, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("127.0.0.1:", "in brackets"),
        ("127.0.0.1:65536", "PORT is at most 65535"),
        ("127.0.0.1:-1", "in brackets"),
        ("127.0.0.1:٣", "in brackets"),
        ("localhost:8883", "for localhost write 127.0.0.1"),
        (":8883", "ADDRESS is an IP address"),
        ("::1:8883", "in brackets"),
        ("[127.0.0.1]:8883", "in brackets"),
        ("[::1]8883", "in brackets"),
        ("[fe80::1%1]:8883", "without a zone"),
    ],
)
def test_a_wrong_listen_address_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        parse_address(text)

    assert "127.0.0.1:8883" in str(raised.value)


def test_a_bound_socket_accepts_and_is_not_inherited_unless_passed() -> None:
    (listener,) = bind([parse_address("127.0.0.1:0")])

    with listener, socket.create_connection(listener.getsockname(), timeout=5):
        connection, _ = listener.accept()
        connection.close()
        assert not listener.get_inheritable()


@needs_ipv6
def test_all_addresses_of_both_families_can_share_a_port() -> None:
    (first,) = bind([parse_address("0.0.0.0:0")])

    with first:
        (second,) = bind([parse_address(f"[::]:{port_of(first)}")])
        second.close()


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        pytest.param("[::1]", "[::1]", marks=needs_ipv6),
        pytest.param("[::1]", "[::]", marks=needs_ipv6),
    ],
)
def test_a_port_in_use_names_address_port_holder_and_way_out(held: str, wanted: str) -> None:
    (holder,) = bind([parse_address(f"{held}:0")])
    port = port_of(holder)

    with holder, pytest.raises(EnvironmentFault) as raised:
        bind([parse_address(f"{wanted}:{port}")])

    assert str(raised.value).startswith(
        f"cannot listen on {wanted}:{port}: port {port} is in use (pid {os.getpid()}, "
    )
    assert "--listen" in str(raised.value)


@needs_ipv6
def test_a_listener_on_both_families_is_found_behind_an_ipv4_port() -> None:
    with socket.socket(socket.AF_INET6) as holder:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        holder.bind(("::", 0))
        holder.listen()

        with pytest.raises(EnvironmentFault, match=rf"in use \(pid {os.getpid()}, "):
            bind([parse_address(f"127.0.0.1:{port_of(holder)}")])


def test_the_holder_is_named_by_its_program_without_further_words() -> None:
    program = (
        "import socket,sys;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program + "sys.stdin.read()", "--password=secret"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    port = int(other.stdout.readline())

    with pytest.raises(EnvironmentFault) as raised:
        bind([parse_address(f"127.0.0.1:{port}")])

    other.communicate()
    assert f"(pid {other.pid}, {sys.executable} -c)" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_when_one_address_fails_none_stays_bound() -> None:
    (holder,) = bind([parse_address("127.0.0.1:0")])
    (free,) = bind([parse_address("127.0.0.1:0")])
    free_address = parse_address(f"127.0.0.1:{port_of(free)}")
    free.close()

    with holder, pytest.raises(EnvironmentFault):
        bind([free_address, parse_address(f"127.0.0.1:{port_of(holder)}")])

    (again,) = bind([free_address])
    again.close()


def test_an_address_of_another_machine_is_named() -> None:
    # 192.0.2.0/24 is set aside for documentation (RFC 5737), so no machine has it.
    with pytest.raises(EnvironmentFault, match=r"192\.0\.2\.7 is not an address of this machine.*--listen"):
        bind([parse_address("192.0.2.7:8883")])


def first_unprivileged_port() -> int:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        return int(file.read())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")
@pytest.mark.skipif(first_unprivileged_port() < 1024, reason="here every user may bind low ports")
def test_a_low_port_without_permission_is_explained() -> None:
    program = [sys.executable, "-c", BIND_LOW_PORT_AS_NOBODY]

    shown = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert shown.startswith("cannot listen on 127.0.0.1:77: port 77 needs root or the capability")
    assert "--listen" in shown


def test_any_other_refusal_is_passed_on_with_its_reason() -> None:
    explained = listening_sockets._explain(
        parse_address("127.0.0.1:1"), OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)), "--listen"
    )

    assert explained.startswith("cannot listen on 127.0.0.1:1: No buffer space available")


def test_connections_made_before_the_heir_starts_are_answered_by_it() -> None:
    sockets = bind([parse_address("127.0.0.1:0"), parse_address("127.0.0.1:0")])
    clients = [socket.create_connection(listener.getsockname(), timeout=10) for listener in sockets]
    env, fds = to_environment(zip((Use.MQTT, Use.WEB), sockets, strict=True))

    heir = subprocess.Popen(
        [sys.executable, "-c", ANSWER_ONE_CLIENT], env=os.environ | env, pass_fds=fds, cwd=ROOT
    )

    for use, client in zip((b"mqtts", b"https"), clients, strict=True):
        assert client.recv(100) == b"%s, hello from %d" % (use, heir.pid)
        client.close()
    assert heir.wait(timeout=10) == 0
    for listener in sockets:
        listener.close()


def test_no_sockets_at_all_can_be_handed_on() -> None:
    env, fds = to_environment([])

    assert fds == ()
    assert from_environment(env) == []


def test_a_missing_variable_is_explained() -> None:
    with pytest.raises(EnvironmentFault, match=f"{ENVIRONMENT_NAME} is not set"):
        from_environment({})


@pytest.mark.parametrize("text", ["x", "mqtts=-1", "mqtts=5,", "mqtts=999999", "mqtts=1.5", "amqps=5", "5"])
def test_what_is_no_descriptor_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFault, match="is not a listening TCP socket"):
        from_environment({ENVIRONMENT_NAME: text})


@pytest.mark.parametrize("kind", ["file", "udp", "unix", "not listening"])
def test_a_descriptor_that_is_no_listener_is_refused_and_left_open(kind: str) -> None:
    if kind == "file":
        descriptor = os.open("/dev/null", os.O_RDONLY)
    else:
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        other = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        descriptor = other.detach()

    with pytest.raises(EnvironmentFault, match=f"{descriptor}' is not a listening TCP socket"):
        from_environment({ENVIRONMENT_NAME: f"mqtts={descriptor}"})

    os.close(descriptor)  # raises when it was closed
