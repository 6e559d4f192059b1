"""Port 443 of a whole edge: granted to root and by a capability, refused to others, who start anyway."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import HUB as HUB_PATH
from tests.actors.manifests import manifest
from tests.integration.edge_process import ROOT, UP, free_port
from tests.integration.test_web_socket import WEB_PORT
from tests.runtime.module_processes import lives
from tests.waiting import wait_until

LIMIT_S = 30.0
NOBODY = 65_534
WITHOUT_RIGHTS = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
WITH_CAPABILITY = (*WITHOUT_RIGHTS, "--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service")


def _is_reserved() -> bool:
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    return start > WEB_PORT


def nobody_can_run_python() -> bool:
    # Through a shell: setpriv itself still has root's rights when it looks the program up.
    command = ["sh", "-c", f"'{sys.executable}' -c ''"]
    return subprocess.run([*WITHOUT_RIGHTS, *command], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"),
    pytest.mark.skipif(not _is_reserved(), reason="port 443 is free for all on this machine"),
]


class Edge:
    """`edge-actors run` as some user."""

    def __init__(self, as_user: Sequence[str]) -> None:
        self._as_user = as_user
        self.folder = Path(tempfile.mkdtemp(prefix="ea-443-", dir="/tmp"))
        self.home = self.folder / "home"
        self.port = free_port()
        deployment = self.folder / "deployment.json"
        content = manifest(((*AGENT_PATH, "modules"), {}), ((*HUB_PATH, "routes"), UP))
        deployment.write_text(json.dumps(content))
        if as_user:
            os.chown(self.folder, NOBODY, NOBODY)
        self.log = self.folder / "edge.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command("run", "--deployment", str(deployment), "--listen", f"127.0.0.1:{self.port}"),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=self._environment(),
            )

    def call(self, *arguments: str) -> str:
        """Return what a command of the same user prints."""
        done = subprocess.run(
            self._command(*arguments), cwd=ROOT, capture_output=True, text=True, env=self._environment()
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for_hub(self) -> None:
        """Wait until the hub accepts MQTT; the agent has bound its ports long before."""
        hub_log = self.home / "logs" / "edgeHub.log"

        def accepts() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return hub_log.exists() and f"MQTT over TLS on 127.0.0.1:{self.port}" in hub_log.read_text()

        wait_until(accepts, self.log.read_text, LIMIT_S)

    def connect(self, **settings: object) -> None:
        """Connect with the Python SDK as a leaf device and send a message."""
        from azure.iot.device import IoTHubDeviceClient

        made = self.folder / "leaf"
        if not made.exists():
            self.call("identity", "create", "leaf", "--out", str(made))
        client = IoTHubDeviceClient.create_from_connection_string(
            (made / "connection-string.txt").read_text().strip(),
            server_verification_cert=(made / "ca.pem").read_text(),
            **settings,
        )
        try:
            client.connect()
            client.send_message("hello")
        finally:
            client.shutdown()

    def about_443(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if f":{WEB_PORT}" in line]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT_S) == 0, self.log.read_text()
        assert not lives(self.process.pid)
        shutil.rmtree(self.folder)

    def _command(self, *arguments: str) -> list[str]:
        return [
            *self._as_user,
            sys.executable,
            "-m",
            "runtime.cli.main",
            *arguments,
            "--home",
            str(self.home),
        ]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(self.folder)}


@pytest.fixture
def edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    if request.param and not nobody_can_run_python():
        pytest.skip("other users cannot run this Python")
    made = Edge(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("edge", [(), WITH_CAPABILITY], ids=["root", "capability"], indirect=True)
def test_granted_port_serves_mqtt_over_websocket(edge: Edge) -> None:
    edge.wait_for_hub()

    edge.connect(websockets=True)

    assert edge.about_443() == []


@pytest.mark.parametrize("edge", [WITHOUT_RIGHTS], ids=["nobody"], indirect=True)
def test_refused_port_is_told_in_one_line_with_the_way_out_and_all_else_works(edge: Edge) -> None:
    edge.wait_for_hub()

    [line] = edge.about_443()
    assert "no MQTT over WebSocket and no HTTPS: cannot listen on 127.0.0.1:443" in line
    assert "needs root or the capability CAP_NET_BIND_SERVICE" in line
    assert "sysctl net.ipv4.ip_unprivileged_port_start=443" in line
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", WEB_PORT), 5):
        pass
    modules = json.loads(edge.call("list", "--json"))
    assert [module["status"] for module in modules if module["name"] == "edgeHub"] == ["running"]


@pytest.mark.parametrize("edge", [()], ids=["root"], indirect=True)
def test_port_that_another_program_has_is_told_with_that_program(edge: Edge) -> None:
    edge.wait_for_hub()
    second = Edge(())
    try:
        second.wait_for_hub()

        [line] = second.about_443()
        assert "port 443 is in use (pid " in line
        edge.connect(websockets=True)
    finally:
        second.close()
