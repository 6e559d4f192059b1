"""What the hub obeys of the environment variables that a deployment gives to `edgeHub`: values and defaults.

hub_variables.py reads them.

Source: spec sheet observability.md section 6
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from actors.upstream.protocol import UpstreamProtocol
from messaging.broker.limits import DEFAULT_LIMITS, Limits

MAX_CONNECTED_CLIENTS: Final = "MaxConnectedClients"
CLIENT_CERT_AUTH_ENABLED: Final = "ClientCertAuthEnabled"


class HubEnvironment(Struct, frozen=True):
    """What the hub obeys."""

    mqtt_enabled: bool = True
    amqp_enabled: bool = True
    amqp_port: int | None = None  # None: what this device is set to, else 5671
    http_enabled: bool = True
    http_port: int | None = None  # None: what this device is set to, else 443
    client_cert_auth_enabled: bool = True
    ssl_protocols: tuple[str, ...] = ("tls1.2", "tls1.3")
    max_connected_clients: int | None = None  # None: as many as there are descriptors for
    message_ack_timeout_s: float = 30.0  # then a message that nobody acknowledged is sent again
    message_cleanup_interval_s: float = 5.0
    reported_properties_sync_s: float = 5.0
    log_level: str | None = None  # None: what this device is set to
    shutdown_wait_s: float | None = None  # None: as long as any module
    max_inbound_message_bytes: int = 262_144  # of a whole packet
    max_pending_inbound_acknowledgements: int | None = None  # None: bounded by bytes alone
    max_pending_outbound_messages: int = 2000
    connect_arrival_timeout_s: float = 5.0
    max_keep_alive_timeout_s: float = 600.0
    max_outbound_retransmissions: int | None = None  # None: a client is never given up for that
    nested_edge_enabled: bool = True  # hubs of edges below this one may connect for their clients
    api_proxy_module_id: str = "IoTEdgeAPIProxy"
    cloud_idle_timeout_s: float = 3600.0
    closes_idle_cloud_connections: bool = True
    closes_cloud_connection_with_client: bool = True
    cloud_operation_timeout_s: float = 20.0
    upstream_protocol: UpstreamProtocol | None = None  # None: that of edgeAgent, or of this device
    upstream_batch_messages: int = 250
    broker_max_in_flight: int = DEFAULT_LIMITS.max_in_flight
    broker_max_queued: int = DEFAULT_LIMITS.max_queued
    broker_max_queued_bytes: int = DEFAULT_LIMITS.max_queued_bytes
    broker_drops_oldest: bool = DEFAULT_LIMITS.drops_oldest
    bridge_max_bytes: int = 32 * 1024 * 1024  # that wait in one direction of one bridge
    bridge_max_messages: int | None = None  # None: as many as that has room for

    metrics_port: int = 9600
    metrics_enabled: bool = True
    metrics_histogram_max_age_s: float = 3600.0

    def broker_limits(self) -> Limits:
        """Return what the MQTT broker keeps for its clients."""
        return Limits(
            max_in_flight=self.broker_max_in_flight,
            max_queued=self.broker_max_queued,
            max_queued_bytes=self.broker_max_queued_bytes,
            drops_oldest=self.broker_drops_oldest,
        )

    @property
    def serves_metrics(self) -> bool:
        """Whether there is a port for metrics: they belong to the HTTP head, as in the reference."""
        return self.metrics_enabled and self.http_enabled


DEFAULTS: Final = HubEnvironment()


class ReadEnvironment(Struct, frozen=True):
    """What the environment of `edgeHub` says.

    `problems` and `notes` are (variable, text): what the user asked for and does not get, and what has no
    effect here but is not missed.
    """

    values: HubEnvironment = DEFAULTS
    problems: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


NOTHING_READ: Final = ReadEnvironment()
