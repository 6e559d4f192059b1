"""Readers of settings: text to value, or ValueError with what is allowed. Pure but for `~` in paths."""

from __future__ import annotations

import math
import re
import shlex
from datetime import time
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from messaging.nearest import did_you_mean
from runtime.config.device_credentials import HOST_NAME
from runtime.logs.levels import parse_levels
from runtime.logs.lines import FORMATS

MAX_STOP_GRACE_S: Final = 3600.0
MOST_DAYS: Final = 3650
ISOLATION: Final = ("auto", "require", "off")

# IoT Hub also takes + and #, which cannot stand in the topics that a device publishes to.
# Source: learn.microsoft.com: azure/iot-hub/iot-hub-devguide-identity-registry, device identity properties.
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']{1,128}")


def home(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as exc:  # ~name of a user that does not exist
        raise ValueError(f"a path; {exc}") from exc


def device_id(text: str) -> str:
    if not _DEVICE_ID.fullmatch(text):
        raise ValueError("1 to 128 letters, digits and - . % _ * ? ! ( ) , : = @ $ '")
    return text


def host_name(text: str) -> str:
    if not HOST_NAME.fullmatch(text):
        raise ValueError("a host name of letters, digits, '-' and '.', or an IPv4 address")
    return text


def stop_grace_s(text: str) -> float:
    allowed = f"a number of seconds from 0 to {MAX_STOP_GRACE_S:g}"
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(allowed) from None
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_STOP_GRACE_S:
        raise ValueError(allowed)
    return seconds


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= 100_000:
        raise ValueError("a whole number from 1 to 100000")
    return int(text)


def messages_per_s(text: str) -> float | None:
    if text == "off":
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 1e6:  # not a number is neither
        raise ValueError("a number from 0.1 to 1000000, or off")
    return number


def pem_file(text: str) -> Path:
    return _file(text, "PEM file", "ca.pem")


def password_file(text: str) -> Path:
    return _file(text, "file", "password")


def json_file(text: str) -> Path:
    return _file(text, "JSON file", "payload.json")


def _file(text: str, kind: str, example: str) -> Path:
    # The reference writes it as a URI. Source: spec sheet security-daemon.md section 5.4
    path = unquote(text.removeprefix("file://")) if text.startswith("file:///") else text
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"the absolute path of a {kind}, such as /etc/{example} or file:///etc/{example}")
    return Path(path)


def days(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= MOST_DAYS:
        raise ValueError(f"a whole number of days from 1 to {MOST_DAYS}")
    return int(text)


def common_name(text: str) -> str:
    # Source: RFC 5280 appendix A.1, ub-common-name
    if not text.isprintable() or not 0 < len(text.encode()) <= 64:
        raise ValueError("1 to 64 bytes of text")
    return text


def log_level(text: str) -> str:
    return str(parse_levels(text))


def log_format(text: str) -> str:
    if text.lower() not in FORMATS:
        raise ValueError(f"{', '.join(FORMATS)}{did_you_mean(text, FORMATS)}")
    return text.lower()


def switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def span_s(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("a whole number with a unit: s, m, h or d, such as 12h or 7d")
    return float(int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]])


def time_of_day(text: str) -> time | None:
    if text.strip().lower() == "any":
        return None
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", text.strip())
    if match is None:
        raise ValueError("HH:MM from 00:00 to 23:59, or any")
    return time(int(match[1]), int(match[2]))


def trial_s(text: str) -> float:
    return 0.0 if text.strip().lower() == "off" else span_s(text)


def process_allow(text: str) -> tuple[tuple[str, ...], ...]:
    allowed = "command lines separated by ';', each with the absolute path of its program"
    try:
        lines = tuple(tuple(shlex.split(line)) for line in text.split(";") if line.strip())
    except ValueError as exc:
        raise ValueError(f"{allowed}; {exc}") from None
    if not all(line and line[0].startswith("/") for line in lines):
        raise ValueError(allowed)
    return lines


def process_isolation(text: str) -> str:
    if text.lower() not in ISOLATION:
        raise ValueError(f"{', '.join(ISOLATION)}{did_you_mean(text, ISOLATION)}")
    return text.lower()


def process_uids(text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    # 65534 and 65535 mean nobody, 4294967295 means no change.
    if match is None or not 1000 <= int(match[1]) <= int(match[2]) < 2**32 - 1:
        raise ValueError("FIRST-LAST, user ids from 1000 on that nobody else has")
    return range(int(match[1]), int(match[2]) + 1)
