"""What `edge-actors identity` does about an edge that is not up yet, in virtual time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.hub import config as hub_config
from actors.hub.config import HubConfig
from messaging.errors import ConfigError
from runtime.cli.identity import last_hub_config
from runtime.home import Home
from runtime.run_directory import AGENT, Lock, RunDirectory
from runtime.storage.atomic_file import write_private_file


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def running(home: Home) -> Iterator[None]:
    """An edge runs on the home."""
    run = RunDirectory.of(home.path)
    run.prepare()
    lock = Lock(run, AGENT)
    lock.acquire()
    yield
    lock.release()


def pausing(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Let time pass, and something happen, whenever somebody sleeps."""
    now_s = [time.monotonic()]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds
        then()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])


def test_a_home_that_has_not_been_run_is_told_at_once(home: Home) -> None:
    with pytest.raises(ConfigError, match="has not been run yet; start an edge with it once"):
        last_hub_config(home)


@pytest.mark.usefixtures("running")
def test_an_edge_that_starts_is_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    config = HubConfig("edge1", "iothub.test", ("localhost",), "cert.pem", "key.pem", (), None)
    pausing(monkeypatch, lambda: write_private_file(home.hub_config, hub_config.encode(config)))

    assert last_hub_config(home) == config


@pytest.mark.usefixtures("running")
def test_an_edge_without_a_deployment_is_not_waited_for_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    pausing(monkeypatch, lambda: None)

    with pytest.raises(ConfigError, match="has no hub yet; it waits for a deployment"):
        last_hub_config(home)
