"""Compiles a condition to closures: types are settled once, so that a message costs few steps.

Most mistakes in a condition are found here and not by the grammar: `temperature > 20` compares a property,
which is a string, with a number.

Source: spec sheet routing.md sections 2.3 to 2.6, error texts 1.4
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from msgspec import Struct

from messaging.errors import RouteError
from messaging.message import Message
from messaging.property_bag import Properties
from messaging.routing.body import parse_body, parse_path, path_reader
from messaging.routing.functions import concat, defined, resolve
from messaging.routing.grammar import Call, Chain, Constant, Expression, Prefix, Property
from messaging.routing.lexer import Kind, Token
from messaging.routing.values import (
    COMPARISONS,
    NO_VALUE,
    UNDEFINED,
    Type,
    both,
    comparison,
    either,
    join_surrogates,
    negation,
    upper,
)

_LONGEST_HEX_DIGITS = 16
_BODY = "$body."


class View:
    """A message as conditions see it: names in capitals, because case is ignored; the body parsed once, and
    each path into it followed once, however many conditions ask.
    """

    __slots__ = ("_message", "_root", "at_paths", "properties", "system_properties")

    def __init__(self, message: Message) -> None:
        self._message = message
        self._root: object = None
        self.at_paths: dict[str, object] = {}  # by text
        self.properties = _by_capitals(message.properties)
        self.system_properties = _by_capitals(message.system_properties)

    def with_body(self, body: bytes) -> View:
        """Return the view of a message that has another body and is the same else."""
        view, message = View.__new__(View), self._message
        view._message = Message(message.source, message.properties, message.system_properties, body)
        view._root = None
        view.at_paths = {}
        view.properties, view.system_properties = self.properties, self.system_properties
        return view

    @property
    def message(self) -> Message:
        """The message itself."""
        return self._message

    @property
    def body(self) -> object:
        """What `parse_body` says of the message."""
        if self._root is None:
            self._root = parse_body(self._message)
        return self._root


def _by_capitals(properties: Properties) -> dict[str, object]:
    capitals: dict[str, object] = {}
    for name, value in properties.items():
        # Of names that differ by case only the first counts.
        capitals.setdefault(upper(name), NO_VALUE if value is None else value)
    return capitals


Evaluate = Callable[[View], object]
# Takes the value so far and that of the right side.
Apply = Callable[[object, object], object]


class Condition(Struct, frozen=True):
    """A compiled condition. It gives True, on which alone a message passes, False, or None: undefined."""

    evaluate: Callable[[View], bool | None]
    reads_body: bool


class _Typed(Struct, frozen=True):
    type: Type
    evaluate: Evaluate
    reads_body: bool = False


class _Step(Struct, frozen=True):
    """One operator of a chain. Where the value so far is `settled_by`, the right side need not be asked."""

    apply: Apply
    right: Evaluate
    settled_by: object


def compile_condition(expression: Expression) -> Condition:
    """Return the condition, ready to be asked.

    Raises:
        RouteError: types that do not go together, an unknown function, a malformed body path.
    """
    typed = _compile(expression)
    ask = typed.evaluate
    if typed.type is Type.NULL:
        return Condition(lambda view: False, reads_body=False)

    def evaluate(view: View) -> bool | None:
        value = ask(view)
        return value if isinstance(value, bool) else None

    return Condition(evaluate, typed.reads_body)


def evaluate_part(expression: Expression, view: View) -> object:
    """Return the value that a part of a condition has for a message: one of messaging/routing/values.py.

    Raises:
        RouteError: it does not compile.
    """
    return _compile(expression).evaluate(view)


def _compile(expression: Expression) -> _Typed:
    match expression:
        case Constant(token):
            return _constant(token)
        case Property(token, is_escaped):
            return _property(token, is_escaped)
        case Prefix(operator, operand):
            return _prefix(operator, _compile(operand))
        case Call(name, arguments):
            return _call(name, arguments)
        case Chain(first, steps):
            return _chain(first, steps)


# Operands


def _constant(token: Token) -> _Typed:
    type_, value = _constant_value(token)
    return _Typed(type_, lambda view: value)


def _constant_value(token: Token) -> tuple[Type, object]:
    text = token.text
    if token.kind is Kind.STRING:
        return Type.STRING, _unescape(text[1:-1])
    if token.kind is Kind.HEX:
        digits = text[2:].lstrip("0") or "0"
        if len(digits) > _LONGEST_HEX_DIGITS:
            return Type.UNDEFINED, UNDEFINED
        number = int(digits, 16)
        return Type.NUMBER, float(number if number < 2**63 else number - 2**64)
    if token.kind in (Kind.INTEGER, Kind.REAL):
        if text.lstrip("-")[0] in "eE":
            return Type.UNDEFINED, UNDEFINED  # e5 is a number without a mantissa
        return Type.NUMBER, float(text)
    if text == "undefined":
        return Type.UNDEFINED, UNDEFINED
    return (Type.NULL, None) if text == "null" else (Type.BOOL, text == "true")


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    # In this order, as in the reference hub: what \u005c gives may be the backslash of the second kind.
    text = re.sub(r"\\[uU]([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), text)
    return join_surrogates(re.sub(r"""\\(["'\\])""", r"\1", text))


