"""What the agent keeps for its metrics: when it last ran, and the scrapes that are to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgpack

from actors.metrics.quality_telemetry import Point, Scrape, ticks
from messaging.errors import EdgeError, EnvironmentFault
from runtime.storage.atomic_file import make_private_folder, write_private_file

MOST_FILES: Final = 5000  # of scrapes, when intervals are short and nothing can be sent; the oldest go
_TICKS_AT_EPOCH: Final = ticks(0.0)


class CheckpointFile:
    """Implements `actors.metrics.agent_metrics_actor.Checkpoint`: a file with a time as .NET counts it.

    Source: spec sheet observability.md section 3, where its name is spelt like this
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made with the file."""
        self._path = folder / "avaliability.checkpoint"

    def load(self) -> float | None:
        """See Checkpoint; a file that makes no sense counts as none."""
        try:
            return (int(self._path.read_text(encoding="ascii")) - _TICKS_AT_EPOCH) / 1e7
        except (OSError, ValueError):
            return None

    def save(self, now_s: float) -> None:
        """See Checkpoint. Without space the availability of a killed agent is not counted."""
        with suppress(EdgeError):
            make_private_folder(self._path.parent)
            write_private_file(self._path, str(ticks(now_s)).encode(), durable=False)

    def remove(self) -> None:
        """See Checkpoint."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


class ScrapeFiles:
    """Implements `actors.metrics.agent_metrics_actor.KeptScrapes`: a file for each, named by its time."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made with the first file."""
        self._folder = folder

    def add(self, scrape: Scrape) -> None:
        """See KeptScrapes.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        make_private_folder(self._folder)
        self.remove(self._keys()[: -MOST_FILES + 1])
        path = self._folder / f"{ticks(scrape.at_s):020d}"
        write_private_file(path, msgpack.packb((scrape.at_s, scrape.points)), durable=False)

    def read(self, most: int) -> list[tuple[str, Scrape]]:
        """See KeptScrapes; one that cannot be read is removed.

        Raises:
            EnvironmentFault: the folder cannot be read.
        """
        found: list[tuple[str, Scrape]] = []
        for key in self._keys()[:most]:
            try:
                at_s, points = msgpack.unpackb((self._folder / key).read_bytes(), use_list=False)
                whole = tuple(Point(name, tags, value) for name, tags, value in points)
                found.append((key, Scrape(float(at_s), whole)))
            except (OSError, ValueError, TypeError, msgpack.UnpackException):
                self.remove([key])
        return found

    def remove(self, keys: Sequence[str]) -> None:
        """See KeptScrapes.

        Raises:
            EnvironmentFault: one cannot be removed.
        """
        for key in keys:
            path = self._folder / key
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                raise EnvironmentFault(f"cannot remove '{path}': {exc.strerror}") from exc

    def _keys(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if path.name.isdecimal())
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise EnvironmentFault(f"cannot read '{self._folder}': {exc.strerror}") from exc
