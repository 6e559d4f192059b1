"""Conditions on envelopes: the language of routes, asked of what actors tell each other.

`kind = 'Publish' AND size > 1000 AND $body.client = 'd/m'`: the fields of an envelope by their names, with or
without a $, those of its message behind `$body.`. Other than in a route a field of an envelope may be a
number; `from`, a word of routes, may be written as it is; and what a message does not have is undefined, so
that nothing holds for it: most envelopes lack most fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from messaging.envelope import Secret
from messaging.errors import RouteError
from messaging.message import Message
from messaging.nearest import did_you_mean
from messaging.plain_json import unpacked
from messaging.routing.compile import View, compile_condition
from messaging.routing.grammar import (
    Call,
    Chain,
    Constant,
    Expression,
    Prefix,
    Property,
    parse_condition,
    positions_in_condition,
)
from messaging.routing.lexer import Kind, Token, tokenize

FIELDS: Final = (
    "process",
    "id",
    "kind",
    "to",
    "from",
    "correlation",
    "lane",
    "size",
    "waited_ms",
)
_ENVELOPE: Final = "$envelope"  # no field of a message is called so
_BODY: Final = "$body."
_NO_MESSAGE: Final = Message("", {}, {}, b"")

Matches = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
"""Takes the fields of an envelope, and those of its message."""


class _Node(dict[Any, Any]):
    """An object or array of a message. What is missing in it is a node as well, which the reader of paths
    takes for undefined as it does each object.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key, _NOWHERE)


_NOWHERE: Final = _Node()


class _EnvelopeView(View):
    """An envelope as conditions see it."""

    __slots__ = ("_fields", "_of_message")

    def __init__(self, fields: Mapping[str, Any], of_message: Mapping[str, Any]) -> None:
        super().__init__(_NO_MESSAGE)
        self._fields = fields
        self._of_message = of_message

    @property
    def body(self) -> object:
        return _node({**self._of_message, _ENVELOPE: self._fields})


def compile_envelope_condition(text: str) -> Matches:
    """Return what tells whether an envelope fits. An empty condition fits all.

    Raises:
        RouteError: it does not parse or compile, or names a field that envelopes have not.
    """
    spelled, shifts = _with_from(text)
    try:
        with positions_in_condition(spelled):
            expression = parse_condition(spelled)
            if expression is None:
                return lambda fields, of_message: True
            evaluate = compile_condition(_of_envelopes(expression)).evaluate
    except RouteError as exc:
        moved = sum(1 for line, column in shifts if line == exc.line and column < exc.column)
        raise RouteError(exc.reason, exc.line, exc.column - moved, exc.hint) from exc
    return lambda fields, of_message: evaluate(_EnvelopeView(fields, of_message)) is True


def _with_from(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the text with `$from` for `from`, and where that now makes a line longer."""
    lines = text.split("\n")
    shifts: list[tuple[int, int]] = []
    for token in tokenize(text):
        if token.kind is Kind.KEYWORD and token.text.lower() == "from":
            moved = sum(1 for line, _ in shifts if line == token.line)
            at = token.column - 1 + moved
            line = lines[token.line - 1]
            lines[token.line - 1] = f"{line[:at]}${line[at:]}"
            shifts.append((token.line, at + 1))
    return "\n".join(lines), shifts


def _of_envelopes(expression: Expression) -> Expression:
    """Return the expression with the fields of envelopes where the compiler finds values of any type."""
    match expression:
        case Property(token, is_escaped):
            return Property(_token(token), is_escaped)
        case Prefix(operator, operand):
            return Prefix(operator, _of_envelopes(operand))
        case Call(name, arguments):
            return Call(name, tuple(map(_of_envelopes, arguments)))
        case Chain(first, steps):
            return Chain(_of_envelopes(first), [(sign, _of_envelopes(right)) for sign, right in steps])
        case Constant():
            return expression


def _token(token: Token) -> Token:
    text = token.text
    if text.lower().startswith(_BODY):
        return token
    name = text.removeprefix("$").lower()
    if name not in FIELDS:
        hint = did_you_mean(name, FIELDS).removeprefix("; ")
        there_are = f"there are {', '.join(FIELDS)}, and {_BODY}NAME for a field of the message"
        raise RouteError(f"an envelope has no field '{text}'", token.line, token.column, hint or there_are)
    return Token(Kind.SYSTEM_PROPERTY, f"{_BODY}{_ENVELOPE}.{name}", token.line, token.column)


def _plain(value: Any) -> Any:
    """Return a value as the conditions of routes know them: what JSON has, numbers as floats."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, bytes):
        return _read(value)
    if isinstance(value, Mapping):
        return _node(value)
    if isinstance(value, tuple | list):
        return _Node(enumerate(map(_plain, value)))
    return _NOWHERE if isinstance(value, Secret) else value


def _node(members: Mapping[Any, Any]) -> _Node:
    return _Node((str(key), _plain(member)) for key, member in members.items())


def _read(value: bytes) -> Any:
    """Return what bytes hold: the header of a message, or its body when that is JSON; else a text."""
    found = unpacked(value)
    if found is None and value[:1] == b"{":
        with suppress(ValueError, RecursionError):
            found = json.loads(value, parse_int=float)
    return value.decode("utf-8", "replace") if found is None else _plain(found)
