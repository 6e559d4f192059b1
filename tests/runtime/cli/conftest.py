"""Homes and calls of the command line inside the test's process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.main import invoke
from runtime.run_directory import RunDirectory


@dataclass(frozen=True)
class Told:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


EdgeActors = Callable[..., Told]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that does not exist yet; its run directory is gone after the test."""
    for variable in ("EDGE_ACTORS_HOME", "EDGE_ACTORS_DEBUG", "EDGE_ACTORS_RUN", "EDGE_ACTORS_MODULE"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "home"
    yield path
    shutil.rmtree(RunDirectory.of(path).path, ignore_errors=True)


@pytest.fixture
def edge_actors(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> EdgeActors:
    """Call `edge-actors` with arguments and this home."""

    def call(*arguments: str) -> Told:
        code = invoke([*arguments, "--home", str(home)])
        told = capfdbinary.readouterr()
        return Told(code, told.out.decode(errors="surrogateescape"), told.err.decode())

    return call
