"""Reads the JSON of a deployment manifest so that every mistake can be shown where it stands.

`load` turns text into values and refuses what JSON readers usually let pass: repeated keys (the last one
would silently win and a module be lost), NaN, numbers beyond any range, bottomless nesting. `Node` is a value
with its JSON path; its methods read it as one type or raise a DeploymentError that names file, path, value
and what is allowed. Property names and enum values are matched ignoring case, as the reference does (spec
sheet agent.md section 1.2). A schema library would give neither the case rule nor the nearest valid name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from msgspec import Struct, field

from messaging.errors import DeploymentError
from messaging.nearest import did_you_mean

# 50 modules of 32 KiB each are what IoT Hub takes (spec sheet agent.md section 1.1); this leaves room.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_SHOWN = 60
MAX_SHOWN_KEYS = 16
MAX_WARNINGS = 100

Path = tuple[str | int, ...]
AnyEnum = TypeVar("AnyEnum", bound=StrEnum)

_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_MISSING = object()


class JsonObject(dict[str, Any]):
    """A JSON object that remembers a key written twice."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: str | None = None
        if len(self) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    self.repeated = key
                    break
                seen.add(key)


class JsonFloat(float):
    """A JSON number with a fraction or exponent that remembers how it was written."""

    __slots__ = ("text",)

    def __new__(cls, text: str) -> JsonFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class Source(Struct, frozen=True):
    """The file that is being read, and what was noticed on the way without being an error."""

    file_name: str
    warnings: list[str] = field(default_factory=list)
    # Where a value was written, if not where it takes effect: sub-paths as in `properties.desired.routes.r`.
    written_at: dict[Path, Path] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.written_at:
                return render_path(self.written_at[path[:length]] + path[length:])
        return render_path(path)


def render_path(path: Path) -> str:
    """Return a JSON path such as `$.modulesContent.$edgeAgent['properties.desired'].modules.sensor`."""
    parts = ["$"]
    for key in path[:MAX_SHOWN_KEYS]:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif _PLAIN_KEY.fullmatch(key) and len(key) <= MAX_SHOWN:
            parts.append(f".{key}")
        else:
            parts.append(f"[{quoted(key)}]")
    return "".join(parts) + ("…" if len(path) > MAX_SHOWN_KEYS else "")


def load(content: bytes | str, source: Source) -> Node:
    """Parse `content` and return its root.

    Raises:
        DeploymentError: Not UTF-8, not JSON (with line and column), too large, too deep, a repeated key, or a
            number or text that no other program could read back.
    """
    name = source.file_name
    size_bytes = len(content) if isinstance(content, bytes) else len(content.encode("utf-8", "surrogatepass"))
    if size_bytes > MAX_MANIFEST_BYTES:
        raise DeploymentError(f"{name}: {size_bytes} bytes; a manifest may have at most {MAX_MANIFEST_BYTES}")
    if isinstance(content, bytes):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise DeploymentError(
                f"{name}: not UTF-8: byte 0x{content[exc.start]:02x} at offset {exc.start}; save it as UTF-8"
            ) from exc
    else:
        text = content.removeprefix("\ufeff")
    if not text.strip():
        raise DeploymentError(f'{name}: the file is empty; it has to hold {{"modulesContent": {{…}}}}')
    return load_text(text, Node(None, (), source))


