"""Remembers which images were pulled for modules, when each was last used, and what is deployed.

Only these are ever removed; what a user pulled, built or loaded is none of ours. A file that cannot be read
is put aside, so that nothing is removed for it.

Source: spec sheet security-daemon.md section 7.7
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
from msgspec import Struct, field

from messaging.errors import EnvironmentFault
from runtime.storage.atomic_file import make_private_folder, write_private_file

log = logging.getLogger(__name__)


class PulledImage(Struct):
    """An image that was pulled for a module."""

    names: list[str]  # under which
    used_at_s: float  # last; seconds since 1970-01-01 UTC


class ImageRecord(Struct):
    """What is in the file. Deployed are the names of images, before and now."""

    pulled: dict[str, PulledImage] = field(default_factory=dict)  # by the engine's id
    deployed: list[str] = field(default_factory=list)
    deployed_before: list[str] = field(default_factory=list)
    looked_at_s: float = 0.0  # when images to remove were last looked for; seconds since 1970-01-01 UTC


class ImageUse:
    """The record of one edge, read when it is first needed. Any thread may call."""

    def __init__(self, path: Path, now_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now_s = now_s
        self._lock = threading.Lock()
        self._kept: ImageRecord | None = None

    def note_pulled(self, image_id: str, name: str) -> None:
        """An image was pulled under a name."""
        with self._lock:
            pulled = self._record().pulled
            names = pulled[image_id].names if image_id in pulled else []
            pulled[image_id] = PulledImage(sorted({*names, name}), self._now_s())
            self._save()

    def note(self, image_id: str) -> None:
        """A container of the image is made or removed. Of no interest unless we pulled it."""
        with self._lock:
            pulled = self._record().pulled.get(image_id)
            if pulled is not None:
                pulled.used_at_s = self._now_s()
                self._save()

    def deployed(self, images: Collection[str]) -> None:
        """Images with these names are deployed from now on."""
        with self._lock:
            record, names = self._record(), sorted(set(images))
            if names != record.deployed:
                record.deployed_before, record.deployed = record.deployed, names
                self._save()

    def forget(self, image_id: str) -> None:
        """An image is gone, or somebody else's by now."""
        with self._lock:
            if self._record().pulled.pop(image_id, None) is not None:
                self._save()

    def looked(self) -> None:
        """Images to remove were looked for."""
        with self._lock:
            self._record().looked_at_s = self._now_s()
            self._save()

    def read(self) -> ImageRecord:
        """Return a copy of all that is remembered."""
        with self._lock:
            return msgspec.json.decode(msgspec.json.encode(self._record()), type=ImageRecord)

    def _record(self) -> ImageRecord:
        if self._kept is None:
            self._kept = self._load()
        return self._kept

    def _load(self) -> ImageRecord:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=ImageRecord)
        except FileNotFoundError:
            return ImageRecord()
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as exc:
            log.error(
                "%s is not readable (%s) and is begun anew: images that it told of are not removed any more; "
                "see `docker images`",
                self._path,
                exc,
            )
            return ImageRecord()

    def _save(self) -> None:
        try:
            make_private_folder(self._path.parent)
            write_private_file(self._path, msgspec.json.encode(self._record()), durable=False)
        except EnvironmentFault as exc:
            log.warning("the use of images was not kept: %s", exc)
