"""What GetModuleLogs and UploadModuleLogs ask for, and what becomes of each line of a log. Pure.

Whatever a request says is refused with the status that the reference gives it. Regular expressions come from
the cloud, so each has a time limit for all that it is tried on: an expression may take for ever on a line.

Source: spec sheet agent.md section 5
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from messaging.text import quoted
from messaging.time_text import from_iso

if TYPE_CHECKING:  # loaded with the first expression: 30 ms that no start of an edge shall pay
    import regex

ALL: Final = "all"
DEFAULT_LEVEL: Final = 6  # info
MOST_ANSWERED: Final = 127_000  # bytes of gzip, else characters, of all modules together
REGEX_LIMIT_S: Final = 10.0  # for all lines that one request looks at

_LEVEL: Final = re.compile(r"<([0-7])>\s*")
_TIME: Final = re.compile(r"(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{3}) ([+-]\d{2}:\d{2})\s?")
_OWN_OBJECT: Final = re.compile(r'\{"at": "([0-9TZ:.-]{20,30})", "level": "([a-z]+)", "process": "edge')
_OWN_LEVELS: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 0}
_DURATION: Final = re.compile(r"\s*([0-9]{1,9})\s*([a-z]+)\s*")
_UNITS_S: Final = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "d": 86_400, "day": 86_400, "days": 86_400,
    "w": 604_800, "week": 604_800, "weeks": 604_800,
}  # fmt: skip

AnyEnum = TypeVar("AnyEnum", bound=StrEnum)


class MethodRefused(Exception):
    """A method cannot be done as asked; `status` and text go to the caller."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Encoding(StrEnum):
    NONE = "none"
    GZIP = "gzip"


class ContentType(StrEnum):
    JSON = "json"
    TEXT = "text"


class LogFilter(Struct, frozen=True):
    """Which lines; times in seconds since 1970-01-01 UTC."""

    tail: int | None = None
    since_s: float | None = None
    until_s: float | None = None
    level: int | None = None
    pattern: regex.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class LogRequest:
    """The logs of which modules, how."""

    items: tuple[tuple[str, LogFilter], ...]  # expression for names, or "all"
    encoding: Encoding = Encoding.NONE
    content_type: ContentType = ContentType.JSON
    sas_url: str = field(default="", repr=False)  # with the right to write to a storage account


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """A support bundle, and where it goes. Times as they were written, "" for the default; they are sound."""

    sas_url: str = field(repr=False)  # with the right to write to a storage account
    since: str = ""
    until: str = ""
    runtime_only: bool = False


class LogLine(Struct, frozen=True):
    """One line as a module wrote it."""

    payload: str  # with its newline
    stream: str = "stdout"
    written_s: float | None = None  # when, if whoever keeps the log knows


class ParsedLine(Struct, frozen=True):
    level: int
    text: str
    written_s: float | None


class Stopwatch:
    """How long expressions may still be tried, all together."""

    def __init__(self, limit_s: float) -> None:
        self._ends_s = time.monotonic() + limit_s

    def finds(self, pattern: regex.Pattern[str], text: str) -> bool:
        """Tell whether an expression fits somewhere in a text.

        Raises:
            MethodRefused: the time is up.
        """
        left_s = self._ends_s - time.monotonic()
        try:
            if left_s > 0:
                return pattern.search(text, timeout=left_s, concurrent=True) is not None
        except TimeoutError:
            pass
        raise MethodRefused(400, f"regex {quoted(pattern.pattern)} takes too long; write a simpler one")


# --- requests ---


def fields_of(payload: bytes, example: str) -> dict[str, Any]:
    """Return the members of a payload under their names in small letters.

    Raises:
        MethodRefused: 400 it is no JSON object.
    """
    try:
        value = msgspec.json.decode(payload) if payload.strip() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise MethodRefused(400, f"the payload has to be a JSON object such as {example}")
    return {str(name).lower(): member for name, member in value.items()}


