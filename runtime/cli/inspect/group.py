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
    "flow": Entry(_HERE + "flow", "flow", "Show which actors talk to which, how often and how fast."),
    "trace": Entry(_HERE + "trace", "trace", "Show the way of one message through the actors."),
    "dead-letters": Entry(
        _HERE + "dead_letters", "dead_letters", "List, show and send again what nobody could take."
    ),
    "record": Entry(_HERE + "record", "record", "Write envelopes into a file."),
    "replay": Entry(_HERE + "replay", "replay", "Send what was recorded once more."),
    "send": Entry(_HERE + "send", "send", "Send a message to an actor by hand."),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def inspect() -> None:
    """See what the actors of a running edge tell each other, as the user that it runs as.

    Whoever looks never holds up the edge. What could disturb it is possible only when it was started with
    `edge-actors run --allow-faults`, which `edge-actors list` shows.
    """