def _property(token: Token, is_escaped: bool) -> _Typed:
    name = upper(token.text)
    if token.kind is Kind.NAME:
        return _Typed(Type.STRING, lambda view: view.properties.get(name, UNDEFINED))
    if name.startswith(_BODY.upper()):
        return _body_property(token, name, is_escaped)
    if "[" in name or "]" in name:
        return _Typed(Type.UNDEFINED, lambda view: UNDEFINED)
    system_name = name[1:]
    if is_escaped:
        return _Typed(Type.STRING, lambda view: view.system_properties.get(system_name, UNDEFINED))

    def either_kind(view: View) -> object:
        if name in view.properties:
            return view.properties[name]
        return view.system_properties.get(system_name, UNDEFINED)

    return _Typed(Type.STRING, either_kind)


def _body_property(token: Token, name: str, is_escaped: bool) -> _Typed:
    text = token.text
    try:
        read_root = path_reader(parse_path(text[len(_BODY) :]))
    except ValueError as exc:
        reason = f"Invalid arguments to built-in function '{token.text}': {token.text}(string)"
        details = f". Error: Error in $body query. {exc}"
        raise RouteError(reason + details, token.line, token.column) from exc

    def read(view: View) -> object:
        known = view.at_paths
        if text not in known:
            known[text] = read_root(view.body)
        return known[text]

    if is_escaped or "[" in name:  # names of properties have no brackets
        return _Typed(Type.DYNAMIC, read, reads_body=True)

    def property_or_body(view: View) -> object:
        if name in view.properties:
            return view.properties[name]
        return read(view)

    return _Typed(Type.DYNAMIC, property_or_body, reads_body=True)


def _call(name: Token, arguments: tuple[Expression, ...]) -> _Typed:
    text = name.text
    try:
        resolve(text, [])
    except KeyError:
        raise RouteError(f"Invalid built-in function '{text}'", name.line, name.column) from None
    compiled = [_compile(argument) for argument in arguments]
    types = [argument.type for argument in compiled]
    overload = resolve(text, types)
    if overload is None:
        given = ", ".join(type_.value for type_ in types)
        reason = f"Invalid arguments to built-in function '{text}': {text}({given})"
        raise RouteError(reason, name.line, name.column)
    call = overload.call
    evaluators = [argument.evaluate for argument in compiled]
    reads_body = any(argument.reads_body for argument in compiled)
    if len(evaluators) == 1:
        (only,) = evaluators
        return _Typed(overload.result, lambda view: call(only(view)), reads_body)
    return _Typed(overload.result, lambda view: call(*[ask(view) for ask in evaluators]), reads_body)


# Operators


def _prefix(operator: Token, operand: _Typed) -> _Typed:
    evaluate = operand.evaluate
    if operator.text == "-":
        if operand.type is not Type.NUMBER:
            raise _operand_error(operator, [operand.type], Type.NUMBER)

        def negative(view: View) -> object:
            value = evaluate(view)
            return -value if isinstance(value, float) else UNDEFINED

        return _Typed(Type.NUMBER, negative, operand.reads_body)
    if operand.type is Type.NULL:
        return _Typed(Type.BOOL, lambda view: True, operand.reads_body)
    if operand.type not in (Type.BOOL, Type.DYNAMIC):
        raise _operand_error(operator, [operand.type], Type.BOOL)
    return _Typed(Type.BOOL, lambda view: negation(evaluate(view)), operand.reads_body)


