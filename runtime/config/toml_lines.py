"""In which line of a TOML document each key stands: `tomllib` does not say.

Only for documents that `tomllib` has read; what it refuses is not understood here either.

Source: toml.io, version 1.0.0
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

Path = tuple[str, ...]

_BETWEEN: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BETWEEN_ITEMS: Final = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_BLANKS: Final = re.compile(r"[ \t]*")
_KEY_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
# A quotation mark or two before the closing three belong to the text.
_STRING: Final = re.compile(
    r'''"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'''
    r"""|'{3}(?:[^']|'{1,2}(?!'))*'{3,5}"""
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[Path, int]:
    """Return the line, from 1 on, of each key and table, by its path.

    That is where it is first written out, else where it is first mentioned, as a in [a.b] is.
    """
    reader = _Reader(text.replace("\r\n", "\n"))
    reader.read()
    return reader.lines


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._written: set[Path] = set()  # those that are written out
        self._text = text
        self._at = 0

    def read(self) -> None:
        table: Path = ()
        while self._pass(_BETWEEN) and self._at < len(self._text):
            if self._text[self._at] == "[":
                self._at += 2 if self._text.startswith("[[", self._at) else 1
                table = self._key(())
                self._at = self._text.index("]", self._at) + 1
                if self._text.startswith("]", self._at):
                    self._at += 1
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._at = self._text.index("=", self._at) + 1
        self._value(path)

    def _key(self, table: Path) -> Path:
        """Read a key with its dots, and note the line of each of its parts."""
        path = table
        while True:
            self._pass(_BLANKS)
            part = _KEY_PART.match(self._text, self._at)
            assert part is not None  # tomllib has read it
            path = (*path, _plain(part[0]))
            line = self._text.count("\n", 0, self._at) + 1
            self.lines.setdefault(path, line)
            self._at = part.end()
            self._pass(_BLANKS)
            if not self._text.startswith(".", self._at):
                if path not in self._written:
                    self._written.add(path)
                    self.lines[path] = line
                return path
            self._at += 1

    def _value(self, path: Path) -> None:
        self._pass(_BLANKS)
        start = self._text[self._at]
        if start in "\"'":
            self._pass(_STRING)
        elif start in "[{":
            self._at += 1
            end = "]" if start == "[" else "}"
            while self._pass(_BETWEEN_ITEMS) and self._text[self._at] != end:
                if start == "{":
                    self._pair(path)
                else:
                    self._value(path)
            self._at += 1
        else:
            self._pass(_BARE)

    def _pass(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self._at)
        assert found is not None  # tomllib has read it
        self._at = found.end()
        return True


def _plain(part: str) -> str:
    return part if part[0] not in "\"'" else str(tomllib.loads(f"k = {part}")["k"])
