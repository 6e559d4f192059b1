"""The TCP sockets on which the hub listens. The agent owns them and the hub process inherits them.

So a client that connects while the hub restarts waits in the kernel's backlog, and is not refused.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum

from messaging.errors import EnvironmentFault
from runtime.config.listen_addresses import ListenAddress
from runtime.machine import process_table

BACKLOG = 1024
ENVIRONMENT_NAME = "EDGE_ACTORS_LISTEN_FDS"
LISTEN_STATE = "0A"  # TCP_LISTEN in /proc/net/tcp


class Use(StrEnum):
    """What the hub speaks on a socket."""

    MQTT = "mqtts"
    AMQP = "amqps"
    WEB = "https"
    PLAIN_MQTT = "mqtt"
    METRICS = "metrics"


def bind(
    addresses: Iterable[ListenAddress], setting: str = "--listen", beside: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """Return one listening socket per address, in order; none when one of them fails.

    Args:
        addresses: Where.
        setting: Where the addresses come from, for the message.
        beside: Sockets of ours that are no hindrance, though one of them or of these has all addresses and
            the other one address with the same port; that one gets what is sent to its address.

    Raises:
        EnvironmentFault: names the address, and the process that has the port.
    """
    sockets: list[socket.socket] = []
    try:
        with _sharing_ports(beside):
            for wanted in addresses:
                sockets.append(_bind_one(wanted, setting, shares=bool(beside)))
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def to_environment(
    sockets: Iterable[tuple[Use, socket.socket]],
) -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the environment entry and the descriptors with which a child process inherits `sockets`."""
    named = [(use, listener.fileno()) for use, listener in sockets]
    text = ",".join(f"{use}={descriptor}" for use, descriptor in named)
    return {ENVIRONMENT_NAME: text}, tuple(descriptor for _, descriptor in named)


def from_environment(environ: Mapping[str, str]) -> list[tuple[Use, socket.socket]]:
    """Return the listening sockets this process inherited, in the order in which the parent named them.

    They are not handed on to children of this process.

    Raises:
        EnvironmentFault: the variable is missing or makes no sense, or a descriptor is not a listening TCP
            socket.
    """
    text = environ.get(ENVIRONMENT_NAME)
    if text is None:
        raise EnvironmentFault(f"{ENVIRONMENT_NAME} is not set: this process is started by `edge-actors run`")
    sockets: list[tuple[Use, socket.socket]] = []
    try:
        for entry in text.split(",") if text else []:
            sockets.append(_inherited(entry))
    except BaseException:
        for _, inherited in sockets:
            inherited.close()
        raise
    return sockets


def address_of(listener: socket.socket) -> ListenAddress:
    """Return where a socket listens."""
    host, port = listener.getsockname()[:2]
    return ListenAddress(str(ipaddress.ip_address(host)), port)


