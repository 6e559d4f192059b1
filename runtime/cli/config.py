"""`edge-actors config`: the settings of this device, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.exit_codes import DONE, WRONG_INPUT

if TYPE_CHECKING:
    from runtime.config.apply import Checked

file_option = click.option(
    "-c",
    "--config",
    "file",
    metavar="FILE",
    help="[default: /etc/edge-actors/config.toml for root, else ~/.config/edge-actors/config.toml]",
)


@click.group()
def config() -> None:
    """Check, put in force and show the settings of this device.

    They stand in one file, config.toml. `apply` checks it and copies it into the home, from where the edge
    takes it: a file that is being edited, or is wrong, changes nothing. Variables EDGE_ACTORS_… win
    over the file, and options of `run` over both.
    """


@config.command()
@file_option
@common_options
def check(file: str | None, home: Path, as_json: bool) -> int:
    """Check a file, and the keys, certificates and folders that it names. Nothing changes.

    Everything that is wrong is told at once, with file and line. The exit code is 0, or 2 when something is
    wrong.
    """
    source = _source(file, home)
    found = _checked(source, home)
    if as_json:
        print_json(
            {
                "file": str(source),
                "ok": not found.problems,
                "problems": found.problems,
                "remarks": found.remarks,
            }
        )
        return WRONG_INPUT if found.problems else DONE
    _tell(found)
    if not found.problems:
        click.echo(f"{source} is right; `edge-actors config apply` puts it in force")
    return WRONG_INPUT if found.problems else DONE


@config.command()
@file_option
@common_options
def apply(file: str | None, home: Path, as_json: bool) -> int:
    """Check a file as `check` does, and put it in force: an edge that runs stops, and starts anew with it.

    When something is wrong nothing changes, and the exit code is 2.
    """
    from runtime.config.apply import apply as put_in_force
    from runtime.home import Home
    from runtime.run_directory import AGENT, Lock, RunDirectory

    source = _source(file, home, for_apply=True)
    found = _checked(source, home)
    if found.problems:
        if as_json:
            print_json({"file": str(source), "applied": False, "problems": found.problems})
        else:
            _tell(found)
            click.echo("nothing was changed", err=True)
        return WRONG_INPUT
    runs = Lock(RunDirectory.of(home), AGENT).holder() is not None
    changed = put_in_force(source, home, lambda: _start_anew(home) if runs else None)
    restarts = runs and changed
    if as_json:
        print_json(
            {
                "file": str(source),
                "applied": True,
                "changed": changed,
                "edgeStartsAnew": restarts,
                "remarks": found.remarks,
            }
        )
        return DONE
    _tell(found)
    click.echo(f"{source} is in force as {Home(home).config}" + ("" if changed else "; it was so before"))
    if restarts:
        click.echo("the edge starts anew with it; `edge-actors list` shows when its modules are back")
    return DONE


@config.command()
@file_option
@common_options
def show(file: str | None, home: Path, as_json: bool) -> None:
    """Show every setting with the value that the next start takes, and where that comes from. No secrets.

    Without -c the file is the one in force, HOME/config.toml.
    """
    from runtime.config.device_file import DEVICE_FILE, kept_device_id
    from runtime.config.reader import read_settings
    from runtime.config.settings import NAMES, about, variable
    from runtime.config.words import MASK, shown

    settings = read_settings({"home": str(home), "config": file}, os.environ)
    origins = dict(settings.given)
    origins["home"] = "--home" if os.environ.get(variable("home")) != str(home) else variable("home")
    if "device_id" not in origins and kept_device_id(home):
        origins["device_id"] = str(home / DEVICE_FILE)
    rows: list[dict[str, Any]] = [
        {
            "setting": name,
            "key": about(name).keys[0] if about(name).keys else "",
            "variable": variable(name),
            "value": shown(settings, name),
            "origin": origins.get(name, "default"),
        }
        for name in NAMES
    ]
    for number, account in enumerate(settings.registry_credentials, 1):
        rows.append(
            {
                "setting": f"registry_credentials {number}",
                "key": "registry_credentials",
                "variable": "",
                "value": f"{account.username}:{MASK} at {account.address}",
                "origin": str(file or home / "config.toml"),
            }
        )
    if as_json:
        print_json(rows)
        return
    print_table(
        ("KEY", "VALUE", "ORIGIN"),
        ((row["key"] or row["setting"], row["value"], row["origin"]) for row in rows),
    )


@config.command()
@click.option(
    "--connection-string-file",
    "source",
    default="-",
    metavar="FILE",
    help="Holds the connection string of this device.  [default: standard input]",
)
@click.option(
    "-o", "--out-config-file", "target", metavar="FILE", help="Where to write.  [default: as for -c]"
)
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
@common_options
def mp(source: str, target: str | None, force: bool, home: Path, as_json: bool) -> None:
    """Write a first file from the connection string of this edge device (manual provisioning).

    It is read from standard input or a file, so that no other user sees it among the processes. The file is
    for its owner alone; `edge-actors config apply` puts it in force.
    """
    from runtime.config.apply import default_file, write_minimal
    from runtime.config.device_credentials import WHERE_FROM, device_connection_string
    from runtime.security.secret_files import read_secret_file

    path = Path(target).expanduser().absolute() if target else default_file()
    origin = "--connection-string-file"
    text = read_secret_file(Path(source), origin, way_out=WHERE_FROM, may_be_open=True)
    found = device_connection_string(text, origin)
    write_minimal(found, path, force)
    if as_json:
        print_json(
            {"file": str(path), "deviceId": found.identity.device_id, "iothubHostname": found.host_name}
        )
        return
    click.echo(f"device {found.identity.device_id} of {found.host_name} written to {path}")
    named = "" if target is None else f" -c {path}"
    click.echo(f"`edge-actors config apply{named}` puts it in force")


def _start_anew(home: Path) -> None:
    from actors.addresses import AGENT_PROCESS
    from actors.agent.root import StartAnew, StartsAnew
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        edge.ask(AGENT_PROCESS, StartAnew(), StartsAnew)


def _source(file: str | None, home: Path, for_apply: bool = False) -> Path:
    from runtime.config.apply import default_file
    from runtime.home import Home

    if file is not None:
        return Path(file).expanduser().absolute()
    usual, applied = default_file(), Home(home).config
    return applied if not for_apply and applied.exists() and not usual.exists() else usual


def _checked(source: Path, home: Path) -> Checked:
    import socket
    import time

    from runtime.config.apply import check as checked

    options: Mapping[str, str | None] = {"home": str(home), "config": str(source)}
    return checked(options, os.environ, socket.gethostname(), time.time())


def _tell(found: Checked) -> None:
    for remark in found.remarks:
        click.echo(f"warning: {remark}", err=True)
    for problem in found.problems:
        click.echo(f"error: {problem}", err=True)
