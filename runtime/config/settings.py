"""Every setting of the edge: one frozen dataclass, read once, by `runtime.config`.

One entry a setting, so this file is as long as their number.

Source: spec sheet security-daemon.md section 5.4 for the names in config.toml
"""

# ruff: noqa: RUF009  # `_setting` only makes the field

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Final, cast

from msgspec import Struct

from actors.manifest.registries import RegistryCredential
from actors.upstream.protocol import DEFAULT as DEFAULT_PROTOCOL
from actors.upstream.protocol import UpstreamProtocol, parse_protocol
from messaging.connection_string import ConnectionString
from runtime.config import link_settings, texts
from runtime.config import listen_addresses as addresses
from runtime.config.link_settings import DPS_HOST, HTTPS_PORT
from runtime.config.listen_addresses import MQTT_TLS_PORT, ListenAddress
from runtime.logs.levels import DEFAULT as DEFAULT_LEVEL
from runtime.logs.lines import TEXT
from runtime.security import renewal
from runtime.security.certificates import CA_VALID_DAYS
from runtime.security.renewal import DEFAULT_THRESHOLD, Threshold

PREFIX: Final = "EDGE_ACTORS_"
LOCAL_HUB: Final = "iothub.edge-actors.internal"
MOST_CLOUD_CONNECTIONS: Final = 100
# Below the user ids that systemd gives to services with DynamicUser=, above those of people; below 65,536,
# because a container often has no others. Source: systemd.io/UIDS-GIDS
MODULE_UIDS: Final = range(60_600, 61_184)


class About(Struct, frozen=True):
    """What a user wants to know of one setting, and how its text is read."""

    keys: tuple[str, ...]  # in config.toml, the usual one first; () for none
    kind: str  # of TOML value: see `config_file.KINDS`
    read: Callable[[str], Any]
    default: str
    unit: str
    help: str
    is_secret: bool


