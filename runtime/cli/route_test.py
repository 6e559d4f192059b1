"""`edge-actors routes test`: does this message take this route, and why?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from messaging.errors import ConfigError, RouteError
from runtime.cli.options import common_options
from runtime.cli.output import print_json
from runtime.cli.route_text import error_values, is_route, marked
from runtime.exit_codes import DONE, WRONG_INPUT

if TYPE_CHECKING:
    from messaging.message import Message
    from messaging.routing.explain import Explanation, Part


@click.command()
@click.argument("text", metavar="ROUTE|CONDITION", required=False)
@click.option("--source", metavar="PATH", help="Where it comes from: /messages/modules/M/outputs/O.")
@click.option(
    "-p", "--property", "properties", multiple=True, metavar="NAME=VALUE", help="An application property."
)
@click.option(
    "-s", "--system", multiple=True, metavar="NAME=VALUE", help="A system property, by the name after $."
)
@click.option("--body", default="", metavar="TEXT|@FILE", help="The body, or the file that it is in.")
@click.option("--batch", is_flag=True, help="Answer JSON lines from standard input with JSON lines.")
@common_options
def test(
    text: str | None,
    source: str | None,
    properties: tuple[str, ...],
    system: tuple[str, ...],
    body: str,
    batch: bool,
    home: Path,
    as_json: bool,
) -> int:
    """Try ROUTE, or a CONDITION alone, with a message: does it match, and what is each part of it?

    Without --source it is that of the system properties connectionModuleId and outputName. Conditions on the
    body need -s contentType=application/json -s contentEncoding=utf-8, as in a real message.

    \b
    --batch reads lines such as
      {"route": "FROM …", "message": {"source": "/messages/modules/m/outputs/o", "properties": {},
                                      "systemProperties": {}, "body": "<base64>"}}
    or with "condition" in the place of "route", and answers each with
      {"match": true|false}  or  {"error": [{"message": …, "line": 1, "column": 5}]}
    Without a message it is only compiled, and "match" is null.
    """
    if batch:
        if text is not None or source is not None or properties or system or body:
            raise click.UsageError("--batch reads routes and messages from standard input alone")
        from runtime.cli.route_batch import answer_lines

        answer_lines(sys.stdin.buffer, sys.stdout.buffer)
        return DONE
    if text is None:
        raise click.UsageError("missing ROUTE or CONDITION")
    message = _message(source, _pairs(properties, "--property"), _pairs(system, "--system"), _body(body))
    try:
        found = _explained(text, message)
    except RouteError as exc:
        if not as_json:
            raise ConfigError(f"{exc}\n{marked(text, exc.line, exc.column)}") from exc
        print_json({"error": [error_values(exc)]})
        return WRONG_INPUT
    if as_json:
        part = None if found.part is None else _values(found.part)
        print_json({"match": found.passes, "why": found.why, "condition": part})
        return DONE
    click.echo(f"{'matches' if found.passes else 'does not match'}: {found.why}")
    if found.part is not None:
        click.echo()
        for line in _lines(found.part, 0):
            click.echo(line)
    return DONE


def _explained(text: str, message: Message) -> Explanation:
    from messaging.routing.explain import Explanation, explain
    from messaging.routing.grammar import parse_condition, parse_route, positions_in_condition
    from messaging.routing.route import compile_route, is_under

    if not is_route(text):
        with positions_in_condition(text):
            return explain(parse_condition(text), message)
    route = compile_route("", text, edge_device_id="")
    condition = parse_route(text).condition
    if condition is None:
        found = Explanation(True, "the route has no condition", None)
    else:
        found = explain(condition, message)
    if not is_under(message.source, route.prefix):
        return Explanation(False, f"it comes from {message.source}, not from {route.prefix}", found.part)
    return found


def _message(source: str | None, properties: dict[str, str], system: dict[str, str], body: bytes) -> Message:
    from messaging.message import Message, source_path

    path = source_path(system) if source is None else source.rstrip("/") + "/"
    return Message(path, properties, system, body)


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, is_pair, value = text.partition("=")
        if not is_pair or not name:
            raise ConfigError(f"{option}: {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def _body(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode(errors="surrogateescape")
    try:
        return Path(text[1:]).read_bytes()
    except OSError as exc:
        raise ConfigError(f"--body: {text[1:]!r} cannot be read: {exc.strerror}") from exc


def _lines(part: Part, depth: int) -> Iterator[str]:
    """Return a part and all that it is made of, indented; its value first."""
    note = f"   ({part.note})" if part.note else ""
    text = " ".join(part.text.split())
    yield f"{'  ' * depth}{part.value:<10}  {text}{note}"
    for inner in part.parts:
        yield from _lines(inner, depth + 1)


def _values(part: Part) -> dict[str, Any]:
    values: dict[str, Any] = {"text": part.text, "value": part.value}
    if part.note:
        values["note"] = part.note
    if part.parts:
        values["parts"] = [_values(inner) for inner in part.parts]
    return values
