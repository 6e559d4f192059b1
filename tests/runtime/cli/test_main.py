"""What the command line does with mistakes of its user, whatever the command."""

import importlib
import os
import subprocess
import sys

import click
import pytest

from messaging.errors import ConfigError, EdgeError, EnvironmentFault
from runtime.cli import main as cli
from runtime.machine import system_service

PROGRAM = (sys.executable, "-m", "runtime.cli.main")


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> type:
    """A command `list` that raises what the test puts into `error`."""

    class Failing:
        error: BaseException = RuntimeError("not set")

    @click.command()
    @click.option("--debug", is_flag=True)
    @click.pass_obj
    def command(invocation: cli.Invocation, debug: bool) -> None:
        invocation.debug = debug
        raise Failing.error

    module = type(sys)("tests_failing_command")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_failing_command", module)
    entry = cli.Entry("tests_failing_command", "command", "Fails.")
    monkeypatch.setitem(cli.COMMANDS, "list", entry)  # type: ignore[arg-type]
    return Failing


def leaves_of(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    context = click.Context(command)
    below = [command.get_command(context, name) for name in command.list_commands(context)]
    return [leaf for one in below if one is not None for leaf in leaves_of(one)]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_the_help_that_is_listed_for_it(name: str) -> None:
    entry = cli.COMMANDS[name]

    command = getattr(importlib.import_module(entry.module), entry.attribute)

    assert isinstance(command, click.Command)
    assert command.name == name
    for leaf in leaves_of(command):
        options = {option for parameter in leaf.params for option in parameter.opts}
        # A fault script starts an edge of its own: there is no home for it to look for.
        assert {"--json", "--debug"} | (set() if name == "faults" else {"--home"}) <= options
        assert leaf.help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "there is no command 'lst'; did you mean 'list'?"),
        (["LEDGER"], "there is no command 'LEDGER'; did you mean 'ledger'?"),
        (
            ["frobnicate"],
            f"there is no command 'frobnicate'; there are {', '.join(cli.COMMANDS)}; "
            "see `edge-actors --help`",
        ),
        (["--quiet"], "no such option '--quiet'; see `edge-actors --help`"),
        (
            ["run", "--deployment", "d.json", "--for", "soon"],
            "invalid value for '--for': 'soon' is not a valid float range; see `edge-actors run --help`",
        ),
        (["logs"], "missing argument 'NAME'; see `edge-actors logs --help`"),
        (["list", "--home", "~nobody-of-this-name/x"], "--home: '~nobody-of-this-name/x' is not allowed"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line_with_the_way_out(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.invoke(arguments)

    told = capsys.readouterr()
    assert code == 2
    assert told.out == ""
    assert told.err.startswith(f"error: {message}")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("x is wrong; do y"), 2, "error: x is wrong; do y"),
        (EnvironmentFault("port taken; free it"), 1, "error: port taken; free it"),
        (EdgeError("no answer"), 1, "error: no answer"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied"),
        (
            KeyError("lost"),
            1,
            "error: this should not happen: KeyError: 'lost'; with --debug it says where",
        ),
    ],
    ids=["config", "environment", "other", "os", "bug"],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: Exception,
    code: int,
    message: str,
    failing_command: type,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing_command.error = error  # type: ignore[attr-defined]

    assert cli.invoke(["list"]) == code
    assert capsys.readouterr().err == message + "\n"


def test_root_is_told_as_whom_it_asks_the_service(
    failing_command: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_service, "is_user", lambda uid: True)
    failing_command.error = PermissionError(  # type: ignore[attr-defined]
        13, "Permission denied", "/root/bundle.zip"
    )

    assert cli.invoke(["list"]) == 1

    assert capsys.readouterr().err == (
        "error: /root/bundle.zip: Permission denied; the edge of the service is asked as user edge-actors: "
        "name a place that it may use, such as /tmp\n"
    )


def test_with_debug_the_traceback_comes_first(
    failing_command: type, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_command.error = EnvironmentFault("port taken")  # type: ignore[attr-defined]

    cli.invoke(["list", "--debug"])

    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):")
    assert told.endswith("error: port taken\n")


def test_the_debug_variable_does_the_same(
    failing_command: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    failing_command.error = KeyError("lost")  # type: ignore[attr-defined]
    command = failing_command

    assert command is not None
    cli.invoke(["ledger", "--home", "/nonexistent/home"])

    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_quiet(failing_command: type, capsys: pytest.CaptureFixture[str]) -> None:
    failing_command.error = KeyboardInterrupt()  # type: ignore[attr-defined]

    assert cli.invoke(["list"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run([*PROGRAM, "--help"], stdout=writer, stderr=subprocess.PIPE, check=False)

    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    cli.invoke([])

    told = capsys.readouterr()
    assert told.out.startswith("Usage: edge-actors [OPTIONS] COMMAND")
    assert "ledger" in told.out
    assert told.err == ""


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from runtime.cli.main import invoke; invoke(['--help'])\n"
        "heavy = ('rich', 'zmq', 'msgspec', 'asyncio', 'cryptography', 'sqlite3', 'runtime.cli.run')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr == "[]\n"
