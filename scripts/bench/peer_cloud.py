"""Starts the IoT Hub stand-in for a measurement, by its command line: on a home and ports of its own."""

import asyncio
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from messaging.identity import Identity
from runtime.iothub.hub import IotHub
from scripts.bench import peer_edge
from scripts.bench.peer_edge import COMMAND, ROOT, START_LIMIT_S, STOP_LIMIT_S
from scripts.bench.peer_mosquitto import PeerUnusable, free_port, wait_for_port
from scripts.bench.processes import EdgeProcess

ADDRESS = "127.0.0.1"
KNOWN_PORTS = (8883, 5671, 443)  # MQTT, AMQP, HTTPS


class CloudPeer:
    """Devices d1 … dN that publish telemetry; nobody reads it."""

    name = "cloud"
    version = "the IoT Hub stand-in of this checkout"
    configuration = "durable: PUBACK after a commit with synchronous=FULL"

    def __init__(self, parent: Path, publishers: int, address: str = ADDRESS, name: str = "") -> None:
        """Take where to listen; with a name, which is where clients look for it, on the ports they know."""
        self.parent = parent
        self.address = address
        self._count = publishers
        self._name = name

    def __enter__(self) -> "CloudPeer":
        self.directory = Path(tempfile.mkdtemp(prefix="bench-cloud-", dir=self.parent))
        self._home = self.directory / "home" / "cloud"
        self._home.mkdir(parents=True, mode=0o700)
        self.devices = asyncio.run(self._register())
        ports = KNOWN_PORTS if self._name else tuple(free_port() for _ in KNOWN_PORTS)
        self._port = ports[0]
        self._log = self.directory / "cloud.log"
        command = [*COMMAND, "cloud", "run", "--home", str(self._home.parent), "--listen", self.address]
        for option, port in zip(("--mqtt-port", "--amqp-port", "--https-port"), ports, strict=True):
            command += [option, str(port)]
        if self._name:
            command += ["--host", self._name]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_for_port(self._port, self._process, START_LIMIT_S, self.address)
        except PeerUnusable as error:
            said = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            self.__exit__()
            raise PeerUnusable(f"cloud: {error}\n{said}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def stop(self) -> None:
        """End the process; also where it may have ended already."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def ca_pem(self) -> str:
        """What its clients have to trust; a new home has it a moment after the port is bound."""
        file = self._home / "ca.pem"
        deadline_s = time.monotonic() + START_LIMIT_S
        while not file.exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return file.read_text()

    def stored(self) -> int:
        """Return how many messages the stopped stand-in has on disk, or had until its ring came around."""
        return asyncio.run(self._last_sequence_number())

    async def _register(self) -> list[peer_edge.Identity]:
        hub = await IotHub.open(self._home, self._name or self.address)
        devices = []
        for number in range(1, self._count + 1):
            name = f"d{number}"
            registered = await hub.put(Identity(name), {})
            key = registered.authentication.primary_key
            devices.append(peer_edge.Identity(self.address, name, None, key))
        await hub.close()
        return devices

    async def _last_sequence_number(self) -> int:
        hub = await IotHub.open(self._home, self.address)
        try:
            return await hub.last_sequence_number()
        finally:
            await hub.close()

    def processes(self) -> list[EdgeProcess]:
        return [EdgeProcess(self._process.pid, "cloud", "cloud")]

    def load(self, transport: str, publishers: int) -> dict[str, Any]:
        """Return target and publishers for the generator."""
        assert transport == "tls", "the stand-in speaks nothing else"
        return {
            "target": {
                "host": self.address,
                "port": self._port,
                "ca_file": str(self._home / "ca.pem"),
                "server_name": self.address,
            },
            "publishers": [
                {**device.client(), "topic": f"{device.path}/messages/events/"}
                for device in self.devices[:publishers]
            ],
            "subscribers": [],
        }
