"""With what this device proves itself to the cloud, as its user gives it: connection string, key file.

No value that comes in here is shown in an error, but ids and names of hosts.

Source: spec sheet security-daemon.md section 5.1
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import Struct

from messaging.connection_string import ConnectionString, parse_connection_string
from messaging.errors import AuthError, ConfigError
from messaging.sas import decode_key
from messaging.text import quoted

WHERE_FROM: Final = "`az iot hub device-identity connection-string show -n HUB -d DEVICE` shows it"
SHORTEST_KEY_BYTES: Final = 16  # of an enrollment
LONGEST_KEY_BYTES: Final = 64

HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_KEY_PART: Final = re.compile(r"(?<![A-Za-z])(SharedAccessKey\s*=\s*)([^;=\s]+)={0,2}")


class IdentityFiles(Struct, frozen=True):
    """The certificate of this device with those above it, and its private key; PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Enrollment:
    """As whom this device asks the provisioning service, and where."""

    host: str
    port: int
    id_scope: str
    registration_id: str
    key: str = field(default="", repr=False)  # base64; of this device, already derived where there is a group
    files: IdentityFiles | None = None  # instead of a key
    payload: str = ""  # JSON, for an allocation of one's own


def device_connection_string(text: str, origin: str) -> ConnectionString:
    """Return the connection string of a device, in the form that `az` prints or as a user copied it.

    So the JSON of `az` and quotes around it are taken, and the key may lack its padding.

    Raises:
        ConfigError: it is none of a device with a key; says what is wrong with it, and never shows the key.
    """
    plain = _from_az(text).strip().strip("\"'")
    if "SharedAccessKeyName" in plain:
        raise ConfigError(
            f"{origin}: this is the connection string of a service (it has SharedAccessKeyName), with which "
            f"nobody is a device; take that of the device: {WHERE_FROM}"
        )
    if re.search(r"(^|;)\s*x509\s*=", plain, re.IGNORECASE):
        raise ConfigError(
            f"{origin}: this device proves itself with a certificate, and a connection string does not say "
            "where that is; give its host name and device id with EDGE_ACTORS_IOTHUB_HOSTNAME and "
            "EDGE_ACTORS_DEVICE_ID, and the files with EDGE_ACTORS_IDENTITY_CERT and EDGE_ACTORS_IDENTITY_PK"
        )
    try:
        found = parse_connection_string(_KEY_PART.sub(_padded, plain))
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}; {WHERE_FROM}") from exc
    if found.identity.module_id is not None:
        raise ConfigError(
            f"{origin}: the connection string is of module '{found.identity}'; an edge takes that of its "
            f"device: {WHERE_FROM}"
        )
    if found.gateway_host_name is not None:
        raise ConfigError(
            f"{origin}: the connection string has GatewayHostName={quoted(found.gateway_host_name)}; "
            "this edge connects to the IoT Hub itself: leave that part out"
        )
    if not HOST_NAME.fullmatch(found.host_name):
        port = (
            "; a port for REST is given with EDGE_ACTORS_CLOUD_HTTPS_PORT" if ":" in found.host_name else ""
        )
        raise ConfigError(
            f"{origin}: HostName={quoted(found.host_name)} is not the name of a host, "
            f"such as myhub.azure-devices.net{port}"
        )
    return found


def enrollment_key(text: str, origin: str) -> str:
    """Return the symmetric key of an enrollment, with its padding.

    Raises:
        ConfigError: it is not base64 of 16 to 64 bytes.
    """
    padded = text + "=" * (-len(text) % 4)
    allowed = (
        f"base64 of {SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes: the key of the individual enrollment, "
        "or that of a group derived for this device with "
        "`az iot dps enrollment-group compute-device-key`"
    )
    try:
        length = len(decode_key(padded))
    except AuthError as exc:
        raise ConfigError(f"{origin}: the key is not base64; allowed: {allowed}") from exc
    if not SHORTEST_KEY_BYTES <= length <= LONGEST_KEY_BYTES:
        raise ConfigError(f"{origin}: the key has {length} bytes; allowed: {allowed}")
    return padded


def _padded(found: re.Match[str]) -> str:
    key = found[2]
    return f"{found[1]}{key}{'=' * (-len(key) % 4)}"


def _from_az(text: str) -> str:
    if not text.lstrip().startswith("{"):
        return text
    try:
        value = json.loads(text)["connectionString"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return text  # the parser says what is wrong with it
    return value if isinstance(value, str) else text
