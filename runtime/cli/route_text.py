"""How commands show a route and the place of a mistake in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from messaging.errors import RouteError

WIDTH: Final = 100  # characters of a line that are shown


def marked(text: str, line: int, column: int) -> str:
    """Return the line of a mistake and below it a mark at its column; of a long line what is around it."""
    shown = "".join(c if c.isprintable() else " " for c in text.split("\n")[line - 1])
    at = column - 1
    start = max(0, at - WIDTH // 2) if len(shown) > WIDTH else 0
    before = "…" if start else ""
    after = "…" if len(shown) > start + WIDTH else ""
    return f"  {before}{shown[start : start + WIDTH]}{after}\n  {' ' * (at - start + len(before))}^"


def error_values(error: RouteError) -> dict[str, Any]:
    """Return a mistake as plain values; the message is that of the reference hub, the hint says more."""
    found = {"message": error.reason, "line": error.line, "column": error.column}
    return found | {"hint": error.hint} if error.hint else found


def is_route(text: str) -> bool:
    """Tell a route from a condition: it begins with FROM or SELECT, which no condition can."""
    words = text.split(None, 1)
    return bool(words) and words[0].upper().startswith(("FROM", "SELECT")) and _is_keyword(words[0])


def _is_keyword(word: str) -> bool:
    """FROM/messages needs no blank behind it."""
    return word.upper() in ("FROM", "SELECT") or word.upper().startswith(("FROM/", "SELECT*"))
