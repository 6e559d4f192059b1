"""What a power cut leaves: nothing synced changes, of the rest anything that the disk may have done."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.faults.disk import SECTOR_BYTES, Disk, File

OLD, NEW = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES


def cuts(disk: Disk, count: int = 200) -> list[dict[str, bytes]]:
    return [disk.after_cut(random.Random(seed)) for seed in range(count)]


def test_what_was_synced_is_found_after_every_cut() -> None:
    disk = Disk({"a": b"before"})
    disk.create("b")
    disk.write("b", 0, b"content")
    disk.write("a", 2, b"XY")
    disk.resize("a", 5)

    disk.sync("a")
    disk.sync("b")
    disk.sync_folder()

    assert cuts(disk) == [{"a": b"beXYr", "b": b"content"}] * 200


def test_sectors_that_were_not_synced_are_kept_or_not_in_any_order() -> None:
    disk = Disk({"a": OLD * 3})

    disk.write("a", 0, NEW)
    disk.write("a", 2 * SECTOR_BYTES, NEW)

    found = {image["a"] for image in cuts(disk)}
    assert found == {first + OLD + last for first in (OLD, NEW) for last in (OLD, NEW)}


def test_a_sector_written_twice_has_any_of_its_contents() -> None:
    disk = Disk({"a": b"1" * SECTOR_BYTES})

    disk.write("a", 0, b"2" * SECTOR_BYTES)
    disk.write("a", 0, b"3" * SECTOR_BYTES)

    assert {image["a"][:1] for image in cuts(disk)} == {b"1", b"2", b"3"}


def test_a_write_is_torn_only_between_sectors() -> None:
    disk = Disk({"a": OLD * 2})

    disk.write("a", 100, b"n" * SECTOR_BYTES)

    first, last = OLD[:100] + NEW[100:], NEW[:100] + OLD[100:]
    assert {image["a"] for image in cuts(disk)} == {one + two for one in (OLD, first) for two in (OLD, last)}


def test_a_file_that_grew_has_its_old_or_new_size_and_zeros_where_nothing_was_kept() -> None:
    disk = Disk({"a": OLD})

    disk.write("a", SECTOR_BYTES, NEW)

    assert {image["a"] for image in cuts(disk)} == {OLD, OLD + NEW, OLD + bytes(SECTOR_BYTES)}


def test_a_file_that_was_cut_may_be_long_again_with_or_without_its_content() -> None:
    disk = Disk({"a": OLD * 2})

    disk.resize("a", SECTOR_BYTES)

    assert {image["a"] for image in cuts(disk)} == {OLD, OLD * 2, OLD + bytes(SECTOR_BYTES)}


def test_a_new_name_needs_a_sync_of_the_folder_however_well_its_file_is_synced() -> None:
    disk = Disk({})
    disk.create("a")
    disk.write("a", 0, b"content")

    disk.sync("a")

    assert {tuple(image.items()) for image in cuts(disk)} == {(), (("a", b"content"),)}


def test_a_rename_over_another_file_is_done_or_not_done() -> None:
    disk = Disk({"a": b"old", "a.new": b"new"})

    disk.rename("a.new", "a")

    found = {tuple(image.items()) for image in cuts(disk)}
    assert found == {(("a", b"old"), ("a.new", b"new")), (("a", b"new"),)}


def test_a_removed_name_may_be_back() -> None:
    disk = Disk({"a": b"content"})

    disk.remove("a")

    assert {tuple(image) for image in cuts(disk)} == {(), ("a",)}


def test_a_sync_keeps_what_was_done_before_it_began() -> None:
    disk = Disk({"a": OLD * 2})
    disk.write("a", 0, NEW, moment=1)
    disk.create("b", moment=1)
    disk.write("a", SECTOR_BYTES, NEW, moment=3)
    disk.create("c", moment=3)

    disk.sync("a", before=2)
    disk.sync_folder(before=2)

    images = cuts(disk)
    assert {image["a"] for image in images} == {NEW + OLD, NEW + NEW}
    assert {tuple(image) for image in images} == {("a", "b"), ("a", "b", "c")}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2000), st.binary(max_size=1500)),
            st.tuples(st.integers(0, 3000), st.none()),
            st.just((0, b"sync")),
        ),
        max_size=12,
    ),
    st.integers(0, 1_000_000),
)
def test_with_all_luck_or_after_a_sync_a_file_is_what_programs_saw(
    steps: list[tuple[int, bytes | None]], seed: int
) -> None:
    file, seen = File(b"start"), bytearray(b"start")
    for at, data in steps:
        if data == b"sync":
            file.sync()
        elif data is None:
            file.resize(at)
            seen = seen[:at].ljust(at, b"\0")
        else:
            file.write(at, data)
            seen = seen.ljust(at, b"\0")
            seen[at : at + len(data)] = data

    assert file.now() == bytes(seen)
    assert file.after_cut(random.Random(seed), luck=1.0) == bytes(seen)
    file.sync()
    assert file.after_cut(random.Random(seed), luck=0.0) == bytes(seen)


def test_a_file_that_is_not_there_cannot_be_written() -> None:
    with pytest.raises(KeyError):
        Disk({}).write("a", 0, b"content")
