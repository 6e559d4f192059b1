"""The query language of IoT Hub over twins, as far as clients use it.

    SELECT [TOP n] * | path [AS name], … | COUNT() AS name
    FROM devices | devices.modules
    [WHERE condition]

    condition: OR, AND, NOT and parentheses over comparisons (= != <> < <= > >=), [NOT] IN and NIN with a list
               in brackets, and is_defined, is_null, is_bool, is_number, is_string, startswith, endswith,
               contains
    path:      deviceId, tags.site, properties.reported.a.b, also behind `devices.`

Words of the language may be written in any case, names are case-sensitive. What is not there is undefined: a
comparison with it is not true, and `!=` with it is not true either.

Source: spec sheet security-daemon.md section 4.6
        MicrosoftDocs/azure-docs: articles/iot-hub/iot-hub-devguide-query-language.md
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from messaging.errors import IotHubError
from messaging.text import quoted

Collection = Literal["devices", "devices.modules"]
Value = Callable[[Mapping[str, Any]], object]
Condition = Callable[[Mapping[str, Any]], bool]

LONGEST: Final = 4096
DEEPEST: Final = 32


class _Undefined:
    """What a path leads to that is not there."""


_UNDEFINED: Final = _Undefined()

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*")
      | (?P<word>\$?[A-Za-z_][\w$-]*)
      | (?P<sign><>|!=|<=|>=|[=<>()\[\],.*])
    )""",
    re.VERBOSE | re.ASCII,
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TESTS: dict[str, Callable[[object], bool]] = {
    "is_defined": lambda value: value is not _UNDEFINED,
    "is_null": lambda value: value is None,
    "is_bool": lambda value: isinstance(value, bool),
    "is_number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "is_string": lambda value: isinstance(value, str),
    "is_object": lambda value: isinstance(value, dict),
    "is_array": lambda value: isinstance(value, list),
    "is_primitive": lambda value: value is None or isinstance(value, bool | int | float | str),
}
_TEXT_TESTS: dict[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "starts_with": str.startswith,
    "endswith": str.endswith,
    "ends_with": str.endswith,
    "contains": str.__contains__,
}
_LITERALS = {"true": True, "false": False, "null": None}


