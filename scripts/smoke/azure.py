"""Runs an edge against a real IoT Hub and prints what held: link, telemetry, twin, method, C2D to a device.

Needs two files: the connection string of an edge device, and that of a shared access policy with which
devices may be made and methods called (iothubowner). It makes a leaf device for the time of the run; the edge
makes the modules `sensor` and `filter` of the sample in the edge device, and they stay there. Some dozens of
messages count against the quota of the IoT Hub.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "scripts" / "samples" / "deployment.json"
PROGRAM = (sys.executable, "-m", "runtime.cli.main")
LIMIT_S = 60.0
LOOK_S = 0.5
MESSAGES = 5
ADDRESS = "127.0.0.77"  # beside other edges of this machine


class NotHeld(Exception):
    """Something was not as it should be; says what."""


class Edge:
    """The edge under test, on a home of its own."""

    def __init__(self, folder: Path, connection_string: Path) -> None:
        self.home = folder / "home"
        self._environment = os.environ | {
            "EDGE_ACTORS_HOME": str(self.home),
            "EDGE_ACTORS_LISTEN": ADDRESS,
            "EDGE_ACTORS_HOSTNAME": ADDRESS,
        }
        self._log = folder / "edge.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, "run", "--deployment", SAMPLE, "--connection-string-file", connection_string],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def ask(self, *arguments: str) -> Any:
        """Return what a command says in JSON, None while it cannot be answered."""
        if self._process.poll() is not None:
            raise NotHeld(f"the edge ended:\n{self._log.read_text()}")
        done = subprocess.run(
            [*PROGRAM, *arguments, "--json"],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def ca_pem(self) -> str:
        """Return what clients of the edge trust."""
        text = (self.home / "certificates" / "edge-ca.pem").read_text()
        return text[text.index("-----BEGIN CERTIFICATE-----") :]

    def end(self) -> None:
        """End it and remove its home."""
        subprocess.run([*PROGRAM, "down", "--purge"], cwd=ROOT, env=self._environment, check=False)
        self._process.wait()


class Smoke:
    """The steps, in order; each raises NotHeld when something is not as it should be."""

    def __init__(self, edge: Edge, device_id: str, registry: Any) -> None:
        self._edge = edge
        self._device_id = device_id
        self._registry = registry

    def link(self) -> str:
        """The edge is connected."""
        state = _until("the link is up", lambda: _if(self._edge.ask("upstream", "status"), "up"))
        return f"connected to {state['hostName']}"

    def telemetry(self) -> str:
        """The IoT Hub acknowledges readings of the sample."""

        def delivered() -> int:
            ledger = self._edge.ask("ledger") or {"endpoints": {}}
            return int(ledger["endpoints"].get("iothub", {}).get("delivered", 0))

        _until("readings are taken", lambda: delivered() >= MESSAGES)
        return f"{delivered()} messages acknowledged"

    def twin(self) -> str:
        """A desired property reaches the module `filter`, and what it reports comes back."""
        from azure.iot.hub.models import Twin, TwinProperties

        patch = Twin(properties=TwinProperties(desired={"threshold": 7}))
        self._registry.update_module_twin(self._device_id, "filter", patch, "*")

        def reported() -> bool:
            twin = self._registry.get_module_twin(self._device_id, "filter")
            return bool(twin.properties.reported.get("threshold") == 7)

        _until("`filter` has reported its threshold", reported)
        return "desired and reported"

    def method(self) -> str:
        """A direct method of the module `filter` answers."""
        from azure.iot.hub.models import CloudToDeviceMethod

        call = CloudToDeviceMethod(method_name="count", payload={})
        answer = self._registry.invoke_device_module_method(self._device_id, "filter", call)
        if answer.status != 200:
            raise NotHeld(f"`count` of `filter` answered {answer.status}")
        return f"answered {answer.payload}"

    def c2d(self) -> str:
        """A message reaches a leaf device behind the edge."""
        from azure.iot.device import IoTHubDeviceClient

        leaf = f"smoke-{uuid.uuid4().hex[:8]}"
        scope = self._registry.get_device(self._device_id).device_scope
        made = self._registry.create_device_with_sas(leaf, "", "", status="enabled", device_scope=scope)
        try:
            host = (self._edge.ask("upstream", "status") or {})["hostName"]
            client = IoTHubDeviceClient.create_from_connection_string(
                f"HostName={host};DeviceId={leaf};SharedAccessKey={made.authentication.symmetric_key.primary_key};"
                f"GatewayHostName={ADDRESS}",
                server_verification_cert=self._edge.ca_pem(),
            )
            came = threading.Event()
            client.on_message_received = lambda message: came.set()
            _until("the leaf device is let in", lambda: _connects(client))
            self._registry.send_c2d_message(leaf, "wake up")
            arrived = came.wait(LIMIT_S)
            client.shutdown()
            if not arrived:
                raise NotHeld(f"nothing came within {LIMIT_S:.0f} s")
        finally:
            self._registry.delete_device(leaf)
        return "arrived"


def _if(value: Any, name: str) -> Any:
    return value if value and value[name] else None


def _connects(client: Any) -> bool:
    try:
        client.connect()
    except Exception:  # noqa: BLE001 - the SDK has a dozen; a new device is known within seconds
        return False
    return True


def _until(what: str, is_so: Callable[[], Any]) -> Any:
    """Look until something has come true, and return it."""
    ends_s = time.monotonic() + LIMIT_S
    while not (found := is_so()):
        if time.monotonic() > ends_s:
            raise NotHeld(f"not within {LIMIT_S:.0f} s: {what}")
        time.sleep(LOOK_S)
    return found


def trust(ca_file: Path, folder: Path) -> None:
    """Have the edge and the SDKs of this process trust one authority more."""
    import certifi

    trusted = folder / "trusted.pem"
    trusted.write_text(Path(certifi.where()).read_text() + ca_file.read_text())
    certifi.where = lambda: str(trusted)  # C2D: the SDK takes no other file over AMQP
    os.environ["REQUESTS_CA_BUNDLE"] = str(trusted)
    os.environ["EDGE_ACTORS_CLOUD_CA"] = str(ca_file.resolve())


def run(device_file: Path, service_file: Path, ca_file: Path | None = None) -> bool:
    """Run all steps; prints a line for each. Returns whether all held."""
    from azure.iot.hub import IoTHubRegistryManager

    from runtime.config.device_credentials import device_connection_string

    device = device_connection_string(device_file.read_text(), str(device_file))
    folder = Path(tempfile.mkdtemp(prefix="azure-smoke-"))
    if ca_file is not None:
        trust(ca_file, folder)
    registry = IoTHubRegistryManager.from_connection_string(service_file.read_text().strip())
    edge = Edge(folder, device_file.resolve())
    all_held = True
    try:
        smoke = Smoke(edge, device.identity.device_id, registry)
        for step in (smoke.link, smoke.telemetry, smoke.twin, smoke.method, smoke.c2d):
            try:
                print(f"held      {step.__name__}: {step()}", flush=True)
            except Exception as exc:  # noqa: BLE001 - the next step may hold all the same
                all_held = False
                print(f"NOT held  {step.__name__}: {type(exc).__name__}: {exc}", flush=True)
    finally:
        edge.end()
        shutil.rmtree(folder)
    return all_held


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/azure-smoke", description=__doc__)
    parser.add_argument("device", type=Path, help="file with the connection string of an edge device")
    parser.add_argument("service", type=Path, help="file with the connection string of iothubowner")
    parser.add_argument("--ca", type=Path, help="PEM file to trust as well: ca.pem of a stand-in")
    arguments = parser.parse_args()
    return 0 if run(arguments.device, arguments.service, arguments.ca) else 1


if __name__ == "__main__":
    sys.exit(main())
