"""What this device knows of the other brokers that bridges connect to: one TOML file, its owner's alone.

    [site]                                      # the endpoint, as the deployment calls it
    address = "mqtts://broker.example:8883"     # or mqtt:// for a line without TLS; the port may be left out
    user_name = "edge1"
    password_file = "/etc/edge-actors/site"     # or password = "…"
    ca_file = "/etc/ssl/site-ca.pem"            # whom to trust; left out: the authorities of this system
    certificate_file = "/etc/ssl/edge1.pem"     # what to show; with key_file if the key is not in it
    client_id = "edge1-bridge"                  # left out: the device id and the endpoint
    keep_alive_s = 60

`$upstream` is the parent of this edge: there its own keys are the credentials, so of these only `address`,
`ca_file` and `keep_alive_s` may be given.

Source: spec sheet broker.md section 7.3
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from actors.bridge_ports import BridgeAccess
from messaging.broker.bridges import UPSTREAM
from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.nearest import did_you_mean
from messaging.text import quoted
from runtime.device_credentials import HOST_NAME
from runtime.secret_files import LONGEST_FILE_BYTES

FILE_NAME: Final = "bridges.toml"
TLS_PORT: Final = 8883
PLAIN_PORT: Final = 1883
DEFAULT_KEEP_ALIVE_S: Final = 60
_SCHEMES: Final = {"mqtts": TLS_PORT, "mqtt": PLAIN_PORT}
_TEXTS: Final = (
    "address",
    "user_name",
    "password",
    "password_file",
    "ca_file",
    "certificate_file",
    "key_file",
    "client_id",
)
_KNOWN: Final = (*_TEXTS, "keep_alive_s")
_OF_UPSTREAM: Final = ("address", "ca_file", "keep_alive_s")
_FILES: Final = ("password_file", "ca_file", "certificate_file", "key_file")
_SECRET_FILES: Final = ("password_file", "key_file")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]+")


@dataclass(frozen=True, slots=True)
class OwnNames:
    """Who this edge is."""

    device_id: str
    iothub_hostname: str


class BridgeSettingsFile:
    """Implements `actors.bridge_ports.BridgeSettings`: reads the file anew each time it is asked."""

    def __init__(self, path: Path, own: OwnNames) -> None:
        """Read nothing yet; there need not be a file."""
        self._path = path
        self._own = own

    def access(self, endpoint: str) -> BridgeAccess:
        """Return what the file says of an endpoint.

        Raises:
            ConfigError: nothing, or something that is wrong.
        """
        tables = read_bridge_settings(self._path)
        if endpoint not in tables:
            if endpoint == UPSTREAM:
                raise ConfigError(
                    f"this edge has no parent, so nothing is carried; if it has one, add [{_key(endpoint)}] "
                    f"with address = \"mqtts://HOST\" to '{self._path}'"
                )
            if not tables and not self._path.exists():
                raise ConfigError(
                    f"no settings for '{endpoint}': there is no '{self._path}'; make it, readable for you "
                    f'alone, with [{_key(endpoint)}] and address = "mqtts://HOST" in it'
                )
            hint = did_you_mean(endpoint, tables)
            raise ConfigError(
                f"no settings for '{endpoint}' in '{self._path}'{hint}; add [{_key(endpoint)}] with "
                'address = "mqtts://HOST"'
            )
        return _access(self._path, endpoint, tables[endpoint], self._own)


def check_bridge_settings(path: Path, own: OwnNames) -> tuple[str, ...]:
    """Return the endpoints in the file, all of which can be used; none when there is no file.

    Raises:
        ConfigError: names the file, the endpoint and the setting that is wrong.
    """
    tables = read_bridge_settings(path)
    for endpoint, table in tables.items():
        _access(path, endpoint, table, own)
    return tuple(tables)


def read_bridge_settings(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return the tables of the file by endpoint; none when there is no file.

    Raises:
        ConfigError: it cannot be read, is no TOML, or others may read or write it.
    """
    try:
        with open(path, "rb") as file:
            _check_mode(os.fstat(file.fileno()), path, "it may hold passwords")
            data = file.read(LONGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(
            f"'{path}' cannot be read: {exc.strerror}; make it readable for the user of the edge"
        ) from exc
    if len(data) > LONGEST_FILE_BYTES:
        raise ConfigError(f"'{path}' has more than {LONGEST_FILE_BYTES} bytes")
    import tomllib

    try:
        tables = tomllib.loads(data.decode())
    except UnicodeDecodeError as exc:
        raise ConfigError(f"'{path}' is not UTF-8 at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:  # says line and column, and shows no values
        raise ConfigError(f"'{path}' is no TOML: {exc}") from exc
    for endpoint, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"'{path}': {quoted(endpoint)} stands outside of a table; write [ENDPOINT] above it"
            )
    return tables


def _access(path: Path, endpoint: str, table: Mapping[str, Any], own: OwnNames) -> BridgeAccess:
    where = f"'{path}', [{_key(endpoint)}]"
    is_upstream = endpoint == UPSTREAM
    for name, value in table.items():
        if name not in _KNOWN:
            raise ConfigError(
                f"{where}: no such setting: {quoted(name)}{did_you_mean(name, _KNOWN)}; "
                f"there are {', '.join(_KNOWN)}"
            )
        if is_upstream and name not in _OF_UPSTREAM:
            raise ConfigError(
                f"{where}: {name} has no meaning here; to its parent an edge proves itself with its keys"
            )
        if name in _TEXTS and (not isinstance(value, str) or not value):
            raise ConfigError(f"{where}: {name} has to be a text that is not empty")
    host, port, is_tls = _address(where, table.get("address"))
    if is_upstream and not is_tls:
        raise ConfigError(f"{where}: address has to be mqtts://…; a parent is only reached over TLS")
    files = {name: _file(where, name, table.get(name)) for name in _FILES}
    if files["key_file"] and not files["certificate_file"]:
        raise ConfigError(f"{where}: key_file is given, but certificate_file is not; it needs that, too")
    if not is_tls and (files["ca_file"] or files["certificate_file"]):
        raise ConfigError(f"{where}: certificates have no meaning with mqtt://; write mqtts://")
    password = _password(where, table.get("password"), files["password_file"])
    user_name = table.get("user_name")
    if password is not None and user_name is None:
        raise ConfigError(f"{where}: a password needs a user_name, too")
    keep_alive_s = table.get("keep_alive_s", DEFAULT_KEEP_ALIVE_S)
    if type(keep_alive_s) is not int or not 5 <= keep_alive_s <= 65_535:
        raise ConfigError(f"{where}: keep_alive_s: {keep_alive_s!r} is not allowed; allowed: 5 to 65535")
    hub_client = f"{own.device_id}/$edgeHub"
    if is_upstream:
        user_name = f"{own.iothub_hostname}/{hub_client}/?api-version=2021-04-12"
    return BridgeAccess(
        host,
        port,
        client_id=hub_client if is_upstream else table.get("client_id", f"{own.device_id}/{endpoint}"),
        is_tls=is_tls,
        user_name=user_name,
        password=password,
        signs_as=hub_client if is_upstream else "",
        audience_host=own.iothub_hostname,
        ca_file=files["ca_file"],
        certificate_file=files["certificate_file"],
        key_file=files["key_file"],
        keep_alive_s=keep_alive_s,
    )


def _address(where: str, text: str | None) -> tuple[str, int, bool]:
    allowed = "mqtts://HOST[:PORT], or mqtt://HOST[:PORT] without TLS"
    if text is None:
        raise ConfigError(f"{where}: address is missing; it has to be {allowed}")
    shown = quoted(_without_user(text))
    refused = ConfigError(f"{where}: address: {shown} is not allowed; allowed: {allowed}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise refused from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{where}: address: a user name in it is not taken; write user_name and password instead"
        )
    is_host = HOST_NAME.fullmatch(host) or (":" in host and _IPV6.fullmatch(host))
    if parts.scheme not in _SCHEMES or not is_host or parts.path.strip("/") or parts.query or port == 0:
        raise refused
    return host, port or _SCHEMES[parts.scheme], parts.scheme == "mqtts"


def _without_user(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", text)


def _file(where: str, name: str, text: str | None) -> str:
    if text is None:
        return ""
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise ConfigError(f"{where}: {name}: {quoted(text)} is not allowed; allowed: an absolute path")
    try:
        with open(path, "rb") as file:
            if name in _SECRET_FILES:
                _check_mode(os.fstat(file.fileno()), path, f"{name} of {where} holds a secret")
    except OSError as exc:
        raise ConfigError(f"{where}: {name}: '{path}' cannot be read: {exc.strerror}") from exc
    return str(path)


def _password(where: str, text: str | None, file: str) -> Secret | None:
    if text is not None and file:
        raise ConfigError(f"{where}: password and password_file are both given; leave out one of them")
    if file:
        data = Path(file).read_bytes().removesuffix(b"\n").removesuffix(b"\r")
        if not 0 < len(data) <= 65_535:
            raise ConfigError(f"{where}: password_file: '{file}' is empty or has more than 65535 bytes")
        return Secret(data)
    return None if text is None else Secret(text.encode())


def _check_mode(found: os.stat_result, path: Path, why: str) -> None:
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"'{path}' may be read or written by others (mode {stat.S_IMODE(found.st_mode):04o}), and {why}; "
            f"`chmod 600 {path}`"
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"'{path}' belongs to another user (uid {found.st_uid}), and {why}; `chown` it to the user of "
            "the edge"
        )


def _key(endpoint: str) -> str:
    """Return how an endpoint is written as a key of TOML."""
    return endpoint if re.fullmatch(r"[A-Za-z0-9_-]+", endpoint) else f'"{endpoint}"'
