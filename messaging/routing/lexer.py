"""Cuts the text of a route into tokens.

One set of token rules holds for the whole route, condition included; the longest match wins, on a tie the
rule that stands first. Nothing is refused here: what fits no rule becomes a token that the parser refuses, so
that the first error of the text is the one that is reported.

Source: spec sheet routing.md section 2.1
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right

from msgspec import Struct

_KEYWORDS = frozenset({"SELECT", "FROM", "WHERE", "INTO"})
_WORD_OPERATORS = frozenset({"AND", "OR", "NOT"})
_SIGN_OPERATORS = frozenset({"+", "-", "*", "%", "||"})
_CONSTANTS = frozenset({"true", "false", "null", "undefined"})

_BLANKS = re.compile(r"[ \t\r\n]+")
_PATH_WORD = re.compile(r'[^()<>@,;:\\"/?={} \t\n\r]+')
# Each character fits one alternative, so no input makes them try twice. Not possessive: `*+` behind a group
# matches wrongly in early releases of Python 3.11, among them the 3.11.2 of Debian 12.
_STRING = re.compile(r"""(["'])(?:\\(?:["'\\]|u[0-9A-Fa-f]{4})|(?!\1)[^\\])*\1""", re.DOTALL)
_UNTERMINATED = re.compile(r"""(["'])(?:\\(?:["'\\]|u[0-9A-Fa-f]{4})|(?!\1)[^\\])*""", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]+")
_HEX = re.compile(r"0[xX][0-9A-Fa-f]+")
_REAL = re.compile(r"-?[0-9]*(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
_PUNCTUATION = re.compile(r"<>|<=|>=|\?\?|[(),/=<>{}]")


class Kind(enum.Enum):
    """What a token is."""

    KEYWORD = "keyword"  # in any letter case
    STRING = "string"  # with its quotes
    UNTERMINATED = "unterminated string"
    INTEGER = "integer"
    HEX = "hex"
    REAL = "real"
    CONSTANT = "constant"
    PUNCTUATION = "punctuation"  # brackets, comma, the operators / = < > <> <= >= ??
    OPERATOR = "operator"  # AND OR NOT in any letter case, + - * % || !=
    SYSTEM_PROPERTY = "system property"
    NAME = "name"
    PATH_WORD = "path word"  # a name with brackets, which no rule of the grammar takes
    INVALID = "invalid"
    END = "end"


class Token(Struct, frozen=True):
    """A token as it is written, and where it starts; lines and columns count from 1."""

    kind: Kind
    text: str
    line: int
    column: int


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a route; the last one is END."""
    line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
    last_comment_end = text.rfind("*/")
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        blanks = _BLANKS.match(text, at)
        if blanks:
            at = blanks.end()
            continue
        # A comment opens only where some `*/` follows; in `/messages/*` there is none.
        if text.startswith("/*", at) and last_comment_end >= at + 2:
            at = text.index("*/", at + 2) + 2
            continue
        kind, length = _longest(text, at)
        line = bisect_right(line_starts, at)
        tokens.append(Token(kind, text[at : at + length], line, at - line_starts[line - 1] + 1))
        at += length
    line = len(line_starts)
    tokens.append(Token(Kind.END, "", line, len(text) - line_starts[-1] + 1))
    return tokens


def _longest(text: str, at: int) -> tuple[Kind, int]:
    """Return kind and length of the token that starts at `at`, which is no blank."""
    word = _PATH_WORD.match(text, at)
    word_length = word.end() - at if word else 0
    if text[at] in "\"'":
        string = _STRING.match(text, at)
        if string and string.end() - at >= word_length:
            return Kind.STRING, string.end() - at
        unterminated = _UNTERMINATED.match(text, at)
        if not string and unterminated:
            return Kind.UNTERMINATED, unterminated.end() - at
    if word_length == 1 and text.startswith("!=", at):
        return Kind.OPERATOR, 2
    if word:
        return _kind_of_word(word[0]), word_length
    punctuation = _PUNCTUATION.match(text, at)
    if punctuation:
        return Kind.PUNCTUATION, punctuation.end() - at
    return Kind.INVALID, 1


def _kind_of_word(word: str) -> Kind:
    capitals = word.upper() if word.isascii() else word
    if capitals in _KEYWORDS:
        return Kind.KEYWORD
    if _INTEGER.fullmatch(word):
        return Kind.INTEGER
    if _HEX.fullmatch(word):
        return Kind.HEX
    if _REAL.fullmatch(word):
        return Kind.REAL
    if word in _CONSTANTS:
        return Kind.CONSTANT
    if capitals in _WORD_OPERATORS or word in _SIGN_OPERATORS:
        return Kind.OPERATOR
    if word.startswith("$") and len(word) > 1:
        return Kind.SYSTEM_PROPERTY
    return Kind.PATH_WORD if "[" in word or "]" in word else Kind.NAME
