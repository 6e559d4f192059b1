"""How a text that somebody else chose is shown in an error or a log line."""

from __future__ import annotations

LONGEST_SHOWN = 120


def quoted(text: str) -> str:
    """Return `text` in quotes, control characters escaped and cut to `LONGEST_SHOWN` characters."""
    if len(text) > LONGEST_SHOWN:
        text = text[: LONGEST_SHOWN - 3] + "..."
    return repr(text)
