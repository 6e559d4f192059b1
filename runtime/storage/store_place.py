"""Where the message database lies: in the home, or in a folder that the user named.

A named folder is used or refused. It is never replaced by another one: a disk that is not mounted would then
be noticed only when the messages are missed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from actors.hub import config
from messaging.errors import ConfigError, EnvironmentFault
from runtime.home import BROKER_FILES, Home
from runtime.storage.atomic_file import make_private_folder

log = logging.getLogger(__name__)

BELOW: Final = "edgeHub"  # the folder of the reference below StorageFolder; spec sheet routing.md section 9.2
VARIABLE: Final = "StorageFolder"


def chosen_folder(setting: Path | None, hub_environment: Mapping[str, str]) -> tuple[Path | None, str]:
    """Return the folder that was named, None for the home, and where it was named.

    Args:
        setting: Of this device; it goes before the deployment.
        hub_environment: What the deployment sets for edgeHub, names in any case.

    Raises:
        ConfigError: the deployment names one that is no absolute path.
    """
    if setting is not None:
        return setting, "the setting storage_folder"
    for name, value in hub_environment.items():
        if name.casefold() == VARIABLE.casefold() and value:
            if not Path(value).is_absolute() or "\0" in value:
                raise ConfigError(
                    f"edgeHub's environment variable {VARIABLE}: {value!r} is not an absolute path; "
                    "name a folder of this device"
                )
            return Path(value), f"edgeHub's environment variable {VARIABLE} in the deployment"
    return None, ""


def database_in(folder: Path | None, home: Home) -> Path:
    """Return the path of the message database."""
    return home.message_db if folder is None else folder / BELOW / home.message_db.name


def check_folder(folder: Path, origin: str) -> None:
    """Refuse a folder that cannot hold the database.

    Raises:
        EnvironmentFault: it is missing, no folder, read-only, or not ours to write to.
    """
    problem = ""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
    else:
        probe = folder / f".edge-actors-{os.getpid()}.new"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            probe.unlink()
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):  # the reserve gets over these
                problem = f"cannot be written: {exc.strerror}"
    if problem:
        raise EnvironmentFault(
            f"{origin} names '{folder}', which {problem}; mount or make it, or name another: "
            "messages are kept nowhere else"
        )


class StoreLock:
    """Holds the folder of a message database for one hub; the kernel lets go of it when the process ends."""

    def __init__(self, path: Path) -> None:
        """Take it; `path` is the database's.

        Raises:
            EnvironmentFault: the folder is missing, or another edge's hub has it.
        """
        folder = path.parent
        if folder.name == BELOW and not folder.parent.is_dir():
            raise EnvironmentFault(
                f"the storage folder '{folder.parent}' is not there; mount or make it: "
                "messages are kept nowhere else"
            )
        make_private_folder(folder)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._folder)
            raise EnvironmentFault(
                f"the folder '{folder}' holds the messages of another edge that runs; "
                "give each edge a storage folder of its own"
            ) from exc

    def close(self) -> None:
        """Let go of it."""
        os.close(self._folder)


def database_of(home: Home) -> Path:
    """Return where the message database of an edge lies, as its hub was last told."""
    try:
        told = config.decode(home.hub_config.read_bytes(), str(home.hub_config)).message_db
    except (OSError, ConfigError):  # none yet, or one that the next start writes anew
        told = ""
    return Path(told) if told else home.message_db


def purge(path: Path, home: Home) -> None:
    """Remove databases of messages that lie outside the home, and their folder when that is empty then."""
    if path.parent == home.path:
        return
    for name in (path.name, *BROKER_FILES):
        for file in path.parent.glob(f"{name}*"):
            if file.is_dir():
                for inner in file.iterdir():
                    inner.unlink()
                file.rmdir()
            else:
                file.unlink()
    try:
        path.parent.rmdir()
    except OSError as exc:
        log.warning("'%s' is kept: %s", path.parent, exc.strerror)
