"""Finds the valid name that a misspelled one was probably meant to be, for error messages."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name most like `name`, ignoring case, or None when nothing is similar."""
    import difflib  # with the first mistake

    spellings = {candidate.casefold(): candidate for candidate in valid}
    # Names come from users: difflib is quadratic, so a name of megabytes must not reach it.
    found = difflib.get_close_matches(name[:128].casefold(), spellings, n=1, cutoff=0.6)
    return spellings[found[0]] if found else None


def did_you_mean(name: str, valid: Iterable[str], quote: str = "'") -> str:
    """Return `; did you mean 'x'?` for the nearest valid name, or nothing when there is none."""
    found = nearest(name, valid)
    return f"; did you mean {quote}{found}{quote}?" if found is not None else ""