def load_text(text: str, place: Node) -> Node:
    """Parse JSON text that stands at `place`: a whole file, or a string inside it that holds JSON again."""

    def refuse(constant: str) -> NoReturn:
        raise place.error(f"not JSON: {constant} is not a number in JSON")

    try:
        value = json.loads(
            text,
            object_pairs_hook=JsonObject,
            parse_float=JsonFloat,
            parse_int=_integer,
            parse_constant=refuse,
        )
    except json.JSONDecodeError as exc:
        raise place.error(f"not JSON at line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise place.error(f"nested deeper than {MAX_DEPTH} levels") from exc
    root = Node(value, place.path, place.source)
    for node in _walk(root):
        _check_portable(node, len(node.path) - len(place.path))
    return root


def plain(value: Any) -> Any:
    """Return a copy of a loaded value that is made of dict, list, str, int, float, bool and None alone."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return float(value) if isinstance(value, float) else value


class Node(Struct, frozen=True):
    """One JSON value and where it stands."""

    value: Any
    path: Path
    source: Source

    def child(self, key: str | int, value: Any) -> Node:
        return Node(value, (*self.path, key), self.source)

    def error(self, problem: str, code: int = 400) -> DeploymentError:
        """Return an error that names this place, to be raised."""
        # At the root the path `$` says nothing that the file name does not.
        place = f" {self.source.place(self.path)}:" if self.path else ""
        return DeploymentError(f"{self.source.file_name}:{place} {problem}", code=code)

    def expected(self, what: str) -> DeploymentError:
        """Return the error for a value of another type than `what`; the value itself is not shown."""
        return self.error(f"expected {what}, got {_kind(self.value)}")

    def not_one_of(self, allowed: Iterable[str]) -> DeploymentError:
        """Return the error for a value that is none of the allowed texts, with the nearest of them."""
        names = list(allowed)
        listed = ", ".join(f'"{name}"' for name in names)
        hint = did_you_mean(self.value, names, quote='"') if isinstance(self.value, str) else ""
        return self.error(f"{shown(self.value)} is not allowed; allowed: {listed}{hint}")

    def warn(self, text: str, name: str = "", valid: Iterable[str] = ()) -> None:
        """Note something for the user; with `name`, add which of the valid names is most like it."""
        warnings = self.source.warnings
        if len(warnings) < MAX_WARNINGS:
            hint = did_you_mean(name, valid)
            warnings.append(f"{self.source.file_name}: {self.source.place(self.path)}: {text}{hint}")

    def properties(self, known: Iterable[str]) -> Properties:
        """Read as an object whose property names are known ahead; unknown ones become warnings."""
        if not isinstance(self.value, dict):
            raise self.expected("an object")
        return Properties(self, tuple(known))

    def entries(self) -> Iterator[tuple[str, Node]]:
        """Read as a map from free names to values."""
        if not isinstance(self.value, dict):
            raise self.expected("an object")
        for key, value in self.value.items():
            yield key, self.child(key, value)

    def items(self, what: str) -> Iterator[Node]:
        """Read as an array; `what` says of what, for the error."""
        if not isinstance(self.value, list):
            raise self.expected(what)
        for index, value in enumerate(self.value):
            yield self.child(index, value)

    def text(self, what: str = "a string") -> str:
        if not isinstance(self.value, str):
            raise self.expected(what)
        return self.value

    def integer(self, low: int, high: int) -> int:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(f"expected a whole number from {low} to {high}, got {shown(value)}")
        return value

    def choice(self, kind: type[AnyEnum]) -> AnyEnum:
        """Read as an enum value, ignoring case; `OnFailure` is as good as `on-failure`."""
        if isinstance(self.value, str):
            wanted = self.value.casefold()
            for member in kind:
                if wanted in (member.value, member.value.replace("-", "")):
                    return member
        raise self.not_one_of(member.value for member in kind)


class Properties:
    """The properties of one JSON object, found ignoring case."""

    __slots__ = ("_found", "_known", "_node")

    def __init__(self, node: Node, known: tuple[str, ...]) -> None:
        """Look up `known` in `node`; a name spelled twice is an error, an unknown one a warning."""
        self._node = node
        self._known = known
        self._found: dict[str, Node] = {}
        spellings = {name.casefold(): name for name in known}
        for key, value in node.value.items():
            name = spellings.get(key.casefold())
            if name is None:
                node.child(key, value).warn("unknown property is ignored", key, known)
            elif name in self._found:
                first = self._found[name].path[-1]
                raise node.child(key, value).error(f"the same property is already given as '{first}'")
            else:
                self._found[name] = node.child(key, value)

    def get(self, name: str) -> Node | None:
        """Return the property, or None when it is absent or null."""
        found = self._found.get(name)
        return None if found is None or found.value is None else found

    def text(self, name: str) -> str:
        """Return a string property, `""` when it is absent or null."""
        found = self.get(name)
        return "" if found is None else found.text()

    def given(self, name: str) -> Node | None:
        """Return the property even when it is null: for those where the reference refuses null."""
        return self._found.get(name)

    def need(self, name: str, example: str) -> Node:
        """Return a property that has to be there; `example` shows how to write it."""
        found = self._found.get(name)
        if found is None:
            unknown = [
                key for key in self._node.value if key.casefold() not in map(str.casefold, self._known)
            ]
            similar = [key for key in unknown if did_you_mean(key, [name])]
            hint = f"; is {quoted(similar[0])} a misspelling of it?" if similar else f"; write {example}"
            raise self._node.error(f'"{name}" is missing{hint}')
        if found.value is None:
            raise found.error(f"null is not allowed; write {example}")
        return found


def _walk(root: Node) -> Iterator[Node]:
    """Yield every value below `root`, itself first; no recursion, since depth is what is being checked."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node.value, dict):
            waiting += reversed([node.child(key, value) for key, value in node.value.items()])
        elif isinstance(node.value, list):
            waiting += reversed([node.child(index, value) for index, value in enumerate(node.value)])


def _check_portable(node: Node, depth: int) -> None:
    value = node.value
    if depth > MAX_DEPTH:
        raise node.error(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, JsonObject):
        for key in value:
            if not _encodable(key):
                raise node.error("a key holds half of a surrogate pair, which is not a character")
        if value.repeated is not None:
            raise node.error(f"the key {quoted(value.repeated)} is given twice; only one of them can count")
    elif isinstance(value, str) and not _encodable(value):
        raise node.error("the text holds half of a surrogate pair, which is not a character")
    elif isinstance(value, JsonFloat):
        if math.isinf(value) or value.text.lstrip("-").isdigit():
            raise node.error(f"the number {shown(value)} is too large")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise node.error(f"the number {shown(value)} is too large")


def _integer(text: str) -> int | JsonFloat:
    # int() refuses more than 4300 digits; what is no 64-bit number is refused with its place later.
    return int(text) if len(text) <= 20 else JsonFloat(text)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    """Name a value's JSON type; the value itself may be a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def shown(value: Any) -> str:
    """Show a value that cannot be a secret: enum spellings, numbers, versions."""
    if isinstance(value, str):
        return quoted(value, '"')
    if isinstance(value, JsonFloat):
        return _shortened(value.text)
    if isinstance(value, int) and not isinstance(value, bool):
        return _shortened(str(value))
    return _kind(value)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def quoted(text: str, quote: str = "'") -> str:
    """Quote text from the file so that it cannot move the cursor or hide in a terminal."""
    text = _shortened(text).replace("\\", "\\\\").replace(quote, f"\\{quote}")
    readable = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return f"{quote}{''.join(readable)}{quote}"
