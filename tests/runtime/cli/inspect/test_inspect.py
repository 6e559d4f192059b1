"""`edge-actors inspect`, in front of an agent in this process."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.inspection.inspector import NOT_ALLOWED
from actors.inspection.version import PROTOCOL
from messaging.envelope import VERSION as ENVELOPES
from messaging.errors import EnvironmentFault
from messaging.version import VERSION
from runtime.agent.inspector_note import FILE
from runtime.cli.inspect import line
from runtime.run_directory import RunDirectory
from tests.actors.kernel_actors import Burst, Load, Memory, Note, Recall
from tests.runtime.cli.conftest import EdgeActors, Told
from tests.runtime.cli.inspect.conftest import BOOK, MakeEdge, SmallEdge

LIMIT_S = 20.0


@contextmanager
def noting(edge: SmallEdge) -> Iterator[None]:
    """Have the notebook told something again and again, so that whoever taps has something to see."""
    ends = threading.Event()

    def tell() -> None:
        while not ends.wait(0.01):
            edge.bus.send(BOOK, Note(7), sender="agent")
        edge.bus.close_thread()

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join(LIMIT_S)


def lines_of(told: Told) -> list[dict[str, object]]:
    assert told.code == 0, told.err
    return [json.loads(text) for text in told.out.splitlines()]


# who may be inspected

ALL = [
    ("actors",),
    ("tap",),
    ("flow",),
    ("trace", "1"),
    ("dead-letters",),
    ("record", "/nonexistent/x"),
    ("send", BOOK, "Note", "{}"),
]


@pytest.mark.parametrize("command", ALL, ids=[command[0] for command in ALL])
def test_without_an_edge_each_command_says_so(
    edge_actors: EdgeActors, home: Path, command: tuple[str, ...]
) -> None:
    told = edge_actors("inspect", *command)

    assert (told.code, told.out) == (1, "")
    assert told.err == (
        f"error: no edge runs on home {home}; start one with `edge-actors run --home {home}`\n"
    )


def test_an_edge_of_another_protocol_is_named_with_both_versions(
    edge_actors: EdgeActors, small_edge: MakeEdge, home: Path
) -> None:
    small_edge()
    note = {"version": "9.8", "envelopes": ENVELOPES, "protocol": PROTOCOL + 1, "allows_faults": False}
    (RunDirectory.of(home).path / FILE).write_text(json.dumps(note))

    told = edge_actors("inspect", "actors")

    assert told.code == 1
    assert told.err == (
        f"error: the edge on home {home} (pid {os.getpid()}) is edge-actors 9.8 and speaks version "
        f"{PROTOCOL + 1} of the inspector's protocol; this is edge-actors {VERSION} with version {PROTOCOL}: "
        "inspect it with the program that it was started with, or restart it with this one\n"
    )


@pytest.mark.parametrize("content", [None, "{", "[]", '{"version": 1}'], ids=["none", "cut", "list", "half"])
def test_an_edge_that_left_no_note_is_of_a_version_without_inspector(
    edge_actors: EdgeActors,
    small_edge: MakeEdge,
    home: Path,
    content: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_edge()
    monkeypatch.setattr(line, "NOTE_LIMIT_S", 0.0)
    note = RunDirectory.of(home).path / FILE
    if content is None:
        note.unlink()
    else:
        note.write_text(content)

    told = edge_actors("inspect", "tap")

    assert told.code == 1
    assert told.err == (
        f"error: the edge on home {home} (pid {os.getpid()}) is of a version that has no inspector; "
        f"restart it with this one, {VERSION}\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a home to another user")
def test_a_home_of_another_user_is_named_with_its_owner(edge_actors: EdgeActors, home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)

    told = edge_actors("inspect", "actors")

    assert told.code == 1
    assert told.err == (
        f"error: home {home} belongs to user #12345; an edge is inspected by the user that it runs as alone: "
        "run this as that user, `sudo -u #12345 edge-actors inspect …`\n"
    )


def test_a_home_behind_a_closed_door_is_said_to_be_another_user_s(
    edge_actors: EdgeActors, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(line.os, "stat", closed)

    with pytest.raises(EnvironmentFault) as refused:
        line.find_edge(home)

    assert str(refused.value).startswith(f"home {home} is closed to user ")
    assert str(refused.value).endswith(
        "; an edge is inspected by the user that it runs as alone: run this as that user"
    )


# actors


def test_actors_are_shown_as_a_tree(edge_actors: EdgeActors, small_edge: MakeEdge) -> None:
    edge = small_edge(allow_faults=True)
    edge.tell(Note(1))
    edge.tell(Burst("boom"))
    edge.settle()

    told = edge_actors("inspect", "actors")
    values = edge_actors("inspect", "actors", "--json").json

    names = [text.split("  ")[0] or text for text in told.out.splitlines()]
    assert told.out.splitlines()[1].startswith("agent  ")
    assert any(text.startswith("  agent/book  ") for text in told.out.splitlines()), names
    assert told.out.splitlines()[-1] == "the hub does not run, or hangs"
    assert values["processes"] == [
        {"process": "agent", "version": VERSION, "allows_faults": True, "problem": ""},
        {"process": "hub", "problem": "the hub does not run, or hangs"},
    ]
    [book] = [actor for actor in values["actors"] if actor["address"] == BOOK]
    assert (book["parent"], book["depth"], book["state"], book["process"]) == ("agent", 1, "running", "agent")
    assert (book["failures"], book["restarts"], book["last_error"]) == (1, 1, "ValueError: boom")
    assert book["mailbox"] == {"control": {"depth": 0, "limit": None}, "data": {"depth": 0, "limit": 1024}}
    assert 0 <= book["p50_ms"] <= book["p99_ms"]


# tap


def test_a_tap_shows_envelopes_in_lines_and_ends_after_a_number(
    edge_actors: EdgeActors, small_edge: MakeEdge
) -> None:
    with noting(small_edge()):
        told = edge_actors("inspect", "tap", "--to", BOOK, "--kind", "Note", "--count", "3")

    assert told.code == 0
    shown = told.out.splitlines()
    assert len(shown) == 3
    assert all("agent → agent/book  Note  " in text and text.endswith('{"number": 7}') for text in shown)
    assert "note: 3 envelopes shown, 0 missed" in told.err


def test_a_tap_in_json_has_the_fields_of_envelope_and_message(
    edge_actors: EdgeActors, small_edge: MakeEdge
) -> None:
    with noting(small_edge()):
        told = edge_actors(
            "inspect", "tap", "--json", "--count", "1",
            "--where", "kind = 'Note' AND from = 'agent' AND $body.number > 6",
        )  # fmt: skip

    [one] = lines_of(told)
    assert {name: one[name] for name in ("process", "kind", "to", "from", "lane", "correlation")} == {
        "process": "agent",
        "kind": "Note",
        "to": BOOK,
        "from": "agent",
        "lane": "control",
        "correlation": None,
    }
    assert one["message"] == {"number": 7}
    assert isinstance(one["id"], str)
    assert len(one["id"]) == 16


def test_a_wrong_condition_is_refused_before_anything_is_tapped(edge_actors: EdgeActors) -> None:
    told = edge_actors("inspect", "tap", "--where", "knd = 'Note'")

    assert told.code == 2
    assert told.err.startswith("error: --where: line 1, column 1: an envelope has no field 'knd'")


# flow and trace


def test_the_flow_has_what_went_between_two_actors(edge_actors: EdgeActors, small_edge: MakeEdge) -> None:
    with noting(small_edge()):
        told = edge_actors("inspect", "flow", "--for", "0.5", "--json")

    [link] = [link for link in told.json["links"] if link["kind"] == "Note"]
    assert (link["from"], link["to"], link["failed"]) == ("agent", BOOK, 0)
    assert link["per_s"] == pytest.approx(link["envelopes"] / 0.5, rel=0.8)
    assert link["bytes_per_s"] > link["per_s"]
    assert 0 < link["took_p50_ms"] <= link["took_p99_ms"]
    assert told.json["problems"] == ["the hub does not run, or hangs"]


def test_the_way_of_an_envelope_is_found_by_the_id_that_a_tap_showed(
    edge_actors: EdgeActors, small_edge: MakeEdge
) -> None:
    with noting(small_edge()):
        [one] = lines_of(edge_actors("inspect", "tap", "--json", "--count", "1", "--kind", "Note"))
        found = edge_actors("inspect", "trace", str(one["id"]), "--json").json

    [hop] = found["envelopes"]
    assert (hop["id"], hop["to"], hop["kind"], hop["failed"]) == (one["id"], BOOK, "Note", False)


def test_an_id_that_nobody_knows_is_told_with_what_to_do(
    edge_actors: EdgeActors, small_edge: MakeEdge
) -> None:
    small_edge()

    told = edge_actors("inspect", "trace", "abc")

    assert told.code == 2
    assert told.err.endswith(
        "error: nothing is known of id 'abc'; 0 envelopes are remembered. They are while somebody taps: run "
        "`edge-actors inspect tap` and have it happen again\n"
    )


def test_an_id_of_a_message_that_is_not_known_is_not_taken_for_that_of_an_envelope(
    edge_actors: EdgeActors, small_edge: MakeEdge
) -> None:
    small_edge()

    told = edge_actors("inspect", "trace", "order-7")

    assert told.code == 2
    assert told.err.endswith(
        "error: no message with id 'order-7' is known, and ids of envelopes have up to 16 digits 0 to f\n"
    )


# dead letters


def test_dead_letters_are_listed_shown_and_sent_again(edge_actors: EdgeActors, small_edge: MakeEdge) -> None:
    edge = small_edge(allow_faults=True)
    edge.tell(Note(3), to="agent/nobody")
    edge.tell(Burst("HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0"))
    edge.settle()

    listed = edge_actors("inspect", "dead-letters").out.splitlines()
    shown = edge_actors("inspect", "dead-letters", "show", "agent/2", "--json").json
    sent = edge_actors("inspect", "dead-letters", "replay", "2", "--json").json
    edge.settle()

    assert [text.split()[0] for text in listed[1:3]] == ["agent/1", "agent/2"]
    assert "no actor at 'agent/nobody'" in listed[1]
    assert shown["envelope"]["message"] == {"text": "HostName=h;DeviceId=d;SharedAccessKey=******"}
    everywhere = (
        json.dumps(shown),
        *listed,
        edge_actors("inspect", "dead-letters", "--json").out,
        edge_actors("inspect", "actors", "--json").out,
    )
    assert all("c2VjcmV0" not in text for text in everywhere)
    assert (sent["to"], sent["kind"]) == (BOOK, "Burst")
    assert len(edge_actors("inspect", "dead-letters", "list", "--json").json["letters"]) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("show", "agent/7"), "there is no dead letter 7 of this process; there is none"),
        (("show", "7"), "there is no dead letter 7"),
        (("show", "x/7"), "'x/7' is no number of a dead letter, such as hub/3; see `dead-letters list`"),
        (("show",), "`show` needs a NUMBER, see `dead-letters list`"),
        (("list", "3"), "`list` takes no NUMBER"),
        (("replay", "agent/7"), NOT_ALLOWED),
        (("show", "hub/7"), "the hub does not run, or hangs"),
    ],
    ids=["unknown", "unknown anywhere", "no number", "none", "too many", "not allowed", "no hub"],
)
def test_a_wrong_number_of_a_dead_letter_is_refused(
    edge_actors: EdgeActors, small_edge: MakeEdge, arguments: tuple[str, ...], problem: str
) -> None:
    small_edge()

    told = edge_actors("inspect", "dead-letters", *arguments)

    assert told.code in (1, 2)
    assert told.err == f"error: {problem}\n"


# recording


def test_a_recording_is_private_and_its_messages_can_be_sent_again(
    edge_actors: EdgeActors, small_edge: MakeEdge, tmp_path: Path
) -> None:
    edge = small_edge(allow_faults=True)
    file = tmp_path / "recording"
    with noting(edge):
        recorded = edge_actors(
            "inspect", "record", str(file), "--kind", "Note", "--count", "4", "--json"
        ).json
    before = edge.client.ask(BOOK, Recall(), Memory).numbers

    replayed = edge_actors("inspect", "replay", str(file), "--speed", "0", "--json").json
    after = edge.client.ask(BOOK, Recall(), Memory).numbers

    assert recorded == {"file": str(file), "envelopes": 4, "missed": 0}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert replayed == {"sent": 4, "masked": 0, "cut": 0, "refused": 0}
    assert after == (*before, 7, 7, 7, 7)


def test_a_file_that_is_there_is_not_overwritten(
    edge_actors: EdgeActors, small_edge: MakeEdge, tmp_path: Path
) -> None:
    small_edge()
    file = tmp_path / "mine"
    file.write_text("precious")

    told = edge_actors("inspect", "record", str(file))

    assert told.code == 2
    assert told.err == f"error: {file} is there already; name another file, or remove it\n"
    assert file.read_text() == "precious"


HEAD = json.dumps({"format": "edge-actors recording", "version": 1, "program": "1"})
NOTE = {"at": "2026-01-01T00:00:00Z", "kind": "Note", "to": BOOK, "from": "agent", "message": {"number": 5}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "{file} is no recording of `edge-actors inspect record`"),
        ("hello\n", "{file} is no recording of `edge-actors inspect record`"),
        (
            HEAD.replace("1,", "2,") + "\n",
            "{file} is a recording of version '2'; this program reads 1",
        ),
        (HEAD + "\nhello\n", "{file}, line 2: this is no envelope"),
        (HEAD + '\n{"at": "yesterday"}\n', "{file}, line 2: this is no envelope"),
        (
            HEAD + "\n" + json.dumps(NOTE | {"message": {"number": {"$bytes": "%"}}}) + "\n",
            "{file}, line 2: this is no envelope",
        ),
    ],
    ids=["empty", "text", "version", "line", "time", "value"],
)
def test_what_is_no_recording_is_refused_with_its_line(
    edge_actors: EdgeActors, small_edge: MakeEdge, tmp_path: Path, content: str, problem: str
) -> None:
    small_edge(allow_faults=True)
    file = tmp_path / "recording"
    file.write_text(content)

    told = edge_actors("inspect", "replay", str(file))

    assert told.code == 2
    assert told.err == f"error: {problem.format(file=file)}\n"


def test_what_was_masked_or_cut_is_left_out_of_a_replay_and_what_is_refused_is_told(
    edge_actors: EdgeActors, small_edge: MakeEdge, tmp_path: Path
) -> None:
    edge = small_edge(allow_faults=True)
    file = tmp_path / "recording"
    lines = [
        NOTE,
        {"missed": 3, "process": "agent"},
        NOTE | {"masked": True},
        NOTE | {"message": None, "cut": True},
        NOTE | {"kind": "Nota"},
        NOTE | {"kind": "Nota"},
        NOTE | {"to": "agent/inspector", "from": "x", "kind": "Load"},
    ]
    file.write_text("\n".join([HEAD, *map(json.dumps, lines)]) + '\n{"at": "2026-01-0')

    told = edge_actors("inspect", "replay", str(file), "--speed", "0", "--from", "agent")

    assert told.code == 1
    assert told.out == "1 sent, 1 masked, 1 cut, 2 refused\n"
    assert told.err == ("error: there is no kind of message 'Nota'; did you mean 'Note'? (2 times)\n")
    assert edge.client.ask(BOOK, Recall(), Memory).numbers == (5,)


# sending


def test_a_message_is_sent_by_hand(edge_actors: EdgeActors, small_edge: MakeEdge) -> None:
    edge = small_edge(allow_faults=True)

    told = edge_actors("inspect", "send", BOOK, "Load", '{"number": 41}')
    edge.tell(Load(42))
    while len(edge.client.ask(BOOK, Recall(), Memory).numbers) < 2:
        pass  # data comes behind control

    assert told.code == 0, told.err
    assert told.out.startswith("Load sent to agent/book in envelope ")
    assert edge.client.ask(BOOK, Recall(), Memory).numbers == (41, 42)


def test_nothing_is_sent_to_an_edge_that_does_not_allow_it(
    edge_actors: EdgeActors, small_edge: MakeEdge, tmp_path: Path
) -> None:
    edge = small_edge()
    file = tmp_path / "recording"
    file.write_text(f"{HEAD}\n{json.dumps(NOTE)}\n")

    sent = edge_actors("inspect", "send", BOOK, "Note", '{"number": 41}')
    replayed = edge_actors("inspect", "replay", str(file))

    assert (sent.code, sent.err) == (replayed.code, replayed.err) == (2, f"error: {NOT_ALLOWED}\n")
    assert "--allow-faults" in NOT_ALLOWED
    assert edge.client.ask(BOOK, Recall(), Memory).numbers == ()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((BOOK, "Note", "{"), "the fields are not JSON: "),
        ((BOOK, "Note", "[1]"), "the fields have to be a JSON object, such as "),
        ((BOOK, "Note", '{"number": {"$byte": "x"}}'), "makes no sense: "),
        ((BOOK, "Note", '{"numbre": 1}'), "Note has no field 'numbre'; did you mean 'number'?"),
        (("agent/bok", "Note", '{"number": 1}'), "there is no actor 'agent/bok'; did you mean 'agent/book'?"),
        (
            ("book", "Note", '{"number": 1}'),
            "'book' is no address of an actor: those begin with agent or hub",
        ),
    ],
    ids=["no JSON", "no object", "no bytes", "field", "actor", "process"],
)
def test_a_message_that_makes_no_sense_is_refused(
    edge_actors: EdgeActors, small_edge: MakeEdge, arguments: tuple[str, ...], problem: str
) -> None:
    edge = small_edge(allow_faults=True)

    told = edge_actors("inspect", "send", *arguments)

    assert told.code == 2
    assert problem in told.err
    assert edge.client.ask(BOOK, Recall(), Memory).numbers == ()
