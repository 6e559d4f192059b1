"""The documents as tests see them: each block of code with its group, and what it is said to print.

A comment in front of a block says which tests run it, and how:

    <!-- first-hour -->                  a block of the group `first-hour`
    <!-- first-hour, wheel: again -->    of two groups; how it is run is up to the tests of the group
    <!-- shown -->                       what the block before it prints, with `…` for what varies
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "runtime" / "docs"
DOCUMENTS = (README, *sorted(DOCS.glob("*.md")))
SHOWN = "shown"

_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a document.

    `how` is what follows the colon of its comment, `shown` what it prints, None where that is not said.
    """

    document: str
    line: int
    language: str
    groups: tuple[str, ...]
    how: str
    text: str
    shown: str | None = None

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_in(text: str, document: str) -> list[Block]:
    """Return the blocks of a document in their order, each with the output that is shown below it."""
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        comment, language, content = match.groups()
        groups, _, how = (comment or "").partition(": ")
        if groups == SHOWN:
            last = found.pop()
            found.append(
                Block(last.document, last.line, last.language, last.groups, last.how, last.text, content)
            )
            continue
        named = tuple(group.strip() for group in groups.split(",") if group.strip())
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, language, named, how, content))
    return found


def all_blocks() -> list[Block]:
    """Return the blocks of all documents."""
    return [
        block
        for path in DOCUMENTS
        for block in blocks_in(path.read_text(), path.relative_to(ROOT).as_posix())
    ]


def blocks_of(*groups: str) -> list[Block]:
    """Return the blocks of these groups, document by document, in their order."""
    found = [block for block in all_blocks() if set(groups) & set(block.groups)]
    assert found, f"no document has a block of {' or '.join(groups)}"
    return found


def fits(shown: str, printed: str) -> bool:
    """Return whether a program printed what a document shows.

    Blanks count as one however many they are. `…` stands for anything within a line, and alone on a line for
    any number of lines.
    """
    pattern = ""
    for line in shown.rstrip("\n").split("\n"):
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*"
            continue
        words = re.escape(" ".join(line.split())).replace("…", "[^\n]*")
        pattern += words + "\n"
    lines = [" ".join(line.split()) for line in printed.rstrip("\n").split("\n")]
    return re.fullmatch(pattern, "\n".join(lines) + "\n") is not None
