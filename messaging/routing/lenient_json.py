"""Reads JSON that is almost JSON, as devices write it and the reference hub takes it.

Single quotes, names without quotes, commas before a closing bracket, comments. Used where the strict reader
has refused a text.

Source: spec sheet routing.md section 2.7
"""

from __future__ import annotations

import re

from messaging.routing.values import join_surrogates

DEEPEST = 64

# Not possessive, see lexer.py; here too each character fits one alternative.
_SKIPPED = re.compile(r"(?:[ \t\r\n]|/\*.*?\*/|//[^\n]*)*", re.DOTALL)
_STRING = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
_NAME = re.compile(r"[\w$]+")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "\\": "\\", "/": "/", '"': '"', "'": "'"}
_WORDS = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}
_WORD = re.compile("|".join(_WORDS))


def loads_leniently(text: str) -> object:
    """Return the value of a JSON text; numbers are floats, of equal names the last counts.

    Raises:
        ValueError: not JSON even by these rules, or nested deeper than `DEEPEST`.
    """
    reader = _Reader(text)
    value = reader.value(0)
    if reader.peek():
        raise ValueError("text after the value")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """Skip blanks and comments; return the next character, '' at the end."""
        skipped = _SKIPPED.match(self._text, self._at)
        if skipped:
            self._at = skipped.end()
        return self._text[self._at : self._at + 1]

    def value(self, depth: int) -> object:
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        first = self.peek()
        if first == "{":
            return self._object(depth + 1)
        if first == "[":
            return self._array(depth + 1)
        if first in ("'", '"'):
            return self._string()
        word = _WORD.match(self._text, self._at)
        if word:
            self._at = word.end()
            return _WORDS[word[0]]
        return float(self._take(_NUMBER)[0])

    def _object(self, depth: int) -> dict[str, object]:
        members: dict[str, object] = {}
        self._at += 1
        while self.peek() != "}":
            name = self._string() if self.peek() in ("'", '"') else self._take(_NAME)[0]
            if self.peek() != ":":
                raise ValueError("no colon after a name")
            self._at += 1
            members[name] = self.value(depth)
            self._comma_or("}")
        self._at += 1
        return members

    def _array(self, depth: int) -> list[object]:
        elements: list[object] = []
        self._at += 1
        while self.peek() != "]":
            elements.append(self.value(depth))
            self._comma_or("]")
        self._at += 1
        return elements

    def _comma_or(self, closing: str) -> None:
        following = self.peek()
        if following == ",":
            self._at += 1
        elif following != closing:
            raise ValueError("neither a comma nor a closing bracket")

    def _string(self) -> str:
        text: str = self._take(_STRING)[2]
        return join_surrogates(_ESCAPE.sub(_unescape, text)) if "\\" in text else text

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError("no value")
        self._at = found.end()
        return found


def _unescape(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) == 5:
        return chr(int(code[1:], 16))
    if code not in _ESCAPED:
        raise ValueError("unknown escape")
    return _ESCAPED[code]
