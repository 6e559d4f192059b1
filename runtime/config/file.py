"""Reads config.toml: each value with its line, and everything that is wrong with the file at once.

Keys and types are checked here; what a value may be says the reader of its setting.

Source: spec sheet security-daemon.md section 5.4
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from actors.manifest.registries import RegistryCredential
from messaging.errors import ConfigError
from messaging.nearest import did_you_mean
from messaging.text import quoted
from runtime.config import keys
from runtime.config.link_settings import Given
from runtime.config.settings import About, about
from runtime.config.texts import password_file
from runtime.config.toml_file import parse_toml, read_text, shown
from runtime.security.secret_files import check_closed, read_secret_file


class _WrongType(Exception):
    """`str` says which one is allowed."""


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongType("a string" if value != "" else "a string that is not empty")
    return value


def _boolean(value: Any) -> str:
    if not isinstance(value, bool):
        raise _WrongType("true or false, without quotes")
    return "true" if value else "false"


def _integer(value: Any) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _WrongType("a whole number, without quotes")
    return str(value)


def _number(value: Any) -> str:
    if value == "off":  # where the reader of the setting allows it
        return "off"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _WrongType("a number, without quotes")
    return repr(value)


def _strings(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise _WrongType("a string, or an array of strings")
    return ",".join(value)


def _commands(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if not isinstance(value, list) or not all(isinstance(one, str) and ";" not in one for one in value):
        raise _WrongType("an array of command lines, each a string without ';'")
    return ";".join(value)


KINDS: Final[Mapping[str, Callable[[Any], str]]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "strings": _strings,
    "commands": _commands,
}


@dataclass(slots=True)
class ConfigFile:
    """What a file says. With `problems` the rest is not to be used."""

    path: Path
    text: str = field(default="", repr=False)
    given: dict[str, Given] = field(default_factory=dict)  # by setting, or by the key of a choice
    credentials: list[RegistryCredential] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_config_file(path: Path) -> ConfigFile:
    """Read the file at `path`; what is wrong with what it says is in the answer, not raised.

    Raises:
        ConfigError: there is none, or it is no text.
        EnvironmentFault: it cannot be read.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as exc:
        raise ConfigError(
            f"{path}: there is no such file; `edge-actors config mp` makes one, or name another with -c"
        ) from exc
    return _Reader(path, text).read()


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self._file = ConfigFile(path, text)
        self._lines: Mapping[tuple[str, ...], int] = {}
        self._secret_line = 0

    def read(self) -> ConfigFile:
        try:
            toml = parse_toml(self._file.path, self._file.text)
        except ConfigError as exc:
            self._file.problems.append(str(exc))
            return self._file
        self._lines = toml.lines
        self._table((), toml.document)
        if self._secret_line:
            try:
                check_closed(self._file.path, f"{self._file.path}:{self._secret_line}")
            except ConfigError as exc:
                self._file.problems.append(str(exc))
        return self._file

    def _table(self, path: tuple[str, ...], table: Mapping[str, Any]) -> None:
        for name, value in table.items():
            here = (*path, name)
            key = ".".join(here)
            if key in keys.SETTING_OF:
                self._setting(here, keys.SETTING_OF[key], value)
            elif key in keys.CHOICES:
                self._choice(here, keys.CHOICES[key], value)
            elif key == keys.REGISTRIES:
                self._registries(here, value)
            elif isinstance(value, dict) and any(one.startswith(f"{key}.") for one in keys.all_keys()):
                self._table(here, value)
            else:
                self._not_ours(here)

    def _not_ours(self, path: tuple[str, ...]) -> None:
        key = ".".join(path)
        if reason := keys.foreign(key, keys.REFUSED):
            self._wrong(path, f"{key} is not possible: {reason}; leave it out")
        elif reason := keys.foreign(key, keys.NO_EFFECT):
            self._file.remarks.append(f"{self._at(path)}: {key} has no effect: {reason}")
        elif any(one.startswith(f"{key}.") for one in keys.all_keys()):
            self._wrong(path, f"{key} is not allowed as a value; allowed: a table, [{key}]")
        else:
            hint = did_you_mean(key, keys.all_names()) or "; `edge-actors config show` lists all keys"
            self._wrong(path, f"unknown key {quoted(key)}{hint}")

    def _setting(self, path: tuple[str, ...], name: str, value: Any) -> None:
        described = about(name)
        key = ".".join(path)
        if described.is_secret:
            self._secret_line = self._secret_line or self._line(path)
        if name in self._file.given:
            self._wrong(path, f"{key} says again what {self._file.given[name].origin} says; leave out one")
            return
        origin = f"{self._at(path)}: {key}"
        try:
            read = described.read(KINDS[described.kind](value))
        except _WrongType as exc:
            unit = f": {described.unit}" if described.kind == "string" else ""
            self._wrong(path, f"{key} = {_shown(value, described)} is not allowed; allowed: {exc}{unit}")
        except ValueError as exc:
            self._wrong(path, f"{key} = {_shown(value, described)} is not allowed; allowed: {exc}")
        except ConfigError as exc:  # of a connection string; it never shows the key
            self._wrong(path, f"{key}{exc}")
        else:
            self._file.given[name] = Given(read, origin, self._at(path))

    def _choice(self, path: tuple[str, ...], allowed: tuple[str, ...], value: Any) -> None:
        key = ".".join(path)
        if value in allowed:
            self._file.given[key] = Given(value, f"{self._at(path)}: {key}", self._at(path))
            return
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        texts = ", ".join(f'"{one}"' for one in allowed)
        self._wrong(path, f"{key} = {_shown(value)} is not allowed; allowed: {texts}{hint}")

    def _registries(self, path: tuple[str, ...], value: Any) -> None:
        if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
            allowed = f"tables, [{keys.REGISTRIES}.NAME]"
            self._wrong(path, f"{keys.REGISTRIES} is not allowed as a value; allowed: {allowed}")
            return
        for name, account in value.items():
            self._registry((*path, name), account)

    def _registry(self, path: tuple[str, ...], account: Mapping[str, Any]) -> None:
        known = len(self._file.problems)
        found: dict[str, str] = {}
        for name, value in account.items():
            here = (*path, name)
            if name == "password":
                self._secret_line = self._secret_line or self._line(here)
            if name not in keys.REGISTRY_KEYS:
                self._wrong(
                    here, f"unknown key {quoted('.'.join(here))}{did_you_mean(name, keys.REGISTRY_KEYS)}"
                )
            elif not isinstance(value, str) or not value:
                shown = "a secret" if name == "password" else _shown(value)
                self._wrong(here, f"{'.'.join(here)} = {shown} is not allowed; allowed: a string, not empty")
            else:
                found[name] = value
        missing = [name for name in ("address", "username") if name not in account]
        if "password" in account and "password_file" in account:
            self._wrong((*path, "password_file"), "a password stands here already; leave out one of them")
        elif "password" not in account and "password_file" not in account:
            missing.append("password or password_file")
        if missing:
            self._wrong(path, f"{'.'.join(path)} has no {' and no '.join(missing)}; an account needs that")
        if len(self._file.problems) == known:
            self._add_credential(path, found)

    def _add_credential(self, path: tuple[str, ...], found: Mapping[str, str]) -> None:
        password = found.get("password", "")
        if not password:
            here = (*path, "password_file")
            try:
                file = password_file(found["password_file"])
                password = read_secret_file(file, f"{self._at(here)}: {'.'.join(here)}")
            except ValueError as exc:
                value = shown(found["password_file"])
                self._wrong(here, f"{'.'.join(here)} = {value} is not allowed; allowed: {exc}")
                return
            except ConfigError as exc:
                self._file.problems.append(str(exc))
                return
        self._file.credentials.append(RegistryCredential(found["address"], found["username"], password))

    def _wrong(self, path: tuple[str, ...], text: str) -> None:
        self._file.problems.append(f"{self._at(path)}: {text}")

    def _at(self, path: tuple[str, ...]) -> str:
        return f"{self._file.path}:{self._line(path)}"

    def _line(self, path: tuple[str, ...]) -> int:
        return self._lines[path]


def _shown(value: Any, described: About | None = None) -> str:
    """Return a value as it stands in the file; never a secret."""
    return "a secret" if described is not None and described.is_secret else shown(value)
