"""The values of a condition and how they compare.

A string is a str, a number a float that is never NaN, a bool a bool, null is None. On top of these there are
UNDEFINED, which makes most of what it touches undefined; MISSING, what a path leads to that the body does not
have: it compares as null; NO_VALUE, a property that is there without a value: it is defined and joins as the
empty text, everything else makes it undefined.

Source: spec sheet routing.md sections 2.3 to 2.5
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import Any


class Type(enum.Enum):
    """What is known of an expression when the route is compiled; the value is the name in error texts."""

    STRING = "string"
    NUMBER = "number"
    BOOL = "bool"
    NULL = "null"
    UNDEFINED = "undefined"
    DYNAMIC = "unknown"  # a value of the body: every message may have another type there


class Marker(enum.Enum):
    """Values that JSON does not have."""

    UNDEFINED = "undefined"
    MISSING = "missing"
    NO_VALUE = "no value"


UNDEFINED = Marker.UNDEFINED
MISSING = Marker.MISSING
NO_VALUE = Marker.NO_VALUE

Comparison = Callable[[object, object], object]

# Only values that Python can compare with each other are ever given to these.
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Values of different types, which only the body can bring together, are ordered by their types.
_RANK_OF_NULL = 4
_RANKS = {bool: 1, float: 2, str: 3, type(None): _RANK_OF_NULL, Marker: _RANK_OF_NULL}


def comparison(sign: str, of: Type) -> Comparison:
    """Return the function for `sign` between two values of one type."""
    compare = COMPARISONS[sign]
    if of is Type.DYNAMIC:
        return lambda a, b: _compare_by_rank(compare, a, b)
    if of is Type.STRING:
        if compare in (operator.eq, operator.ne):
            return lambda a, b: compare(a, b) if isinstance(a, str) and isinstance(b, str) else UNDEFINED
        return lambda a, b: _compare_strings(compare, a, b)
    if of is Type.NULL:
        equal = compare(0, 0)
        return lambda a, b: equal
    return lambda a, b: UNDEFINED if a is UNDEFINED or b is UNDEFINED else compare(a, b)


def _compare_strings(compare: Callable[[Any, Any], bool], a: object, b: object) -> object:
    if not (isinstance(a, str) and isinstance(b, str)):
        return UNDEFINED
    if a.isascii() and b.isascii():
        return compare(a, b)  # the same, without making the keys
    return compare(sort_key(a), sort_key(b))


def _compare_by_rank(compare: Callable[[Any, Any], bool], a: object, b: object) -> object:
    if a is UNDEFINED or b is UNDEFINED or a is NO_VALUE or b is NO_VALUE:
        return UNDEFINED
    rank_a, rank_b = _RANKS[a.__class__], _RANKS[b.__class__]
    if rank_a != rank_b or rank_a == _RANK_OF_NULL:
        return compare(rank_a, rank_b)
    if isinstance(a, str):
        return _compare_strings(compare, a, b)
    return compare(a, b)


def sort_key(text: str) -> bytes:
    """Strings are ordered by UTF-16 code unit, which above U+FFFF is not the order of code points."""
    return text.encode("utf-16-be", "surrogatepass")


def join_surrogates(text: str) -> str:
    """Two escapes that make one character above U+FFFF become that character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def both(a: object, b: object) -> object:
    """AND of true, false and undefined."""
    if a is False or b is False:
        return False
    return UNDEFINED if a is UNDEFINED or b is UNDEFINED else True


def either(a: object, b: object) -> object:
    """OR of true, false and undefined."""
    if a is True or b is True:
        return True
    return UNDEFINED if a is UNDEFINED or b is UNDEFINED else False


def negation(a: object) -> object:
    """NOT; of a body value that is no bool, undefined."""
    return not a if a.__class__ is bool else UNDEFINED


def upper(text: str) -> str:
    """Return `text` in capitals, character by character, as the invariant culture of .NET maps them."""
    return text.upper() if text.isascii() else "".join(map(_upper_character, text))


def lower(text: str) -> str:
    """Return `text` in small letters; see `upper`."""
    return text.lower() if text.isascii() else "".join(map(_lower_character, text))


# Characters that have another case in some cultures only: I with and i without a dot, long s.
_UNCHANGED = frozenset("\u0130\u0131\u017f")


def _upper_character(character: str) -> str:
    mapped = character.upper()
    return character if len(mapped) != 1 or character in _UNCHANGED else mapped


def _lower_character(character: str) -> str:
    mapped = character.lower()
    return character if len(mapped) != 1 or character in _UNCHANGED else mapped
