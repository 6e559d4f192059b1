"""A slow second reading of the condition language, straight from the tables of the spec sheet.

It shares no code with the product: conditions are trees of tuples, `render` writes them as text for the
compiler, `outcome` walks the tree. Where both agree on random trees and messages, either both are right or
both misread the sheet in the same way.

Source: spec sheet routing.md section 2
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Tree = tuple[Any, ...]
Value = tuple[str, Any]

UNDEFINED: Value = ("undefined", None)
NULL: Value = ("null", None)
MISSING: Value = ("missing", None)
TRUE: Value = ("bool", True)
FALSE: Value = ("bool", False)

LEVELS = [
    ["??"],
    ["OR"],
    ["AND"],
    ["=", "!=", "<>"],
    ["<", "<=", ">", ">="],
    ["+", "-", "||"],
    ["*", "/", "%"],
]
LEVEL_OF = {sign: number for number, signs in enumerate(LEVELS) for sign in signs}
RANK = {"bool": 1, "number": 2, "string": 3, "null": 4, "missing": 4}

AND = {"TT": TRUE, "TF": FALSE, "FT": FALSE, "FF": FALSE, "TU": UNDEFINED, "UT": UNDEFINED}
AND |= {"FU": FALSE, "UF": FALSE, "UU": UNDEFINED}
OR = {"TT": TRUE, "TF": TRUE, "FT": TRUE, "FF": FALSE, "TU": TRUE, "UT": TRUE}
OR |= {"FU": UNDEFINED, "UF": UNDEFINED, "UU": UNDEFINED}


class Refused(Exception):
    """The compiler has to refuse the condition."""


def render(tree: Tree, all_brackets: bool = False) -> str:
    """Write a tree as text, with the brackets that it needs or with all of them."""
    match tree:
        case ("string", text):
            return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
        case ("number", text) | ("constant", text) | ("property", text):
            return str(text)
        case ("body", path):
            return f"$body.{path}"
        case ("call", name, arguments):
            return f"{name}({', '.join(render(argument, all_brackets) for argument in arguments)})"
        case ("prefix", sign, operand):
            return f"{sign} {_bracketed(operand, operand[0] == 'binary' or all_brackets, all_brackets)}"
        case ("binary", sign, left, right):
            level = LEVEL_OF[sign]
            left_needs = left[0] == "binary" and LEVEL_OF[left[1]] < level
            right_needs = right[0] == "binary" and LEVEL_OF[right[1]] <= level
            return (
                f"{_bracketed(left, left_needs or all_brackets, all_brackets)} {sign} "
                f"{_bracketed(right, right_needs or all_brackets, all_brackets)}"
            )
    raise AssertionError(tree)


def _bracketed(tree: Tree, needed: bool, all_brackets: bool) -> str:
    text = render(tree, all_brackets)
    return f"({text})" if needed else text


Properties = Mapping[str, str]


def outcome(tree: Tree, properties: Properties, system: Properties, body: bytes) -> bool | None:
    """Return what the condition gives; undefined is None.

    Raises:
        Refused: it must not compile.
    """
    kind, value = _evaluate(tree, _Message(properties, system, body))
    if kind == "null":
        return False
    return value[1] if value[0] == "bool" else None


class _Message:
    def __init__(self, properties: Properties, system: Properties, body: bytes) -> None:
        self.properties = {name.lower(): text for name, text in properties.items()}
        self.system = {name.lower(): text for name, text in system.items()}
        json_type = self.system.get("contenttype", "").lower() == "application/json"
        utf_8 = self.system.get("contentencoding", "").lower() == "utf-8"
        try:
            root = json.loads(body) if json_type and utf_8 else None
        except ValueError:
            root = None
        self.root = root if isinstance(root, dict) else None

    def at(self, path: str) -> Value:
        if self.root is None:
            return UNDEFINED
        node: Any = self.root
        for name in path.replace("]", "").replace("[", ".").split("."):
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
                node = node[int(name)]
            else:
                return MISSING
        if node is None:
            return NULL
        if isinstance(node, bool):
            return ("bool", node)
        if isinstance(node, int | float):
            return ("number", float(node))
        return ("string", node) if isinstance(node, str) else UNDEFINED


def _evaluate(tree: Tree, message: _Message) -> tuple[str, Value]:
    """Return (static type, value)."""
    match tree:
        case ("string", text):
            return "string", ("string", text)
        case ("number", text):
            return "number", ("number", float(text))
        case ("constant", "true" | "false" as text):
            return "bool", ("bool", text == "true")
        case ("constant", text):
            return text, (text, None)
        case ("property", name):
            found = message.properties.get(name.lower())
            if found is None and name.startswith("$"):
                found = message.system.get(name[1:].lower())
            return "string", UNDEFINED if found is None else ("string", found)
        case ("body", path):
            return "dynamic", message.at(path)
        case ("call", name, arguments):
            return _call(name.lower(), [_evaluate(argument, message) for argument in arguments])
        case ("prefix", sign, operand):
            return _prefix(sign, *_evaluate(operand, message))
        case ("binary", sign, left, right):
            return _binary(sign, *_evaluate(left, message), *_evaluate(right, message))
    raise AssertionError(tree)


def _prefix(sign: str, kind: str, value: Value) -> tuple[str, Value]:
    if sign == "-":
        if kind != "number":
            raise Refused
        return "number", ("number", -value[1]) if value[0] == "number" else UNDEFINED
    if kind == "null":
        return "bool", TRUE
    if kind not in ("bool", "dynamic"):
        raise Refused
    return "bool", ("bool", not value[1]) if value[0] == "bool" else UNDEFINED


def _binary(sign: str, left: str, a: Value, right: str, b: Value) -> tuple[str, Value]:
    if sign in ("AND", "OR"):
        return _logic(sign, left, a, right, b)
    if sign in ("+", "-", "*", "/", "%"):
        if sign == "%" and "dynamic" in (left, right):
            raise Refused
        if not {left, right} <= {"number", "dynamic"}:
            raise Refused
        kind = "dynamic" if "dynamic" in (left, right) else "number"
        if (a[0], b[0]) != ("number", "number"):
            return kind, UNDEFINED
        return kind, _number(_calculate(sign, a[1], b[1]))
    if sign == "||":
        if not {left, right} <= {"string", "dynamic"}:
            raise Refused
        strings = (a[0], b[0]) == ("string", "string")
        return "string", ("string", a[1] + b[1]) if strings else UNDEFINED
    if left != right and ("dynamic" not in (left, right) or "undefined" in (left, right)):
        raise Refused
    if sign == "??":
        return (left if left == right else "dynamic"), (b if a == UNDEFINED else a)
    return "bool", _compare(sign, a, b)


def _logic(sign: str, left: str, a: Value, right: str, b: Value) -> tuple[str, Value]:
    table = AND if sign == "AND" else OR
    if left == "dynamic":
        bools = (a[0], b[0]) == ("bool", "bool")
        return "bool", table[_letter(a) + _letter(b)] if bools else UNDEFINED
    if not {left, right} <= {"bool", "null", "undefined"} or {left, right} == {"null", "undefined"}:
        raise Refused
    if left == "null" and right == "null":
        return "null", NULL
    if "null" in (left, right):
        return ("null", NULL) if sign == "AND" else ("bool", b if left == "null" else a)
    return "bool", table[_letter(a) + _letter(b)]


def _letter(value: Value) -> str:
    return {TRUE: "T", FALSE: "F", UNDEFINED: "U"}[value]


def _compare(sign: str, a: Value, b: Value) -> Value:
    if UNDEFINED in (a, b):
        return UNDEFINED
    x: Any
    y: Any
    if RANK[a[0]] != RANK[b[0]]:
        x, y = RANK[a[0]], RANK[b[0]]
    elif RANK[a[0]] == 4:
        x = y = 0
    elif a[0] == "string":
        x, y = a[1].encode("utf-16-be"), b[1].encode("utf-16-be")
    else:
        x, y = a[1], b[1]
    results = {"=": x == y, "!=": x != y, "<>": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}
    return ("bool", results[sign])


def _number(number: float) -> Value:
    return UNDEFINED if math.isnan(number) else ("number", number)


def _calculate(sign: str, x: float, y: float) -> float:
    if sign == "+":
        return x + y
    if sign == "-":
        return x - y
    if sign == "*":
        return x * y
    if sign == "%":
        return math.nan if y == 0 or math.isinf(x) else math.fmod(x, y)
    if y != 0:
        return x / y
    if x == 0:
        return math.nan
    return math.inf if (x > 0) == (math.copysign(1, y) > 0) else -math.inf


SIGNATURES: dict[str, list[tuple[list[str], str]]] = {
    **{name: [(["number"], "number")] for name in ("abs", "ceiling", "floor", "sqrt", "square", "sign")},
    "power": [(["number", "number"], "number")],
    "as_number": [(["string"], "number"), (["number"], "number")],
    "length": [(["string"], "number")],
    "lower": [(["string"], "string")],
    "upper": [(["string"], "string")],
    "substring": [(["string", "number"], "string"), (["string", "number", "number"], "string")],
    "index_of": [(["string", "string"], "number")],
    **{name: [(["string", "string"], "bool")] for name in ("starts_with", "ends_with", "contains")},
}


def _call(name: str, arguments: list[tuple[str, Value]]) -> tuple[str, Value]:
    kinds = [kind for kind, _ in arguments]
    values = [value for _, value in arguments]
    if name.startswith("is_"):
        if len(arguments) != 1:
            raise Refused
        return "bool", _is(name, kinds[0], values[0])
    if name == "concat":
        if len(arguments) < 2 or not set(kinds) <= {"string", "dynamic"}:
            raise Refused
        strings = all(value[0] == "string" for value in values)
        return "string", ("string", "".join(value[1] for value in values)) if strings else UNDEFINED
    for wanted, result in SIGNATURES.get(name, []):
        if len(wanted) == len(kinds) and all(
            given in (want, "dynamic") for want, given in zip(wanted, kinds, strict=True)
        ):
            if name == "as_number":
                return result, _as_number(values[0])
            fits = [value[0] for value in values] == wanted
            return result, _apply(name, *[value[1] for value in values]) if fits else UNDEFINED
    raise Refused


def _is(name: str, kind: str, value: Value) -> Value:
    if name == "is_defined":
        return FALSE if value == UNDEFINED else TRUE
    if name == "is_string":
        return ("bool", value[0] == "string")
    if name == "is_number":
        return ("bool", value[0] == "number" and math.isfinite(value[1]))
    if name == "is_bool":
        if kind not in ("bool", "dynamic"):
            return FALSE
        return UNDEFINED if value == UNDEFINED else ("bool", value[0] == "bool")
    if kind == "dynamic":
        return UNDEFINED if value == UNDEFINED else ("bool", value != MISSING)
    return ("bool", kind == "null")


def _as_number(value: Value) -> Value:
    if value[0] == "number":
        return value
    if value[0] != "string":
        return UNDEFINED
    text = value[1].strip().replace(",", "")
    if text.startswith("(") and text.endswith(")"):
        text = "-" + text[1:-1]
    try:
        return _number(float(text))
    except ValueError:
        return UNDEFINED


def _apply(name: str, x: Any, y: Any = None, z: Any = None) -> Value:
    match name:
        case "abs":
            return ("number", math.fabs(x))
        case "ceiling" | "floor":
            if math.isinf(x):
                return ("number", x)
            return ("number", float(math.ceil(x) if name == "ceiling" else math.floor(x)))
        case "sqrt":
            return ("number", math.sqrt(x)) if x >= 0 else UNDEFINED
        case "square":
            return ("number", x * x)
        case "sign":
            return ("number", 1.0 if x > 0 else -1.0 if x < 0 else 0.0)
        case "power":
            return _power(x, y)
        case "length":
            return ("number", float(len(x)))
        case "lower":
            return ("string", x.lower())
        case "upper":
            return ("string", x.upper())
        case "index_of":
            return ("number", float(x.index(y)) if y in x else -1.0)
        case "starts_with":
            return ("bool", x[: len(y)] == y)
        case "ends_with":
            return ("bool", x[len(x) - len(y) :] == y if len(y) <= len(x) else False)
        case "contains":
            return ("bool", y in x)
        case "substring" if z is None:
            return ("string", x[int(y) :]) if 0 <= y <= len(x) else UNDEFINED
        case "substring":
            fits = 0 <= y < len(x) and 0 <= z <= len(x) - y
            return ("string", x[int(y) : int(y) + int(z)]) if fits else UNDEFINED
    raise AssertionError(name)


def _power(x: float, y: float) -> Value:
    """IEEE 754 power for the small whole exponents that the tests draw; no library call."""
    if math.isinf(x) or math.isinf(y) or y != int(y) or abs(y) > 8:
        raise AssertionError("not drawn")
    product = 1.0
    for _ in range(abs(int(y))):
        product *= x
    if y >= 0:
        return ("number", product)
    if product == 0:
        return ("number", math.copysign(math.inf, product))
    return ("number", 1 / product)