def check_schema_version(fields: Mapping[str, Any]) -> None:
    """Return when the schema version of a request is one that is understood: major 1.

    Raises:
        MethodRefused: 400 it is missing or blank; 500, as the reference has it, for another one.
    """
    version = text_of(fields, "schemaVersion")
    if not re.fullmatch(r"1(\.[0-9]{1,9}){1,3}", version.strip()):
        raise MethodRefused(500, f"schemaVersion {quoted(version)} is not supported; supported: 1.0")


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a text that has to be there and not be blank.

    Raises:
        MethodRefused: 400.
    """
    value = fields.get(name.lower())
    if not isinstance(value, str) or not value.strip():
        raise MethodRefused(400, f"{name} is missing; it is a text that is not blank")
    return value


def parse_request(payload: bytes, now_s: float, needs_url: bool) -> LogRequest:
    """Read the payload of GetModuleLogs, or with an URL that of UploadModuleLogs.

    Raises:
        MethodRefused: 400, and 500 for another schema version.
    """
    fields = fields_of(payload, '{"schemaVersion": "1.1", "items": {"id": "sensor"}}')
    check_schema_version(fields)
    items = fields.get("items")
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise MethodRefused(400, 'items is missing; it is {"id": "…"} or a list of these')
    return LogRequest(
        tuple(_item(item, now_s) for item in items),
        _choice(Encoding, fields, "encoding", Encoding.NONE),
        _choice(ContentType, fields, "contentType", ContentType.JSON),
        text_of(fields, "sasUrl") if needs_url else "",
    )


def parse_bundle_request(payload: bytes, now_s: float) -> BundleRequest:
    """Read the payload of UploadSupportBundle; any schema version will do.

    Raises:
        MethodRefused: 400.

    Source: spec sheet agent.md sections 5.1 and 5.4
    """
    fields = fields_of(payload, '{"schemaVersion": "1.0", "sasUrl": "…"}')
    text_of(fields, "schemaVersion")
    only = fields.get("edgeruntimeonly")
    if only is not None and not isinstance(only, bool):
        raise MethodRefused(400, "edgeRuntimeOnly is neither true nor false")
    times = {}
    for name in ("since", "until"):
        value = fields.get(name)
        parse_time(value, now_s, name)
        times[name] = "" if value is None else str(value)
    return BundleRequest(text_of(fields, "sasUrl"), times["since"], times["until"], bool(only))


def chosen(request: LogRequest, modules: Iterable[str], stopwatch: Stopwatch) -> list[tuple[str, LogFilter]]:
    """Return the modules that a request names, each with the first filter that names it.

    Raises:
        MethodRefused: an expression is wrong, or takes too long.
    """
    left = list(modules)
    found = []
    for expression, wanted in request.items:
        if expression.lower() == ALL:
            names = left
        else:
            pattern = _pattern(expression, "id", ignore_case=True)
            names = [name for name in left if stopwatch.finds(pattern, name)]
        found += [(name, wanted) for name in names]
        left = [name for name in left if name not in names]
    return found


def parse_time(value: object, now_s: float, name: str) -> float | None:
    """Return a time: RFC 3339, seconds since 1970, or how long ago such as `90m` or `2h 30min`.

    Raises:
        MethodRefused: 400 it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip() if isinstance(value, str) else ""
    if re.fullmatch(r"-?[0-9]{1,12}", text):
        return float(text)
    if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        try:
            return from_iso(text)
        except ValueError:
            pass
    elif text and "".join(match[0] for match in _DURATION.finditer(text)) == text:
        parts = [(int(match[1]), _UNITS_S.get(match[2])) for match in _DURATION.finditer(text)]
        if all(unit is not None for _, unit in parts):
            return now_s - sum(count * (unit or 0) for count, unit in parts)
    raise MethodRefused(
        400, f"{name} {quoted(str(value))} is no time; write 2026-05-01T10:00:00Z, seconds since 1970, or 90m"
    )


def _item(item: Mapping[str, Any], now_s: float) -> tuple[str, LogFilter]:
    members = {str(name).lower(): member for name, member in item.items()}
    expression = text_of(members, "id")
    if expression.lower() != ALL:
        _pattern(expression, "id", ignore_case=True)
    wanted = members.get("filter")
    if wanted is None:
        return expression, LogFilter()
    if not isinstance(wanted, dict):
        raise MethodRefused(400, "filter is not an object")
    given = {str(name).lower(): member for name, member in wanted.items()}
    text = given.get("regex")
    if text is not None and not isinstance(text, str):
        raise MethodRefused(400, "regex is not a text")
    return expression, LogFilter(
        _number(given, "tail", 2**31 - 1),
        parse_time(given.get("since"), now_s, "since"),
        parse_time(given.get("until"), now_s, "until"),
        _number(given, "loglevel", 7),
        None if text is None else _pattern(text, "regex"),
    )