def listener_of(descriptor: int) -> socket.socket:
    """Return the listening TCP socket with this descriptor; children of this process do not get it.

    Raises:
        ValueError: it is no such socket; it stays as it is, for it may not be ours.
    """
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ValueError(f"descriptor {descriptor} is no socket") from exc
    if (
        listener.family not in (socket.AF_INET, socket.AF_INET6)
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.detach()
        raise ValueError(f"descriptor {descriptor} is no listening TCP socket")
    listener.set_inheritable(False)
    return listener


def holder_of(wanted: ListenAddress) -> str:
    """Say who has the port of `wanted`: "pid 123, nginx", or that it cannot be seen from here."""
    pid = holder_pid(wanted)
    if pid is not None:
        return f"pid {pid}, {process_table.command_of(pid)}"
    return "another process of another user" if os.geteuid() else "a process that is not visible from here"


def holder_pid(wanted: ListenAddress) -> int | None:
    """Return a process that has the port of `wanted`; None when there is none, or none to be seen."""
    inode = _inode_on_port(wanted)
    return None if inode is None else _pid_with_socket(inode)


def listening_of(pid: int) -> list[tuple[Use, ListenAddress]]:
    """Return where a hub listens by the sockets that it inherited; nothing when it may not be looked at."""
    text = process_table.read_environment(pid).get(ENVIRONMENT_NAME, "")
    found = []
    places = _listening_places(pid)
    for entry in text.split(",") if text else []:
        use, _, number = entry.partition("=")
        link = _link_of(f"/proc/{pid}/fd/{number}") or ""
        place = places.get(link.removeprefix("socket:[").removesuffix("]"))
        if place is not None and use in list(Use):
            found.append((Use(use), place))
    return found


def _listening_places(pid: int) -> dict[str, ListenAddress]:
    """Return where the listening sockets are that a process could have, by inode."""
    found = {}
    for table in (f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        for row in rows:
            host, _, port = row[1].partition(":")
            if row[3] == LISTEN_STATE:
                found[row[9]] = ListenAddress(_address(host), int(port, 16))
    return found


@contextmanager
def _sharing_ports(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Let sockets of this process be bound beside these, for this moment alone."""
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bind_one(wanted: ListenAddress, setting: str, shares: bool) -> socket.socket:
    family = socket.AF_INET6 if wanted.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not SO_REUSEPORT for longer than that: a second edge on the same port must fail and not take half of
        # the clients.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        if family == socket.AF_INET6:
            # So that [::]:8883 and 0.0.0.0:8883 can stand beside each other.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((wanted.host, wanted.port))
        listener.listen(BACKLOG)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError as exc:
        listener.close()
        raise EnvironmentFault(_explain(wanted, exc, setting)) from exc
    return listener


def _explain(wanted: ListenAddress, error: OSError, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {wanted}: port {wanted.port} is in use ({holder_of(wanted)}); "
            f"stop that process, or choose another port with {setting}"
        )
    if error.errno == errno.EACCES:
        return (
            f"cannot listen on {wanted}: port {wanted.port} needs root or the capability "
            "CAP_NET_BIND_SERVICE; permit it with `sudo sysctl net.ipv4.ip_unprivileged_port_start="
            f"{wanted.port}` or, for a systemd service, AmbientCapabilities=CAP_NET_BIND_SERVICE, "
            f"or choose a port from 1024 up with {setting}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"cannot listen on {wanted}: {wanted.host} is not an address of this machine "
            f"(`ip address` lists them); choose another with {setting}"
        )
    return f"cannot listen on {wanted}: {error.strerror}; choose another address with {setting}"


def _inherited(entry: str) -> tuple[Use, socket.socket]:
    fault = f"{ENVIRONMENT_NAME}: {entry!r} is not a listening TCP socket of this process"
    use, _, number = entry.partition("=")
    if use not in list(Use) or not number.isascii() or not number.isdigit():
        raise EnvironmentFault(fault)
    try:
        return Use(use), listener_of(int(number))
    except ValueError as exc:
        raise EnvironmentFault(fault) from exc


def _inode_on_port(wanted: ListenAddress) -> str | None:
    """Return the inode of the socket that stands in the way, listening ones first.

    Source: Documentation/networking/proc_net_tcp.rst of the Linux kernel
    """
    others: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue  # a kernel without IPv6 has no second table
        for row in rows:
            host, _, port = row[1].partition(":")
            if (
                int(port, 16) != wanted.port
                or row[9] == "0"
                or not ListenAddress(_address(host), 0).overlaps(wanted)
            ):
                continue  # inode 0: a connection in TIME_WAIT, which stands in nobody's way
            if row[3] == LISTEN_STATE:
                return row[9]
            others.append(row[9])
    return others[0] if others else None


def _address(hexadecimal: str) -> str:
    # The kernel prints each 32-bit word of the address as a number in the machine's own byte order.
    words = [bytes.fromhex(hexadecimal[at : at + 8]) for at in range(0, len(hexadecimal), 8)]
    if socket.htons(1) != 1:
        words = [word[::-1] for word in words]
    packed = b"".join(words)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _pid_with_socket(inode: str) -> int | None:
    link = f"socket:[{inode}]"
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with os.scandir(f"/proc/{entry}/fd") as descriptors:
                if any(_link_of(descriptor.path) == link for descriptor in descriptors):
                    return int(entry)
        except OSError:
            continue  # ended meanwhile, or of another user
    return None


def _link_of(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None  # closed meanwhile
