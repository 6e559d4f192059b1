"""The environment variables that a deployment gives to `edgeHub`: each with what becomes of it here.

Names are compared without regard to case, and `A__B` and `A:B` are the same, as in the reference. A value
that a variable does not take is reported and its default applies: a misspelled number shall not keep a hub
from serving.

`VARIABLES` is every variable of the reference; runtime/docs/SETTINGS.md shows it.

Source: spec sheet observability.md section 6
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actors.manifest.environment_variables import (
    DAY_S,
    SWITCH,
    Effect,
    Kind,
    Variable,
    obeyed,
    read_variables,
    refused,
    span,
    unused,
    whole,
)
from actors.manifest.hub_environment import (
    CLIENT_CERT_AUTH_ENABLED,
    MAX_CONNECTED_CLIENTS,
    HubEnvironment,
    ReadEnvironment,
)
from actors.upstream.protocol import ALLOWED as PROTOCOLS
from actors.upstream.protocol import parse_protocol
from messaging.broker.limits import MOST_IN_FLIGHT, MOST_QUEUED_BYTES
from messaging.errors import ConfigError
from messaging.identity import Identity

MAX_BRIDGE_BYTES: Final = 16 * 1024 * 1024 * 1024


def _read_bridge_messages(text: str) -> int | None:
    return whole(0, 10_000_000).read(text) or None


def _read_when_full(text: str) -> bool:
    if text.lower() not in ("drop_new", "drop_old"):
        raise ValueError
    return text.lower() == "drop_old"


_LEVELS: Final = {
    "verbose": "debug",
    "debug": "debug",
    "info": "info",
    "information": "info",
    "warning": "warning",
    "error": "error",
    "fatal": "critical",
}


def _read_level(text: str) -> str:
    level = _LEVELS.get(text.partition(",")[0].strip().lower())
    if level is None:
        raise ValueError
    return level


_TLS: Final = {"tls12": "tls1.2", "tls1.2": "tls1.2", "tls13": "tls1.3", "tls1.3": "tls1.3"}


def _read_tls(text: str) -> tuple[str, ...]:
    versions = {_TLS.get(part.strip().lower(), "") for part in text.split(",")}
    if "" in versions:
        raise ValueError
    return tuple(sorted(versions))


def _read_module_id(text: str) -> str:
    try:
        Identity("-", text)
    except ConfigError as exc:
        raise ValueError from exc
    return text


_PROTOCOL: Final = Kind(parse_protocol, PROTOCOLS)
_LEVEL: Final = Kind(_read_level, "verbose, debug, info, warning, error or fatal")
_TLS_LIST: Final = Kind(_read_tls, "tls1.2, tls1.3 or both with a comma; older versions are broken")
_MODULE: Final = Kind(_read_module_id, "the id of a module of this edge")
_BRIDGE_MESSAGES: Final = Kind(_read_bridge_messages, "a whole number from 0 to 10000000")
_WHEN_FULL: Final = Kind(_read_when_full, "drop_new or drop_old")


_NO_ROCKSDB: Final = "messages are in SQLite, not in RocksDB"
_METRICS_PLACE: Final = "metrics are at HttpSettings__metrics_port, /metrics, in the reference too"
_AT_ONCE: Final = "changes are told as they happen, so nothing is asked for at intervals"
_NO_POOL: Final = "is about the insides of the reference"
_ONLY_AGENT: Final = "only edgeAgent reads it, in the reference too"

VARIABLES: Final = (
    obeyed(
        "MqttSettings__Enabled",
        "true",
        "mqtt_enabled",
        SWITCH,
        "false: no port 8883, and no MQTT over WebSocket on 443",
    ),
    obeyed(
        "AmqpSettings__Enabled",
        "true",
        "amqp_enabled",
        SWITCH,
        "false: no port 5671, and no AMQP over WebSocket on 443",
    ),
    obeyed(
        "AmqpSettings__Port",
        "5671",
        "amqp_port",
        whole(1, 65_535),
        "port of AMQP; hub.amqp_listen of the device goes before it",
    ),
    obeyed(
        "HttpSettings__Enabled", "true", "http_enabled", SWITCH, "false: no port 443, so no WebSocket either"
    ),
    obeyed(
        "HttpSettings__Port",
        "443",
        "http_port",
        whole(1, 65_535),
        "port of HTTPS and WebSocket; hub.web_listen of the device goes before it",
    ),
    obeyed(
        CLIENT_CERT_AUTH_ENABLED,
        "true",
        "client_cert_auth_enabled",
        SWITCH,
        "false: devices cannot prove themselves with a certificate",
    ),
    obeyed("SslProtocols", "tls1.2,tls1.3", "ssl_protocols", _TLS_LIST, "versions of TLS that are taken"),
    obeyed(
        MAX_CONNECTED_CLIENTS,
        "100",
        "max_connected_clients",
        whole(1, 1_000_000),
        "further clients are told to try again later (CONNACK 3; AMQP: amqp:resource-limit-exceeded)",
        "no limit but file descriptors and memory",
    ),
    obeyed(
        "MessageAckTimeoutSecs",
        "30",
        "message_ack_timeout_s",
        whole(1, DAY_S),
        "after so many seconds without any acknowledgement of a client, what it has not acknowledged is sent "
        "again",
    ),
    obeyed(
        "MessageCleanupIntervalSecs",
        "1800",
        "message_cleanup_interval_s",
        whole(30, DAY_S),
        "how often expired messages are removed from the disk; they are not sent in any case. Delivered ones "
        "go at once",
        "5",
    ),
    obeyed(
        "ReportedPropertiesSyncFrequencySecs",
        "5",
        "reported_properties_sync_s",
        whole(1, DAY_S),
        "how often `$edgeHub` reports its clients. What clients report goes on at once",
    ),
    obeyed(
        "RuntimeLogLevel",
        "info",
        "log_level",
        _LEVEL,
        "of edgeHub; what follows a comma is ignored",
        "log_level of the device",
    ),
    obeyed(
        "ShutdownWaitPeriod",
        "60",
        "shutdown_wait_s",
        whole(1, 3600),
        "seconds edgeHub may take to end before it is killed",
        "modules.stop_grace_s of the device",
    ),
    Variable(
        "StorageFolder",
        "folder for temporary files",
        Effect.OBEYED,
        "messages are in `edgeHub/hub.db` below it. A folder that is missing or cannot be written is "
        "refused; it is never replaced by another",
        default_here="the home",
    ),
    obeyed(
        "MqttSettings__MaxInboundMessageSize",
        "262144",
        "max_inbound_message_bytes",
        whole(4096, 262_144),
        "bytes of an MQTT packet; a longer one ends its connection",
    ),
    obeyed(
        "MqttSettings__MaxPendingInboundAcknowledgements",
        "16",
        "max_pending_inbound_acknowledgements",
        whole(1, 65_535),
        "a client with more messages that are not on disk yet is not read until they are",
        "no limit but 4 MiB of them",
    ),
    obeyed(
        "MqttSettings__MaxPendingOutboundMessages",
        "10",
        "max_pending_outbound_messages",
        whole(1, 65_535),
        "messages of a module's input that are sent before the first of them is acknowledged",
        "2000, or 2 MiB",
    ),
    obeyed(
        "MqttSettings__MaxOutboundRetransmissionCount",
        "2",
        "max_outbound_retransmissions",
        whole(0, 1_000_000),
        "a client that acknowledges nothing after so many repetitions is disconnected",
        "no limit",
    ),
    obeyed(
        "MqttSettings__ConnectArrivalTimeout",
        "00:01:00",
        "connect_arrival_timeout_s",
        span(1, 3600, "a time from 00:00:01 to 01:00:00"),
        "from the end of the TLS handshake to CONNECT",
        "00:00:05",
    ),
    obeyed(
        "MqttSettings__MaxKeepAliveTimeout",
        "00:10:00",
        "max_keep_alive_timeout_s",
        span(1, DAY_S, "a time from 00:00:01 to 1.00:00:00"),
        "silence after which any client is disconnected, also one without keep-alive",
    ),
    obeyed(
        "NestedEdgeEnabled",
        "true",
        "nested_edge_enabled",
        SWITCH,
        "false: hubs of edges below this one cannot connect for their clients, which come by themselves",
    ),
    obeyed(
        "ApiProxyModuleId",
        "IoTEdgeAPIProxy",
        "api_proxy_module_id",
        _MODULE,
        "of the one module that may pass on the certificate of a client of its own, over WebSocket",
    ),
    obeyed(
        "CloudConnectionIdleTimeoutSecs",
        "3600",
        "cloud_idle_timeout_s",
        whole(1, 30 * DAY_S),
        "seconds after which the connection to the cloud of a client is closed that has no use for it",
    ),
    obeyed(
        "CloseCloudConnectionOnIdleTimeout",
        "true",
        "closes_idle_cloud_connections",
        SWITCH,
        "false: it stays open, until the place is wanted for another",
    ),
    obeyed(
        "CloseCloudConnectionOnDeviceDisconnect",
        "true",
        "closes_cloud_connection_with_client",
        SWITCH,
        "false: it stays open until it is idle for so long. What waits for the cloud opens it in any case",
    ),
    obeyed(
        "CloudOperationTimeoutSecs",
        "20",
        "cloud_operation_timeout_s",
        whole(5, 3600),
        "a connection to the cloud on which nothing moves for so many seconds, though an answer is due, is "
        "built anew; large messages on a slow line get more",
    ),
    obeyed(
        "UpstreamProtocol",
        "Amqp, else AmqpWs",
        "upstream_protocol",
        _PROTOCOL,
        "how edgeHub speaks to the cloud: AMQP on port 5671, MQTT on 8883, either through WebSocket on 443",
        "that of edgeAgent, else agent.env.UpstreamProtocol of the device",
    ),
    obeyed(
        "MaxUpstreamBatchSize",
        "10",
        "upstream_batch_messages",
        whole(1, 1000),
        "messages of one sender that go to the cloud together over AMQP: those that came while others were "
        "on their way; none is waited for. MQTT has no batches",
        "250, or 240 KiB",
    ),
    obeyed(
        "MqttBroker__MaxInflightMessages",
        "16",
        "broker_max_in_flight",
        whole(0, MOST_IN_FLIGHT),
        "messages of the MQTT broker to one client that are sent before the first of them is acknowledged; "
        "0: any number",
    ),
    obeyed(
        "MqttBroker__MaxQueuedMessages",
        "1000",
        "broker_max_queued",
        whole(0, MOST_IN_FLIGHT),
        "messages of the MQTT broker that wait for one client; 0: any number. 64 MiB of all clients together "
        "are the limit in any case",
    ),
    obeyed(
        "MqttBroker__MaxQueuedBytes",
        "0",
        "broker_max_queued_bytes",
        whole(0, MOST_QUEUED_BYTES),
        "bytes of messages of the MQTT broker that wait for one client; 0: no limit of its own",
    ),
    obeyed(
        "MqttBroker__WhenFull",
        "drop_new",
        "broker_drops_oldest",
        _WHEN_FULL,
        "drop_old: of a full queue the oldest message goes, else the new one does not come in",
    ),
    obeyed(
        "MqttBridge__StorageMaxFileSize",
        "33554432",
        "bridge_max_bytes",
        whole(1024, MAX_BRIDGE_BYTES),
        "bytes that wait in one direction of one bridge; full, new messages to the other broker are dropped, "
        "and those from it wait there",
    ),
    obeyed(
        "MqttBridge__StorageMaxMessages",
        "0",
        "bridge_max_messages",
        _BRIDGE_MESSAGES,
        "messages that wait in one direction of one bridge; 0: as many as their bytes allow",
    ),
    unused(
        "MqttBridge__StorageFlushOptions",
        "aftereachwrite",
        "what a bridge has acknowledged is on disk, always",
    ),
    obeyed(
        "HttpSettings__metrics_port",
        "9600",
        "metrics_port",
        whole(1, 65535),
        "port of the metrics of edgeHub, on loopback and in the network of our containers; none without "
        "HttpSettings__Enabled",
    ),
    obeyed(
        "Metrics__Listener__MetricsEnabled",
        "true",
        "metrics_enabled",
        SWITCH,
        "false: no metrics of edgeHub, and nothing counted for them",
    ),
    obeyed(
        "Metrics__Listener__MetricsHistogramMaxAge",
        "01:00:00",
        "metrics_histogram_max_age_s",
        span(1, 7 * DAY_S, "a time from 00:00:01 to 7.00:00:00"),
        "how far the quantiles of message sizes look back",
    ),
    unused("Metrics__Listener__Host", "*", _METRICS_PLACE),
    unused("Metrics__Listener__Port", "9600", _METRICS_PLACE),
    unused("Metrics__Listener__Suffix", "metrics", _METRICS_PLACE),
    refused(
        "AuthenticationMode", "Scope", "identities are judged by what this edge knows, as Scope", "scope"
    ),
    refused(
        "UsePersistentStorage",
        "true",
        "what was acknowledged is on disk, always; name a faster place with StorageFolder",
        "true",
    ),
    refused("storeAndForwardEnabled", "true", "what was acknowledged is on disk, always", "true"),
    refused(
        "storeAndForward__timeToLiveSecs",
        "-1",
        "storeAndForwardConfiguration.timeToLiveSecs of '$edgeHub' says how long messages are kept",
    ),
    refused("ConfigSource", "twin", "routes are those of the deployment", "twin"),
    refused("Https_Proxy", "none", "the link to the cloud takes no proxy"),
    refused(
        "EncryptTwinStore",
        "true",
        "twins are in a file that only the user of the edge can read; encrypt the disk",
        "false",
    ),
    refused(
        "MqttSettings__DefaultPublishToClientQoS",
        "1",
        "clients get messages at the quality of service that they subscribed with, 1 at most",
        "1",
    ),
    unused("MqttSettings__DeviceReceiveAckTimeout", "0", "MessageAckTimeoutSecs says when is sent again"),
    unused("MqttSettings__MaxPendingInboundMessages", "10", "what is not on disk yet is bounded by bytes"),
    unused("MqttSettings__UsePooledBuffers", "false", _NO_POOL),
    unused(
        "AmqpSettings__DelayedBatchingEnabled",
        "false",
        "dispositions leave when messages are on disk, those of one read together",
    ),
    unused("CacheTokens", "false", "identities are on disk, so clients connect offline with any valid token"),
    unused("CheckEntireQueueOnCleanup", "false", "expired messages are found wherever they are"),
    unused("UpstreamFanOutFactor", "10", "all senders are served in turns"),
    unused(
        "IotHubConnectionPoolSize", "1", "over AMQP all identities share one connection, up to 900 of them"
    ),
    unused("UseServerHeartbeat", "true", "the cloud is always looked for when it is silent"),
    unused("CloudConnectionHangingTimeoutSecs", "50", "CloudOperationTimeoutSecs says when one hangs"),
    unused("ConnectivityCheckFrequencySecs", "300", "the connections themselves tell that"),
    unused("ConfigRefreshFrequencySecs", "3600", _AT_ONCE),
    unused("DeviceScopeCacheRefreshRateSecs", "3600", _AT_ONCE),
    unused("DeviceScopeCacheRefreshDelaySecs", "120", _AT_ONCE),
    unused("MinTwinSyncPeriodSecs", "120", _AT_ONCE),
    unused("BackupFolder", "folder for temporary files", "there is no storage in memory to be backed up"),
    unused("EnableNonPersistentStorageBackup", "false", "there is no storage in memory to be backed up"),
    unused("OptimizeForPerformance", "true", _NO_ROCKSDB),
    unused("RocksDB_MaxOpenFiles", "5000", _NO_ROCKSDB),
    unused("RocksDB_MaxTotalWalSize", "512 MiB", _NO_ROCKSDB),
    unused("RocksDB_MaxManifestFileSize", "64 MiB", _NO_ROCKSDB),
    unused("Storage_LogLevel", "NONE", _NO_ROCKSDB),
    unused("EnableRoutingLogging", "false", "`edge-actors trace` shows the way of a message"),
    unused("EnableSdkDebugLogs", "false", "there is no Azure SDK in this hub"),
    unused("ServerCertificateRenewAfterInMs", "2147483647", "certificates are renewed without a restart"),
    unused("MaxCheckCertExpiryInMs", "none", "certificates are renewed without a restart"),
    unused("ModuleRequestThrottleTimeout", "240", _ONLY_AGENT),
    unused("TrackDeviceState", "true", "identities that are gone or disabled are cut off, always"),
    unused("TwinManagerVersion", "v2", _NO_POOL),
    unused("protocolTimeoutInSecs", "180", "ShutdownWaitPeriod says how long the end may take"),
    unused("experimentalFeatures__enabled", "false", "there are no experimental features"),
    unused("experimentalFeatures__disableCloudSubscriptions", "false", "there are no experimental features"),
    unused("experimentalFeatures__disableConnectivityCheck", "false", "there are no experimental features"),
    unused(
        "experimentalFeatures__mqttBrokerEnabled",
        "false",
        "the broker is on when the deployment's `$edgeHub` has `mqttBroker`",
    ),
)


def parse_environment(environment: Mapping[str, str]) -> ReadEnvironment:
    """Read the environment of `edgeHub` as the manifest has it. Blank values count as left out."""
    values, problems, notes = read_variables(VARIABLES, environment, "edgeHub")
    return ReadEnvironment(HubEnvironment(**values), problems, notes)
