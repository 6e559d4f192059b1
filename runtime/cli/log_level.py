"""`edge-actors log-level`: how much the edge of a home logs, while it runs."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options

DEFAULT_WORD = "default"


@click.command("log-level")
@click.argument("levels", required=False)
@common_options
def log_level(levels: str | None, home: Path, as_json: bool) -> None:
    """Set how much the edge logs, or show it without LEVELS.

    LEVELS are debug, info, warning or error, and NAME=LEVEL for parts of the edge, with commas:
    info,actors.upstream=debug. All processes of the edge take them within two seconds, without a restart, and
    keep to them, whatever else is set, until `edge-actors log-level default`.
    """
    from messaging.errors import ConfigError, EnvironmentFault
    from runtime.cli.output import print_json
    from runtime.home import Home
    from runtime.logs.levels import parse_levels
    from runtime.storage.atomic_file import make_private_folder, write_private_file

    place = Home(home)
    path = place.log_levels
    if levels is not None:
        if not home.is_dir():
            way_out = f"start an edge with `edge-actors run --home {home}`"
            raise EnvironmentFault(f"there is no home {home}; {way_out}")
        try:
            if levels.strip().lower() == DEFAULT_WORD:
                path.unlink(missing_ok=True)
            else:
                content = str(parse_levels(levels))
                make_private_folder(place.logs)
                write_private_file(path, content.encode())
        except ValueError as exc:
            raise ConfigError(f"{levels!r} is not allowed; allowed: {exc}; or {DEFAULT_WORD}") from exc
        except OSError as exc:
            raise EnvironmentFault(f"cannot remove {path}: {exc.strerror}") from exc
    try:
        now = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        now = DEFAULT_WORD
    if as_json:
        print_json({"levels": now})
    elif now == DEFAULT_WORD:
        click.echo("as set: by the setting log_level, and for edgeHub by RuntimeLogLevel in the deployment")
    else:
        click.echo(f"{now}, until `edge-actors log-level {DEFAULT_WORD}`")
