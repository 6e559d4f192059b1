"""`edge-actors upstream`: the link to the cloud."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json


@click.group()
def upstream() -> None:
    """Show or switch the link to the cloud, to see what happens when it is away.

    Today the cloud is a file, HOME/upstream.jsonl. While the link is off, messages wait on disk.
    """


@upstream.command()
@common_options
def status(home: Path, as_json: bool) -> None:
    """Tell whether the link is on, and how many messages it took."""
    from actors.link_state import GetLinkState

    _ask(GetLinkState(), home, as_json)


@upstream.command()
@common_options
def on(home: Path, as_json: bool) -> None:
    """Switch the link on; what waited is sent."""
    from actors.link_state import SwitchLink

    _ask(SwitchLink(True), home, as_json)


@upstream.command()
@common_options
def off(home: Path, as_json: bool) -> None:
    """Switch the link off, also for the next start."""
    from actors.link_state import SwitchLink

    _ask(SwitchLink(False), home, as_json)


def _ask(question: object, home: Path, as_json: bool) -> None:
    from actors.hub_root import UPSTREAM
    from actors.link_state import LinkState
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        state = edge.ask(UPSTREAM, question, LinkState)
    if as_json:
        print_json({"on": state.on, "sent": state.sent})
    else:
        click.echo(
            f"upstream is {'on' if state.on else 'off'}; {state.sent} messages sent since the hub started"
        )
