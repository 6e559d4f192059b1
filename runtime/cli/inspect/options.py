"""What the commands that tap have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from messaging.text import quoted

if TYPE_CHECKING:
    from messaging.routing.envelopes import Matches
    from runtime.cli.inspect.line import InspectedEdge

Function = TypeVar("Function", bound=Callable[..., Any])


def filter_options(function: Function) -> Function:
    """Add --to, --from (`sender`), --kind and --where."""
    for option in (
        click.option(
            "--where",
            metavar="CONDITION",
            default="",
            help="A condition as in routes: kind = 'Publish' AND size > 1000 AND $body.FIELD = 'x'.",
        ),
        click.option("--kind", "kinds", metavar="KIND", multiple=True, help="Only of this kind."),
        click.option("--from", "sender", metavar="ADDRESS", multiple=True, help="Only from this actor."),
        click.option("--to", metavar="ADDRESS", multiple=True, help="Only to this actor, e.g. hub/store."),
    ):
        function = option(function)
    return function


def compiled(condition: str) -> Matches:
    """Return the condition of --where.

    Raises:
        ConfigError: it is wrong; shows where.
    """
    from messaging.errors import ConfigError, RouteError
    from messaging.routing.envelopes import compile_envelope_condition
    from runtime.cli.route_text import marked

    try:
        return compile_envelope_condition(condition)
    except RouteError as exc:
        raise ConfigError(f"--where: {exc}\n{marked(condition, exc.line, exc.column)}") from exc


def strangers(edge: InspectedEdge, addresses: Iterable[str]) -> list[str]:
    """Return a remark for each address that no actor has now; a tap on it may well show nothing for ever.

    Patterns, and the commands of others, come and go and are not looked for.
    """
    from actors.inspector_messages import ActorsSeen, LookAtActors
    from messaging.nearest import did_you_mean
    from runtime.cli.inspect.line import INSPECTORS, ProcessSilent

    asked = [one for one in addresses if not set(one) & set("*?[") and not one.startswith("cli")]
    if not asked:
        return []
    known: set[str] = set()
    for process in INSPECTORS:
        try:
            known |= {actor["address"] for actor in edge.ask(process, LookAtActors(), ActorsSeen).actors}
        except ProcessSilent:
            return []  # who is there in it is not known
    return [f"no actor {quoted(one)} runs now{did_you_mean(one, known)}" for one in asked if one not in known]
