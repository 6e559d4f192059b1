"""What the hub process has to know before it serves anybody.

The agent writes it to a file before it starts the hub and sends it again when it changes, so that a hub that
is restarted while no agent lives still serves with the last one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.manifest.hub_manifest import HubSettings
from actors.upstream.protocol import DEFAULT as DEFAULT_PROTOCOL
from actors.upstream.protocol import UpstreamProtocol
from messaging.broker.config import BrokerSpec
from messaging.errors import ConfigError
from messaging.kinds import message


@message
class CertificateChanged:
    """From the agent to the hub: the file of the server certificate may have been written anew."""


class RouteText(msgspec.Struct, frozen=True):
    """One route of the deployment, as it was written."""

    name: str
    text: str
    priority: int
    ttl_s: int  # 0: the hub's


def route_texts(hub: HubSettings) -> tuple[RouteText, ...]:
    """Return the routes of a deployment as the hub is told of them."""
    return tuple(
        RouteText(name, route.text, route.priority, route.time_to_live_s)
        for name, route in hub.routes.items()
    )


class HubConfig(msgspec.Struct, frozen=True):
    """Settings and routes of the hub."""

    device_id: str
    iothub_hostname: str
    host_names: tuple[str, ...]  # this hub's own names: tokens may be made for them as well
    certificate_file: str  # leaf and issuers, PEM
    key_file: str
    routes: tuple[RouteText, ...]
    ttl_s: int | None  # store-and-forward time to live of routes without one of their own; None: for ever
    message_db: str = ""  # path of the message database; "": in the home
    max_store_bytes: int | None = None  # of the message database; None: what suits its disk
    drops_oldest: bool = False  # without space, the oldest messages of the lowest priority go for new ones
    twins: dict[str, dict[str, Any]] = {}  # desired properties of modules in the deployment
    environment: HubEnvironment = DEFAULTS  # of edgeHub, as far as it is obeyed
    broker: BrokerSpec | None = None  # None: off
    bridge_settings: str = ""  # path of what this device knows of other brokers; "": in the home
    cloud_ca_file: str = ""  # PEM, what to trust at the IoT Hub besides the system's authorities
    cloud_https_port: int = 443
    cloud_connections: int = 100  # at the same time, besides the hub's own
    cloud_protocol: UpstreamProtocol = DEFAULT_PROTOCOL
    cloud_messages_per_s: float | None = None  # of all senders together; None: as fast as they go
    allow_faults: bool = False  # messages may be sent by hand, and faults made


def encode(config: HubConfig) -> bytes:
    """Return the file content of `config`, readable JSON."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2)


def decode(content: bytes, name: str) -> HubConfig:
    """Return the configuration in `content`.

    Raises:
        ConfigError: it is damaged; `name` says what was read.
    """
    try:
        return msgspec.json.decode(content, type=HubConfig)
    except msgspec.MsgspecError as exc:
        raise ConfigError(
            f"{name}: {exc}; start the edge with `edge-actors run` and it is written anew"
        ) from exc
