"""Connection strings: how a device or module is told where its hub is, who it is and its key."""

from __future__ import annotations

from dataclasses import dataclass, field

from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity
from messaging.nearest import did_you_mean
from messaging.sas import decode_key
from messaging.text import quoted

_REQUIRED = ("HostName", "DeviceId")
_KNOWN = ("HostName", "DeviceId", "ModuleId", "SharedAccessKey", "x509", "GatewayHostName")


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
    has_certificate = fields.get("x509", "").lower() == "true"
    if "x509" in fields and not has_certificate:
        raise ConfigError(f"connection string: x509 is {quoted(fields['x509'])}; it can only be true")
    required = _REQUIRED if has_certificate else (*_REQUIRED, "SharedAccessKey")
    missing = [name for name in required if name not in fields]
    if missing:
        raise ConfigError(f"connection string: {', '.join(missing)} missing")
    key = fields.get("SharedAccessKey", "")
    if has_certificate and key:
        raise ConfigError("connection string: x509=true and SharedAccessKey are both there; leave out one")
    try:
        if key:
            decode_key(key)
        identity = Identity(fields["DeviceId"], fields.get("ModuleId"))
    except (AuthError, ConfigError) as exc:
        raise ConfigError(f"connection string: {exc}") from exc
    return ConnectionString(fields["HostName"], identity, key, fields.get("GatewayHostName"))


def _way_out(name: str) -> str:
    return did_you_mean(name, _KNOWN) or f"; known are {', '.join(_KNOWN)}"
