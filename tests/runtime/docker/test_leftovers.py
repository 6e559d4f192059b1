"""What an edge left on Docker Engine goes, also when the engine is a moment behind itself."""

from __future__ import annotations

from typing import Any

import docker
import pytest
import requests
from docker.errors import APIError

from messaging.errors import EnvironmentFault
from runtime.docker import leftovers
from runtime.docker.leftovers import remove_containers


class PlayedEngine:
    """One network, which the engine will not remove for a while."""

    def __init__(self, refusals: int, status: int = 403) -> None:
        self.refusals = refusals
        self.status = status
        self.networks_left = ["n1"]

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return []

    def networks(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Id": name, "Name": f"edge-{name}"} for name in self.networks_left]

    def inspect_network(self, network_id: str) -> dict[str, Any]:
        return {"Containers": None}

    def remove_network(self, network_id: str) -> None:
        if self.refusals:
            self.refusals -= 1
            response = requests.Response()
            response.status_code = self.status
            raise APIError("network has active endpoints", response=response)
        self.networks_left.remove(network_id)

    def close(self) -> None:
        pass


def play(monkeypatch: pytest.MonkeyPatch, engine: PlayedEngine) -> None:
    monkeypatch.setattr(docker, "APIClient", lambda *_, **__: engine)
    monkeypatch.setattr(leftovers, "away_reason", lambda path: None)
    monkeypatch.setattr(leftovers, "IN_USE_LOOK_S", 0.0)


def test_a_network_that_the_engine_still_takes_for_used_is_removed_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = PlayedEngine(refusals=3)
    play(monkeypatch, engine)

    assert remove_containers("home").networks == ("edge-n1",)
    assert engine.networks_left == []


def test_a_network_that_stays_in_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PlayedEngine(refusals=1000)
    play(monkeypatch, engine)
    monkeypatch.setattr(leftovers, "IN_USE_LIMIT_S", 0.0)

    with pytest.raises(EnvironmentFault, match="cannot be removed"):
        remove_containers("home")


def test_another_refusal_of_the_engine_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PlayedEngine(refusals=1, status=500)
    play(monkeypatch, engine)

    with pytest.raises(EnvironmentFault, match="cannot be removed"):
        remove_containers("home")

    assert engine.networks_left == ["n1"]
