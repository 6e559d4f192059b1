"""Reads all settings, once: from the command line, else the environment (`EDGE_ACTORS_…`), else config.toml,
else each has its default.

The file is `HOME/config.toml`, which `edge-actors config apply` puts there, unless another is named. What
each setting is stands in `settings.py`, what a key of the file is in `config/keys.py`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from messaging.errors import ConfigError
from messaging.nearest import did_you_mean
from runtime.config import link_settings
from runtime.config.device_file import kept_device_id
from runtime.config.link_settings import Given
from runtime.config.listen_addresses import default_hostname
from runtime.config.settings import NAMES, PREFIX, Settings, about, variable
from runtime.home import Home
from runtime.machine import system_service
from runtime.security.certificates import BACKDATED_S, CA_VALID_DAYS
from runtime.security.renewal import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from runtime.config.file import ConfigFile

CONFIG_VARIABLE: Final = "EDGE_ACTORS_CONFIG"
# What the runtime hands to its own processes, and the command line's switch for tracebacks: no settings.
RUNTIME_VARIABLES: Final = frozenset(
    {"EDGE_ACTORS_RUN", "EDGE_ACTORS_MODULE", "EDGE_ACTORS_LISTEN_FDS", "EDGE_ACTORS_DEBUG"}
)
Options = Mapping[str, str | Sequence[str] | None]


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


def read_settings(options: Options, environment: Mapping[str, str], host_name: str | None = None) -> Settings:
    """Read all settings. Reads the file and `HOME/device.json`, writes nothing.

    Args:
        options: What the command line gave, by setting name; None or an empty sequence is not given.
            `config` is the file to read in the place of the home's.
        environment: The environment variables; an empty one counts as not given.
        host_name: The name of this host; asked of the system by default.

    Raises:
        ConfigError: A value is not allowed (origin, value and what is allowed are named; all that is wrong in
            the file is told at once, one a line), a variable `EDGE_ACTORS_…` or a key is unknown, the home
            belongs to another device, `device.json` makes no sense.
        EnvironmentFault: the file, or `device.json`, cannot be read.
    """
    _refuse_unknown(environment)
    host_name = socket.gethostname() if host_name is None else host_name
    set_here = {name: _given(name, options, environment) for name in NAMES}
    found_home = set_here["home"]
    home = cast(Path, found_home.value) if found_home else default_home()
    file = _file(options, environment, home)
    if file is not None and file.problems:
        raise ConfigError("\n".join(file.problems))
    in_file = {} if file is None else link_settings.overridden(set_here, file.given)
    given: dict[str, Given | None] = {**in_file, **{n: g for n, g in set_here.items() if g is not None}}
    link = link_settings.chosen(given)
    values = {name: found.value for name in NAMES if (found := given.get(name)) is not None}
    values["connection_string"] = None if link is None else link.value
    _check_pairs(given)
    listen = values.get("listen", Settings.__dataclass_fields__["listen"].default)
    device = link_settings.wanted_device_id(given, link)
    origins = {name: found.where or found.origin for name in NAMES if (found := given.get(name))}
    if link is not None:
        origins["device_id"] = origins["iothub_hostname"] = link.where or link.origin
    return Settings(
        **{
            **values,
            "home": home,
            "device_id": _device_id_of(home, device, host_name),
            "iothub_hostname": link_settings.iothub_hostname(given, link) or about("iothub_hostname").default,
            "hostname": values.get("hostname") or default_hostname(listen, host_name),
        },
        registry_credentials=() if file is None else tuple(file.credentials),
        given=origins,
        remarks=() if file is None else tuple(file.remarks),
    )


def read_one(name: str, environment: Mapping[str, str]) -> Any:
    """Return one setting alone, from the environment or its default, for a program that needs no others.

    Raises:
        ConfigError: as `read_settings`.
    """
    found = _given(name, {}, environment)
    return about(name).read(about(name).default) if found is None else found.value


def config_path(options: Options, environment: Mapping[str, str], home: Path) -> tuple[Path, bool]:
    """Return the file that settings are read from, and whether somebody named it."""
    named = options.get("config") or environment.get(CONFIG_VARIABLE)
    if isinstance(named, str):
        return Path(named).expanduser().absolute(), True
    return Home(home).config, False


def _file(options: Options, environment: Mapping[str, str], home: Path) -> ConfigFile | None:
    path, is_named = config_path(options, environment, home)
    if not is_named and not os.path.exists(path):
        return None
    from runtime.config.file import read_config_file  # with the parser: an edge without a file needs none

    return read_config_file(path)


def _given(name: str, options: Options, environment: Mapping[str, str]) -> Given | None:
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
    except ConfigError as exc:  # of a secret, which is not shown
        raise ConfigError(f"{origin}{exc}") from exc


def _check_pairs(given: Mapping[str, Given | None]) -> None:
    """Check that a certificate of an edge CA comes with its key, and is not to be made as well."""
    cert, key = given.get("edge_ca_cert"), given.get("edge_ca_pk")
    found = cert or key
    if found is None:
        _check_renewal(given)
        return
    if cert is None or key is None:
        other = "edge_ca_pk" if cert else "edge_ca_cert"
        called = about(other).keys[0] if found.where else variable(other)
        raise ConfigError(f"{found.origin} is given, but {called} not; it needs that, too")
    for name in (
        "edge_ca_expiry_days",
        "edge_ca_common_name",
        "edge_ca_renewal_threshold",
        "edge_ca_rotate_key",
        "edge_ca.method",
    ):
        if made := given.get(name):
            raise ConfigError(
                f"{made.origin} is for an edge CA that the edge makes itself, but {found.origin} names one; "
                "leave out one of them"
            )


def _check_renewal(given: Mapping[str, Given | None]) -> None:
    """Check that a new edge CA is not due at once, for ever."""
    set_threshold, set_days = given.get("edge_ca_renewal_threshold"), given.get("edge_ca_expiry_days")
    found = set_threshold or set_days
    if found is None:
        return
    threshold = set_threshold.value if set_threshold else DEFAULT_THRESHOLD
    days = set_days.value if set_days else CA_VALID_DAYS
    if threshold.time_s(-BACKDATED_S, days * 86_400) <= 0:
        raise ConfigError(
            f"{found.origin}: with this threshold an edge CA of {days} days would be due as soon as it is "
            "made; choose a later threshold, or more days"
        )


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {variable(name) for name in NAMES} | {CONFIG_VARIABLE}
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
