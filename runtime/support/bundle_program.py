"""Has a support bundle made by a process of its own, for the parts of the agent that are asked for one.

What looks at the whole machine takes memory and minutes that the agent does not have.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from messaging.errors import EnvironmentFault
from runtime.agent.modules import SOURCES
from runtime.machine.one_core import on_all_cores

LIMIT_S: Final = 600.0
PROGRAM: Final = "runtime.cli.main"


@dataclass(frozen=True, slots=True)
class BundleQuery:
    """What goes into it; times as `parse_time` reads them, "" for the default."""

    since: str = ""
    until: str = ""
    runtime_only: bool = False
    iothub_hostname: str = ""


@contextmanager
def make_bundle(home: Path, query: BundleQuery) -> Iterator[IO[bytes]]:
    """Make the bundle of an edge and hand out its file, which is gone afterwards. Blocks, a minute or so.

    Raises:
        EnvironmentFault: it cannot be made; says why.
    """
    with tempfile.TemporaryDirectory(prefix="edge-actors-") as folder:
        path = Path(folder) / "bundle.zip"
        arguments = ["support-bundle", "--home", str(home), "--output", str(path), "--quiet"]
        if query.since:
            arguments += ["--since", query.since]
        if query.until:
            arguments += ["--until", query.until]
        if query.runtime_only:
            arguments.append("--include-edge-runtime-only")
        if query.iothub_hostname:
            arguments += ["--iothub-hostname", query.iothub_hostname]
        _run(arguments)
        with open(path, "rb") as file:
            yield file


def _run(arguments: list[str]) -> None:
    try:
        with on_all_cores():
            done = subprocess.run(
                [sys.executable, "-m", PROGRAM, *arguments],
                cwd=SOURCES,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=LIMIT_S,
                check=False,
            )
    except subprocess.TimeoutExpired as exc:
        raise EnvironmentFault(f"a support bundle could not be made within {LIMIT_S:g} s") from exc
    except OSError as exc:
        raise EnvironmentFault(f"a support bundle could not be made: {exc.strerror or exc}") from exc
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise EnvironmentFault(f"a support bundle could not be made: {reason.removeprefix('error: ')}")
