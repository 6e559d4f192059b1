"""`edge-actors routes`: the routes in force and those left out."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table


@click.command()
@common_options
def routes(home: Path, as_json: bool) -> None:
    """Show the routes in force, and those that were left out with what is wrong with them."""
    from actors.hub_root import ROUTER
    from actors.router import ListRoutes, Routes
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        found = edge.ask(ROUTER, ListRoutes(), Routes)
    if as_json:
        print_json(
            {
                "routes": [{"name": name, "route": text} for name, text in found.good],
                "left_out": [
                    {"name": name, "route": text, "problem": problem} for name, text, problem in found.bad
                ],
            }
        )
        return
    print_table(("NAME", "ROUTE"), found.good)
    for name, text, problem in found.bad:
        click.echo(f"\n'{name}' is left out: {problem}\n  {text}")
