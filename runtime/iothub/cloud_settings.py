"""What `edge-actors cloud run` is told: addresses, ports, names.

Names of Azure are refused: the stand-in's CA and its certificate are never to pass for a real IoT Hub.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from messaging.errors import ConfigError
from messaging.text import quoted
from runtime.config.listen_addresses import ListenAddress
from runtime.config.settings import about

DEFAULT_ADDRESS: Final = "127.0.0.2"
MQTT_PORT: Final = 8883
AMQP_PORT: Final = 5671
HTTPS_PORT: Final = 443
# A name for /etc/hosts or DNS; `edge-actors run` takes it for its IoT Hub unless told otherwise.
KNOWN_NAME: Final = about("iothub_hostname").default
# Source: learn.microsoft.com: azure/iot-hub, endpoints of Azure, of Azure Government and of Azure operated by
# 21Vianet
AZURE_DOMAINS: Final = (
    "azure-devices.net",
    "azure-devices.us",
    "azure-devices.cn",
    "azure-devices-provisioning.net",
    "azure-devices-provisioning.us",
    "azure-devices-provisioning.cn",
    "azure.com",
    "azure.net",
    "windows.net",
)


class CloudSettings(Struct, frozen=True):
    """Where the stand-in listens and what it is called."""

    addresses: tuple[str, ...]
    mqtt_port: int
    amqp_port: int
    https_port: int
    host_name: str  # in connection strings and tokens
    aliases: tuple[str, ...]  # other names and addresses by which clients may call it

    @property
    def names(self) -> tuple[str, ...]:
        """All names for which its certificate counts."""
        return (self.host_name, *self.aliases)

    @property
    def mqtt(self) -> list[ListenAddress]:
        return self._listen(self.mqtt_port)

    @property
    def amqp(self) -> list[ListenAddress]:
        return self._listen(self.amqp_port)

    @property
    def https(self) -> list[ListenAddress]:
        return self._listen(self.https_port)

    def _listen(self, port: int) -> list[ListenAddress]:
        return [ListenAddress(address, port) for address in self.addresses]

    @property
    def is_loopback(self) -> bool:
        return all(ipaddress.ip_address(address).is_loopback for address in self.addresses)


def read_cloud_settings(
    listen: Sequence[str] = (),
    hosts: Sequence[str] = (),
    mqtt_port: int = MQTT_PORT,
    amqp_port: int = AMQP_PORT,
    https_port: int = HTTPS_PORT,
) -> CloudSettings:
    """Return the settings of a run.

    Args:
        listen: IP addresses; none for 127.0.0.2.
        hosts: Host names; the first is the hub's own. None for its first address.

    Raises:
        ConfigError: an address or a name is not allowed; says why and what is.
    """
    addresses = tuple(dict.fromkeys(_address(text) for text in listen or (DEFAULT_ADDRESS,)))
    names = tuple(dict.fromkeys(_host(text) for text in hosts))
    callable_by = [address for address in addresses if not ipaddress.ip_address(address).is_unspecified]
    if not names and not callable_by:
        raise ConfigError(
            f"--listen {addresses[0]} has no address that clients could call; "
            "add --host NAME, the name of this machine for them"
        )
    if names:
        own, *others = names
        others += callable_by
    else:
        own, *others = callable_by
    aliases = tuple(name for name in dict.fromkeys((*others, KNOWN_NAME)) if name != own)
    return CloudSettings(addresses, mqtt_port, amqp_port, https_port, own, aliases)


def is_azure(host: str) -> bool:
    """Whether a host name is one of Azure, which only Azure may have."""
    name = host.lower().rstrip(".")
    return any(name == domain or name.endswith(f".{domain}") for domain in AZURE_DOMAINS)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as exc:
        raise ConfigError(
            f"--listen: {quoted(text)} is not an IP address, such as {DEFAULT_ADDRESS}; "
            "ports are set with --mqtt-port, --amqp-port and --https-port"
        ) from exc


def _host(text: str) -> str:
    try:
        name = str(about("hostname").read(text)).lower()
    except ValueError as exc:
        raise ConfigError(f"--host: {quoted(text)} is not allowed; allowed: {exc}") from exc
    if is_azure(name):
        raise ConfigError(
            f"--host: {quoted(text)} is a name of Azure, and clients must be able to tell the stand-in from "
            "Azure; choose one of your own, such as hub.example"
        )
    return name
