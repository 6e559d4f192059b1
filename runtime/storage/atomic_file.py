"""Files that are either the old version or the new one, never half of each, also after a power cut.

Everything written here is private: files 0600, folders 0700.
"""

from __future__ import annotations

import os
from pathlib import Path

from messaging.errors import EnvironmentFault

FILE_MODE = 0o600
FOLDER_MODE = 0o700


def make_private_folder(folder: Path) -> None:
    """Make `folder` with its parents; the folder itself is left to its owner alone.

    Raises:
        EnvironmentFault: it cannot be made, or its mode cannot be set.
    """
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(FOLDER_MODE)
    except OSError as exc:
        raise EnvironmentFault(
            f"cannot make the private folder '{folder}': {exc.strerror}; "
            "choose a home that this user may write to, or repair the owner and mode of its parent"
        ) from exc


def write_private_file(path: Path, data: bytes, durable: bool = True) -> None:
    """Replace `path` by `data`: write beside it, fsync, rename, fsync the folder.

    Without `durable` nothing is synced: it survives this process, not a power cut.

    One writer at a time, so the caller holds whatever lock that needs. The old content stays when this fails.

    Raises:
        EnvironmentFault: no space, not permitted, folder gone.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)  # left by a power cut; a fresh file cannot be somebody else's link
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            _write_all(file, data)
            if durable:
                os.fsync(file)
        finally:
            os.close(file)
        beside.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as exc:
        _remove_quietly(beside)
        raise EnvironmentFault(
            f"cannot write '{path}': {exc.strerror}; free some space, or repair owner and mode of its folder"
        ) from exc


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_quietly(path: Path) -> None:
    # Called while another error is on its way to the user; that one is the one to show.
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
