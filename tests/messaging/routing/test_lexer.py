import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.routing.lexer import Kind, tokenize

K = Kind


def names(text: str) -> list[tuple[Kind, str]]:
    return [(K.NAME, word) for word in text.split()]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("select FROM Where iNTO", [(K.KEYWORD, t) for t in ("select", "FROM", "Where", "iNTO")]),
        ("\u017felect", [(K.NAME, "\u017felect")]),
        ("and OR nOt", [(K.OPERATOR, t) for t in ("and", "OR", "nOt")]),
        ("true false null undefined", [(K.CONSTANT, t) for t in ("true", "false", "null", "undefined")]),
        ("TRUE Null", [(K.NAME, "TRUE"), (K.NAME, "Null")]),
        ("AND1 android", [(K.NAME, "AND1"), (K.NAME, "android")]),
        ("5 -7 007", [(K.INTEGER, t) for t in ("5", "-7", "007")]),
        ("0x2A 0Xff", [(K.HEX, "0x2A"), (K.HEX, "0Xff")]),
        (
            "1.5 -.5 1.5e2 2E+3 3e-1 e5 -E10",
            [(K.REAL, t) for t in ("1.5", "-.5", "1.5e2", "2E+3", "3e-1", "e5", "-E10")],
        ),
        (
            "5. 1_000 5abc 0x -0x5 --5 1.2.3",
            names("5. 1_000 5abc 0x -0x5 --5 1.2.3"),
        ),
        ("a+b 1+1 6*7 3-1 5%2 a||b", names("a+b 1+1 6*7 3-1 5%2 a||b")),
        ("'a'||'b' 'x'INTO", [(K.NAME, "'a'||'b'"), (K.NAME, "'x'INTO")]),
        ("a!=b", [(K.NAME, "a!"), (K.PUNCTUATION, "="), (K.NAME, "b")]),
        ("a !=b", [(K.NAME, "a"), (K.OPERATOR, "!="), (K.NAME, "b")]),
        ("! !!=", [(K.NAME, "!"), (K.NAME, "!!"), (K.PUNCTUATION, "=")]),
        ("7 -2", [(K.INTEGER, "7"), (K.INTEGER, "-2")]),
        ("9/3", [(K.INTEGER, "9"), (K.PUNCTUATION, "/"), (K.INTEGER, "3")]),
        ("a='x'", [(K.NAME, "a"), (K.PUNCTUATION, "="), (K.STRING, "'x'")]),
        ("a<>b", [(K.NAME, "a"), (K.PUNCTUATION, "<>"), (K.NAME, "b")]),
        ("< <= > >= ??", [(K.PUNCTUATION, t) for t in ("<", "<=", ">", ">=", "??")]),
        ("== ='", [(K.PUNCTUATION, "="), (K.PUNCTUATION, "="), (K.PUNCTUATION, "="), (K.UNTERMINATED, "'")]),
        ("+ - * % ||", [(K.OPERATOR, t) for t in ("+", "-", "*", "%", "||")]),
        ("$ $a $body.n-1", [(K.NAME, "$"), (K.SYSTEM_PROPERTY, "$a"), (K.SYSTEM_PROPERTY, "$body.n-1")]),
        ("$a[0] -$body.n", [(K.SYSTEM_PROPERTY, "$a[0]"), (K.NAME, "-$body.n")]),
        ("a[0] [", [(K.PATH_WORD, "a[0]"), (K.PATH_WORD, "[")]),
        ("{$a}", [(K.PUNCTUATION, "{"), (K.SYSTEM_PROPERTY, "$a"), (K.PUNCTUATION, "}")]),
        ("'it\\'s' \"a'b\" 'a\"b'", [(K.STRING, "'it\\'s'"), (K.STRING, '"a\'b"'), (K.STRING, "'a\"b'")]),
        ("'\\u0041' ''", [(K.STRING, "'\\u0041'"), (K.STRING, "''")]),
        ("'two\nlines'", [(K.STRING, "'two\nlines'")]),
        ("'open", [(K.UNTERMINATED, "'open")]),
        ("\"open '", [(K.UNTERMINATED, "\"open '")]),
        ("'a\\tb'", [(K.UNTERMINATED, "'a"), (K.INVALID, "\\"), (K.NAME, "tb'")]),
        ("'\\U0041'", [(K.UNTERMINATED, "'"), (K.INVALID, "\\"), (K.NAME, "U0041'")]),
        ("a@b ; ?", [(K.NAME, "a"), (K.INVALID, "@"), (K.NAME, "b"), (K.INVALID, ";"), (K.INVALID, "?")]),
        ("a /* b */ c", [(K.NAME, "a"), (K.NAME, "c")]),
        ("/*a*/", []),
        ("/* b", [(K.PUNCTUATION, "/"), (K.OPERATOR, "*"), (K.NAME, "b")]),
        ("/** /*/", []),
        ("/*/", [(K.PUNCTUATION, "/"), (K.OPERATOR, "*"), (K.PUNCTUATION, "/")]),
        ("/** x", [(K.PUNCTUATION, "/"), (K.NAME, "**"), (K.NAME, "x")]),
        ("größe \u00a0x", [(K.NAME, "größe"), (K.NAME, "\u00a0x")]),
    ],
)
def test_the_longest_token_wins(text: str, tokens: list[tuple[Kind, str]]) -> None:
    assert [(token.kind, token.text) for token in tokenize(text)] == [*tokens, (K.END, "")]


def test_lines_and_columns_count_from_one() -> None:
    tokens = tokenize("a\n /* x\n */ 'b\nc' d")

    assert [(t.text, t.line, t.column) for t in tokens] == [
        ("a", 1, 1),
        ("'b\nc'", 3, 5),
        ("d", 4, 4),
        ("", 4, 5),
    ]


@given(
    st.text() | st.lists(st.sampled_from(["'", '"', "\\", "/*", "*/", "a", "[", "$", "\n", "="])).map("".join)
)
def test_what_is_not_a_blank_or_a_comment_is_in_a_token(text: str) -> None:
    line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
    position = 0
    for token in tokenize(text):
        start = line_starts[token.line - 1] + token.column - 1
        assert text.startswith(token.text, start)
        assert re.fullmatch(r"(?:[ \t\r\n]|/\*.*?\*/)*", text[position:start], re.DOTALL)
        position = start + len(token.text)
    assert position == len(text)


@pytest.mark.parametrize("piece", ["/*", "'", '"', "\\", "'\\", "a'", "[", "/*/", "$a[", "\n", "!", "é"])
def test_a_hundred_thousand_pieces_are_read_in_one_pass(piece: str) -> None:
    tokens = tokenize(piece * 100_000)

    assert tokens[-1].kind is Kind.END
