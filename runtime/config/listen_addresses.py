"""Addresses to listen on; where the hub listens, and by which name it is found there."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from runtime.config.settings import Settings

MQTT_TLS_PORT: Final = 8883
AMQP_TLS_PORT: Final = 5671
MQTT_PLAIN_PORT: Final = 1883
WEB_PORT: Final = 443


class ListenAddress(Struct, frozen=True):
    """An IP address and a TCP port; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.host)

    @property
    def is_loopback(self) -> bool:
        return self.address.is_loopback

    def is_met_by(self, bound: ListenAddress) -> bool:
        """Return whether a socket on `bound` is what this asks for."""
        return self.address == bound.address and self.port in (0, bound.port)

    def stands_in_the_way_of(self, wanted: ListenAddress) -> bool:
        """Return whether `wanted` cannot be bound while a socket listens here."""
        return self.port == wanted.port and self.overlaps(wanted)

    def overlaps(self, wanted: ListenAddress) -> bool:
        """Return whether a socket here takes what is sent to the other address, ports aside."""
        held, other = self.address, wanted.address
        if held.is_unspecified or other.is_unspecified:
            # A listener on [::] without V6ONLY takes the IPv4 port too; 0.0.0.0 never takes the IPv6 port.
            return held.version == other.version or (held.version == 6 and held.is_unspecified)
        return held == other


# Readers: text to value, or ValueError with what is allowed.


def parse_address(text: str, default_port: int = MQTT_TLS_PORT) -> ListenAddress:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?", text)
    plain = re.fullmatch(r"([^:\[\]]*)(?::([0-9]{1,5}))?", text)
    match = bracketed or plain
    allowed = f"ADDRESS[:PORT], such as 127.0.0.1:{default_port} or [::1]:{default_port}"
    if match is None:
        raise ValueError(f"{allowed}; an IPv6 address stands in brackets")
    port = int(match[2]) if match[2] else default_port
    try:
        host = ipaddress.ip_address(match[1])
    except ValueError:
        hint = "; for localhost write 127.0.0.1" if match[1] == "localhost" else ""
        raise ValueError(f"{allowed}; ADDRESS is an IP address{hint}") from None
    if (host.version == 6) is not (bracketed is not None) or "%" in match[1]:
        raise ValueError(f"{allowed}; an IPv6 address stands in brackets, without a zone")
    if port > 65535:
        raise ValueError(f"{allowed}; PORT is at most 65535")
    return ListenAddress(str(host), port)


def listen(text: str, default_port: int = MQTT_TLS_PORT) -> tuple[ListenAddress, ...]:
    addresses = tuple(parse_address(part.strip(), default_port) for part in text.split(","))
    if len(set(addresses)) < len(addresses):
        raise ValueError("each address once")
    return addresses


def web_listen(text: str) -> tuple[ListenAddress, ...]:
    return _listen_or_off(text, WEB_PORT)


def amqp_listen(text: str) -> tuple[ListenAddress, ...]:
    return _listen_or_off(text, AMQP_TLS_PORT)


def _listen_or_off(text: str, default_port: int) -> tuple[ListenAddress, ...]:
    if text == "off":
        return ()
    try:
        return listen(text, default_port)
    except ValueError as exc:
        raise ValueError(f"{exc}; or off") from None


def plain_listen(text: str) -> ListenAddress | None:
    if text == "off":
        return None
    address = parse_address(text, MQTT_PLAIN_PORT)
    if not address.is_loopback:
        raise ValueError("a loopback address such as 127.0.0.1:1883, or off; others need TLS")
    return address


# What follows from settings.


def web_addresses(settings: Settings, port: int | None = None) -> tuple[ListenAddress, ...]:
    """Return where the web front goes: as set, else wherever MQTT is accepted, to `port` or 443."""
    if settings.web_listen is not None:
        return settings.web_listen
    return _beside_mqtt(settings, port or WEB_PORT)


def amqp_addresses(settings: Settings, port: int | None = None) -> tuple[ListenAddress, ...]:
    """Return where AMQP is accepted: as set, else wherever MQTT is, on `port` or 5671."""
    if settings.amqp_listen is not None:
        return settings.amqp_listen
    return _beside_mqtt(settings, port or AMQP_TLS_PORT)


def metrics_addresses(settings: Settings, port: int) -> tuple[ListenAddress, ...]:
    """Return where metrics are told, to whoever asks: on loopback, and to the containers of this edge."""
    hosts = ("127.0.0.1", settings.bridge) if settings.bridge else ("127.0.0.1",)
    return tuple(ListenAddress(host, port) for host in hosts)


def _beside_mqtt(settings: Settings, port: int) -> tuple[ListenAddress, ...]:
    hosts = dict.fromkeys(address.host for address in settings.listen)
    taken = {*settings.listen, *(settings.web_listen or ())}
    return tuple(address for host in hosts if (address := ListenAddress(host, port)) not in taken)


def default_hostname(listen: Sequence[ListenAddress], host_name: str) -> str:
    """Return under which name clients reach this edge unless it is set."""
    # Debian gives the host's name the address 127.0.1.1, where nobody listens by default.
    only_loopback = all(address.is_loopback for address in listen)
    return local_name(listen) if only_loopback else as_host_name(host_name)


def local_name(listen: Sequence[ListenAddress]) -> str:
    """Return under which name a process of this machine reaches the hub: localhost wherever that works."""
    for address in listen:
        if address.host in ("127.0.0.1", "0.0.0.0"):  # `localhost` need not mean ::1
            return "localhost"
    return listen[0].host


def as_host_name(host_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", host_name)[:253].strip("-.") or "localhost"
