"""`edge-actors routes`: the routes in force, and commands to check and try one before it is deployed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final, cast

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.cli.route_text import marked

# Each in a file of its own: `routes test --batch` shall start fast.
_ELSEWHERE: Final = {
    "check": ("runtime.cli.route_check", "check"),
    "test": ("runtime.cli.route_test", "test"),
}
_DEFAULT_PRIORITY: Final = 2_000_000_000


class _Routes(click.Group):
    """`routes` alone is `routes list`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["list", *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            module, name = _ELSEWHERE[cmd_name]
            return cast(click.Command, getattr(importlib.import_module(module), name))
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Routes)
def routes() -> None:
    """Show the routes of a running edge; check and try routes without one."""


@routes.command("list")
@common_options
def list_routes(home: Path, as_json: bool) -> None:
    """Show the routes in force, and those that were left out with what is wrong with them."""
    from actors.addresses import ROUTER
    from actors.agent_hub_messages import Routes
    from actors.hub.router import ListRoutes
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        found = edge.ask(ROUTER, ListRoutes(), Routes)
    if as_json:
        print_json(_values(found))
        return
    print_table(
        ("NAME", "PRIORITY", "TTL", "ROUTE"),
        (
            (name, "" if priority == _DEFAULT_PRIORITY else priority, f"{ttl_s} s" if ttl_s else "", text)
            for name, text, priority, ttl_s, _ in found.good
        ),
    )
    for name, text, problem, line, column in found.bad:
        click.echo(f"\n'{name}' is left out: {problem}\n{marked(text, line, column)}")


def _values(found: Any) -> dict[str, Any]:
    return {
        "routes": [
            {
                "name": name,
                "route": text,
                "priority": priority,
                "timeToLiveSecs": ttl_s,
                "endpoint": endpoint_id,
            }
            for name, text, priority, ttl_s, endpoint_id in found.good
        ],
        "left_out": [
            {"name": name, "route": text, "problem": problem, "line": line, "column": column}
            for name, text, problem, line, column in found.bad
        ],
    }
