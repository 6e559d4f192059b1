"""Properties of createOptions whatever their case, as Docker reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def get(options: Mapping[str, Any], wanted: str) -> Any:
    """Return a property, None when there is none."""
    name = _name(options, wanted)
    return None if name is None else options[name]


def pop(options: dict[str, Any], wanted: str) -> Any:
    """Take a property out and return it, None when there is none."""
    name = _name(options, wanted)
    return None if name is None else options.pop(name)


def part(options: dict[str, Any], wanted: str) -> dict[str, Any]:
    """Return the object of this name, in place and properly spelt; an empty one when there is none."""
    found: dict[str, Any] = pop(options, wanted) or {}
    options[wanted] = found
    return found


def append(options: dict[str, Any], wanted: str, more: list[str]) -> None:
    """Add to a list, which is made when there is none."""
    options[wanted] = [*(pop(options, wanted) or ()), *more]


def _name(options: Mapping[str, Any], wanted: str) -> str | None:
    folded = wanted.casefold()
    return next((name for name in options if name.casefold() == folded), None)