def _pattern(text: str, name: str, ignore_case: bool = False) -> regex.Pattern[str]:
    import regex

    try:
        return regex.compile(text, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, OverflowError, RecursionError) as exc:
        raise MethodRefused(400, f"{name} {quoted(text)} is no regular expression: {exc}") from exc


def _number(fields: Mapping[str, Any], name: str, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise MethodRefused(400, f"{name} is not a whole number from 0 to {most}")
    return value


def _choice(kind: type[AnyEnum], fields: Mapping[str, Any], name: str, missing: AnyEnum) -> AnyEnum:
    value = fields.get(name.lower())
    if value is None:
        return missing
    try:
        return kind(value.lower() if isinstance(value, str) else value)
    except ValueError:
        allowed = ", ".join(member.value for member in kind)
        raise MethodRefused(400, f"{name} {quoted(str(value))} is not allowed; allowed: {allowed}") from None


# --- lines ---


def parse_line(line: LogLine) -> ParsedLine:
    """Take a line apart: `<6> 2024-05-01 10:00:00.123 +00:00 text`, each part optional; or an object."""
    rest, level, written_s = line.payload, DEFAULT_LEVEL, line.written_s
    if match := _LEVEL.match(rest):
        level, rest = int(match[1]), rest[match.end() :]
    said = ""
    if match := _TIME.match(rest):
        said, rest = match[1] + match[2], rest[match.end() :]
    elif match := _OWN_OBJECT.match(rest):
        said, level = match[1], _OWN_LEVELS.get(match[2], level)
    if said and written_s is None:
        try:
            written_s = from_iso(said)
        except ValueError:
            pass  # the 31st of February
    text = rest.split("\n", 1)[0]
    return ParsedLine(level, text or line.payload, written_s)


def selected(
    lines: Iterable[LogLine], wanted: LogFilter, stopwatch: Stopwatch, cut: bool = True
) -> Iterable[tuple[LogLine, ParsedLine]]:
    """Return the lines that a filter lets through, in order.

    By time first, then the last `tail` lines unless both ends of the time are given, then by level and
    expression, then once more the last `tail`; the end of that is left out where the reference does so.

    Args:
        lines: All there are.
        wanted: The filter.
        stopwatch: For its expression.
        cut: Whether `tail` counts in the end, too.

    Raises:
        MethodRefused: while one iterates: the expression takes too long.
    """
    timely: Iterable[tuple[LogLine, ParsedLine]] = _in_time(lines, wanted)
    if wanted.tail is not None and (wanted.since_s is None or wanted.until_s is None):
        timely = deque(timely, wanted.tail)
    found = (pair for pair in timely if _fits(pair[1], wanted, stopwatch))
    return deque(found, wanted.tail) if cut and wanted.tail is not None else found


def _in_time(lines: Iterable[LogLine], wanted: LogFilter) -> Iterator[tuple[LogLine, ParsedLine]]:
    """Yield the lines of the time asked for. One without a time is as old as the one before it."""
    at_s: float | None = None
    for line in lines:
        parsed = parse_line(line)
        at_s = at_s if parsed.written_s is None else parsed.written_s
        too_old = at_s is not None and wanted.since_s is not None and at_s < wanted.since_s
        too_new = at_s is not None and wanted.until_s is not None and at_s > wanted.until_s
        if not too_old and not too_new:
            yield line, parsed


def _fits(parsed: ParsedLine, wanted: LogFilter, stopwatch: Stopwatch) -> bool:
    if wanted.level is not None and parsed.level != wanted.level:
        return False
    return wanted.pattern is None or stopwatch.finds(wanted.pattern, parsed.text)


def as_json(line: LogLine, parsed: ParsedLine, hub: str, device: str, module: str) -> str:
    """Return one line as a JSON object."""
    written = None
    if parsed.written_s is not None:
        written = datetime.fromtimestamp(parsed.written_s, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps(
        {
            "iothub": hub,
            "device": device,
            "id": module,
            "stream": line.stream,
            "loglevel": parsed.level,
            "text": parsed.text,
            "timestamp": written,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
