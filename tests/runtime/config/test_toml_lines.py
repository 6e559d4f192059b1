"""The line of each key of a TOML document, however it is written."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.config.toml_lines import key_lines

PARTS = st.text("abz-_09", min_size=1, max_size=4) | st.sampled_from(["a b", "é", "x.y", "#", "=", "]"])
TEXTS = st.sampled_from(
    [
        '"x"',
        "'#'",
        '"\\""',
        '"""a\nb = 1\n"""',
        "'''\n[t]\n'''",
        '"""x"" y"""""',
        "''''q'''''",
        '"""\\\n  z"""',
    ]
)
PLAIN = TEXTS | st.sampled_from(
    ["1", "-2.5", "true", "1979-05-27T07:32:00Z", "07:32:00", "1979-05-27 07:32:00"]
)


def key_text(part: str) -> str:
    return part if all(c.isascii() and (c.isalnum() or c in "-_") for c in part) else json.dumps(part)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["plain", "array", "table"])) if depth else "plain"
    if kind == "array":
        between = draw(st.sampled_from([", ", ",\n  ", ", # ] , c\n"]))
        return "[" + between.join(draw(st.lists(values(depth - 1), max_size=3))) + "\n]"
    if kind == "table":
        names = draw(st.lists(PARTS, max_size=3, unique=True))
        return "{" + ", ".join(f"{key_text(name)} = {draw(values(depth - 1))}" for name in names) + "}"
    return draw(PLAIN)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """Return a document and the lines of its tables and their keys, as they were written."""
    text, lines = "", {}
    tables = draw(st.lists(st.lists(PARTS, min_size=1, max_size=2).map(tuple), max_size=3, unique=True))
    for table in [(), *tables]:
        text += draw(st.sampled_from(["", "\n", "# [no]\n"]))
        if table:
            lines.setdefault(table, text.count("\n") + 1)
            text += f"[ {' . '.join(map(key_text, table))} ]  # one\n"
        for name in draw(st.lists(PARTS, max_size=3, unique=True)):
            lines[*table, name] = text.count("\n") + 1
            text += f"  {key_text(name)} = {draw(values())} # '''\n"
    return text, lines


def paths(table: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for name, value in table.items():
        found.add((*above, name))
        if isinstance(value, dict):
            found |= paths(value, (*above, name))
    return found


@given(documents())
def test_every_key_has_the_line_in_which_it_was_written(made: tuple[str, dict[tuple[str, ...], int]]) -> None:
    text, lines = made
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a table that is there already

    found = key_lines(text)

    assert {path: found[path] for path in lines} == lines
    assert paths(document) <= set(found)


def test_a_table_stands_where_it_is_written_though_it_was_mentioned_before() -> None:
    assert key_lines("[a.b]\n[a]\n[[c]]\n[[c]]\n") == {("a",): 2, ("a", "b"): 1, ("c",): 3}


def test_line_ends_of_windows_count_once() -> None:
    assert key_lines('a = """x\r\ny"""\r\n[t]\r\nb = 1\r\n') == {("a",): 1, ("t",): 3, ("t", "b"): 4}
