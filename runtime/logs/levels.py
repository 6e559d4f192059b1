"""How much each part of the edge logs: `info,actors.upstream=debug`.

A level alone counts for all of our packages. `NAME=LEVEL` counts for a package, a file, or all files whose
name begins with that word: `actors.upstream` is all of `actors/upstream/`.
The longest name wins. Libraries tell warnings and errors alone, because at lower levels some of them write
what they send, tokens included.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct

from messaging.nearest import did_you_mean

LEVELS: Final = ("debug", "info", "warning", "error")
PACKAGES: Final = ("messaging", "actors", "runtime")
DEFAULT: Final = "info"
ALLOWED: Final = f"{', '.join(LEVELS)}, and NAME=LEVEL for a part of the edge, separated by commas"
_SOURCES: Final = Path(__file__).resolve().parents[2]


class LogLevels(Struct, frozen=True):
    """What was asked for. Made by `parse_levels`."""

    base: str = DEFAULT  # one of LEVELS, or critical
    parts: tuple[tuple[str, str], ...] = ()  # name, level

    def __str__(self) -> str:
        return ",".join((self.base, *(f"{name}={level}" for name, level in self.parts)))

    def level_of(self, module: str) -> str:
        """Return the level of a module, named in full."""
        named = [(len(name), level) for name, level in self.parts if _is_in(module, name)]
        return max(named)[1] if named else self.base


def parse_levels(text: str) -> LogLevels:
    """Read levels as a user writes them.

    Raises:
        ValueError: with what is allowed, and the nearest to what is not.
    """
    base, parts = "", dict[str, str]()
    for one in (part.strip().lower() for part in text.split(",")):
        name, equals, level = (word.strip() for word in one.partition("="))
        if not equals:
            name, level = "", name
        if level not in LEVELS:
            of = f" for '{name}'" if name else ""
            raise ValueError(f"{', '.join(LEVELS)}{of}{did_you_mean(level, LEVELS)}")
        if equals and not any(_is_in(module, name) for module in modules()):
            raise ValueError(f"{ALLOWED}; no part is called '{name[:128]}'{did_you_mean(name, modules())}")
        if name in parts or (not name and base):
            raise ValueError(f"{ALLOWED}; each part once")
        if name:
            parts[name] = level
        else:
            base = level
    return LogLevels(base or DEFAULT, tuple(parts.items()))


def apply_levels(levels: LogLevels) -> None:
    """Make the loggers of this process as loud as asked for, those of parts not loaded yet, too."""
    base = levels.base.upper()
    root = logging.getLogger()
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[base]))
    for name in _known_loggers():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(base)
    if levels.parts:
        for module in modules():
            level = levels.level_of(module)
            if level != levels.base:
                logging.getLogger(module).setLevel(level.upper())


@cache
def modules() -> tuple[str, ...]:
    """Return the modules of our packages, and the packages, by full name."""
    found = set(PACKAGES)
    for package in PACKAGES:
        for path in (_SOURCES / package).rglob("*.py"):
            *folders, _ = path.relative_to(_SOURCES).parts
            found.add(".".join(folders) if path.stem == "__init__" else ".".join((*folders, path.stem)))
    return tuple(sorted(found))


def _is_in(module: str, name: str) -> bool:
    return module == name or module.startswith((f"{name}.", f"{name}_"))


def _known_loggers() -> Iterable[str]:
    names = tuple(logging.root.manager.loggerDict)  # others may come while we look
    return [name for name in names if any(_is_in(name, package) for package in PACKAGES)]
