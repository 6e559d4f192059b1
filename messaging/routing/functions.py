"""The built-in functions of conditions, by name and types of their arguments.

Source: spec sheet routing.md section 2.8
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from messaging.routing.values import MISSING, NO_VALUE, UNDEFINED, Type, lower, upper

_STRING, _NUMBER, _BOOL, _DYNAMIC = Type.STRING, Type.NUMBER, Type.BOOL, Type.DYNAMIC

_BLANKS = " \t\n\v\f\r"
_DECIMAL = re.compile(
    r"(?P<open>\()?(?P<sign>[+-])?(?P<whole>[0-9][0-9,]*)?(?P<rest>\.[0-9]*)?(?P<exponent>[eE][+-]?[0-9]+)?"
    r"[ \t\n\v\f\r]*(?P<tail>[+-])?(?P<close>\))?",
    re.ASCII,
)


class Overload(Struct, frozen=True):
    """One way to call a function. A body value passes for any type and is checked when a message comes."""

    parameters: tuple[Type | None, ...]  # None: any type
    result: Type
    call: Callable[..., object]
    repeats_last: bool = False  # the last parameter may come any number of times, also never

    def takes(self, types: Sequence[Type]) -> bool:
        """Say whether arguments of these types fit."""
        parameters = self.parameters
        if self.repeats_last:
            fixed = len(parameters) - 1
            parameters = parameters[:fixed] + parameters[fixed:] * (len(types) - fixed)
        return len(parameters) == len(types) and all(
            expected in (None, given) or given is _DYNAMIC
            for expected, given in zip(parameters, types, strict=True)
        )


def resolve(name: str, types: Sequence[Type]) -> Overload | None:
    """Return what a call of `name`, in any letter case, with arguments of these types means.

    Raises:
        KeyError: there is no function of this name.
    """
    overloads = _FUNCTIONS[name.lower() if name.isascii() else name]
    return next((overload for overload in overloads if overload.takes(types)), None)


def _of_number(function: Callable[[float], float]) -> tuple[Overload, ...]:
    def call(value: object) -> object:
        return defined(function(value)) if isinstance(value, float) else UNDEFINED

    return (Overload((_NUMBER,), _NUMBER, call),)


def _of_string(result: Type, function: Callable[[str], object]) -> tuple[Overload, ...]:
    def call(value: object) -> object:
        return function(value) if isinstance(value, str) else UNDEFINED

    return (Overload((_STRING,), result, call),)


def _of_two_strings(result: Type, function: Callable[[str, str], object]) -> tuple[Overload, ...]:
    def call(text: object, part: object) -> object:
        return function(text, part) if isinstance(text, str) and isinstance(part, str) else UNDEFINED

    return (Overload((_STRING, _STRING), result, call),)


def defined(number: float) -> object:
    """NaN is undefined; infinity is a number."""
    return UNDEFINED if number != number else number


def _rounded(rounding: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: float(rounding(value)) if math.isfinite(value) else value


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _power(base: object, exponent: object) -> object:
    if not (isinstance(base, float) and isinstance(exponent, float)):
        return UNDEFINED
    try:
        return math.pow(base, exponent)
    except OverflowError:
        odd = math.fmod(exponent, 2) != 0
        return -math.inf if base < 0 and odd else math.inf
    except ValueError:  # zero to a negative power, or a root of a negative number
        if base != 0:
            return UNDEFINED
        odd = math.fmod(exponent, 2) in (1, -1)
        return math.copysign(math.inf, base) if odd else math.inf


def as_number(value: object) -> object:
    """Read a number as .NET does in its invariant culture: thousands marks, trailing sign, brackets."""
    if isinstance(value, float):
        return value
    if not isinstance(value, str):
        return UNDEFINED
    text = value.strip(_BLANKS)
    if text.lower() in ("infinity", "+infinity"):
        return math.inf
    if text.lower() == "-infinity":
        return -math.inf
    found = _DECIMAL.fullmatch(text)
    if found is None or (found["whole"] is None and found["rest"] in (None, ".")):
        return UNDEFINED
    if (found["open"] is None) != (found["close"] is None):
        return UNDEFINED
    if [found["open"], found["sign"], found["tail"]].count(None) < 2:
        return UNDEFINED  # a sign twice
    digits = (found["whole"] or "0").replace(",", "") + (found["rest"] or "") + (found["exponent"] or "")
    negative = found["open"] is not None or "-" in (found["sign"], found["tail"])
    return -float(digits) if negative else float(digits)


def concat(*values: object) -> object:
    """Join strings; a property without a value counts as empty."""
    texts = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif value is not NO_VALUE:
            return UNDEFINED
    return "".join(texts)


# Lengths and positions count UTF-16 code units. Above U+FFFF a character has two.


def _units(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _length(text: str) -> float:
    return float(len(text) if text.isascii() else len(_units(text)) // 2)


def _index_of(text: str, part: str) -> float:
    if text.isascii():
        return float(text.find(part))
    units, wanted = _units(text), _units(part)
    at = units.find(wanted)
    while at % 2 and at != -1:
        at = units.find(wanted, at + 1)
    return float(at if at == -1 else at // 2)


def _substring(text: object, start: object, count: object = None) -> object:
    if not (isinstance(text, str) and isinstance(start, float)):
        return UNDEFINED
    length = _length(text)
    if count is None:
        if not 0 <= start <= length:
            return UNDEFINED
        end = int(length)
    else:
        if not (isinstance(count, float) and 0 <= start < length and 0 <= count <= length - start):
            return UNDEFINED
        end = int(start) + int(count)
    if text.isascii():
        return text[int(start) : end]
    return _units(text)[2 * int(start) : 2 * end].decode("utf-16-le", "surrogatepass")


def _is_null_in_body(value: object) -> object:
    # Odd, and so in the reference hub: true for all that is there, null or not.
    return UNDEFINED if value is UNDEFINED else value is not MISSING


def _is_bool(value: object) -> object:
    return UNDEFINED if value is UNDEFINED else isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


_FUNCTIONS: dict[str, tuple[Overload, ...]] = {
    "abs": _of_number(abs),
    "ceiling": _of_number(_rounded(math.ceil)),
    "exp": _of_number(_exp),
    "floor": _of_number(_rounded(math.floor)),
    "sqrt": _of_number(lambda value: math.sqrt(value) if value >= 0 else math.nan),
    "square": _of_number(lambda value: value * value),
    "sign": _of_number(lambda value: float((value > 0) - (value < 0))),
    "power": (Overload((_NUMBER, _NUMBER), _NUMBER, _power),),
    "as_number": (Overload((_STRING,), _NUMBER, as_number), Overload((_NUMBER,), _NUMBER, as_number)),
    "concat": (Overload((_STRING, _STRING, _STRING), _STRING, concat, repeats_last=True),),
    "length": _of_string(_NUMBER, _length),
    "lower": _of_string(_STRING, lower),
    "upper": _of_string(_STRING, upper),
    "substring": (
        Overload((_STRING, _NUMBER), _STRING, _substring),
        Overload((_STRING, _NUMBER, _NUMBER), _STRING, _substring),
    ),
    "index_of": _of_two_strings(_NUMBER, _index_of),
    "starts_with": _of_two_strings(_BOOL, str.startswith),
    "ends_with": _of_two_strings(_BOOL, str.endswith),
    "contains": _of_two_strings(_BOOL, str.__contains__),
    "is_defined": (Overload((None,), _BOOL, lambda value: value is not UNDEFINED),),
    "is_null": (
        Overload((_DYNAMIC,), _BOOL, _is_null_in_body),
        Overload((_STRING,), _BOOL, lambda value: value is NO_VALUE),
        Overload((Type.NULL,), _BOOL, lambda value: True),
        Overload((None,), _BOOL, lambda value: False),
    ),
    "is_bool": (
        Overload((_BOOL,), _BOOL, _is_bool),
        Overload((None,), _BOOL, lambda value: False),
    ),
    "is_number": (Overload((None,), _BOOL, _is_number),),
    "is_string": (Overload((None,), _BOOL, lambda value: isinstance(value, str)),),
}