def _chain(first: Expression, parts: list[tuple[Token, Expression]]) -> _Typed:
    start = _compile(first)
    type_, reads_body = start.type, start.reads_body
    steps = []
    for operator, expression in parts:
        right = _compile(expression)
        type_, apply, settled_by = _binary(operator, type_, right.type)
        steps.append(_Step(apply, right.evaluate, settled_by))
        reads_body = reads_body or right.reads_body
    return _Typed(type_, _in_turn(start.evaluate, steps), reads_body)


def _in_turn(first: Evaluate, steps: list[_Step]) -> Evaluate:
    if len(steps) == 1:
        apply, right, settled_by = steps[0].apply, steps[0].right, steps[0].settled_by
        if settled_by is _NOTHING:
            return lambda view: apply(first(view), right(view))
    flat = [(step.apply, step.right, step.settled_by) for step in steps]

    def run(view: View) -> object:
        value = first(view)
        for apply, right, settled_by in flat:
            if value is not settled_by:
                value = apply(value, right(view))
        return value

    return run


class _Nothing:
    """A value that no expression has."""


_NOTHING = _Nothing()


def _binary(operator: Token, left: Type, right: Type) -> tuple[Type, Apply, object]:
    """Return the type of the result, how to apply the operator, and the left value that settles it alone."""
    sign = operator.text.upper()
    if sign in ("AND", "OR"):
        return _logic(operator, sign, left, right)
    if sign in ("+", "-", "*", "/", "%"):
        return (*_arithmetic(operator, sign, left, right), _NOTHING)
    if sign == "||":
        if not {left, right} <= {Type.STRING, Type.DYNAMIC}:
            raise _operand_error(operator, [left, right], Type.STRING)
        return Type.STRING, concat, _NOTHING
    if left is not right and not (Type.DYNAMIC in (left, right) and Type.UNDEFINED not in (left, right)):
        raise _operand_error(operator, [left, right], left)
    common = left if left is right else Type.DYNAMIC
    if sign == "??":
        return common, lambda a, b: b if a is UNDEFINED else a, _NOTHING
    return Type.BOOL, comparison(sign, common), _NOTHING


_LOGICAL = frozenset({Type.BOOL, Type.NULL, Type.UNDEFINED})


def _logic(operator: Token, sign: str, left: Type, right: Type) -> tuple[Type, Apply, object]:
    is_and = sign == "AND"
    if left is Type.DYNAMIC:
        # Anything may stand on the right; but only two bools give a result.
        logic = both if is_and else either
        return (
            Type.BOOL,
            lambda a, b: logic(a, b) if isinstance(a, bool) and isinstance(b, bool) else UNDEFINED,
            _NOTHING,
        )
    if not {left, right} <= _LOGICAL or {left, right} == {Type.NULL, Type.UNDEFINED}:
        raise _operand_error(operator, [left, right], Type.BOOL)
    if Type.NULL in (left, right):
        if is_and or left is right:
            return Type.NULL, lambda a, b: None, _NOTHING
        return Type.BOOL, (lambda a, b: b) if left is Type.NULL else (lambda a, b: a), _NOTHING
    return Type.BOOL, both if is_and else either, not is_and


def _arithmetic(operator: Token, sign: str, left: Type, right: Type) -> tuple[Type, Apply]:
    allowed = {Type.NUMBER} if sign == "%" else {Type.NUMBER, Type.DYNAMIC}
    if not {left, right} <= allowed:
        raise _operand_error(operator, [left, right], Type.NUMBER)
    calculate = _ARITHMETIC[sign]

    def apply(a: object, b: object) -> object:
        if isinstance(a, float) and isinstance(b, float):
            return defined(calculate(a, b))
        return UNDEFINED

    return Type.NUMBER if left is right is Type.NUMBER else Type.DYNAMIC, apply


def _divide(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 else math.copysign(math.inf, a) * math.copysign(1, b)


def _remainder(a: float, b: float) -> float:
    return math.fmod(a, b) if b and math.isfinite(a) else math.nan


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": _remainder,
}


def _operand_error(operator: Token, have: list[Type], expected: Type) -> RouteError:
    given = " and ".join(f"'{type_.value}'" for type_ in have)
    wanted = " and ".join([f"'{expected.value}'"] * len(have))
    arity = "unary" if len(have) == 1 else "binary"
    reason = f"Invalid operands to {arity} operator '{operator.text}': have {given}, expected {wanted}"
    hint = ""
    if set(have) == {Type.STRING, Type.NUMBER} and operator.text in COMPARISONS:
        hint = "a property is a string; as_number(name) makes it a number"
    return RouteError(reason, operator.line, operator.column, hint=hint)
