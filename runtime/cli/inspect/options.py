"""What the commands that tap have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from messaging.text import quoted

if TYPE_CHECKING:
    from messaging.routing.envelopes import Matches
    from runtime.cli.inspect.line import InspectedEdge

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")


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


def strangers(edge: InspectedEdge, addresses: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Return a remark for each address that no actor has now, and each kind that no process knows.

    A tap on it may well show nothing for ever.

    Patterns, and the commands of others, come and go and are not looked for.
    """
    from messaging.nearest import did_you_mean

    remarks = []
    asked = [one for one in addresses if not _is_pattern(one) and not one.startswith("cli")]
    if asked and (known := _addresses(edge)):
        remarks += [
            f"no actor {quoted(one)} runs now{did_you_mean(one, known)}" for one in asked if one not in known
        ]
    asked = [one for one in kinds if not _is_pattern(one)]
    if asked and (known := _kinds(edge)):
        remarks += [
            f"no message {quoted(one)} is known{did_you_mean(one, known)}"
            for one in asked
            if one not in known
        ]
    return remarks


def _is_pattern(name: str) -> bool:
    return bool(set(name) & set("*?["))


def _addresses(edge: InspectedEdge) -> set[str]:
    from actors.inspection.messages import ActorsSeen, LookAtActors

    answers = _all(edge, LookAtActors(), ActorsSeen)
    return {actor["address"] for answer in answers for actor in answer.actors}


def _kinds(edge: InspectedEdge) -> set[str]:
    from actors.inspection.messages import KindsSeen, LookAtKinds

    return {kind for answer in _all(edge, LookAtKinds(), KindsSeen) for kind in answer.kinds}


def _all(edge: InspectedEdge, question: object, answer: type[T]) -> list[T]:
    """Return the answers of both processes; none when one is silent, for who is there in it is not known."""
    from runtime.cli.inspect.line import INSPECTORS, ProcessSilent

    try:
        return [edge.ask(process, question, answer) for process in INSPECTORS]
    except ProcessSilent:
        return []
