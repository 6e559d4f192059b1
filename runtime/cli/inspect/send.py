"""`edge-actors inspect send`: one message to an actor, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from actors.inspection.messages import MessageSent
    from runtime.cli.inspect.line import InspectedEdge


@click.command()
@click.argument("address")
@click.argument("kind")
@click.argument("fields", metavar="JSON")
@common_options
def send(address: str, kind: str, fields: str, home: Path, as_json: bool) -> int:
    """Send a message of KIND to the actor at ADDRESS, its fields as a JSON object; nobody hears an answer.

    \b
      edge-actors inspect send hub/metrics TellMetrics '{}'

    Bytes are written {"$text": "…"} or {"$bytes": "<base64>"}, a secret {"$secret": "…"}, as `tap --json`
    shows them. Only for an edge that was started with --allow-faults: an actor believes what it is told.
    """
    from runtime.cli.inspect.line import inspected

    values = read_fields(fields)
    with inspected(home) as edge:
        refuse_without_faults(edge)
        tell_sent(send_message(edge, address, kind, values), as_json)
    return DONE


def send_message(
    edge: InspectedEdge, to: str, kind: str, values: dict[str, Any], sender: str = ""
) -> MessageSent:
    """Have a message sent in the process of its receiver.

    Raises:
        EdgeError: there is no such process, actor, kind or field; says which.
    """
    from actors.inspection.messages import MessageSent, SendMessage
    from messaging.address import process_of
    from messaging.errors import ConfigError
    from runtime.cli.inspect.line import INSPECTORS

    process = process_of(to)
    if process not in INSPECTORS:
        raise ConfigError(f"{to!r} is no address of an actor: those begin with agent or hub")
    return edge.ask(process, SendMessage(to, kind, values, sender), MessageSent)


def read_fields(text: str) -> dict[str, Any]:
    """Return the fields of a message that somebody wrote as JSON.

    Raises:
        ConfigError: it is no JSON object; says where.
    """
    import json

    from messaging.errors import ConfigError
    from messaging.plain_json import from_json

    try:
        values = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"the fields are not JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise ConfigError('the fields have to be a JSON object, such as {"name": "value"}')
    return {name: from_json(value) for name, value in values.items()}


def refuse_without_faults(edge: InspectedEdge) -> None:
    """Raise ConfigError when the edge was not started so that it may be disturbed."""
    from actors.inspection.inspector import NOT_ALLOWED
    from messaging.errors import ConfigError

    if not edge.allows_faults:
        raise ConfigError(NOT_ALLOWED)


def tell_sent(sent: MessageSent, as_json: bool) -> None:
    """Say what was sent."""
    from runtime.cli.inspect.envelopes import id_text

    if as_json:
        print_json({"id": id_text(sent.id), "to": sent.to, "kind": sent.kind})
    else:
        click.echo(f"{sent.kind} sent to {sent.to} in envelope {id_text(sent.id)}")
