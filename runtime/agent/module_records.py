"""Keeps what outlives the agent of each module, one small file per module: HOME/modules/NAME.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.ports.modules import ModuleRecord
from runtime.storage.atomic_file import make_private_folder, write_private_file

log = logging.getLogger(__name__)

_SUFFIX = ".json"


class ModuleRecordFiles:
    """Implements `actors.ports.ModuleRecords`. Any thread may call; one writer per module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> Mapping[str, ModuleRecord]:
        """Return all that are readable, by module."""
        if not self._folder.is_dir():
            return {}
        names = sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return {name: record for name in names if (record := self.load(name)) is not None}

    def load(self, name: str) -> ModuleRecord | None:
        """Return the record of a module, None when there is none or it is damaged."""
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=ModuleRecord)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as exc:
            log.warning("%s is not readable (%s): module %s starts without its past", path, exc, name)
            return None

    def save(self, name: str, record: ModuleRecord, durable: bool = True) -> None:
        """Keep a record; `durable` also through a power cut.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        make_private_folder(self._folder)
        write_private_file(self._path(name), msgspec.json.encode(record), durable)

    def remove(self, name: str) -> None:
        """Forget a module; one that is not there is no error."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"
