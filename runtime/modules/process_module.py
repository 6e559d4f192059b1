"""What a process module is to those who supervise it, and the check of its command line."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from messaging.errors import ConfigError, EnvironmentFault


class ProcessSpec(Struct, frozen=True):
    """What to run as a module."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]  # the whole environment; nothing of the agent's is added
    working_directory: Path
    log_path: Path  # stdout and stderr are appended here
    pass_fds: tuple[int, ...] = ()  # descriptors the module inherits under the same numbers
    uid: int | None = None  # user to run as, when we are root
    umask: int = -1  # -1: our own
    not_isolated: str = ""  # why it has our rights and not those of a user of its own; "" when it has not


class RunningModule(Struct, frozen=True):
    """A module that runs. Its session, not its pid, tells what belongs to it."""

    name: str
    pid: int
    start_ticks: int  # clock ticks since boot
    session_id: int
    session_start_ticks: int  # of the session's leader; together with session_id never given away again
    started_at_s: float  # seconds since 1970-01-01 UTC
    not_isolated: str = ""  # why it has our rights; "" when it runs as a user of its own


class ModuleExit(Struct, frozen=True):
    """A module that ended, with everything it had started."""

    name: str
    exit_code: int | None  # 128 + n after signal n, as with containers; None when nobody could write it down
    signal: int | None
    started_at_s: float  # seconds since 1970-01-01 UTC
    ended_at_s: float  # the same; when it was noticed if nobody wrote it down


def resolve_command(spec: ProcessSpec) -> tuple[str, ...]:
    """Return the command line to execute: an absolute program, behind a change of user if asked for.

    Raises:
        ConfigError: the program, its permission or the working directory is missing.
        EnvironmentFault: the change of user is not possible here.
    """
    subject = f"module {spec.name!r}"
    if not spec.command or not spec.command[0]:
        raise ConfigError(f"{subject}: the command is empty; name a program in the deployment")
    for text in (*spec.command, *spec.env, *spec.env.values()):
        if "\0" in text:
            raise ConfigError(f"{subject}: its command or environment holds a NUL character; remove it")
    for name in spec.env:
        if not name or "=" in name:
            raise ConfigError(f"{subject}: {name!r} cannot name an environment variable; rename it")
    if not os.path.isdir(spec.working_directory):
        raise ConfigError(
            f"{subject}: working directory {str(spec.working_directory)!r} does not exist; "
            "create it, or fix it in the deployment"
        )
    return (*change_of_user(subject, spec.uid), program_of(spec), *spec.command[1:])


def program_of(spec: ProcessSpec) -> str:
    """Return the absolute path of the program of a command line that is not empty.

    Raises:
        ConfigError: it is not there or not executable.
    """
    subject, command = f"module {spec.name!r}", spec.command[0]
    fix = "or fix the command in the deployment"
    if "/" in command:
        path = spec.working_directory.absolute() / command  # an absolute command stays as it is
        if not os.path.exists(path):
            raise ConfigError(f"{subject}: command {command!r} not found; install it, {fix}")
        if os.path.isdir(path):
            raise ConfigError(f"{subject}: command {command!r} is a folder; {fix}")
        if not os.access(path, os.X_OK):
            raise ConfigError(f"{subject}: command {command!r} is not executable; chmod +x {path}, {fix}")
        return str(path)
    search = spec.env.get("PATH", os.defpath)
    found = shutil.which(command, path=search)
    if found is not None:
        return str(Path(found).absolute())
    plain = shutil.which(command, mode=os.F_OK, path=search)
    if plain is not None:
        raise ConfigError(f"{subject}: command {command!r} is not executable; chmod +x {plain}, {fix}")
    raise ConfigError(f"{subject}: command {command!r} not found in PATH {search!r}; install it, {fix}")


def change_of_user(subject: str, uid: int | None) -> tuple[str, ...]:
    """Return what to put before a command line so that it runs as that user and can never be more again.

    Raises:
        EnvironmentFault: we are not root, or setpriv is missing.
    """
    if uid is None or uid == os.geteuid():
        return ()
    if os.geteuid() != 0:
        raise EnvironmentFault(f"{subject}: to run it as user id {uid} needs root; start the edge as root")
    # By a program between shim and module, so that the shim stays root: a module must not be able to end its
    # shim or to forge its files, which name processes that we send signals to.
    setpriv = shutil.which("setpriv", path=os.defpath)
    if setpriv is None:
        raise EnvironmentFault(
            f"{subject}: to run it as user id {uid} needs the program setpriv; install util-linux"
        )
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid  # a user id without an account
    user = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    nothing_more = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs")
    return (setpriv, *user, *nothing_more, "--")