def _setting(
    read: Callable[[str], Any],
    *keys: str,
    value: Any = None,
    kind: str = "string",
    default: str,
    unit: str,
    help: str,
    is_secret: bool = False,
) -> Any:
    metadata = {"about": About(keys, kind, read, default, unit, help, is_secret)}
    return field(default=value, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run of the edge. Made by `runtime.config.read_settings`."""

    home: Path = _setting(
        texts.home,
        default="/var/lib/edge-actors for root, else ~/.local/state/edge-actors",
        unit="folder",
        help="where all state is kept: databases, keys, certificates, logs",
    )
    device_id: str = _setting(
        texts.device_id,
        "provisioning.device_id",
        default="the host's name at the first start, then HOME/device.json",
        unit="text",
        help="the id of this device at IoT Hub",
    )
    iothub_hostname: str = _setting(
        texts.host_name,
        "provisioning.iothub_hostname",
        value=LOCAL_HUB,
        default=LOCAL_HUB,
        unit="host name",
        help="the IoT Hub this device belongs to; tokens are issued for it",
    )
    hostname: str = _setting(
        texts.host_name,
        "hostname",
        default="localhost, or the address, if only loopback is listened on, else the host's name",
        unit="host name",
        help="the name under which clients reach this edge (GatewayHostName)",
    )
    listen: tuple[ListenAddress, ...] = _setting(
        addresses.listen,
        "hub.listen",
        value=(ListenAddress("127.0.0.1", MQTT_TLS_PORT),),
        kind="strings",
        default="127.0.0.1:8883",
        unit="ADDRESS[:PORT], several with commas",
        help="where the hub accepts MQTT over TLS; device SDKs always use port 8883",
    )
    web_listen: tuple[ListenAddress, ...] | None = _setting(
        addresses.web_listen,
        "hub.web_listen",
        kind="strings",
        default="port 443 of the addresses of listen, as far as it is to be had",
        unit="ADDRESS[:PORT], several with commas, or off",
        help="where the hub accepts HTTPS, and MQTT and AMQP over WebSocket; device SDKs use port 443",
    )
    amqp_listen: tuple[ListenAddress, ...] | None = _setting(
        addresses.amqp_listen,
        "hub.amqp_listen",
        kind="strings",
        default="port 5671 of the addresses of listen, as far as it is to be had",
        unit="ADDRESS[:PORT], several with commas, or off",
        help="where the hub accepts AMQP over TLS; device SDKs always use port 5671",
    )
    plain_listen: ListenAddress | None = _setting(
        addresses.plain_listen,
        "hub.plain_listen",
        default="off",
        unit="ADDRESS[:PORT] or off",
        help="where the hub accepts MQTT without TLS, for benches; loopback only",
    )
    storage_folder: Path | None = _setting(
        texts.home,
        "hub.storage_folder",
        default="the StorageFolder of edgeHub in the deployment, else the home",
        unit="folder",
        help="where messages are kept, in edgeHub/hub.db below it; it has to be there",
    )
    bridge_settings: Path | None = _setting(
        texts.home,
        "hub.bridge_settings",
        default="HOME/bridges.toml",
        unit="file",
        help="addresses and credentials of the brokers that bridges of the MQTT broker connect to",
    )
    stop_grace_s: float = _setting(
        texts.stop_grace_s,
        "modules.stop_grace_s",
        value=10.0,
        kind="number",
        default="10",
        unit="seconds",
        help="how long a module may take to end after SIGTERM before it is killed",
    )
    start_when_ready: bool = _setting(
        texts.switch,
        "modules.start_when_ready",
        value=False,
        kind="boolean",
        default="false",
        unit="true or false",
        help="whether modules start when those of a lower startupOrder are healthy, or connected",
    )
    deployment_trial: float = _setting(
        texts.trial_s,
        "modules.deployment_trial",
        value=0.0,
        default="off",
        unit="seconds with s, or m, h, d, or off",
        help="for how long what a deployment changes has to stay up, or else the last one returns",
    )
    process_allow: tuple[tuple[str, ...], ...] = _setting(
        texts.process_allow,
        "process_modules.allow",
        value=(),
        kind="commands",
        default="none",
        unit="command lines separated by ';', a last word * allows any further words",
        help="which commands a deployment from the cloud may run as process modules",
    )
    process_isolation: str = _setting(
        texts.process_isolation,
        "process_modules.isolation",
        value="auto",
        default="auto",
        unit="one of auto, require, off",
        help="whether each process module runs as a user of its own: where possible, always, never",
    )
    process_uids: range = _setting(
        texts.process_uids,
        "process_modules.uids",
        value=MODULE_UIDS,
        default=f"{MODULE_UIDS.start}-{MODULE_UIDS.stop - 1}",
        unit="FIRST-LAST",
        help="from which user ids process modules get theirs; those with an account are left out",
    )
    allow_elevated_docker_permissions: bool = _setting(
        texts.switch,
        "allow_elevated_docker_permissions",
        value=True,
        kind="boolean",
        default="true",
        unit="true or false",
        help="whether containers get rights over this machine that their createOptions ask for",
    )
    image_gc_enabled: bool = _setting(
        texts.switch,
        "image_garbage_collection.enabled",
        value=True,
        kind="boolean",
        default="true",
        unit="true or false",
        help="whether images that were pulled for modules and are used no more are removed",
    )
    image_gc_interval: float = _setting(
        texts.span_s,
        "image_garbage_collection.cleanup_recurrence",
        value=86_400.0,
        default="1d",
        unit="seconds with s, or m, h, d",
        help="how often is looked for images to remove",
    )
    image_gc_threshold: float = _setting(
        texts.span_s,
        "image_garbage_collection.image_age_cleanup_threshold",
        value=604_800.0,
        default="7d",
        unit="seconds with s, or m, h, d",
        help="for how long an image has to be unused before it is removed",
    )
    image_gc_time: time_of_day | None = _setting(
        texts.time_of_day,
        "image_garbage_collection.cleanup_time",
        default="any",
        unit="HH:MM, local time, or any",
        help="at which time of day is looked for images to remove",
    )
    trust_bundle_cert: Path | None = _setting(
        texts.pem_file,
        "trust_bundle_cert",
        default="none",
        unit="PEM file, or its file:/// URI",
        help="CA certificates besides the edge's own that modules trust and devices may be signed by",
    )
    edge_ca_cert: Path | None = _setting(
        texts.pem_file,
        "edge_ca.cert",
        default="none: the edge makes its own CA",
        unit="PEM file, or its file:/// URI",
        help="the certificate of the edge CA, then those above it; never renewed by the edge",
    )
    edge_ca_pk: Path | None = _setting(
        texts.pem_file,
        "edge_ca.pk",
        default="none",
        unit="PEM file, or its file:/// URI",
        help="the private key of the certificate in edge_ca.cert",
    )
    edge_ca_expiry_days: int = _setting(
        texts.days,
        "edge_ca.auto_generated_edge_ca_expiry_days",
        "edge_ca.expiry_days",
        value=CA_VALID_DAYS,
        kind="integer",
        default=str(CA_VALID_DAYS),
        unit="days from 1 to 3650",
        help="for how long an edge CA that the edge makes itself is valid",
    )
    edge_ca_common_name: str = _setting(
        texts.common_name,
        "edge_ca.common_name",
        "edge_ca.subject.CN",
        value="",
        default="aziot-edge CA DEVICE",
        unit="text of at most 64 bytes",
        help="the subject of an edge CA that the edge makes itself",
    )
    edge_ca_renewal_threshold: Threshold = _setting(
        renewal.threshold,
        "edge_ca.auto_renew.threshold",
        value=DEFAULT_THRESHOLD,
        default="80%",
        unit="N%, Nmin or Nday",
        help="when the edge CA is renewed: at that share of its life, or so long before its end",
    )
    edge_ca_rotate_key: bool = _setting(
        texts.switch,
        "edge_ca.auto_renew.rotate_key",
        value=True,
        kind="boolean",
        default="true",
        unit="true or false",
        help="whether a renewed edge CA has a new key; with the old one, clients need no new CA",
    )
    connection_string: ConnectionString | None = _setting(
        link_settings.connection_string,
        "provisioning.connection_string",
        default="none: as in the last run",
        unit="connection string of the edge device",
        help="as which device this edge is known at which IoT Hub; better in a file",
        is_secret=True,
    )
    connection_string_file: Path | None = _setting(
        link_settings.file_or_input,
        "provisioning.connection_string_file",
        default="none",
        unit="file, or - for standard input",
        help="the file that holds the connection string; what it says is kept in the home from then on",
    )
    device_key: str = _setting(
        link_settings.symmetric_key,
        "provisioning.authentication.device_id_pk.value",
        value="",
        default="none",
        unit="base64",
        help="the key of the device at its IoT Hub; better in a file",
        is_secret=True,
    )
    device_key_file: Path | None = _setting(
        link_settings.file_or_input,
        "provisioning.authentication.device_id_pk.uri",
        default="none",
        unit="file, or its file:/// URI",
        help="the file that holds the key of the device at its IoT Hub",
    )
    dps_endpoint: tuple[str, int] = _setting(
        link_settings.dps_endpoint,
        "provisioning.global_endpoint",
        value=(DPS_HOST, HTTPS_PORT),
        default=DPS_HOST,
        unit="HOST[:PORT]",
        help="the Device Provisioning Service that assigns this device to an IoT Hub",
    )
    dps_id_scope: str = _setting(
        link_settings.id_scope,
        "provisioning.id_scope",
        value="",
        default="none",
        unit="text",
        help="the id scope of the provisioning service",
    )
    dps_registration_id: str = _setting(
        link_settings.registration_id,
        "provisioning.attestation.registration_id",
        value="",
        default="none; with a certificate, its common name",
        unit="text",
        help="as what this device registers there; in small letters",
    )
    dps_key: str = _setting(
        link_settings.symmetric_key,
        "provisioning.attestation.symmetric_key.value",
        value="",
        default="none",
        unit="base64",
        help="the symmetric key of this device for the provisioning service; better in a file",
        is_secret=True,
    )
    dps_key_file: Path | None = _setting(
        link_settings.file_or_input,
        "provisioning.attestation.symmetric_key.uri",
        default="none",
        unit="file, or - for standard input",
        help="the file that holds the symmetric key of this device for the provisioning service",
    )
    dps_payload_file: Path | None = _setting(
        texts.json_file,
        "provisioning.payload.uri",
        default="none",
        unit="JSON file, or its file:/// URI",
        help="what the provisioning service is told besides, for an allocation of one's own",
    )
    identity_cert: Path | None = _setting(
        texts.pem_file,
        "provisioning.attestation.identity_cert",
        "provisioning.authentication.identity_cert",
        default="none",
        unit="PEM file, or its file:/// URI",
        help="the certificate by which this device proves itself to the provisioning service and its IoT Hub",
    )
    identity_pk: Path | None = _setting(
        texts.pem_file,
        "provisioning.attestation.identity_pk",
        "provisioning.authentication.identity_pk",
        default="none",
        unit="PEM file, or its file:/// URI",
        help="the private key of the certificate in identity_cert",
    )
    auto_reprovisioning_mode: str = _setting(
        link_settings.reprovisioning_mode,
        "auto_reprovisioning_mode",
        "provisioning.auto_reprovisioning_mode",
        value="Dynamic",
        default="Dynamic",
        unit="one of Dynamic, OnErrorOnly, AlwaysOnStartup",
        help="when the provisioning service is asked again: after a refusal by the IoT Hub, or at each start",
    )
    cloud_ca: Path | None = _setting(
        texts.pem_file,
        "cloud.ca",
        default="none: the authorities of the system",
        unit="PEM file, or its file:/// URI",
        help="CA certificates that the cloud is trusted by besides those of the system",
    )
    cloud_https_port: int = _setting(
        link_settings.port,
        "cloud.https_port",
        value=HTTPS_PORT,
        kind="integer",
        default=str(HTTPS_PORT),
        unit="number from 1 to 65535",
        help="where the IoT Hub answers HTTPS; Azure's is 443",
    )
    cloud_connections: int = _setting(
        texts.count,
        "cloud.connections",
        value=MOST_CLOUD_CONNECTIONS,
        kind="integer",
        default=str(MOST_CLOUD_CONNECTIONS),
        unit="number from 1 to 100000",
        help="how many devices and modules are connected to the cloud at a time; others take turns",
    )
    cloud_messages_per_s: float | None = _setting(
        texts.messages_per_s,
        "cloud.messages_per_s",
        kind="number",
        default="as fast as they go",
        unit="messages a second, or off",
        help="how fast messages go to the cloud at most, all senders together",
    )
    upstream_protocol: UpstreamProtocol = _setting(
        parse_protocol,
        "agent.env.UpstreamProtocol",
        value=DEFAULT_PROTOCOL,
        default=DEFAULT_PROTOCOL.value,
        unit="one of Amqp, AmqpWs, Mqtt, MqttWs",
        help="how the edge speaks to the cloud; a deployment may say otherwise for edgeHub and edgeAgent",
    )
    log_level: str = _setting(
        texts.log_level,
        "log_level",
        value=DEFAULT_LEVEL,
        default=DEFAULT_LEVEL,
        unit="debug, info, warning or error; for parts as well, such as info,actors.upstream=debug",
        help="how much the edge logs",
    )
    log_format: str = _setting(
        texts.log_format,
        "log_format",
        value=TEXT,
        default=TEXT,
        unit="text or json",
        help="how the log is written: one line for people, or one JSON object a line",
    )
    # Accounts at registries of container images; those of a deployment win.
    registry_credentials: tuple[RegistryCredential, ...] = ()
    # Which settings somebody set, and where; the others have their defaults.
    given: Mapping[str, str] = field(default_factory=dict, compare=False)
    # What the file says that has no effect here.
    remarks: tuple[str, ...] = field(default=(), compare=False)
    allow_faults: bool = False  # of --allow-faults alone: no file may open an edge to faults
    bridge: str = ""  # the address of this machine in the network of our containers, once there is one


_ABOUT: Final[Mapping[str, About]] = {
    item.name: cast(About, item.metadata["about"]) for item in fields(Settings) if item.metadata
}
NAMES: Final = tuple(_ABOUT)


def about(name: str) -> About:
    """Return what is known about the setting called `name`."""
    return _ABOUT[name]


def origin_of(settings: Settings, name: str) -> str:
    """Return who set it, for errors: file, line and key, or option or variable."""
    said = settings.given.get(name, variable(name))
    return f"{said}: {_ABOUT[name].keys[0]}" if said.startswith("/") else said


def variable(name: str) -> str:
    """Return the environment variable of the setting called `name`."""
    return PREFIX + name.upper()
