"""`edge-actors inspect tap`: envelopes as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from runtime.cli.inspect.options import compiled, filter_options, strangers
from runtime.cli.options import common_options
from runtime.cli.output import printable
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from messaging.routing.envelopes import Matches
    from runtime.cli.inspect.envelopes import SeenEnvelope, Shown
    from runtime.cli.inspect.reader import Event, Missed, TapReader

START_LIMIT_S: Final = 3.0  # for both processes to be tapped, before it is said which are


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
    from actors.inspection.tap import TapFilter
    from runtime.cli.inspect.envelopes import SeenEnvelope, Shown
    from runtime.cli.inspect.line import inspected
    from runtime.cli.inspect.reader import Missed, TapReader

    matches = compiled(where)
    with inspected(home) as edge:
        run, unknown = edge.run, strangers(edge, (*to, *sender), kinds)
    for remark in unknown:
        click.echo(f"note: {remark}", err=True)
    shown = Shown.of(home)
    count_shown = missed = 0
    reader = TapReader(run, TapFilter(to, sender, kinds))
    try:
        with reader:
            click.echo(
                f"note: tapping {' and '.join(sorted(reader.wait_until_tapped(START_LIMIT_S)))}", err=True
            )
            for event in wanted(reader, matches, count):
                if isinstance(event, SeenEnvelope):
                    count_shown += 1
                    _show(event, shown, as_json)
                elif isinstance(event, Missed):
                    missed += event.envelopes
                    _tell_missed(event, as_json)
                else:
                    click.echo(f"note: {event.text}", err=True)
    finally:
        click.echo(f"note: {count_shown} envelopes shown, {missed + reader.missed_at_end} missed", err=True)
    return DONE


def _show(event: SeenEnvelope, shown: Shown, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(shown.values(event), ensure_ascii=False))
    else:
        click.echo(printable(shown.line(event)))


def _tell_missed(event: Missed, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"missed": event.envelopes, "process": event.process}))
    else:
        click.echo(f"… {event.envelopes} envelopes of the {event.process} were missed here")


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
