"""Fixtures of the stand-in's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.iothub.mqtt_scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A hub with the devices `d1` and `d2`, served over MQTT."""
    scene = Scene(tmp_path)
    scene.create("d1")
    scene.create("d2")
    yield scene
    scene.close()
