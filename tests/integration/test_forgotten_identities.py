"""A leaf device that is deleted and made anew with the real commands, and the SDK as either of them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.edge_process import ROOT
from tests.integration.sdk_site import SdkSite

LIMIT_S = 30.0


@pytest.fixture
def site() -> Iterator[SdkSite]:
    made = SdkSite((), web=False)
    made.start()
    yield made
    made.close()


def run(site: SdkSite, *arguments: str) -> str:
    """Run a command of the edge, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", *arguments, "--home", str(site.edge.home)],
        cwd=ROOT,
        env=os.environ | site.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def create(site: SdkSite, folder: Path) -> Path:
    run(site, "identity", "create", "leaf", "--out", str(folder))
    return folder


@contextmanager
def connected(folder: Path) -> Iterator[tuple[Any, queue.Queue[Any]]]:
    """The SDK as the device, and what it gets from the cloud."""
    from azure.iot.device import IoTHubDeviceClient

    client = IoTHubDeviceClient.create_from_connection_string(
        (folder / "connection-string.txt").read_text().strip(),
        server_verification_cert=(folder / "ca.pem").read_text(),
    )
    messages: queue.Queue[Any] = queue.Queue()
    client.connect()
    client.on_message_received = messages.put
    yield client, messages
    client.shutdown()


@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it is stopped"])
@pytest.mark.slow
def test_a_device_made_anew_has_an_empty_twin_and_no_message_of_the_old_one(
    site: SdkSite, tmp_path: Path, runs: bool
) -> None:
    with connected(create(site, tmp_path / "old")) as (old, _):
        old.patch_twin_reported_properties({"whose": "the old one's"})
    site.send_c2d("leaf", b"for the old one", {})

    if not runs:
        site.edge.signal(signal.SIGINT)
        assert site.edge.wait() == 0
    run(site, "identity", "delete", "leaf")
    folder = create(site, tmp_path / "new")
    if not runs:
        site.start_agent()
        site.edge.wait_for(edgeHub="running")

    with connected(folder) as (new, messages):
        twin = new.get_twin()
        site.send_c2d("leaf", b"for the new one", {})
        first = messages.get(timeout=LIMIT_S)

    assert first.data == b"for the new one"
    assert messages.empty()
    assert "whose" not in twin["reported"]
    row = json.loads(run(site, "ledger", "--json"))["endpoints"]["leaf/$c2d"]
    assert row["dropped_by_reason"] == {"removed": 1}
