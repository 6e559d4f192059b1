"""`edge-actors logs NAME`: the log of a module or of a process of the edge itself."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.cli.options import common_options

if TYPE_CHECKING:
    from runtime.home import Home


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@common_options
def logs(name: str, follow: bool, tail: int | None, home: Path, as_json: bool) -> None:
    """Show what module NAME wrote. The edge's own processes are called edgeHub and edgeAgent.

    With --json each line is an object with the name of the module and the line.
    """
    from runtime.home import Home

    blocks = blocks_of(name, Home(home), tail, follow)
    out = sys.stdout.buffer
    for block in _as_json(name, blocks) if as_json else blocks:
        out.write(block)
        out.flush()


def blocks_of(name: str, home: Home, tail: int | None, follow: bool) -> Iterable[bytes]:
    """Return the log of a module in blocks, wherever it is kept.

    Raises:
        EdgeError: there is none, or it cannot be read; says why.
    """
    from runtime.logs import reader as log_files

    blocks = _of_container(name, home, tail, follow)
    if blocks is not None:
        return blocks
    path = _path_of(name, home)
    return log_files.follow(path, tail, threading.Event()) if follow else log_files.read(path, tail)


def _of_container(name: str, home: Home, tail: int | None, follow: bool) -> Iterable[bytes] | None:
    if not home.containers.exists() or name in ("edgeHub", "edgeAgent"):
        return None
    from runtime.docker import logs as container_logs
    from runtime.run_directory import RunDirectory

    return container_logs.read(RunDirectory.of(home.path).path.name, name, tail, follow)


def _path_of(name: str, home: Home) -> Path:
    from messaging.errors import ConfigError, EnvironmentFault
    from messaging.nearest import did_you_mean

    names = home.log_names()
    if name in names:
        return home.log_of(name)
    if not names:
        raise EnvironmentFault(
            f"home {home.path} has no logs; was an edge run with it? (`edge-actors run --home {home.path}`)"
        )
    hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
    raise ConfigError(f"there is no log of a module {name!r}{hint}")


def _as_json(name: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield _object(name, line)
    if rest:
        yield _object(name, rest)


def _object(name: str, line: bytes) -> bytes:
    content = {"name": name, "line": line.decode("utf-8", "replace").removesuffix("\r")}
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
