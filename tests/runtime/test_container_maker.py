from __future__ import annotations

from typing import Any

import pytest

from actors.module_spec import DockerSettings, ImagePullPolicy, ModuleSpec
from messaging.errors import ConfigError
from runtime.container_maker import pull_image

PUMP = ModuleSpec("pump", DockerSettings("pump:1"))


class FakeClient:
    """A client whose pull says these lines."""

    def __init__(self, *lines: dict[str, Any]) -> None:
        self._lines = lines
        self.pulled: list[str] = []

    def pull(self, image: str, *, stream: bool, decode: bool) -> list[dict[str, Any]]:
        assert stream
        assert decode
        self.pulled.append(image)
        return list(self._lines)


def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
    return {"status": "Downloading", "id": layer, "progressDetail": {"current": current, "total": total}}


def test_a_pull_says_how_far_it_is_over_all_layers() -> None:
    said: list[str] = []
    client = FakeClient(
        {"status": "Pulling from pump", "id": "1"},
        downloading("a", 1_000_000, 4_000_000),
        downloading("b", 500_000, 6_000_000),
        downloading("a", 4_000_000, 4_000_000),
        {"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 9}},
        {"status": "Pull complete", "id": "a", "progressDetail": {}},
    )

    pull_image(client, PUMP, said.append)  # type: ignore[arg-type]

    pulling = "image 'pump:1' is not on this device and is being pulled"
    assert said == [
        pulling,
        f"{pulling}: 1.0 of 4.0 MB",
        f"{pulling}: 1.5 of 10.0 MB",
        f"{pulling}: 4.5 of 10.0 MB",
    ]
    assert client.pulled == ["pump:1"]


def test_a_pull_that_breaks_off_is_told_with_the_way_out() -> None:
    client = FakeClient(downloading("a", 1, 9), {"error": "unexpected\nEOF", "errorDetail": {}})

    with pytest.raises(ConfigError) as caught:
        pull_image(client, PUMP, lambda _: None)  # type: ignore[arg-type]

    assert str(caught.value) == (
        "module 'pump': image 'pump:1' not found on this device; pull it (`docker pull pump:1`), or fix "
        "settings.image in the deployment; the engine says: unexpected EOF"
    )


def test_an_image_that_is_never_to_be_pulled_is_not() -> None:
    client = FakeClient()
    never = ModuleSpec("pump", DockerSettings("pump:1"), image_pull_policy=ImagePullPolicy.NEVER)

    with pytest.raises(ConfigError, match="imagePullPolicy is 'never'; pull it"):
        pull_image(client, never, lambda _: None)  # type: ignore[arg-type]

    assert client.pulled == []
