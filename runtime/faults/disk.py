"""What a folder on a disk may look like after a power cut: a model without files of its own.

Synced is what a sync said so. Anything else is decided by chance, as a disk may have decided it:

- each 512-byte sector has any of the contents it had since the last sync of its file, in no order;
- a file has any of the sizes it had since then; where it is longer than what was written, there are zeros;
- each name made, removed or renamed since the last sync of the folder is as before, or as after.

A sector is whole, old or new: SQLite relies on that ("powersafe overwrite") and so do we. Syncing a file does
not keep its name, only syncing the folder does: several file systems are kinder than that, POSIX is not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, NamedTuple

SECTOR_BYTES: Final = 512
LUCK: Final = (0.0, 0.1, 0.5, 0.9, 1.0)  # how likely the newest content of a sector is kept; one a cut


class Change(NamedTuple):
    """A write, or where `data` is None a new size."""

    at: int
    data: bytes | None
    moment: int  # when it was done


class File:
    """What was synced, and each change since."""

    def __init__(self, content: bytes = b"") -> None:
        self._synced = bytearray(content)
        self._size = len(content)
        self._changes: list[Change] = []

    @property
    def size_bytes(self) -> int:
        """The size that programs see."""
        return self._size

    def write(self, at: int, data: bytes, moment: int = 0) -> None:
        """Note a write; behind the end it makes the file longer."""
        self._changes.append(Change(at, data, moment))
        self._size = max(self._size, at + len(data))

    def resize(self, size_bytes: int, moment: int = 0) -> None:
        """Note a new size."""
        self._changes.append(Change(size_bytes, None, moment))
        self._size = size_bytes

    def sync(self, before: int | None = None) -> None:
        """Keep for good what was done before a moment; None: everything."""
        kept = 0
        for change in self._changes:
            if before is not None and change.moment >= before:
                break
            _apply(self._synced, change)
            kept += 1
        del self._changes[:kept]

    def now(self) -> bytes:
        """Return the content that programs see."""
        content = bytearray(self._synced)
        for change in self._changes:
            _apply(content, change)
        return bytes(content)

    def after_cut(self, chance: random.Random, luck: float) -> bytes:
        """Return what may be found: `luck` is how likely the newest content of a sector is kept."""
        content = bytearray(self._synced)
        sizes = [len(content)]
        found: dict[int, list[bytes]] = {}  # of each sector, its contents since the sync
        for change in self._changes:
            size = len(content)
            _apply(content, change)
            sizes.append(len(content))
            first = change.at
            last = first + len(change.data) if change.data is not None else max(size, first)
            if change.data is not None:
                first = min(first, size)  # writing behind the end leaves zeros before
            for sector in range(first // SECTOR_BYTES, -(-last // SECTOR_BYTES)):
                found.setdefault(sector, []).append(_sector(content, sector))
        size_bytes = sizes[-1] if chance.random() < luck else chance.choice(sizes)
        image = bytearray(self._synced[:size_bytes].ljust(size_bytes, b"\0"))
        for sector, contents in found.items():
            start = sector * SECTOR_BYTES
            if start >= size_bytes:
                continue
            if chance.random() < luck:
                chosen = contents[-1]
            else:
                chosen = chance.choice([_sector(self._synced, sector), *contents[:-1]])
            image[start : start + SECTOR_BYTES] = chosen[: size_bytes - start]
        return bytes(image)


class Disk:
    """One folder without folders in it: names, and the files behind them."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Begin with what is there and synced."""
        self._synced = {name: File(content) for name, content in files.items()}
        self._names = dict(self._synced)
        self._changes: list[tuple[dict[str, File | None], int]] = []  # names at once, and when
        self.touched: set[str] = set()  # names that changed, or whose content did

    def file(self, name: str) -> File:
        """Return the file that programs find under a name.

        Raises:
            KeyError: there is none.
        """
        return self._names[name]

    def write(self, name: str, at: int | None, data: bytes, moment: int = 0) -> None:
        """Write to a file; `at` None: at its end."""
        file = self.file(name)
        file.write(file.size_bytes if at is None else at, data, moment)
        self.touched.add(name)

    def resize(self, name: str, size_bytes: int, moment: int = 0) -> None:
        """Change the size of a file."""
        self.file(name).resize(size_bytes, moment)
        self.touched.add(name)

    def create(self, name: str, moment: int = 0) -> None:
        """Make an empty file, unless there is one."""
        if name not in self._names:
            self._change({name: File()}, moment)

    def remove(self, name: str, moment: int = 0) -> None:
        """Remove a name; nothing happens when there is none."""
        if name in self._names:
            self._change({name: None}, moment)

    def rename(self, old: str, new: str, moment: int = 0) -> None:
        """Rename a file, over another if there is one: both names change, or none."""
        self._change({old: None, new: self.file(old)}, moment)

    def sync(self, name: str, before: int | None = None) -> None:
        """Keep the content of a file."""
        self.file(name).sync(before)

    def sync_folder(self, before: int | None = None) -> None:
        """Keep the names."""
        while self._changes and (before is None or self._changes[0][1] < before):
            _rename(self._synced, self._changes.pop(0)[0])

    def now(self) -> dict[str, bytes]:
        """Return what programs see."""
        return {name: file.now() for name, file in self._names.items()}

    def after_cut(self, chance: random.Random) -> dict[str, bytes]:
        """Return what may be found after a power cut at this moment."""
        luck = chance.choice(LUCK)
        names = dict(self._synced)
        for change, _ in self._changes:
            if chance.random() < 0.5:
                _rename(names, change)
        return {name: file.after_cut(chance, luck) for name, file in sorted(names.items())}

    def _change(self, names: dict[str, File | None], moment: int) -> None:
        self._changes.append((names, moment))
        _rename(self._names, names)
        self.touched.update(names)


def _rename(names: dict[str, File], change: Mapping[str, File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _apply(content: bytearray, change: Change) -> None:
    if change.data is None:
        del content[change.at :]
        content.extend(bytes(change.at - len(content)))
        return
    content.extend(bytes(max(0, change.at - len(content))))
    content[change.at : change.at + len(change.data)] = change.data


def _sector(content: bytearray, sector: int) -> bytes:
    start = sector * SECTOR_BYTES
    return bytes(content[start : start + SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")
