"""`edge-actors routes test --batch`: one line of JSON in, one out, in the same order.

Each line is answered, and the answer flushed, before the next is read; so another program can ask line by
line. A line that cannot be understood is answered with an error of its own and ends nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, BinaryIO

from messaging.errors import RouteError
from messaging.message import Message, source_path
from messaging.routing.compile import View, compile_condition
from messaging.routing.grammar import parse_condition, positions_in_condition
from messaging.routing.route import CompiledRoutes, compile_route


class _BadLine(Exception):
    """A line is not what the command understands."""

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.column = column


def answer_lines(lines: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the end of the input."""
    for line in lines:
        answers.write(json.dumps(answer(line)).encode() + b"\n")
        answers.flush()


def answer(line: bytes) -> dict[str, Any]:
    """Answer one line."""
    try:
        return _answer(line)
    except RouteError as exc:
        return _error(exc.reason, exc.line, exc.column)
    except _BadLine as exc:
        return _error(str(exc), 1, exc.column)


def _error(message: str, line: int, column: int) -> dict[str, Any]:
    return {"error": [{"message": message, "line": line, "column": column}]}


def _answer(line: bytes) -> dict[str, Any]:
    asked = _parsed(line)
    if ("route" in asked) == ("condition" in asked):
        raise _BadLine('the line needs "route" or "condition", one of them')
    kind = "route" if "route" in asked else "condition"
    text = asked[kind]
    if not isinstance(text, str):
        raise _BadLine(f'"{kind}" has to be a string')
    message = None if asked.get("message") is None else _message(asked["message"])
    if kind == "route":
        routes = CompiledRoutes([compile_route("", text, edge_device_id="")])
        return {"match": None if message is None else bool(routes.endpoints_of(message))}
    with positions_in_condition(text):
        expression = parse_condition(text)
        condition = None if expression is None else compile_condition(expression)
    if message is None:
        return {"match": None}
    return {"match": condition is not None and condition.evaluate(View(message)) is True}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line.decode())
    except UnicodeDecodeError as exc:
        raise _BadLine(f"the line is not UTF-8 from byte {exc.start + 1} on") from exc
    except json.JSONDecodeError as exc:
        raise _BadLine(f"the line is not JSON: {exc.msg}", exc.colno) from exc
    except (ValueError, RecursionError) as exc:
        raise _BadLine("the line cannot be read: brackets too deep or a number too long") from exc
    if not isinstance(asked, dict):
        raise _BadLine("the line has to be a JSON object")
    return asked


def _message(value: object) -> Message:
    if not isinstance(value, dict):
        raise _BadLine('"message" has to be an object')
    system = _properties(value, "systemProperties")
    source = value.get("source")
    if source is None:
        source = source_path(system)
    elif not isinstance(source, str):
        raise _BadLine('"message.source" has to be a string')
    return Message(source.rstrip("/") + "/", _properties(value, "properties"), system, _body(value))


def _properties(message: dict[str, Any], name: str) -> dict[str, str | None]:
    found = message.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _BadLine(f'"message.{name}" has to be an object')
    for key, value in found.items():
        if not isinstance(value, str | None):
            raise _BadLine(f'"message.{name}": the value of {json.dumps(key)} has to be a string')
    return found


def _body(message: dict[str, Any]) -> bytes:
    text = message.get("body")
    if text is None:
        return b""
    if not isinstance(text, str):
        raise _BadLine('"message.body" has to be a string in base64')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _BadLine(f'"message.body" is not base64: {exc}') from exc
