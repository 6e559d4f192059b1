"""Every setting of the edge: one frozen dataclass, read once.

A setting comes from the command line, else from the environment (`EDGE_ACTORS_…`), else it has its default.
The device id is also kept in `HOME/device.json` from the first start on, so that a new host name does not
make it another device.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from actors.upstream_protocol import DEFAULT as DEFAULT_PROTOCOL
from actors.upstream_protocol import UpstreamProtocol, parse_protocol
from messaging.connection_string import ConnectionString
from messaging.errors import ConfigError, EnvironmentFault
from messaging.nearest import did_you_mean
from runtime import link_settings, system_service
from runtime.device_credentials import HOST_NAME
from runtime.link_settings import DPS_HOST, HTTPS_PORT, Given

PREFIX = "EDGE_ACTORS_"
# What the runtime hands to its own processes, and the command line's switch for tracebacks: no settings.
RUNTIME_VARIABLES = frozenset(
    {"EDGE_ACTORS_RUN", "EDGE_ACTORS_MODULE", "EDGE_ACTORS_LISTEN_FDS", "EDGE_ACTORS_DEBUG"}
)

DEVICE_FILE = "device.json"
MQTT_TLS_PORT = 8883
AMQP_TLS_PORT = 5671
MQTT_PLAIN_PORT = 1883
WEB_PORT = 443
MOST_CLOUD_CONNECTIONS = 100
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_STOP_GRACE_S = 3600.0
ISOLATION = ("auto", "require", "off")
# Below the user ids that systemd gives to services with DynamicUser=, above those of people; below 65,536,
# because a container often has no others. Source: systemd.io/UIDS-GIDS
MODULE_UIDS = range(60_600, 61_184)

# IoT Hub also takes + and #, which cannot stand in the topics that a device publishes to.
# Source: learn.microsoft.com: azure/iot-hub/iot-hub-devguide-identity-registry, device identity properties.
_DEVICE_ID = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']{1,128}")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An IP address and a TCP port; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback


def default_home() -> Path:
    """Return where an edge keeps its state unless told otherwise.

    Raises:
        ConfigError: The user is not root and has no home folder.
    """
    uid = os.geteuid()
    if uid == 0 or system_service.is_user(uid):
        return system_service.HOME
    state = os.environ.get("XDG_STATE_HOME", "")
    # Relative paths in XDG variables are to be ignored. Source: XDG Base Directory Specification 0.8.
    if Path(state).is_absolute():
        return Path(state) / "edge-actors"
    try:
        return Path.home() / ".local/state/edge-actors"
    except RuntimeError as exc:
        raise ConfigError("this user has no home folder; say where to keep state with --home") from exc


# --- Readers: text to value, or ValueError with what is allowed ---


def _home(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as exc:  # ~name of a user that does not exist
        raise ValueError(f"a path; {exc}") from exc


def _device_id(text: str) -> str:
    if not _DEVICE_ID.fullmatch(text):
        raise ValueError("1 to 128 letters, digits and - . % _ * ? ! ( ) , : = @ $ '")
    return text


def _host_name(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        raise ValueError("a host name of letters, digits, '-' and '.', or an IPv4 address")
    return text


def _address(text: str, default_port: int) -> ListenAddress:
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


def _listen(text: str, default_port: int = MQTT_TLS_PORT) -> tuple[ListenAddress, ...]:
    addresses = tuple(_address(part.strip(), default_port) for part in text.split(","))
    if len(set(addresses)) < len(addresses):
        raise ValueError("each address once")
    return addresses


def _web_listen(text: str) -> tuple[ListenAddress, ...]:
    return _listen_or_off(text, WEB_PORT)


def _amqp_listen(text: str) -> tuple[ListenAddress, ...]:
    return _listen_or_off(text, AMQP_TLS_PORT)


def _listen_or_off(text: str, default_port: int) -> tuple[ListenAddress, ...]:
    if text == "off":
        return ()
    try:
        return _listen(text, default_port)
    except ValueError as exc:
        raise ValueError(f"{exc}; or off") from None


def _plain_listen(text: str) -> ListenAddress | None:
    if text == "off":
        return None
    address = _address(text, MQTT_PLAIN_PORT)
    if not address.is_loopback:
        raise ValueError("a loopback address such as 127.0.0.1:1883, or off; others need TLS")
    return address


def _stop_grace_s(text: str) -> float:
    allowed = f"a number of seconds from 0 to {MAX_STOP_GRACE_S:g}"
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(allowed) from None
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_STOP_GRACE_S:
        raise ValueError(allowed)
    return seconds


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= 100_000:
        raise ValueError("a whole number from 1 to 100000")
    return int(text)


def _messages_per_s(text: str) -> float | None:
    if text == "off":
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 1e6:  # not a number is neither
        raise ValueError("a number from 0.1 to 1000000, or off")
    return number


def _certificate_file(text: str) -> Path:
    # The reference writes it as a URI. Source: spec sheet security-daemon.md section 5.4
    path = unquote(text.removeprefix("file://")) if text.startswith("file:///") else text
    if not path.startswith("/") or "\0" in path:
        raise ValueError("the absolute path of a PEM file, such as /etc/ca.pem or file:///etc/ca.pem")
    return Path(path)


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"{', '.join(LOG_LEVELS)}{did_you_mean(text, LOG_LEVELS)}")
    return text.lower()


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def _span_s(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("a whole number with a unit: s, m, h or d, such as 12h or 7d")
    return float(int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]])


def _time_of_day(text: str) -> time_of_day | None:
    if text.strip().lower() == "any":
        return None
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", text.strip())
    if match is None:
        raise ValueError("HH:MM from 00:00 to 23:59, or any")
    return time_of_day(int(match[1]), int(match[2]))


def _trial_s(text: str) -> float:
    return 0.0 if text.strip().lower() == "off" else _span_s(text)


def _process_allow(text: str) -> tuple[tuple[str, ...], ...]:
    allowed = "command lines separated by ';', each with the absolute path of its program"
    try:
        lines = tuple(tuple(shlex.split(line)) for line in text.split(";") if line.strip())
    except ValueError as exc:
        raise ValueError(f"{allowed}; {exc}") from None
    if not all(line and line[0].startswith("/") for line in lines):
        raise ValueError(allowed)
    return lines


def _process_isolation(text: str) -> str:
    if text.lower() not in ISOLATION:
        raise ValueError(f"{', '.join(ISOLATION)}{did_you_mean(text, ISOLATION)}")
    return text.lower()


def _process_uids(text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    # 65534 and 65535 mean nobody, 4294967295 means no change.
    if match is None or not 1000 <= int(match[1]) <= int(match[2]) < 2**32 - 1:
        raise ValueError("FIRST-LAST, user ids from 1000 on that nobody else has")
    return range(int(match[1]), int(match[2]) + 1)


# --- The settings ---


@dataclass(frozen=True, slots=True)
class About:
    """What a user wants to know of one setting, and how its text is read."""

    read: Callable[[str], Any]
    default: str
    unit: str
    help: str


def _about(read: Callable[[str], Any], *, default: str, unit: str, help: str) -> dict[str, About]:
    return {"about": About(read, default, unit, help)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run of the edge. Made by `read_settings`."""

    home: Path = field(
        metadata=_about(
            _home,
            default="/var/lib/edge-actors for root, else ~/.local/state/edge-actors",
            unit="folder",
            help="where all state is kept: databases, keys, certificates, logs",
        )
    )
    device_id: str = field(
        metadata=_about(
            _device_id,
            default="the host's name at the first start, then HOME/device.json",
            unit="text",
            help="the id of this device at IoT Hub",
        )
    )
    iothub_hostname: str = field(
        metadata=_about(
            _host_name,
            default="iothub.edge-actors.internal",
            unit="host name",
            help="the IoT Hub this device belongs to; tokens are issued for it",
        )
    )
    hostname: str = field(
        metadata=_about(
            _host_name,
            default="localhost, or the address, if only loopback is listened on, else the host's name",
            unit="host name",
            help="the name under which clients reach this edge (GatewayHostName)",
        )
    )
    listen: tuple[ListenAddress, ...] = field(
        metadata=_about(
            _listen,
            default="127.0.0.1:8883",
            unit="ADDRESS[:PORT], several with commas",
            help="where the hub accepts MQTT over TLS; device SDKs always use port 8883",
        )
    )
    web_listen: tuple[ListenAddress, ...] | None = field(
        metadata=_about(
            _web_listen,
            default="port 443 of the addresses of listen, as far as it is to be had",
            unit="ADDRESS[:PORT], several with commas, or off",
            help="where the hub accepts HTTPS, and MQTT and AMQP over WebSocket; device SDKs use port 443",
        )
    )
    amqp_listen: tuple[ListenAddress, ...] | None = field(
        metadata=_about(
            _amqp_listen,
            default="port 5671 of the addresses of listen, as far as it is to be had",
            unit="ADDRESS[:PORT], several with commas, or off",
            help="where the hub accepts AMQP over TLS; device SDKs always use port 5671",
        )
    )
    plain_listen: ListenAddress | None = field(
        metadata=_about(
            _plain_listen,
            default="off",
            unit="ADDRESS[:PORT] or off",
            help="where the hub accepts MQTT without TLS, for benches; loopback only",
        )
    )
    stop_grace_s: float = field(
        metadata=_about(
            _stop_grace_s,
            default="10",
            unit="seconds",
            help="how long a module may take to end after SIGTERM before it is killed",
        )
    )
    process_allow: tuple[tuple[str, ...], ...] = field(
        metadata=_about(
            _process_allow,
            default="none",
            unit="command lines separated by ';', a last word * allows any further words",
            help="which commands a deployment from the cloud may run as process modules",
        )
    )
    process_isolation: str = field(
        metadata=_about(
            _process_isolation,
            default="auto",
            unit="one of auto, require, off",
            help="whether each process module runs as a user of its own: where possible, always, never",
        )
    )
    process_uids: range = field(
        metadata=_about(
            _process_uids,
            default=f"{MODULE_UIDS.start}-{MODULE_UIDS.stop - 1}",
            unit="FIRST-LAST",
            help="from which user ids process modules get theirs; those with an account are left out",
        )
    )
    start_when_ready: bool = field(
        metadata=_about(
            _switch,
            default="false",
            unit="true or false",
            help="whether modules start when those of a lower startupOrder are healthy, or connected",
        )
    )
    deployment_trial: float = field(
        metadata=_about(
            _trial_s,
            default="off",
            unit="seconds with s, or m, h, d, or off",
            help="for how long what a deployment changes has to stay up, or else the last one returns",
        )
    )
    allow_elevated_docker_permissions: bool = field(
        metadata=_about(
            _switch,
            default="true",
            unit="true or false",
            help="whether containers get rights over this machine that their createOptions ask for",
        )
    )
    image_gc_enabled: bool = field(
        metadata=_about(
            _switch,
            default="true",
            unit="true or false",
            help="whether images that were pulled for modules and are used no more are removed",
        )
    )
    image_gc_interval: float = field(
        metadata=_about(
            _span_s,
            default="1d",
            unit="seconds with s, or m, h, d",
            help="how often is looked for images to remove",
        )
    )
    image_gc_threshold: float = field(
        metadata=_about(
            _span_s,
            default="7d",
            unit="seconds with s, or m, h, d",
            help="for how long an image has to be unused before it is removed",
        )
    )
    image_gc_time: time_of_day | None = field(
        metadata=_about(
            _time_of_day,
            default="any",
            unit="HH:MM, local time, or any",
            help="at which time of day is looked for images to remove",
        )
    )
    trust_bundle_cert: Path | None = field(
        metadata=_about(
            _certificate_file,
            default="none",
            unit="PEM file, or its file:/// URI",
            help="CA certificates besides the edge's own that modules trust and devices may be signed by",
        )
    )
    storage_folder: Path | None = field(
        metadata=_about(
            _home,
            default="the StorageFolder of edgeHub in the deployment, else the home",
            unit="folder",
            help="where messages are kept, in edgeHub/hub.db below it; it has to be there",
        )
    )
    connection_string: ConnectionString | None = field(
        default=None,
        metadata=_about(
            link_settings.connection_string,
            default="none: as in the last run",
            unit="connection string of the edge device",
            help="as which device this edge is known at which IoT Hub; better in a file",
        ),
    )
    connection_string_file: Path | None = field(
        default=None,
        metadata=_about(
            link_settings.file_or_input,
            default="none",
            unit="file, or - for standard input",
            help="the file that holds the connection string; what it says is kept in the home from then on",
        ),
    )
    dps_endpoint: tuple[str, int] = field(
        default=(DPS_HOST, HTTPS_PORT),
        metadata=_about(
            link_settings.dps_endpoint,
            default=DPS_HOST,
            unit="HOST[:PORT]",
            help="the Device Provisioning Service that assigns this device to an IoT Hub",
        ),
    )
    dps_id_scope: str = field(
        default="",
        metadata=_about(
            link_settings.id_scope,
            default="none",
            unit="text",
            help="the id scope of the provisioning service",
        ),
    )
    dps_registration_id: str = field(
        default="",
        metadata=_about(
            link_settings.registration_id,
            default="none",
            unit="text",
            help="as what this device registers there; in small letters",
        ),
    )
    dps_key_file: Path | None = field(
        default=None,
        metadata=_about(
            link_settings.file_or_input,
            default="none",
            unit="file, or - for standard input",
            help="the file that holds the symmetric key of this device for the provisioning service",
        ),
    )
    cloud_ca: Path | None = field(
        default=None,
        metadata=_about(
            _certificate_file,
            default="none: the authorities of the system",
            unit="PEM file, or its file:/// URI",
            help="CA certificates that the cloud is trusted by besides those of the system",
        ),
    )
    cloud_https_port: int = field(
        default=HTTPS_PORT,
        metadata=_about(
            link_settings.port,
            default=str(HTTPS_PORT),
            unit="number from 1 to 65535",
            help="where the IoT Hub answers HTTPS; Azure's is 443",
        ),
    )
    cloud_connections: int = field(
        default=MOST_CLOUD_CONNECTIONS,
        metadata=_about(
            _count,
            default=str(MOST_CLOUD_CONNECTIONS),
            unit="number from 1 to 100000",
            help="how many devices and modules are connected to the cloud at a time; others take turns",
        ),
    )
    cloud_messages_per_s: float | None = field(
        default=None,
        metadata=_about(
            _messages_per_s,
            default="as fast as they go",
            unit="messages a second, or off",
            help="how fast messages go to the cloud at most, all senders together",
        ),
    )
    upstream_protocol: UpstreamProtocol = field(
        default=DEFAULT_PROTOCOL,
        metadata=_about(
            parse_protocol,
            default=DEFAULT_PROTOCOL.value,
            unit="one of Amqp, AmqpWs, Mqtt, MqttWs",
            help="how the edge speaks to the cloud; a deployment may say otherwise for edgeHub and edgeAgent",
        ),
    )
    log_level: str = field(
        metadata=_about(
            _log_level,
            default="info",
            unit="one of debug, info, warning, error",
            help="how much the edge logs",
        )
    )
    # Which settings somebody set; the others have their defaults.
    given: frozenset[str] = field(default=frozenset(), compare=False)


