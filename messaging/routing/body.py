"""Questions about the body of a message: `$body.path` of a condition.

Source: spec sheet routing.md section 2.7
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime

from messaging import system_properties as names
from messaging.message import Message
from messaging.routing.lenient_json import loads_leniently
from messaging.routing.values import MISSING, UNDEFINED
from messaging.text import quoted

WILDCARD = None

Path = tuple[str | int | None, ...]  # names, indices, WILDCARD

_SEGMENT = re.compile(r"(?P<name>[^.\[\]]+)(?P<indices>(?:\[[0-9]+\])*)", re.ASCII)
_LAST_INDEX = 2**31 - 1

_ENCODINGS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_JSON = "application/json"
_STRICT = json.JSONDecoder(strict=False, parse_int=float)

_DATE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,7})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.ASCII,
)
_DATE_NUMBER = re.compile(r"/Date\(-?[0-9]+(?:[+-][0-9]{4})?\)/", re.ASCII)


def parse_path(text: str) -> Path:
    """Read what stands behind `$body.`: names with dots between, each with any number of `[index]`.

    Raises:
        ValueError: a segment is empty or its brackets hold something else; the text says which.
    """
    path: list[str | int | None] = []
    for segment in text.split("."):
        found = _SEGMENT.fullmatch(segment)
        if not segment:
            raise ValueError("a segment of the path is empty")
        if found is None:
            raise ValueError(f"'{segment}' is neither a name nor name[index]")
        if found["name"].isascii() and found["name"].isdigit():
            raise ValueError(f"'{segment}' is a number; an element of an array is name[index]")
        path.append(WILDCARD if found["name"] == "*" else found["name"])
        path.extend(_index(digits) for digits in re.findall("[0-9]+", found["indices"], re.ASCII))
    return tuple(path)


def _index(digits: str) -> int:
    # No array reaches further; and int() refuses a text of thousands of digits.
    return int(digits) if len(digits) < len(str(_LAST_INDEX)) else _LAST_INDEX


def parse_body(message: Message) -> object:
    """Return the JSON object in the body, or UNDEFINED where the body is not usable.

    Usable is a body whose content type is exactly application/json and whose encoding is given.
    """
    content_type = message.system_properties.get(names.CONTENT_TYPE) or ""
    encoding = _encoding_of(message)
    if encoding is None or content_type.lower() != _JSON:
        return UNDEFINED
    try:
        text = message.body.decode(encoding)
    except UnicodeDecodeError:
        return UNDEFINED
    try:
        root = _STRICT.decode(text)
    except (ValueError, RecursionError):
        try:
            root = loads_leniently(text)
        except ValueError:
            return UNDEFINED
    return root if isinstance(root, dict) else UNDEFINED


def why_unusable(message: Message) -> str:
    """Say why `parse_body` gives UNDEFINED for this message; "" when it does not."""
    content_type = message.system_properties.get(names.CONTENT_TYPE) or ""
    encoding = _encoding_of(message)
    if content_type.lower() != _JSON:
        return f"the content type is {quoted(content_type)}, not exactly '{_JSON}'"
    if encoding is None:
        given = message.system_properties.get(names.CONTENT_ENCODING) or ""
        return f"the content encoding is {quoted(given)}, not one of {', '.join(_ENCODINGS)}"
    if parse_body(message) is not UNDEFINED:
        return ""
    try:
        message.body.decode(encoding)
    except UnicodeDecodeError as exc:
        return f"byte {exc.start + 1} of the body is not {exc.encoding}"
    return "the body is not a JSON object"


def _encoding_of(message: Message) -> str | None:
    return _ENCODINGS.get((message.system_properties.get(names.CONTENT_ENCODING) or "").lower())


def path_reader(path: Path) -> Callable[[object], object]:
    """Return a function that takes what `parse_body` returned and gives the value at `path`.

    It gives MISSING where the path leads nowhere; UNDEFINED for an object, an array, a date, and where a
    wildcard leads to several values.
    """
    read_nodes = _read_nodes if WILDCARD in path else _read_node
    return lambda root: UNDEFINED if root is UNDEFINED else read_nodes(root, path)


def _read_node(root: object, path: Path) -> object:
    node = root
    for step in path:
        if isinstance(node, dict):
            node = node.get(step, MISSING)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            return MISSING
    return _value(node)


def _read_nodes(root: object, path: Path) -> object:
    """The same for a path with a wildcard, which may lead to several nodes on the way."""
    nodes = [root]
    for step in path:
        nodes = [child for node in nodes for child in _children(node, step)]
    if not nodes:
        return MISSING
    return _value(nodes[0]) if len(nodes) == 1 else UNDEFINED


def _children(node: object, step: str | int | None) -> Iterable[object]:
    if isinstance(node, dict):
        if step is WILDCARD:
            return node.values()
        return (node[step],) if step in node else ()
    if isinstance(node, list):
        if step is WILDCARD:
            return node
        if isinstance(step, int) and step < len(node):
            return (node[step],)
    return ()


def _value(node: object) -> object:
    if isinstance(node, str):
        # A look at the two places where each date has its mark is cheaper than a regular expression.
        may_be_date = len(node) > 7 and (node[4] == "-" or node[0] == "/")
        return UNDEFINED if may_be_date and _is_date(node) else node
    if isinstance(node, dict | list) or node != node:
        return UNDEFINED
    return node


def _is_date(text: str) -> bool:
    """The JSON reader of the reference hub turns such strings into dates, which conditions do not know."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return _DATE_NUMBER.fullmatch(text) is not None
    try:
        datetime.fromisoformat(found[1])
    except ValueError:
        return False
    return True
