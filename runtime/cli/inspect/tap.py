"""`edge-actors inspect tap`: envelopes as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.inspect.options import compiled, filter_options
from runtime.cli.options import common_options
from runtime.cli.output import printable
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from messaging.routing.envelopes import Matches
    from runtime.cli.inspect.reader import Event, TapReader


@click.command()
@filter_options
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N envelopes.")
@common_options
def tap(
    to: tuple[str, ...],
    sender: tuple[str, ...],
    kinds: tuple[str, ...],
    where: str,
    count: int | None,
    home: Path,
    as_json: bool,
) -> int:
    """Show envelopes as actors take them from their mailboxes, until Ctrl-C, or the end of the edge.

    --to, --from and --kind may be given several times and may have wildcards: 'hub/*'. CONDITION is written
    in the language of routes and sees more: process, id, kind, to, from, correlation, lane, size, waited_ms,
    and the fields of the message behind `$body.`.

    The edge never waits for who looks. What comes faster than it is shown is left out, and it is told how
    many those were. Secrets are masked. With --json each line is an object; one with "missed" stands for
    envelopes that were left out.
    """
    from actors.tap import TapFilter
    from runtime.cli.inspect.envelopes import SeenEnvelope, Shown
    from runtime.cli.inspect.line import find_edge
    from runtime.cli.inspect.reader import Missed, TapReader

    matches = compiled(where)
    run, _ = find_edge(home)
    shown = Shown.of(home)
    missed = 0
    with TapReader(run, TapFilter(to, sender, kinds)) as reader:
        for event in wanted(reader, matches, count):
            if isinstance(event, SeenEnvelope):
                line = json.dumps(shown.values(event), ensure_ascii=False) if as_json else shown.line(event)
                click.echo(line if as_json else printable(line))
            elif isinstance(event, Missed):
                missed += event.envelopes
                text = f"… {event.envelopes} envelopes missed in the {event.process}: shown too slowly"
                values = {"missed": event.envelopes, "process": event.process}
                click.echo(json.dumps(values) if as_json else text)
            else:
                click.echo(f"note: {event.text}", err=True)
    if missed:
        click.echo(f"note: {missed} envelopes were missed in all", err=True)
    return DONE


def wanted(reader: TapReader, matches: Matches, count: int | None) -> Iterator[Event]:
    """Yield what a reader brings, of envelopes those that match, up to a number of them."""
    from runtime.cli.inspect.envelopes import SeenEnvelope

    for event in reader.events():
        if not isinstance(event, SeenEnvelope):
            yield event
        elif matches(event.fields(), event.of_message()):
            yield event
            count = None if count is None else count - 1
            if count == 0:
                return
