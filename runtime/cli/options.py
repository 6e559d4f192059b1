"""The options that every command has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def common_options(function: Function) -> Function:
    """Add --home (a Path, default applied), --json (`as_json`) and --debug (kept in the context)."""
    home = click.option(
        "--home",
        metavar="DIR",
        callback=_home,
        help="Where the edge keeps its state.  [default: $EDGE_ACTORS_HOME, else /var/lib/edge-actors "
        "for root, else ~/.local/state/edge-actors]",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    return home(as_json(debug_option(function)))


def debug_option(function: Function) -> Function:
    """Add --debug alone, for commands that have no home."""
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks of errors."
    )
    return debug(function)


def _home(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Path:
    from runtime.machine.system_service import become_owner

    home = _home_in(text)
    become_owner(home)
    return home


def _home_in(text: str | None) -> Path:
    from messaging.errors import ConfigError
    from runtime.config.reader import default_home
    from runtime.config.settings import about, variable

    origin = "--home"
    if text is None:
        origin, text = variable("home"), os.environ.get(variable("home")) or None
    if text is None:
        return default_home()
    try:
        if not text:  # an unset variable of a shell script, for example; not the folder we are in
            raise ValueError("a path")
        home: Path = about("home").read(text)
    except ValueError as exc:
        raise ConfigError(f"{origin}: {text!r} is not allowed; allowed: {exc}") from exc
    return home


def _debug(ctx: click.Context, parameter: click.Parameter, on: bool) -> None:
    if on:
        ctx.obj.debug = True
