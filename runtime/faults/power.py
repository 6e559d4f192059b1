"""The disk of a hub that is recorded: what it may look like after a power cut at the end of its life."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime.faults.disk import Disk
from runtime.faults.recording import (
    SHARED_MEMORY,
    Created,
    Event,
    Reader,
    RecordingError,
    Removed,
    Renamed,
    Resized,
    Synced,
    Written,
)


class RecordedDisk:
    """The files of a home from one start of its hub to the next."""

    def __init__(self, home: Path) -> None:
        """Take note of how it begins, while no hub runs."""
        self.home = home
        self.model = Disk(files_of(home))

    def replay(self, trace: Path) -> Iterator[float]:
        """Do what the recorded hub did, one call after the other; yields when each ended, by the wall clock.

        Raises:
            RecordingError: the recording holds what is not understood, or has missed something.
        """
        reader = Reader(self.home)
        with trace.open("rb") as lines:
            for event in reader.events(lines):
                apply(self.model, event)
                yield event.at_s
        self.compare_with_reality(reader.killed_in)

    def compare_with_reality(self, doubtful: set[str]) -> None:
        """See that the recording missed nothing: the process is dead, and its files are as it left them."""
        model, reality = self.model.now(), files_of(self.home)
        for name in sorted(self.model.touched - doubtful):
            if model.get(name) != reality.get(name):
                raise RecordingError(
                    f"{name} on the disk is not what was recorded of it: {_difference(model, reality, name)}"
                )

    def after_cut(self, chance: random.Random) -> dict[str, bytes]:
        """Return what may be found after a power cut at this moment."""
        return self.model.after_cut(chance)

    def put_down(self, image: Mapping[str, bytes], chance: random.Random) -> None:
        """Make the home what a cut left of it."""
        for name in self.model.touched:
            (self.home / name).unlink(missing_ok=True)
        for name in sorted(self.model.touched & image.keys()):
            write_file(self.home / name, image[name])
        for path in self.home.glob(f"*{SHARED_MEMORY}"):
            spoil(path, chance)


def _difference(model: Mapping[str, bytes], reality: Mapping[str, bytes], name: str) -> str:
    if name not in model or name not in reality:
        return "it is not there" if name in model else "it should not be there"
    recorded, found = model[name], reality[name]
    pairs = enumerate(zip(recorded, found, strict=False))
    first = next((at for at, (a, b) in pairs if a != b), min(len(recorded), len(found)))
    return f"{len(recorded)} bytes were recorded, {len(found)} are there; they differ from byte {first} on"


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that a disk keeps; none when there is no folder."""
    return {
        path.name: path.read_bytes()
        for path in (folder.iterdir() if folder.exists() else ())
        if path.is_file() and not path.name.endswith(SHARED_MEMORY)
    }


def apply(disk: Disk, event: Event) -> None:
    """Do to a disk what a system call did."""
    match event:
        case Written(moment, _, name, at, data):
            disk.write(name, at, data, moment)
        case Resized(moment, _, name, size_bytes, grows):
            disk.resize(name, max(size_bytes, disk.file(name).size_bytes if grows else 0), moment)
        case Created(moment, _, name):
            disk.create(name, moment)
        case Removed(moment, _, name):
            disk.remove(name, moment)
        case Renamed(moment, _, old, new):
            disk.rename(old, new, moment)
        case Synced(_, _, "", began):
            disk.sync_folder(began)
        case Synced(_, _, name, began):
            disk.sync(name, began)


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a home."""
    path.write_bytes(content)
    path.chmod(0o600)


def spoil(path: Path, chance: random.Random) -> None:
    """Leave nothing, or nonsense, of a file that is never synced."""
    path.unlink(missing_ok=True)
    if chance.random() < 0.5:
        write_file(path, chance.randbytes(32 * 1024))
