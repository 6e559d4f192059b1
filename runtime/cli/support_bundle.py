"""`edge-actors support-bundle`: one file for whoever helps, without secrets."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json

STDOUT: Final = "-"
FILE_MODE: Final = 0o600


@click.command("support-bundle")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where it goes; - for standard output.  [default: support_bundle_…_UTC.zip in this folder]",
)
@click.option(
    "--since",
    default="1 day",
    show_default=True,
    metavar="TIME",
    help="Logs from then on: `90m`, `2 days` ago, 2026-05-01T10:00:00Z, or seconds since 1970.",
)
@click.option("--until", metavar="TIME", help="Logs until then.  [default: now]")
@click.option(
    "-e",
    "--include-edge-runtime-only",
    "runtime_only",
    is_flag=True,
    help="Only the logs of the edge itself, not those of your modules.",
)
@click.option("--iothub-hostname", metavar="HOST", help="As of `edge-actors check`.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing.")
@common_options
def support_bundle(
    output: str | None,
    since: str,
    until: str | None,
    runtime_only: bool,
    iothub_hostname: str | None,
    quiet: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Collect logs, check, deployment, state and what Docker tells in one ZIP file, without secrets.

    Works whether the edge runs or not; what cannot be had leaves a file `…_err` that says why. Keys, tokens
    and passwords are masked; what your modules write into their logs is there, but for what looks like one.
    """
    from runtime.support.bundle import BundleOptions, default_name, write_bundle

    now_s = time.time()
    options = BundleOptions(
        since_s=read_time("--since", since, now_s) or 0.0,
        until_s=read_time("--until", until, now_s),
        runtime_only=runtime_only,
        iothub_hostname=iothub_hostname or "",
        tell=_silent if quiet or as_json else _tell,
    )
    if output == STDOUT:
        with tempfile.TemporaryFile() as file:
            write_bundle(home, options, file)
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
        return
    path = Path(output or default_name(now_s)).absolute()
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(
        beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
    )
    try:
        with open(descriptor, "w+b") as file:
            write_bundle(home, options, file)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size})
    elif not quiet:
        click.echo(f"{path} ({path.stat().st_size} bytes): look into it before you give it away")


def read_time(option: str, text: str | None, now_s: float) -> float | None:
    from actors.agent.log_query import MethodRefused, parse_time
    from messaging.errors import ConfigError

    try:
        return parse_time(text, now_s, option)
    except MethodRefused as exc:
        raise ConfigError(str(exc)) from exc


def _tell(member: str) -> None:
    click.echo(f"collecting {member}", err=True)


def _silent(member: str) -> None:
    """Say nothing."""
