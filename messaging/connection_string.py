"""Connection strings: how a device or module is told where its hub is, who it is and its key."""

from __future__ import annotations

from dataclasses import dataclass, field

from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity
from messaging.nearest import did_you_mean
from messaging.sas import decode_key
from messaging.text import quoted

_REQUIRED = ("HostName", "DeviceId", "SharedAccessKey")
_KNOWN = ("HostName", "DeviceId", "ModuleId", "SharedAccessKey", "GatewayHostName")


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """The parts of a connection string; `format_connection_string` writes it."""

    host_name: str
    identity: Identity
    shared_access_key: str = field(repr=False)  # base64; "" for a device that has a certificate instead
    gateway_host_name: str | None = None  # the edge to connect to in the IoT Hub's place


def format_connection_string(parts: ConnectionString) -> str:
    """Return the text that an SDK takes. It holds the key: never log it."""
    fields = [("HostName", parts.host_name), ("DeviceId", parts.identity.device_id)]
    if parts.identity.module_id is not None:
        fields.append(("ModuleId", parts.identity.module_id))
    if parts.shared_access_key:
        fields.append(("SharedAccessKey", parts.shared_access_key))
    else:
        fields.append(("x509", "true"))
    if parts.gateway_host_name is not None:
        fields.append(("GatewayHostName", parts.gateway_host_name))
    return ";".join(f"{name}={value}" for name, value in fields)


def parse_connection_string(text: str) -> ConnectionString:
    """Read a connection string; one `;` at its end is let pass.

    Raises:
        ConfigError: a key is unknown, there twice or missing, or a value is not what its key asks for.
            The message shows no value but ids.
    """
    fields: dict[str, str] = {}
    for part in text.strip().removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals:
            raise ConfigError("connection string: a part is not of the form Name=value (parts end at ';')")
        if name not in _KNOWN:
            raise ConfigError(f"connection string: unknown key {quoted(name)}{_way_out(name)}")
        if name in fields:
            raise ConfigError(f"connection string: {name} is there twice")
        if not value:
            raise ConfigError(f"connection string: {name} is empty")
        fields[name] = value
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise ConfigError(f"connection string: {', '.join(missing)} missing")
    try:
        decode_key(fields["SharedAccessKey"])
        identity = Identity(fields["DeviceId"], fields.get("ModuleId"))
    except (AuthError, ConfigError) as exc:
        raise ConfigError(f"connection string: {exc}") from exc
    return ConnectionString(
        fields["HostName"], identity, fields["SharedAccessKey"], fields.get("GatewayHostName")
    )


def _way_out(name: str) -> str:
    return did_you_mean(name, _KNOWN) or f"; known are {', '.join(_KNOWN)}"
