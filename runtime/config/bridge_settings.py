"""What this device knows of the other brokers that bridges connect to: one TOML file, read as config.toml is.

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

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from actors.ports.bridges import BridgeAccess
from messaging.broker.bridges import UPSTREAM
from messaging.envelope import Secret
from messaging.errors import ConfigError, EdgeError
from messaging.nearest import did_you_mean
from messaging.text import quoted
from runtime.config.device_credentials import HOST_NAME
from runtime.config.texts import password_file, pem_file
from runtime.security.secret_files import cannot_read, check_closed, read_secret_file

if TYPE_CHECKING:  # loaded where there is a file to read
    from runtime.config.toml_file import TomlFile

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
_PEM_FILES: Final = ("ca_file", "certificate_file", "key_file")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]+")


class OwnNames(Struct, frozen=True):
    """Who this edge is."""

    device_id: str
    iothub_hostname: str


class BridgeSettingsFile:
    """Implements `actors.ports.bridges.BridgeSettings`: reads the file anew each time it is asked."""

    def __init__(self, path: Path, own: OwnNames) -> None:
        """Read nothing yet; there need not be a file."""
        self._path = path
        self._own = own

    def access(self, endpoint: str) -> BridgeAccess:
        """Return what the file says of an endpoint.

        Raises:
            ConfigError: nothing, or something that is wrong.
            EnvironmentFault: the file cannot be read.
        """
        file = _read(self._path)
        if file is not None and endpoint in file.document:
            return _Table(file, endpoint).access(self._own)
        add = f'[{_key(endpoint)}] with address = "mqtts://HOST"'
        if endpoint == UPSTREAM:
            raise ConfigError(
                f"this edge has no parent, so nothing is carried; if it has one, add {add} to '{self._path}'"
            )
        if file is None:
            raise ConfigError(
                f"no settings for '{endpoint}': there is no '{self._path}'; make it, readable for you "
                f"alone, with {add} in it"
            )
        hint = did_you_mean(endpoint, file.document)
        raise ConfigError(f"no settings for '{endpoint}' in '{self._path}'{hint}; add {add}")

    def names(self, endpoint: str) -> bool:
        """Say whether the file has anything of an endpoint, right or wrong; one that cannot be read may."""
        try:
            file = _read(self._path)
        except EdgeError:
            return True
        return file is not None and endpoint in file.document


def check_bridge_settings(path: Path, own: OwnNames) -> tuple[str, ...]:
    """Return the endpoints in the file, all of which can be used; none when there is no file.

    Raises:
        ConfigError: names the file, the line and the setting that is wrong.
        EnvironmentFault: it cannot be read.
    """
    file = _read(path)
    if file is None:
        return ()
    for endpoint in file.document:
        _Table(file, endpoint).access(own)
    return tuple(file.document)


def passwords_in(path: Path) -> list[Secret]:
    """Return the passwords in the file and in those that it names, as far as they can be read.

    Raises:
        EdgeError: the file cannot be read.
    """
    file = _read(path)
    if file is None:
        return []
    found = []
    for endpoint in file.document:
        with suppress(EdgeError):
            found.append(_Table(file, endpoint).password())
    return [password for password in found if password is not None]


def _read(path: Path) -> TomlFile | None:
    """Return what the file says; None when there is none."""
    from runtime.config.toml_file import parse_toml, read_text

    try:
        file = parse_toml(path, read_text(path))
    except FileNotFoundError:
        return None
    for endpoint, table in file.document.items():
        where = file.at((endpoint,))
        if not isinstance(table, dict):
            raise ConfigError(
                f"{where}: {quoted(endpoint)} stands outside of a table; write [ENDPOINT] above it"
            )
        if "password" in table:
            check_closed(path, file.at((endpoint, "password")))
    return file


class _Table:
    """What the file says of one endpoint."""

    def __init__(self, file: TomlFile, endpoint: str) -> None:
        self._file = file
        self._endpoint = endpoint
        self._values: Mapping[str, Any] = file.document[endpoint]

    def access(self, own: OwnNames) -> BridgeAccess:
        """Return it, checked as a whole."""
        values, is_upstream = self._values, self._endpoint == UPSTREAM
        for name, value in values.items():
            self._check(name, value)
        host, port, is_tls = self._address()
        if is_upstream and not is_tls:
            raise self._wrong("address", "has to be mqtts://…; a parent is only reached over TLS")
        files = {name: self._pem_file(name) for name in _PEM_FILES}
        if files["key_file"] and not files["certificate_file"]:
            raise self._wrong("key_file", "is given, but certificate_file is not; it needs that, too")
        for name in ("ca_file", "certificate_file"):
            if files[name] and not is_tls:
                raise self._wrong(name, "has no meaning with mqtt://; write mqtts:// as address")
        hub_client = f"{own.device_id}/$edgeHub"
        user_name = values.get("user_name")
        if is_upstream:
            user_name = f"{own.iothub_hostname}/{hub_client}/?api-version=2021-04-12"
        return BridgeAccess(
            host,
            port,
            client_id=hub_client
            if is_upstream
            else values.get("client_id", f"{own.device_id}/{self._endpoint}"),
            is_tls=is_tls,
            user_name=user_name,
            password=self.password(),
            signs_as=hub_client if is_upstream else "",
            audience_host=own.iothub_hostname,
            ca_file=files["ca_file"],
            certificate_file=files["certificate_file"],
            key_file=files["key_file"],
            keep_alive_s=values.get("keep_alive_s", DEFAULT_KEEP_ALIVE_S),
        )

    def _check(self, name: str, value: object) -> None:
        if name not in _KNOWN:
            hint = did_you_mean(name, _KNOWN) or f"; there are {', '.join(_KNOWN)}"
            raise ConfigError(f"{self._at(name)}: unknown key {quoted(self._key_of(name))}{hint}")
        if self._endpoint == UPSTREAM and name not in _OF_UPSTREAM:
            raise self._wrong(name, "has no meaning here; to its parent an edge proves itself with its keys")
        if name in _TEXTS and (not isinstance(value, str) or not value):
            raise self._refused(name, "a string that is not empty")
        if name == "keep_alive_s" and (type(value) is not int or not 5 <= value <= 65_535):
            raise self._refused(name, "a whole number from 5 to 65535")

    def _address(self) -> tuple[str, int, bool]:
        allowed = "mqtts://HOST[:PORT], or mqtt://HOST[:PORT] without TLS"
        text = self._values.get("address")
        if text is None:
            raise ConfigError(
                f"{self._at('')}: [{_key(self._endpoint)}] has no address; it has to be {allowed}"
            )
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise self._refused("address", allowed) from None
        if parts.username is not None or parts.password is not None:
            raise self._wrong("address", "takes no user name; write user_name and password instead")
        is_host = HOST_NAME.fullmatch(host) or (":" in host and _IPV6.fullmatch(host))
        if parts.scheme not in _SCHEMES or not is_host or parts.path.strip("/") or parts.query or port == 0:
            raise self._refused("address", allowed)
        return host, port or _SCHEMES[parts.scheme], parts.scheme == "mqtts"

    def _pem_file(self, name: str) -> str:
        if name not in self._values:
            return ""
        path = self._path(name, pem_file)
        try:
            path.open("rb").close()
        except OSError as exc:
            raise ConfigError(cannot_read(path, self._origin(name), exc)) from exc
        if name == "key_file":
            check_closed(path, self._origin(name))
        return str(path)

    def password(self) -> Secret | None:
        """Return the password, None without one."""
        values = self._values
        if "password" not in values and "password_file" not in values:
            return None
        name = "password_file" if "password_file" in values else "password"
        if "password" in values and "password_file" in values:
            raise self._wrong(name, "and password are both given; leave out one of them")
        if "user_name" not in values:
            raise self._wrong(name, "needs a user_name, too")
        text = values.get("password") or read_secret_file(self._path(name, password_file), self._origin(name))
        return Secret(text.encode())

    # what is wrong

    def _path(self, name: str, read: Callable[[str], Path]) -> Path:
        try:
            return read(self._values[name])
        except ValueError as exc:
            raise self._refused(name, str(exc)) from None

    def _wrong(self, name: str, why: str) -> ConfigError:
        return ConfigError(f"{self._origin(name)} {why}")

    def _refused(self, name: str, allowed: str) -> ConfigError:
        from runtime.config.toml_file import shown

        value = self._values[name]
        text = "a secret" if name == "password" else shown(_without_user(value))
        return ConfigError(f"{self._origin(name)} = {text} is not allowed; allowed: {allowed}")

    def _origin(self, name: str) -> str:
        return f"{self._at(name)}: {self._key_of(name)}"

    def _at(self, name: str) -> str:
        return self._file.at((self._endpoint, name) if name else (self._endpoint,))

    def _key_of(self, name: str) -> str:
        return f"{_key(self._endpoint)}.{name}"


def _without_user(value: object) -> object:
    return re.sub(r"//[^/@]*@", "//…@", value) if isinstance(value, str) else value


def _key(endpoint: str) -> str:
    """Return how an endpoint is written as a key of TOML."""
    return endpoint if re.fullmatch(r"[A-Za-z0-9_-]+", endpoint) else f'"{endpoint}"'
