"""The settings that say which device of which IoT Hub this edge is: their texts, and how they agree.

Source: spec sheet security-daemon.md sections 5.1 and 5.2
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct

from messaging.connection_string import ConnectionString
from messaging.errors import ConfigError
from messaging.identity import Identity
from messaging.nearest import did_you_mean
from runtime.config import texts
from runtime.config.device_credentials import HOST_NAME, WHERE_FROM, device_connection_string, enrollment_key
from runtime.security.secret_files import STANDARD_INPUT, read_secret_file

DPS_HOST: Final = "global.azure-devices-provisioning.net"
HTTPS_PORT: Final = 443
REPROVISIONING: Final = ("Dynamic", "OnErrorOnly", "AlwaysOnStartup")
_STRINGS: Final = ("connection_string", "connection_string_file")
_DPS: Final = (
    "dps_id_scope",
    "dps_registration_id",
    "dps_key_file",
    "dps_endpoint",
    "dps_key",
    "dps_payload_file",
)
_DEVICE_KEY: Final = ("device_key", "device_key_file")
_CERTIFICATE: Final = ("identity_cert", "identity_pk")
_DEVICE: Final = ("device_id", "iothub_hostname")
# All that says which device this edge is.
NAMES: Final = (*_STRINGS, *_DPS, *_DEVICE_KEY, *_CERTIFICATE, *_DEVICE)
_REGISTRATION_ID: Final = re.compile(r"[A-Za-z0-9\-._:]{1,128}")
_ID_SCOPE: Final = re.compile(r"[A-Za-z0-9]{1,64}")


class Given(Struct, frozen=True):
    """A value that somebody set, and where."""

    value: Any
    origin: str  # for errors: variable, option, or file, line and key
    where: str = ""  # for people: file and line; "" when that is the origin


# Two readers raise ConfigError instead of ValueError: their values are secret and not shown. The text begins
# with ": ", for whoever knows what was read to stand in front of it.


def connection_string(text: str) -> ConnectionString:
    return device_connection_string(text, "")


def file_or_input(text: str) -> Path:
    if text == str(STANDARD_INPUT):
        return STANDARD_INPUT
    if text.startswith("file:///"):
        text = unquote(text.removeprefix("file://"))
    return texts.home(text)


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


def symmetric_key(text: str) -> str:
    return enrollment_key(text, "")


def reprovisioning_mode(text: str) -> str:
    found = next((mode for mode in REPROVISIONING if mode.lower() == text.lower()), None)
    if found is None:
        raise ValueError(f"{', '.join(REPROVISIONING)}{did_you_mean(text, REPROVISIONING)}")
    return found


Givens = Mapping[str, Given | None]


def overridden(upper: Givens, lower: Givens) -> dict[str, Given | None]:
    """Return what of `lower` still counts: who says which device this is says all of it.

    A connection string in the environment is not mixed with the provisioning service in the file, nor the
    other way round.
    """

    def has(names: tuple[str, ...], given: Givens = upper) -> bool:
        return any(given.get(name) for name in names)

    dropped: tuple[str, ...] = ()
    if has(_STRINGS):
        dropped = NAMES
    elif has(("dps_id_scope",)):
        dropped = (*_STRINGS, *_DEVICE_KEY, *_DEVICE)
    elif has(_DEVICE_KEY):
        dropped = (*_STRINGS, *_DPS, *_CERTIFICATE)
    if dropped:
        dropped = (*dropped, *(name for name in lower if name.startswith("provisioning.")))
    return {name: None if name in dropped else found for name, found in lower.items()}


def chosen(given: Givens) -> Given | None:
    """Return the connection string of the device, as far as it is known here; the settings about it agree.

    With a certificate it is one without a key; with the provisioning service there is None.

    Raises:
        ConfigError: there are two sources, or one is not complete.
    """
    _one_of(given, _STRINGS)
    _one_of(given, _DEVICE_KEY)
    text = _first(given, _STRINGS)
    asked = _first(given, _DPS)
    by_hand = _first(given, _DEVICE_KEY)
    certificate = _first(given, _CERTIFICATE)
    if text and asked:
        raise ConfigError(
            f"{text.origin} and {asked.origin} are both given; an edge has its IoT Hub either from a "
            "connection string or from the provisioning service: leave out one of them"
        )
    if text and (other := by_hand or certificate):
        raise ConfigError(
            f"{text.origin} and {other.origin} are both given, and each says who this device is: leave out "
            "one of them"
        )
    _check_choices(given, text or by_hand, asked, certificate)
    if asked:
        _check_dps(given, asked, certificate)
        return None
    if text:
        return _from_string(given, text)
    if by_hand or certificate:
        return _from_parts(given, by_hand, certificate)
    return None


def _from_string(given: Givens, text: Given) -> Given:
    if not given.get("connection_string_file"):
        return text
    # One that is named in config.toml stays; the others are needed once.
    content = read_secret_file(text.value, text.origin, way_out=WHERE_FROM, may_be_open=not text.where)
    return Given(device_connection_string(content, text.origin), text.origin, text.where)


def _from_parts(given: Givens, by_hand: Given | None, certificate: Given | None) -> Given:
    proof = by_hand or certificate
    assert proof is not None
    if by_hand and certificate:
        raise ConfigError(
            f"{by_hand.origin} and {certificate.origin} are both given; a device has a key or a certificate: "
            "leave out one of them"
        )
    _needs(given, proof, (*_DEVICE, *(_CERTIFICATE if certificate else ())))
    host_name, device_id = (str(_value(given, name)) for name in ("iothub_hostname", "device_id"))
    key = ""
    if by_hand:
        file = given.get("device_key_file")
        key = by_hand.value if file is None else read_key(by_hand.value, by_hand.origin)
    return Given(ConnectionString(host_name, Identity(device_id), key), proof.origin, proof.where)


def read_key(path: Path, origin: str) -> str:
    """Return the symmetric key in a file, base64.

    Raises:
        ConfigError: there is none.
    """
    return enrollment_key(read_secret_file(path, origin), origin)


def _check_dps(given: Givens, asked: Given, certificate: Given | None) -> None:
    _one_of(given, ("dps_key", "dps_key_file"))
    key = _first(given, ("dps_key", "dps_key_file"))
    if key and certificate:
        raise ConfigError(
            f"{key.origin} and {certificate.origin} are both given; a device registers with a key or a "
            "certificate: leave out one of them"
        )
    if certificate:
        _needs(given, asked, ("dps_id_scope", *_CERTIFICATE))
    else:
        _needs(given, asked, ("dps_id_scope", "dps_registration_id", *(() if key else ("dps_key_file",))))
    for name in (*_DEVICE_KEY, *_DEVICE):
        if found := given.get(name):
            shown = found.value if name in _DEVICE else "a key"
            raise ConfigError(
                f"{found.origin}: {shown!r} is given, but the provisioning service says that; "
                f"leave it out, or {asked.origin}"
            )


def _check_choices(
    given: Givens, by_hand: Given | None, asked: Given | None, certificate: Given | None
) -> None:
    """Check what only says which of the other settings are meant."""
    source = given.get("provisioning.source")
    wanted = "dps" if asked else "manual" if by_hand or certificate else None
    if source and wanted is None and source.value != "none":
        needs = "id_scope" if source.value == "dps" else "connection_string"
        raise ConfigError(f"{source.origin} is {source.value!r}, but provisioning.{needs} is missing; add it")
    found = asked or by_hand or certificate
    if source and found and source.value != wanted:
        raise ConfigError(
            f"{source.origin} is {source.value!r}, but {found.origin} is for {wanted!r}; change one of them"
        )
    for table, no_certificate in (("attestation", "symmetric_key"), ("authentication", "sas")):
        method = given.get(f"provisioning.{table}.method")
        if method and (method.value == "x509") is not (certificate is not None):
            if certificate is None:
                raise ConfigError(
                    f"{method.origin} is 'x509', but identity_cert and identity_pk are missing; add them"
                )
            raise ConfigError(
                f"{method.origin} is {method.value!r}, but {certificate.origin} is for 'x509', not for "
                f"{no_certificate!r}; change one of them"
            )


def _needs(given: Givens, asked: Given, names: tuple[str, ...]) -> None:
    missing = [_called(name, asked) for name in names if given.get(name) is None]
    if missing:
        raise ConfigError(f"{asked.origin} is given, but {' and '.join(missing)} not; it needs them, too")


def _called(name: str, like: Given) -> str:
    """Return what a user writes for a setting where another one stands."""
    if not like.where:
        return f"EDGE_ACTORS_{name.upper()}"
    from runtime.config.settings import about  # it imports this module

    return about(name).keys[0]


def _one_of(given: Givens, names: tuple[str, str]) -> None:
    first, second = (given.get(name) for name in names)
    if first and second:
        raise ConfigError(f"{first.origin} and {second.origin} are both given; leave out one of them")


def _first(given: Givens, names: tuple[str, ...]) -> Given | None:
    return next((found for name in names if (found := given.get(name))), None)


def _value(given: Givens, name: str) -> Any:
    found = given.get(name)
    return None if found is None else found.value


def wanted_device_id(given: Givens, link: Given | None) -> Given | None:
    wanted = given.get("device_id")
    if link is None:
        return wanted
    device_id = link.value.identity.device_id
    if wanted is not None and wanted.value != device_id:
        raise ConfigError(
            f"{wanted.origin}: {wanted.value!r} is not allowed; the connection string of {link.origin} is of "
            f"device {device_id!r}: leave out one of them"
        )
    return Given(device_id, link.origin, link.where)


def iothub_hostname(given: Givens, link: Given | None) -> str:
    wanted = given.get("iothub_hostname")
    if link is None:
        return "" if wanted is None else str(wanted.value)
    host_name: str = link.value.host_name
    if wanted is not None and wanted.value.lower() != host_name.lower():
        raise ConfigError(
            f"{wanted.origin}: {wanted.value!r} is not allowed; the connection string of {link.origin} is of "
            f"{host_name!r}: leave out one of them"
        )
    return host_name