_NAMES = tuple(item.name for item in fields(Settings) if item.metadata)


def about(name: str) -> About:
    """Return what is known about the setting called `name`."""
    return next(cast(About, item.metadata["about"]) for item in fields(Settings) if item.name == name)


def variable(name: str) -> str:
    """Return the environment variable of the setting called `name`."""
    return PREFIX + name.upper()


def read_settings(
    options: Mapping[str, str | Sequence[str] | None],
    environment: Mapping[str, str],
    host_name: str | None = None,
) -> Settings:
    """Read all settings. Reads `HOME/device.json`, writes nothing.

    Args:
        options: What the command line gave, by setting name; None or an empty sequence is not given.
        environment: The environment variables; an empty one counts as not given.
        host_name: The name of this host; asked of the system by default.

    Raises:
        ConfigError: A value is not allowed (origin, value and what is allowed are named), a variable
            `EDGE_ACTORS_…` is unknown, the home belongs to another device, `device.json` makes no sense.
        EnvironmentFault: `device.json` cannot be read.
    """
    _refuse_unknown(environment)
    host_name = socket.gethostname() if host_name is None else host_name
    given = {name: _given(name, options, environment) for name in _NAMES}
    link = link_settings.chosen(given)

    def pick(name: str, default: Any) -> Any:
        found = given[name]
        return default if found is None else found.value

    home = pick("home", None) or default_home()
    listen = pick("listen", _listen("127.0.0.1"))
    return Settings(
        home=home,
        device_id=_device_id_of(home, link_settings.wanted_device_id(given, link), host_name),
        iothub_hostname=link_settings.iothub_hostname(given, link) or about("iothub_hostname").default,
        hostname=pick("hostname", default_hostname(listen, host_name)),
        listen=listen,
        web_listen=pick("web_listen", None),
        amqp_listen=pick("amqp_listen", None),
        plain_listen=pick("plain_listen", None),
        stop_grace_s=pick("stop_grace_s", float(about("stop_grace_s").default)),
        process_allow=pick("process_allow", ()),
        process_isolation=pick("process_isolation", about("process_isolation").default),
        process_uids=pick("process_uids", MODULE_UIDS),
        allow_elevated_docker_permissions=pick("allow_elevated_docker_permissions", True),
        start_when_ready=pick("start_when_ready", False),
        deployment_trial=pick("deployment_trial", 0.0),
        image_gc_enabled=pick("image_gc_enabled", True),
        image_gc_interval=pick("image_gc_interval", _span_s(about("image_gc_interval").default)),
        image_gc_threshold=pick("image_gc_threshold", _span_s(about("image_gc_threshold").default)),
        image_gc_time=pick("image_gc_time", None),
        trust_bundle_cert=pick("trust_bundle_cert", None),
        storage_folder=pick("storage_folder", None),
        log_level=pick("log_level", about("log_level").default),
        connection_string=None if link is None else link.value,
        connection_string_file=pick("connection_string_file", None),
        dps_endpoint=pick("dps_endpoint", (DPS_HOST, HTTPS_PORT)),
        dps_id_scope=pick("dps_id_scope", ""),
        dps_registration_id=pick("dps_registration_id", ""),
        dps_key_file=pick("dps_key_file", None),
        cloud_ca=pick("cloud_ca", None),
        cloud_https_port=pick("cloud_https_port", HTTPS_PORT),
        cloud_connections=pick("cloud_connections", MOST_CLOUD_CONNECTIONS),
        cloud_messages_per_s=pick("cloud_messages_per_s", None),
        upstream_protocol=pick("upstream_protocol", DEFAULT_PROTOCOL),
        given=frozenset(name for name, found in given.items() if found is not None),
    )


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


