"""The network of an edge, while many containers are started at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runtime.docker.network import ensure_network, remembered_gateway

STARTS = 8


class FakeClient:
    """An engine that makes a network when asked; the first questions are asked all at once."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self._asking = threading.Barrier(STARTS)
        self._first = threading.local()

    def inspect_network(self, name: str) -> dict[str, Any]:
        from docker.errors import NotFound

        if not getattr(self._first, "asked", False):
            self._first.asked = True
            self._asking.wait(10.0)
        if not self.made:
            raise NotFound("no such network")
        return {"Name": name, "IPAM": {"Config": [{"Gateway": "127.0.0.1/16"}]}}

    def networks(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"Name": name} for name in names if name in self.made]

    def create_network(self, name: str, **_: Any) -> None:
        self.made.append(name)


def test_containers_that_start_at_once_make_one_network_and_one_file(tmp_path: Path) -> None:
    client, marker, making = FakeClient(), tmp_path / "home" / "containers.json", threading.Lock()

    with ThreadPoolExecutor(STARTS) as threads:
        answers = [
            threads.submit(ensure_network, client, "0a1b2c3d", marker, making)  # type: ignore[arg-type]
            for _ in range(STARTS)
        ]
        gateways = {answer.result() for answer in answers}

    assert gateways == {"127.0.0.1"}
    assert client.made == ["edge-actors-0a1b2c3d"]
    assert remembered_gateway(marker) == "127.0.0.1"
