"""The command line `edge-actors`. Each command is a file of this folder, imported only when it is used."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import click

from messaging.errors import ConfigError, EdgeError
from runtime.cli.lazy_group import Entry, LazyGroup
from runtime.exit_codes import BROKEN_PIPE, DONE, FAILED, INTERRUPTED, MEANINGS, WRONG_INPUT

DEBUG_VARIABLE: Final = "EDGE_ACTORS_DEBUG"


_HERE = "runtime.cli."
COMMANDS: Final[Mapping[str, Entry]] = {
    "run": Entry(_HERE + "run", "run", "Run an edge from a deployment manifest."),
    "list": Entry(_HERE + "modules", "list_modules", "List the modules and how they are."),
    "explain": Entry(_HERE + "explain", "explain", "Explain how a module is, why, and what to do."),
    "plan": Entry(_HERE + "plan", "plan", "Show what a deployment would change, and why."),
    "start": Entry(_HERE + "modules", "start", "Start a module."),
    "stop": Entry(_HERE + "modules", "stop", "Stop a module; it stays stopped until it is started."),
    "restart": Entry(_HERE + "modules", "restart", "Stop a module and start it again."),
    "module-env": Entry(_HERE + "module_env", "module_env", "Run a module by hand or under a debugger."),
    "logs": Entry(_HERE + "logs", "logs", "Show the log of a module, of edgeHub or of edgeAgent."),
    "log-level": Entry(_HERE + "log_level", "log_level", "Show or set how much the edge logs."),
    "ledger": Entry(_HERE + "ledger", "ledger", "Account for every message: where did it go?"),
    "metrics": Entry(_HERE + "metrics", "metrics", "Show the metrics of the edge."),
    "routes": Entry(_HERE + "routes", "routes", "Show, check and test routes."),
    "trace": Entry(_HERE + "trace", "trace", "Show the way of a recent message through the hub."),
    "topics": Entry(_HERE + "topics", "topics", "Show what goes on at the MQTT broker."),
    "inspect": Entry(_HERE + "inspect.group", "inspect", "See what the actors of the edge tell each other."),
    "upstream": Entry(_HERE + "upstream", "upstream", "Show or switch the link to the cloud."),
    "check": Entry(_HERE + "check", "check", "Look for what is wrong, and say what to do."),
    "check-list": Entry(_HERE + "check", "check_list", "List the checks with their ids."),
    "support-bundle": Entry(
        _HERE + "support_bundle", "support_bundle", "Collect logs and state in one file, without secrets."
    ),
    "system": Entry(_HERE + "system", "system", "Show how the parts of the edge are, and their logs."),
    "config": Entry(_HERE + "config", "config", "Check, apply and show the settings of this device."),
    "cert": Entry(_HERE + "cert", "cert", "Show the certificates of this edge."),
    "identity": Entry(_HERE + "identity", "identity", "Make and show the identities of this edge."),
    "cloud": Entry(_HERE + "cloud.group", "cloud", "The IoT Hub on this machine: run it, and what is in it."),
    "faults": Entry(
        _HERE + "faults_commands",
        "faults",
        "Disturb an edge by a script, and see that it keeps its promises.",
    ),
    "down": Entry(_HERE + "down", "down", "Stop the edge of a home and end all that is left of it."),
}


_EPILOG: Final = "\n\n".join(
    (
        "`edge-actors COMMAND --help` says more about one command.",
        "\b\nExit codes:\n" + "\n".join(f"{code:5}  {meaning}" for code, meaning in MEANINGS),
    )
)


@dataclass(slots=True)
class Invocation:
    """What holds for one call of the program; click hands it to every command."""

    debug: bool = False


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="edge-actors", message="%(prog)s %(version)s")
def cli() -> None:
    """An edge runtime that unmodified Azure IoT device SDKs can use."""


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code, see exit_codes.py; errors are told on stderr."""
    invocation = Invocation(debug=bool(os.environ.get(DEBUG_VARIABLE)))
    try:
        with cli.make_context("edge-actors", list(arguments), obj=invocation) as context:
            result: Any = cli.invoke(context)
        sys.stdout.flush()  # a reader that has gone shall be noticed here and not while Python ends
        return result if isinstance(result, int) else DONE
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        return WRONG_INPUT
    except Exception as exc:  # noqa: BLE001 - the last one to whom it can be told is the user
        if invocation.debug:
            traceback.print_exc()
        code, message = _explain(exc)
        click.echo(f"error: {message}", err=True)
        return code


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit code of an error and what the user is told."""
    match error:
        case click.ClickException():
            return WRONG_INPUT, _usage_message(error)
        case ConfigError():
            return WRONG_INPUT, str(error)
        case EdgeError():
            return FAILED, str(error)
        case OSError() if error.filename:
            return FAILED, f"{error.filename}: {error.strerror}{_way_out(error)}"
    return FAILED, f"this should not happen: {type(error).__name__}: {error}; with --debug it says where"


def _way_out(error: OSError) -> str:
    from runtime.machine.system_service import USER, is_user

    if isinstance(error, PermissionError) and is_user(os.geteuid()):  # which root does not expect
        return (
            f"; the edge of the service is asked as user {USER}: name a place that it may use, such as /tmp"
        )
    return ""


def _usage_message(error: click.ClickException) -> str:
    """Return click's message as one of ours: lower case, no full stop, with the way to the help."""
    text = error.format_message().rstrip(".")
    text = text[:1].lower() + text[1:]
    if isinstance(error, click.UsageError) and error.ctx is not None and "did you mean" not in text.lower():
        return f"{text}; see `{error.ctx.command_path} --help`"
    return text


def main() -> NoReturn:
    """Entry point of the program."""
    sys.exit(invoke(sys.argv[1:]))


if __name__ == "__main__":
    main()
