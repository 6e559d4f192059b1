"""`edge-actors down`: stop the edge of a home and end all that is left of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json

GRACE_S: Final = 30.0  # for the agent to end the modules, which have their own grace; then it is killed


@click.command()
@click.option("--purge", is_flag=True, help="Remove the home too: messages, keys, certificates, logs.")
@common_options
def down(purge: bool, home: Path, as_json: bool) -> None:
    """Stop the edge of this home, and end whatever is left of one that was killed.

    Asks nothing and says what it ended. Works without a running agent and without the home.
    """
    from runtime.home import Home
    from runtime.leftovers import end_edge
    from runtime.run_directory import RunDirectory

    run = RunDirectory.of(home)
    had_run_directory = run.path.exists()
    ended = end_edge(run, GRACE_S)
    left = Home(home).purge() if purge else None
    if as_json:
        print_json(
            {
                "ended": [asdict(process) for process in ended],
                "run_directory_removed": had_run_directory,
                "home_removed": left == [],
                "left_in_home": left or [],
            }
        )
        return
    for process in ended:
        how = f"killed, it did not end within {GRACE_S:.0f} s" if process.killed else "ended"
        click.echo(f"{process.name} (pid {process.pid}, {process.command}): {how}")
    if had_run_directory:
        click.echo(f"removed {run.path}")
    if left == []:
        click.echo(f"removed {home}")
    elif left:
        click.echo(f"kept {home}: it also holds what is not the edge's: {', '.join(left)}")
    if not ended and not had_run_directory and left is None:
        click.echo(f"nothing of an edge with home {home} is left")
