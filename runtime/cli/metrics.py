"""`edge-actors metrics`: what the metrics of agent and hub stand at, readable or as Prometheus gets them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from messaging.exposition import Family
    from runtime.cli.running import RunningEdge

COMMON = ("iothub", "edge_device", "instance_number", "ms_telemetry")
THERE_LIMIT_S = 5.0
ANSWER_LIMIT_S = 30.0  # with thousands of clients it takes seconds
LONGEST = 60  # of what a label says


@click.command()
@click.argument("names", metavar="[NAME]…", nargs=-1)
@click.option("--raw", is_flag=True, help="As Prometheus gets them.")
@common_options
def metrics(home: Path, as_json: bool, raw: bool, names: tuple[str, ...]) -> int:
    """Show what the metrics of the edge stand at.

    With NAME only those; it may have wildcards, and the part of it in front of the first _ may be left out:
    queue_length is edgehub_queue_length, 'edgehub_message*' all that begin like this.

    Of a summary the median, the 9 of 10, the sum and the count are shown. Exit code 1 when a NAME fits none,
    or the hub does not answer.
    """
    from messaging.exposition import encode_text

    families, problem = _ask(home)
    chosen = [family for family in families if not names or any(_fits(family.name, name) for name in names)]
    unknown = [name for name in names if not any(_fits(family.name, name) for family in families)]
    if raw:
        click.echo(encode_text(chosen).decode(), nl=False)
    elif as_json:
        print_json([_as_values(family) for family in chosen])
    elif chosen:
        _show(chosen)
    else:
        click.echo("no metrics" if families else "no metrics: they are switched off in the deployment")
    if problem:
        click.echo(f"error: {problem}", err=True)
    for name in unknown:
        click.echo(f"error: no metric {name!r} so far; a metric is there from its first use on", err=True)
    return FAILED if problem or unknown else DONE


def _ask(home: Path) -> tuple[list[Family], str]:
    """Return the families of agent and hub; those of the agent alone with the reason why."""
    from actors.addresses import METRICS, METRICS_OF_AGENT
    from messaging.errors import EdgeError
    from runtime.cli.running import running_edge

    problem = ""
    with running_edge(home) as edge:
        found = families_of(edge, METRICS_OF_AGENT)
        try:
            found += families_of(edge, METRICS)
        except EdgeError as exc:
            problem = f"the metrics of edgeHub are missing: {exc}"
    return found, problem


def families_of(edge: RunningEdge, address: str) -> list[Family]:
    """Return what the metrics stand at that this actor tells; none where they are switched off.

    Raises:
        EdgeError: it does not answer.
    """
    from actors.metrics.metrics import Metrics, TellMetrics
    from messaging.exposition import unpack
    from messaging.lifecycle import Describe, Described

    edge.ask(address, Describe(), Described, THERE_LIMIT_S)
    return list(unpack(edge.ask(address, TellMetrics(), Metrics, ANSWER_LIMIT_S).packed))


def _fits(name: str, wanted: str) -> bool:
    _, _, short = name.partition("_")
    return any(fnmatch.fnmatchcase(each.lower(), wanted.lower()) for each in (name, short))


def _show(families: Iterable[Family]) -> None:
    """Print families one below the other, and all that concerns actors as one table."""
    actors: dict[str, dict[str, object]] = {}
    for family in families:
        _, is_of_actor, column = family.name.partition("_actor_")
        if is_of_actor:
            for sample in family.samples:
                actors.setdefault(dict(sample.labels)["actor"], {})[column] = int(sample.value)
            continue
        click.echo(f"{family.name}: {family.help}")
        rows = [(_told(values), _shown(of)) for of, values in _series(family).items()]
        width = max(len(told) for told, _ in rows)
        for told, shown in rows:
            click.echo(f"  {told.rjust(width)}  {shown}".rstrip())
    if actors:
        columns = tuple(dict.fromkeys(column for known in actors.values() for column in known))
        titles = (column.removesuffix("_total").replace("_", " ").upper() for column in columns)
        click.echo()
        print_table(
            ("ACTOR", *titles),
            [(actor, *(known.get(column) for column in columns)) for actor, known in actors.items()],
        )


def _shown(of: Iterable[tuple[str, str]]) -> str:
    """Return the labels that tell the series of one edge apart."""
    return ", ".join(f"{label} {_cut(text)}" for label, text in of if label not in COMMON and text != "")


def _cut(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _series(family: Family) -> Mapping[tuple[tuple[str, str], ...], dict[str, float]]:
    """Return the numbers of each series by quantile or suffix."""
    found: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for suffix, labels, value in family.samples:
        of = tuple(label for label in labels if label[0] != "quantile")
        found.setdefault(of, {})[suffix or dict(labels).get("quantile", "")] = value
    return found


def _told(values: Mapping[str, float]) -> str:
    from messaging.exposition import number

    if "_count" not in values:
        value = values[""]
        return number(value) if abs(value) >= 1e6 or float(value).is_integer() else f"{value:.6g}"
    count, total = values["_count"], values["_sum"]
    return (
        f"{number(count)} in sum {_short(total)}; half up to {_short(values['0.5'])}, "
        f"9 of 10 up to {_short(values['0.9'])}"
    )


def _short(value: float) -> str:
    return "–" if value != value else f"{value:.4g}"


def _as_values(family: Family) -> dict[str, Any]:
    return {
        "name": family.name,
        "type": family.kind,
        "help": family.help,
        "samples": [
            {
                "name": family.name + suffix,
                "labels": dict(labels),
                "value": value if value == value else None,
            }
            for suffix, labels, value in family.samples
        ],
    }
