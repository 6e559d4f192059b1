"""Says why a message takes a route or does not: the value of each part of the condition.

Source: spec sheet routing.md sections 2.4 to 2.7
"""

from __future__ import annotations

import json
import math

from msgspec import Struct

from messaging.message import Message
from messaging.routing.body import why_unusable
from messaging.routing.compile import View, compile_condition, evaluate_part
from messaging.routing.grammar import Call, Chain, Constant, Expression, Prefix, Property, level_of
from messaging.routing.lexer import Kind, Token
from messaging.routing.values import COMPARISONS, MISSING, NO_VALUE, UNDEFINED, upper

_DEEPEST_SHOWN = 24
_LONGEST_SHOWN = 120
_BODY = "$BODY."


class Part(Struct, frozen=True):
    """A part of a condition, its value for one message, and the parts that it is made of."""

    text: str
    value: str  # as a condition would write it, or `undefined`
    note: str  # what is surprising about the value, or ""
    parts: tuple[Part, ...] = ()


class Explanation(Struct, frozen=True):
    """Whether a condition lets a message pass, and why."""

    passes: bool
    why: str
    part: Part | None  # None: there is no condition


def explain(condition: Expression | None, message: Message) -> Explanation:
    """Explain one condition and one message.

    Raises:
        RouteError: the condition does not compile.
    """
    if condition is None:
        return Explanation(False, "an empty condition is undefined, and only a true one passes", None)
    view = View(message)
    verdict = compile_condition(condition).evaluate(view)
    part, value = _part(condition, view, 0)
    if verdict is not None:
        why = f"the condition is {_shown(verdict)}"
    elif value is UNDEFINED:
        why = "the condition is undefined, and only a true one passes"
    else:
        why = f"the condition is {part.value}, and only a true one passes"
    return Explanation(verdict is True, why, part)


def _part(expression: Expression, view: View, depth: int) -> tuple[Part, object]:
    value = evaluate_part(expression, view)
    note = ""
    parts: tuple[tuple[Part, object], ...] = ()
    if depth < _DEEPEST_SHOWN:
        operands = _operands(expression)
        parts = tuple(_part(o, view, depth + 1) for o in operands if not isinstance(o, Constant))
        if isinstance(expression, Chain):
            note = _note_on_comparison(expression, view)
    if isinstance(expression, Property):
        note = _note_on_property(expression, value, view)
    text = _text(expression)
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 1] + "…"
    return Part(text, _shown(value), note, tuple(part for part, _ in parts)), value


def _operands(expression: Expression) -> tuple[Expression, ...]:
    match expression:
        case Prefix(_, operand):
            return (operand,)
        case Call(_, arguments):
            return arguments
        case Chain(_, steps):
            # The last operator is applied last. Neighbours of one kind stand side by side.
            sign = steps[-1][0].text.upper()
            first = len(steps) - 1
            while first and steps[first - 1][0].text.upper() == sign:
                first -= 1
            return (_head(expression, first), *(right for _, right in steps[first:]))
    return ()


def _head(chain: Chain, count: int) -> Expression:
    """Return a chain with its first `count` steps only."""
    return Chain(chain.first, chain.steps[:count]) if count else chain.first


def _note_on_comparison(chain: Chain, view: View) -> str:
    operator, right = chain.steps[-1]
    if operator.text not in COMPARISONS:
        return ""
    a = evaluate_part(_head(chain, len(chain.steps) - 1), view)
    b = evaluate_part(right, view)
    if UNDEFINED in (a, b) or NO_VALUE in (a, b) or _kind(a) == _kind(b):
        return ""
    return f"a {_kind(a)} and a {_kind(b)}: kinds are ordered bool, number, string, null"


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, float) else "string" if isinstance(value, str) else "null"


def _note_on_property(property_: Property, value: object, view: View) -> str:
    if value is NO_VALUE:
        return "the property is there, without a value"
    if value is not UNDEFINED and value is not MISSING:
        return ""
    written = property_.token.text
    name = upper(written)
    if name.startswith(_BODY):
        if value is MISSING:
            return "the body has nothing there"
        return why_unusable(view.message) or "an object, an array or a date has no value"
    if property_.token.kind is Kind.NAME:
        is_system = name in view.system_properties
        hint = f"; there is a system property, ${written}" if is_system else ""
        return f"the message has no property '{written}'{hint}"
    is_application = not property_.is_escaped and name[1:] in view.properties
    hint = f"; there is a property without $, {written[1:]}" if is_application else ""
    return f"the message has no system property '{written[1:]}'{hint}"


def _shown(value: object) -> str:
    if value is UNDEFINED:
        return "undefined"
    if value is None or value is MISSING or value is NO_VALUE:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value in (math.inf, -math.inf):
        return "Infinity" if value == math.inf else "-Infinity"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    text = str(value)
    return json.dumps(text[:_LONGEST_SHOWN] + "…" * (len(text) > _LONGEST_SHOWN), ensure_ascii=False)


def _text(expression: Expression) -> str:
    """Write a part of a condition anew: brackets where they are needed, one blank around operators."""
    match expression:
        case Constant(token):
            return token.text
        case Property(token, is_escaped):
            return f"{{{token.text}}}" if is_escaped else token.text
        case Prefix(operator, operand):
            return f"{operator.text} {_in_brackets(operand, isinstance(operand, Chain))}"
        case Call(name, arguments):
            return f"{name.text}({', '.join(map(_text, arguments))})"
        case Chain(first, steps):
            return _chain_text(first, steps)


def _chain_text(first: Expression, steps: list[tuple[Token, Expression]]) -> str:
    text = _text(first)
    level_before = level_of(steps[0][0])
    for operator, right in steps:
        level = level_of(operator)
        if level > level_before:
            text = f"({text})"
        loose = isinstance(right, Chain) and level_of(right.steps[-1][0]) <= level
        text = f"{text} {operator.text} {_in_brackets(right, loose)}"
        level_before = level
    return text


def _in_brackets(expression: Expression, needed: bool) -> str:
    return f"({_text(expression)})" if needed else _text(expression)
