"""`edge-actors inspect dead-letters`: messages that nobody could take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.inspect.tables import Picture, show
from runtime.cli.options import common_options
from runtime.cli.output import print_json, printable
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from runtime.cli.inspect.envelopes import Shown
    from runtime.cli.inspect.line import InspectedEdge

COLUMNS: Final = ("NUMBER", "TIME", "KIND", "FROM", "TO", "REASON")
_LONGEST_REASON: Final = 100


@click.command("dead-letters")
@click.argument("action", type=click.Choice(("list", "show", "replay")), default="list")
@click.argument("number", metavar="[NUMBER]", default="")
@common_options
def dead_letters(action: str, number: str, home: Path, as_json: bool) -> int:
    """List dead letters, the messages that nobody could take; show one in full, or send it again.

    \b
      edge-actors inspect dead-letters
      edge-actors inspect dead-letters show hub/3
      edge-actors inspect dead-letters replay hub/3

    NUMBER is the process and how many-th letter it is there; without the process when only one has that
    number. Each process keeps its last 1000, until it ends. To replay needs an edge that was started with
    --allow-faults: the message goes to its actor again, in the name of who sent it, and is a dead letter once
    more if that still cannot take it.
    """
    from messaging.errors import ConfigError
    from runtime.cli.inspect.envelopes import Shown
    from runtime.cli.inspect.line import inspected

    if (action == "list") == bool(number):
        raise ConfigError(
            "`list` takes no NUMBER" if number else f"`{action}` needs a NUMBER, see `dead-letters list`"
        )
    with inspected(home) as edge:
        if action == "list":
            picture, values = _listed(edge, Shown.of(home))
            show(lambda: (picture, values), as_json, None)
        elif action == "show":
            _show(edge, number, home, as_json)
        else:
            _replay(edge, number, as_json)
    return DONE


def _listed(edge: InspectedEdge, shown: Shown) -> tuple[Picture, Any]:
    from runtime.cli.inspect.envelopes import clock

    letters, remarks = _letters(edge)
    for letter in letters:
        letter |= {name: shown.text(letter[name]) for name in ("message", "reason", "traceback")}
    rows = [
        (
            letter["number"],
            clock(letter["at"]),
            letter["kind"] or "(a frame)",
            letter["from"] or "-",
            letter["to"],
            letter["reason"][:_LONGEST_REASON],
        )
        for letter in letters
    ]
    shown_remarks = remarks if rows or remarks else ["no dead letters"]
    return Picture(COLUMNS, rows, shown_remarks), {"letters": letters, "problems": remarks}


def _letters(edge: InspectedEdge) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the letters of both processes, oldest first, and which process could not be asked."""
    from messaging.errors import BusError
    from messaging.lifecycle import DeadLetterList, ListDeadLetters
    from runtime.cli.inspect.line import INSPECTORS

    letters: list[dict[str, Any]] = []
    remarks = []
    for process in INSPECTORS:
        try:
            answer = edge.client.ask(process, ListDeadLetters(), DeadLetterList)
        except BusError as exc:
            remarks.append(f"the dead letters of the {process} are missing: {exc}")
            continue
        lost = answer.count - len(answer.letters)
        if lost:
            remarks.append(f"{lost} older ones of the {process} are not kept any more")
        letters += [
            {**letter, "process": process, "number": f"{process}/{letter['number']}"}
            for letter in answer.letters
        ]
    return sorted(letters, key=lambda letter: letter["at"]), remarks


def _show(edge: InspectedEdge, number: str, home: Path, as_json: bool) -> None:
    import json

    from actors.inspection.messages import LetterShown, ShowLetter
    from messaging.time_text import iso_utc
    from runtime.cli.inspect.envelopes import Shown, seen

    process, of_process = _which(edge, number)
    letter = edge.ask(process, ShowLetter(of_process), LetterShown)
    shown = Shown.of(home)
    about: dict[str, Any] = {
        "number": f"{process}/{letter.number}",
        "at": iso_utc(letter.at_s),
        "reason": shown.text(letter.reason),
        "traceback": shown.text(letter.traceback),
        "envelope": None,
    }
    if letter.frame:
        envelope = seen(process, letter.at_s, letter.size, letter.frame, {})
        values = shown.values(envelope.named(letter.fields))
        del values["at"], values["waited_ms"]
        about["envelope"] = values
    if as_json:
        print_json(about)
        return
    click.echo(f"dead letter {about['number']}, {about['at']}: {printable(about['reason'])}")
    if about["envelope"]:
        for name, value in about["envelope"].items():
            text = json.dumps(value, indent=2, ensure_ascii=False) if name == "message" else value
            click.echo(f"{name}: {'' if text is None else text}")
    if about["traceback"]:
        click.echo(about["traceback"].rstrip())


def _replay(edge: InspectedEdge, number: str, as_json: bool) -> None:
    from actors.inspection.messages import MessageSent, ReplayLetter
    from runtime.cli.inspect.send import refuse_without_faults, tell_sent

    refuse_without_faults(edge)
    process, of_process = _which(edge, number)
    tell_sent(edge.ask(process, ReplayLetter(of_process), MessageSent), as_json)


def _which(edge: InspectedEdge, number: str) -> tuple[str, int]:
    """Return process and number of the letter that somebody means."""
    from messaging.errors import ConfigError
    from runtime.cli.inspect.line import INSPECTORS

    process, _, digits = number.rpartition("/")
    if not digits.isdecimal() or process not in ("", *INSPECTORS):
        raise ConfigError(f"{number!r} is no number of a dead letter, such as hub/3; see `dead-letters list`")
    if process:
        return process, int(digits)
    letters, _ = _letters(edge)
    fits = [letter["process"] for letter in letters if letter["number"] == f"{letter['process']}/{digits}"]
    if len(fits) == 1:
        return fits[0], int(digits)
    which = " and ".join(f"{process}/{digits}" for process in fits)
    raise ConfigError(
        f"there are dead letters {which}; say which" if fits else f"there is no dead letter {number}"
    )