def _beside_mqtt(settings: Settings, port: int) -> tuple[ListenAddress, ...]:
    hosts = dict.fromkeys(address.host for address in settings.listen)
    taken = {*settings.listen, *(settings.web_listen or ())}
    return tuple(address for host in hosts if (address := ListenAddress(host, port)) not in taken)


def default_hostname(listen: Sequence[ListenAddress], host_name: str) -> str:
    """Return under which name clients reach this edge unless it is set."""
    # Debian gives the host's name the address 127.0.1.1, where nobody listens by default.
    only_loopback = all(address.is_loopback for address in listen)
    return local_name(listen) if only_loopback else _as_host_name(host_name)


def local_name(listen: Sequence[ListenAddress]) -> str:
    """Return under which name a process of this machine reaches the hub: localhost wherever that works."""
    for address in listen:
        if address.host in ("127.0.0.1", "0.0.0.0"):  # `localhost` need not mean ::1
            return "localhost"
    return listen[0].host


def remember_device(settings: Settings) -> None:
    """Write `HOME/device.json` unless it is there. The home exists and is locked by the caller.

    Raises:
        OSError: The home cannot be written.
    """
    path = settings.home / DEVICE_FILE
    if path.exists():
        return
    fresh = path.with_suffix(".new")
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump({"deviceId": settings.device_id}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _given(
    name: str, options: Mapping[str, str | Sequence[str] | None], environment: Mapping[str, str]
) -> Given | None:
    option = options.get(name)
    origin = f"--{name.replace('_', '-')}"
    text = option if isinstance(option, str) else ",".join(option) if option else None
    if text is None:
        origin, text = variable(name), environment.get(variable(name)) or None
    if text is None:
        return None
    try:
        return Given(about(name).read(text), origin)
    except ValueError as exc:
        raise ConfigError(f"{origin}: {text!r} is not allowed; allowed: {exc}") from exc


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {variable(name) for name in _NAMES}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known | RUNTIME_VARIABLES:
            hint = did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
            raise ConfigError(f"{name}: no such setting{hint}")


def _device_id_of(home: Path, wanted: Given | None, host_name: str) -> str:
    kept = kept_device_id(home)
    if wanted is None:
        return kept or re.sub(r"[^A-Za-z0-9.-]", "-", host_name)[:128] or "edge-device"
    if kept is not None and kept != wanted.value:
        raise ConfigError(
            f"{wanted.origin}: {wanted.value!r} is not allowed; the home {home} belongs to device {kept!r}; "
            "choose another --home, or remove this one with `edge-actors down --purge`"
        )
    return cast(str, wanted.value)


def kept_device_id(home: Path) -> str | None:
    """Return the id of the device that a home belongs to, None for a new one.

    Raises:
        ConfigError: what is kept makes no sense.
        EnvironmentFault: it cannot be read.
    """
    path = home / DEVICE_FILE
    try:
        return _device_id(json.loads(path.read_text(encoding="utf-8"))["deviceId"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise EnvironmentFault(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(
            f'{path}: not of the form {{"deviceId": "…"}}; write the id of this device into it again'
        ) from exc


def _as_host_name(host_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", host_name)[:253].strip("-.") or "localhost"
