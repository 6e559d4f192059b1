"""What an edge device is given of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from messaging.errors import ConfigError
from runtime.iothub.edge_manifest import content_of

FILE = Path("/srv/line/deployment.json")


def manifest(**module: Any) -> dict[str, Any]:
    modules = {"m": module}
    return {"modulesContent": {"$edgeAgent": {"properties.desired": {"modules": modules}}}}


@pytest.mark.parametrize(
    ("folder", "absolute"),
    [(None, "/srv/line"), (".", "/srv/line"), ("../bin", "/srv/bin"), ("/opt/m", "/opt/m")],
)
def test_the_working_folder_of_a_process_module_counts_from_the_file(
    folder: str | None, absolute: str
) -> None:
    settings = {"command": ["./m"]} | ({} if folder is None else {"workingDirectory": folder})

    made = content_of(manifest(type="process", settings=settings), FILE)

    assert made == manifest(type="process", settings=settings | {"workingDirectory": absolute})


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(manifest(type="docker", settings={"image": "i"}), id="container"),
        pytest.param(manifest(type="process", settings=7), id="settings that are none"),
        pytest.param({"modulesContent": {"$edgeAgent": None}}, id="no properties"),
        pytest.param({"modulesContent": {}, "deviceContent": {}}, id="content of the device, too"),
    ],
)
def test_all_else_stays_as_it_is(given: dict[str, Any]) -> None:
    before = repr(given)

    assert content_of({"content": given}, FILE) == content_of(given, FILE) == given
    assert repr(given) == before


def test_a_manifest_without_modules_content_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"deployment '/srv/line/deployment\.json' has no object modulesContent"
    ):
        content_of({}, FILE)
