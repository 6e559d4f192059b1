"""The commands of `edge-actors inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from runtime.cli.lazy_group import Entry, LazyGroup

_HERE = "runtime.cli.inspect."
COMMANDS: Final[Mapping[str, Entry]] = {
    "actors": Entry(_HERE + "actors", "actors", "Show the actors of agent and hub, and how they are."),
    "tap": Entry(_HERE + "tap", "tap", "Show envelopes as actors take them from their mailboxes."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def inspect() -> None:
    """See what the actors of a running edge tell each other, as the user that it runs as.

    Whoever looks never holds up the edge. What could disturb it is possible only when it was started with
    `edge-actors run --allow-faults`, which `edge-actors list` shows.
    """
