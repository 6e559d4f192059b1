"""The settings that say which device of which IoT Hub this edge is: their texts, and how they agree.

Source: spec sheet security-daemon.md sections 5.1 and 5.2
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from messaging.connection_string import ConnectionString
from messaging.errors import ConfigError
from runtime.device_credentials import (
    HOST_NAME,
    STANDARD_INPUT,
    device_connection_string,
    read_secret_file,
)

DPS_HOST: Final = "global.azure-devices-provisioning.net"
HTTPS_PORT: Final = 443
_DPS_NEEDS: Final = ("dps_id_scope", "dps_registration_id", "dps_key_file")
_REGISTRATION_ID: Final = re.compile(r"[A-Za-z0-9\-._:]{1,128}")
_ID_SCOPE: Final = re.compile(r"[A-Za-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody set, and where."""

    value: Any
    origin: str


def connection_string(text: str) -> ConnectionString:
    return device_connection_string(text, "EDGE_ACTORS_CONNECTION_STRING")


def file_or_input(text: str) -> Path:
    if text == str(STANDARD_INPUT):
        return STANDARD_INPUT
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as exc:  # ~name of a user that does not exist
        raise ValueError(f"a path; {exc}") from exc


def dps_endpoint(text: str) -> tuple[str, int]:
    host, _, number = text.removeprefix("https://").removesuffix("/").partition(":")
    allowed = f"HOST[:PORT] with or without https://, such as {DPS_HOST}"
    if not HOST_NAME.fullmatch(host) or (":" in text.removeprefix("https://") and not number):
        raise ValueError(allowed)
    try:
        return host, port(number) if number else HTTPS_PORT
    except ValueError as exc:
        raise ValueError(f"{allowed}; PORT is {exc}") from None


def port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("a number from 1 to 65535")
    return int(text)


def id_scope(text: str) -> str:
    if not _ID_SCOPE.fullmatch(text):
        raise ValueError("the id scope of the provisioning service, such as 0ne00A1B2C3")
    return text


def registration_id(text: str) -> str:
    if not _REGISTRATION_ID.fullmatch(text):
        raise ValueError("1 to 128 letters, digits and - . _ :")
    return text.lower()


def chosen(given: Mapping[str, Given | None]) -> Given | None:
    """Return the connection string that was given, read from its file; the settings about the link agree.

    Raises:
        ConfigError: there are two sources, or one is not complete.
    """
    direct, file = given["connection_string"], given["connection_string_file"]
    if direct and file:
        raise ConfigError(f"{direct.origin} and {file.origin} are both given; leave out one of them")
    text = direct or file
    asked = [found for name in (*_DPS_NEEDS, "dps_endpoint") if (found := given[name])]
    if text and asked:
        raise ConfigError(
            f"{text.origin} and {asked[0].origin} are both given; an edge has its IoT Hub either from a "
            "connection string or from the provisioning service: leave out one of them"
        )
    missing = [f"EDGE_ACTORS_{name.upper()}" for name in _DPS_NEEDS if given[name] is None]
    if asked and missing:
        raise ConfigError(f"{asked[0].origin} is given, but {' and '.join(missing)} not; it needs them, too")
    if asked:
        for name in ("device_id", "iothub_hostname"):
            if found := given[name]:
                raise ConfigError(
                    f"{found.origin}: {found.value!r} is given, but the provisioning service says that; "
                    f"leave it out, or {asked[0].origin}"
                )
    if file is None:
        return direct
    content = read_secret_file(file.value, file.origin)
    return Given(device_connection_string(content, file.origin), file.origin)


def wanted_device_id(given: Mapping[str, Given | None], link: Given | None) -> Given | None:
    wanted = given["device_id"]
    if link is None:
        return wanted
    device_id = link.value.identity.device_id
    if wanted is not None and wanted.value != device_id:
        raise ConfigError(
            f"{wanted.origin}: {wanted.value!r} is not allowed; the connection string of {link.origin} is of "
            f"device {device_id!r}: leave out one of them"
        )
    return Given(device_id, link.origin)


def iothub_hostname(given: Mapping[str, Given | None], link: Given | None) -> str:
    wanted = given["iothub_hostname"]
    if link is None:
        return "" if wanted is None else str(wanted.value)
    host_name: str = link.value.host_name
    if wanted is not None and wanted.value.lower() != host_name.lower():
        raise ConfigError(
            f"{wanted.origin}: {wanted.value!r} is not allowed; the connection string of {link.origin} is of "
            f"{host_name!r}: leave out one of them"
        )
    return host_name