class Query(Struct, frozen=True):
    """A query that was understood."""

    collection: Collection
    columns: tuple[tuple[str, Value], ...] | None  # None: all of the twin
    count_as: str | None  # COUNT(): how many there are, under this name
    top: int | None
    condition: Condition

    def matches(self, twin: Mapping[str, Any]) -> bool:
        """Tell whether a twin is in the result."""
        return self.condition(twin)

    def row(self, twin: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the result shows of a twin; columns that are not there are left out."""
        if self.columns is None:
            return twin
        values = ((name, value(twin)) for name, value in self.columns)
        return {name: value for name, value in values if value is not _UNDEFINED}


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        IotHubError: 400004 it is none of this language; says where.
    """
    parser = _Parser(text)
    query = parser.query()
    parser.expect_end()
    return query


def parse_condition(text: str) -> Condition:
    """Read a condition alone, as in the target condition of a configuration.

    Raises:
        IotHubError: as `parse_query`.
    """
    parser = _Parser(text)
    condition = parser.any_of(0)
    parser.expect_end()
    return condition


class _Token(Struct, frozen=True):
    kind: str  # number, text, word, sign, end
    text: str
    column: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def query(self) -> Query:
        self._need_word("select")
        top = None
        if self._take_word("top"):
            top = int(self._number())
        count_as = columns = None
        if self._take_sign("*"):
            pass
        elif self._peek().text.lower() == "count":
            count_as = self._count()
        else:
            columns = tuple(self._columns())
        self._need_word("from")
        collection = self._collection()
        if not self._take_word("where"):
            return Query(collection, columns, count_as, top, lambda _: True)
        return Query(collection, columns, count_as, top, self.any_of(0))

    def expect_end(self) -> None:
        if self._peek().kind != "end":
            raise self._wrong("nothing more")

    def any_of(self, depth: int) -> Condition:
        parts = [self._all_of(depth)]
        while self._take_word("or"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else lambda twin: any(part(twin) for part in parts)

    def _all_of(self, depth: int) -> Condition:
        parts = [self._single(depth)]
        while self._take_word("and"):
            parts.append(self._single(depth))
        return parts[0] if len(parts) == 1 else lambda twin: all(part(twin) for part in parts)

    def _single(self, depth: int) -> Condition:
        if depth > DEEPEST:
            raise self._wrong(f"at most {DEEPEST} levels")
        if self._take_word("not"):
            inner = self._single(depth + 1)
            return lambda twin: not inner(twin)
        if self._take_sign("("):
            inner = self.any_of(depth + 1)
            self._need_sign(")")
            return inner
        token, following = self._peek(), self._peek(1)
        if token.kind == "word" and following.text == "(":
            return self._function()
        left = self._value()
        return self._comparison(left)

    def _comparison(self, left: Value) -> Condition:
        sign = self._peek()
        if sign.kind == "sign" and sign.text in _COMPARISONS:
            self._at += 1
            compare, right = _COMPARISONS[sign.text], self._value()
            return lambda twin: _compare(compare, left(twin), right(twin))
        negated = self._take_word("not")
        if negated or self._peek().text.lower() in ("in", "nin"):
            negated = negated or self._peek().text.lower() == "nin"
            self._at += 1
            choices = self._list()
            return lambda twin: (
                (left(twin) is not _UNDEFINED and any(_compare(operator.eq, left(twin), c) for c in choices))
                is not negated
            )
        return lambda twin: left(twin) is True

    def _function(self) -> Condition:
        name = self._next().text.lower()
        self._need_sign("(")
        if name in _TESTS:
            test, value = _TESTS[name], self._value()
            self._need_sign(")")
            return lambda twin: test(value(twin))
        if name in _TEXT_TESTS:
            text_test, whole = _TEXT_TESTS[name], self._value()
            self._need_sign(",")
            part = self._value()
            self._need_sign(")")
            return lambda twin: _test_texts(text_test, whole(twin), part(twin))
        raise _error(
            f"the function {quoted(name)} is not known; there are {', '.join((*_TESTS, *_TEXT_TESTS))}"
        )

    def _value(self) -> Value:
        token = self._peek()
        if token.kind == "number":
            number = self._number()
            return lambda _: number
        if token.kind == "text":
            self._at += 1
            text = _unquoted(token.text)
            return lambda _: text
        if token.kind == "word" and token.text.lower() in _LITERALS:
            self._at += 1
            literal = _LITERALS[token.text.lower()]
            return lambda _: literal
        return _path(self._names())

    def _names(self) -> list[str]:
        names = [self._name()]
        while self._take_sign(".") or self._peek().text == "[":
            if self._take_sign("["):  # tags['with blanks']
                token = self._next()
                if token.kind != "text":
                    raise self._wrong("a name in quotes")
                names.append(_unquoted(token.text))
                self._need_sign("]")
            else:
                names.append(self._name())
        for prefix in (["devices", "modules"], ["devices"]):
            if len(names) > len(prefix) and [name.lower() for name in names[: len(prefix)]] == prefix:
                return names[len(prefix) :]
        return names

    def _columns(self) -> Iterable[tuple[str, Value]]:
        while True:
            names = self._names()
            name = self._name() if self._take_word("as") else names[-1]
            yield name, _path(names)
            if not self._take_sign(","):
                return

    def _count(self) -> str:
        self._at += 1
        self._need_sign("(")
        self._take_sign("*")
        self._need_sign(")")
        return self._name() if self._take_word("as") else "count"

    def _collection(self) -> Collection:
        names = [self._name()]
        while self._take_sign("."):
            names.append(self._name())
        name = ".".join(names).lower()
        if name == "devices":
            return "devices"
        if name == "devices.modules":
            return "devices.modules"
        raise _error(f"cannot query {quoted('.'.join(names))}; there are devices and devices.modules")

    def _list(self) -> list[object]:
        self._need_sign("[")
        choices = [self._value()({})]
        while self._take_sign(","):
            choices.append(self._value()({}))
        self._need_sign("]")
        return choices

    def _number(self) -> float | int:
        token = self._next()
        if token.kind != "number":
            raise self._wrong("a number", back=1)
        return int(token.text) if re.fullmatch(r"-?\d+", token.text) else float(token.text)

    def _name(self) -> str:
        token = self._next()
        if token.kind != "word":
            raise self._wrong("a name", back=1)
        return token.text

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _next(self) -> _Token:
        token = self._peek()
        self._at += 1
        return token

    def _take_word(self, word: str) -> bool:
        found = self._peek().kind == "word" and self._peek().text.lower() == word
        self._at += found
        return found

    def _take_sign(self, sign: str) -> bool:
        found = self._peek().kind == "sign" and self._peek().text == sign
        self._at += found
        return found

    def _need_word(self, word: str) -> None:
        if not self._take_word(word):
            raise self._wrong(word.upper())

    def _need_sign(self, sign: str) -> None:
        if not self._take_sign(sign):
            raise self._wrong(f"'{sign}'")

    def _wrong(self, expected: str, back: int = 0) -> IotHubError:
        token = self._tokens[min(self._at - back, len(self._tokens) - 1)]
        found = "its end" if token.kind == "end" else quoted(token.text)
        return _error(f"column {token.column}: expected {expected}, found {found}")


def _tokens(text: str) -> Iterable[_Token]:
    if len(text) > LONGEST:
        raise _error(f"it is longer than {LONGEST} characters")
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            rest = text[at:end].lstrip()
            raise _error(f"column {end - len(rest) + 1}: {quoted(rest)} cannot be read")
        yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup) + 1)
        at = found.end()
    yield _Token("end", "", end + 1)


def _path(names: list[str]) -> Value:
    def value(twin: Mapping[str, Any]) -> object:
        found: object = twin
        for name in names:
            if not isinstance(found, Mapping) or name not in found:
                return _UNDEFINED
            found = found[name]
        return found

    return value


def _compare(compare: Callable[[Any, Any], bool], left: object, right: object) -> bool:
    if left is _UNDEFINED or right is _UNDEFINED:
        return False
    if _rank(left) != _rank(right):
        return compare is operator.ne
    if compare in (operator.eq, operator.ne) or isinstance(left, str | int | float):
        return compare(left, right)
    return False


def _rank(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _test_texts(test: Callable[[str, str], bool], whole: object, part: object) -> bool:
    return isinstance(whole, str) and isinstance(part, str) and test(whole, part)


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    if text[0] == "'":
        inner = inner.replace("''", "'")
    return re.sub(r"\\(.)", r"\1", inner)


def _error(reason: str) -> IotHubError:
    return IotHubError(400004, "ArgumentInvalid", f"the query cannot be understood: {reason}")
