"""What the documents tell a reader to type is typed, and prints what they show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import blocks_of
from tests.integration.node_sdk import FOLDER as NODE_FOLDER
from tests.integration.node_sdk import need_node
from tests.integration.terminal import Reader, programs


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder, who has the programs."""
    folder = tmp_path / "desk"
    folder.mkdir()
    reader = Reader(folder, folder, folder, PATH=programs(tmp_path / "bin"))
    yield reader
    reader.close(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


def test_the_module_developers_guide_goes_as_it_is_written(desk: Reader) -> None:
    need_node()
    (desk.folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules")  # as `npm install` makes it

    desk.follow(blocks_of("modules"))

    assert not (desk.folder / "home").exists()
