"""`edge-actors inspect replay`: sends what was recorded once more."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.inspect.options import compiled, filter_options
from runtime.cli.options import common_options
from runtime.cli.output import print_json
from runtime.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from runtime.cli.inspect.line import InspectedEdge
    from runtime.cli.inspect.recording import Recorded


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@filter_options
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="X",
    help="How many times as fast as they were recorded; 0: one at once after the other.",
)
@common_options
def replay(
    file: Path,
    to: tuple[str, ...],
    sender: tuple[str, ...],
    kinds: tuple[str, ...],
    where: str,
    speed: float,
    home: Path,
    as_json: bool,
) -> int:
    """Send the messages in FILE, a recording, to their actors once more, in the name of who sent them.

    Options say which of them. Left out are those of which something was masked, or that were too large to be
    recorded. Only for an edge that was started with --allow-faults. Exit code 1 when a message was refused.
    """
    from actors.inspection.tap import TapFilter
    from runtime.cli.inspect import recording
    from runtime.cli.inspect.line import inspected
    from runtime.cli.inspect.send import refuse_without_faults

    chosen, matches = TapFilter(to, sender, kinds), compiled(where)
    counts: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    with inspected(home) as edge:
        refuse_without_faults(edge)
        began_s = first_s = None
        for one in recording.read(file):
            values = one.values
            if not chosen.fits(values["to"], values["from"], values["kind"]):
                continue
            if not matches(values, recording.message_of(one)):
                continue
            if began_s is None or first_s is None:
                began_s, first_s = time.monotonic(), one.at_s
            if speed:
                wait_s = (one.at_s - first_s) / speed - (time.monotonic() - began_s)
                time.sleep(max(0.0, wait_s))
            counts[_send(edge, one, problems)] += 1
    for problem, times in problems.items():
        click.echo(f"error: {problem}" + (f" ({times} times)" if times > 1 else ""), err=True)
    if as_json:
        print_json({name: counts[name] for name in ("sent", "masked", "cut", "refused")})
    else:
        others = "".join(f", {counts[name]} {name}" for name in ("masked", "cut", "refused") if counts[name])
        click.echo(f"{counts['sent']} sent{others}")
    return FAILED if counts["refused"] else DONE


def _send(edge: InspectedEdge, one: Recorded, problems: Counter[str]) -> str:
    """Send one envelope; returns what became of it."""
    from messaging.errors import ConfigError
    from runtime.cli.inspect.recording import message_of
    from runtime.cli.inspect.send import send_message

    values = one.values
    if values.get("masked"):
        return "masked"
    if values["message"] is None:
        return "cut"
    sender = "" if values["from"].startswith("cli-") else values["from"]
    try:
        send_message(edge, values["to"], values["kind"], message_of(one), sender)
    except ConfigError as exc:
        problems[str(exc)] += 1
        return "refused"
    return "sent"
