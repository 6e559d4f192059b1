"""Lets a process module run as a user of its own, or says why that cannot be.

Whether that user reaches what the module needs is found out by trying: a small shell becomes that user and
looks. So modes, access lists, mounts and what a container allows us count as the kernel sees them. It takes
about 4 ms a start.
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from messaging.errors import EdgeError, EnvironmentFault
from runtime.modules.process_module import ProcessSpec, change_of_user, program_of
from runtime.modules.shim import SHELL
from runtime.modules.users import ModuleUsers

log = logging.getLogger(__name__)

WAY_OUT: Final = (
    "it has the rights of the edge. Have what it needs where every user may read it, or refuse such modules "
    'with process_modules.isolation = "require"'
)

TRY_LIMIT_S = 5.0
SHEBANG_BYTES = 256  # BINPRM_BUF_SIZE of the kernel
# Arguments are pairs of an operator of test(1) and a path; prints the first pair that does not hold.
TRY = 'while [ $# -gt 0 ]; do test "$1" "$2" || { printf "%s %s" "$1" "$2"; exit 1; }; shift 2; done'
VERBS = {"-x": "use", "-r": "read", "-w": "write to"}


class ProcessIsolation:
    """Decides for each start of a module as whom it runs. Any thread may call."""

    def __init__(self, mode: str, users: ModuleUsers | None) -> None:
        """Keep what is needed.

        Args:
            mode: The setting: auto, require or off.
            users: Gives users; None when we are not root.
        """
        self._mode = mode
        self._users = users
        self._told: dict[str, str] = {}  # reasons that the log has, by module

    def apply(self, spec: ProcessSpec, set_by_manifest: Collection[str] = ()) -> ProcessSpec:
        """Return how to start a module: as a user of its own, or as ourselves with the reason.

        With a user of its own, HOME is the module's own folder and USER is not set, unless the manifest says
        otherwise.

        Raises:
            ConfigError: there is no such program.
            EnvironmentFault: isolation is required and not possible.
        """
        isolated, reason = self._isolated(spec, set_by_manifest)
        if not reason:
            return isolated
        if self._mode == "require":
            raise EnvironmentFault(
                f'module {spec.name!r} cannot be isolated, which process_modules.isolation = "require" '
                f"asks for: {reason}"
            )
        if self._users is not None and self._told.get(spec.name) != reason:
            self._told[spec.name] = reason  # once, however often it is restarted
            log.warning("module %s is not isolated: %s; %s", spec.name, reason, WAY_OUT)
        return replace(spec, not_isolated=reason)

    def _isolated(self, spec: ProcessSpec, set_by_manifest: Collection[str]) -> tuple[ProcessSpec, str]:
        if self._mode == "off":
            return spec, "process_modules.isolation is off"
        if self._users is None:
            return spec, "the edge does not run as root"
        if not spec.command or not spec.working_directory.is_dir():
            return spec, "its command is not complete"  # the start tells more
        try:
            user = self._users.claim(spec.name)
            change = change_of_user(f"module {spec.name!r}", user.uid)
        except EdgeError as exc:
            return spec, str(exc)
        own = {"HOME": str(user.folder)}
        env = {name: value for name, value in spec.env.items() if name in set_by_manifest or name != "USER"}
        env |= {name: value for name, value in own.items() if name not in set_by_manifest}
        made = replace(spec, uid=user.uid, env=env)
        needs = [("-x", made.working_directory), ("-w", user.folder), *_files(made)]
        return made, _try(change, user.uid, needs)


def _files(spec: ProcessSpec) -> Iterator[tuple[str, Path]]:
    """Yield what a command line needs: program, interpreter, files among the arguments, the socket."""
    program = Path(program_of(spec))
    yield "-x", program
    with open(program, "rb") as file:
        first = file.read(SHEBANG_BYTES).split(b"\n", 1)[0]
    if first.startswith(b"#!") and (words := first[2:].split()):
        yield "-x", Path(os.fsdecode(words[0]))
    for word in spec.command[1:]:
        path = spec.working_directory / word
        if not word.startswith("-") and os.path.isfile(path):  # also of what is too long for a path
            yield "-r", path
    uri = spec.env.get("IOTEDGE_WORKLOADURI", "")
    if uri.startswith("unix://"):
        yield "-w", Path(uri.removeprefix("unix://"))


def _try(change: tuple[str, ...], uid: int, needs: list[tuple[str, Path]]) -> str:
    """Return why that user cannot use what is needed, "" when it can."""
    words = [word for operator, path in needs for word in (operator, str(path))]
    try:
        tried = subprocess.run(
            [*change, SHELL, "-c", TRY, SHELL, *words],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRY_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"user id {uid} could not be tried: {exc}"
    if tried.returncode == 0:
        return ""
    operator, _, path = os.fsdecode(tried.stdout).partition(" ")
    if not path:
        return f"user id {uid} could not be tried: {os.fsdecode(tried.stderr).strip()}"
    closed = closed_folder(Path(path), uid)
    hint = f" ({closed} is closed to other users)" if closed else ""
    return f"user id {uid} cannot {VERBS[operator]} {path}{hint}"


def closed_folder(path: Path, uid: int) -> Path | None:
    """Return the first folder on the way to a path, links followed, that this user may not enter."""
    for way in (path, Path(os.path.realpath(path))):
        for folder in reversed(way.parents):
            try:
                status = folder.stat()
            except OSError:
                return None
            if status.st_uid != uid and not stat.S_IMODE(status.st_mode) & stat.S_IXOTH:
                return folder
    return None
