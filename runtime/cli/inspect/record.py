"""`edge-actors inspect record`: what a tap shows, in a file."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from runtime.cli.inspect.options import compiled, filter_options, strangers
from runtime.cli.inspect.tap import START_LIMIT_S, wanted
from runtime.cli.options import common_options
from runtime.cli.output import print_json
from runtime.exit_codes import DONE


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@filter_options
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N envelopes.")
@click.option(
    "--for", "for_s", type=click.FloatRange(min=0.1), metavar="SECONDS", help="End after that time."
)
@common_options
def record(
    file: Path,
    to: tuple[str, ...],
    sender: tuple[str, ...],
    kinds: tuple[str, ...],
    where: str,
    count: int | None,
    for_s: float | None,
    home: Path,
    as_json: bool,
) -> int:
    """Write envelopes into FILE until Ctrl-C, one JSON object a line, as `inspect tap --json` shows them.

    FILE is made for you alone to read. Secrets of the edge, tokens and keys are masked all the same; what
    your messages say is in it. Options as of `inspect tap`.
    """
    from actors.inspection.tap import TapFilter
    from runtime.cli.inspect import recording
    from runtime.cli.inspect.envelopes import SeenEnvelope, Shown
    from runtime.cli.inspect.line import inspected
    from runtime.cli.inspect.reader import Missed, TapReader

    matches = compiled(where)
    with inspected(home) as edge:
        run, unknown = edge.run, strangers(edge, (*to, *sender), kinds)
    for remark in unknown:
        click.echo(f"note: {remark}", err=True)
    shown = Shown.of(home)
    written = missed = 0
    reader = TapReader(run, TapFilter(to, sender, kinds))
    with recording.create(file) as out:
        try:
            with reader:
                processes = sorted(reader.wait_until_tapped(START_LIMIT_S))
                click.echo(f"note: recording {' and '.join(processes)}", err=True)
                if for_s is not None:
                    end = threading.Timer(for_s, reader.end)
                    end.daemon = True
                    end.start()
                for event in wanted(reader, matches, count):
                    if isinstance(event, SeenEnvelope):
                        written += 1
                        recording.write(out, shown.values(event))
                    elif isinstance(event, Missed):
                        missed += event.envelopes
                        recording.write(out, {"missed": event.envelopes, "process": event.process})
                    else:
                        click.echo(f"note: {event.text}", err=True)
        finally:
            missed += reader.missed_at_end
            if as_json:
                print_json({"file": str(file), "envelopes": written, "missed": missed})
            else:
                click.echo(f"{written} envelopes in {file}, {missed} missed")
    return DONE
