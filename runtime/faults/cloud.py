"""The IoT Hub of a fault script: the edge's own, or one behind a line that can be bad."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from messaging.errors import EdgeError
from runtime.faults.books import LooseBooks
from runtime.faults.edge import LIMIT_S, LOOK_S, RunFailed, loopback_address
from runtime.faults.guard import CLOUD_HOME, MARK
from runtime.faults.line import Line, Profile
from runtime.faults.stamps import key_in
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.owner import Cloud as Owner

DEVICE: Final = "edge1"
MQTT, AMQP, HTTPS = 8883, 5671, 8443
PROGRAM: Final = (sys.executable, "-m", "runtime.faults.cloud_answers")


class CloudReader:
    """Reads what the stand-in on a home has taken, into books by output."""

    def __init__(self, home: Path, publishers: Mapping[str, int]) -> None:
        """Begin with the first message; `publishers` are the numbers of modules."""
        self.books: dict[int, LooseBooks] = {}  # by output
        self.received = 0
        self.damaged = 0
        self._home = home
        self._publishers = publishers
        self._after = 0

    def read(self) -> None:
        """Take in what has come since the last time; while the stand-in does not answer, that is nothing."""
        try:
            owner = Owner(self._home, start_limit_s=0.0)
            while True:
                answer = owner.get("/messages/events", f"&after={self._after}&waitSeconds=0")
                for event in answer["events"]:
                    self._note(event)
                self._after = answer["after"]
                if not answer["events"]:
                    return
        except EdgeError:
            return

    def _note(self, event: Mapping[str, Any]) -> None:
        if event["annotations"].get("iothub-connection-module-id") not in self._publishers:
            return
        try:
            key = key_in(base64.b64decode(event["body"]))
        except ValueError:
            self.damaged += 1
            return
        self.received += 1
        self.books.setdefault(key.output, LooseBooks()).note(key)


class CloudBehindLine:
    """A stand-in of its own, which the edge reaches over lines alone. `with CloudBehindLine(…) as cloud`."""

    def __init__(self, folder: Path, protocol: str, seed: int) -> None:
        self.home = folder / CLOUD_HOME
        self._folder = folder.absolute()
        self.log = folder / "cloud.log"
        self.connection_string_file = folder / "connection-string"
        self._protocol = protocol
        self._inner, self._outer = loopback_address(), loopback_address()
        self._seed = seed
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.lines: tuple[Line, ...] = ()

    def __enter__(self) -> CloudBehindLine:
        self.home.parent.mkdir(parents=True)
        self.start()
        self._stack.callback(self._end)
        try:
            self._await()
            made = Owner(self.home).call(
                "PUT", f"/devices/{DEVICE}", {"deviceId": DEVICE, "capabilities": {"iotEdge": True}}
            )
            key = made["authentication"]["symmetricKey"]["primaryKey"]
            text = f"HostName={self._outer};DeviceId={DEVICE};SharedAccessKey={key}"
            descriptor = os.open(self.connection_string_file, os.O_WRONLY | os.O_CREAT, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            self.lines = tuple(
                self._stack.enter_context(Line((self._outer, port), (self._inner, port), seed=self._seed))
                for port in (MQTT, AMQP, HTTPS)
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def settings(self) -> dict[str, str]:
        """With what settings an edge is linked to it."""
        return {
            "connection_string_file": str(self.connection_string_file),
            "cloud_ca": str(CloudHome.in_home(self.home).ca),
            "cloud_https_port": str(HTTPS),
            "upstream_protocol": self._protocol,
        }

    def start(self) -> None:
        """Start the stand-in; it is waited for by whoever needs it."""
        ports = ["--mqtt-port", str(MQTT), "--amqp-port", str(AMQP), "--https-port", str(HTTPS)]
        command = [*PROGRAM, "cloud", "run", "--home", str(self.home), "--listen", self._inner]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--host", self._outer, "--host", self._inner, *ports],
                env=os.environ | {MARK: str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def shape(self, profile: Profile) -> None:
        """Have all lines be so from now on."""
        for line in self.lines:
            line.profile = profile

    def _await(self) -> None:
        ends_s = time.monotonic() + LIMIT_S
        while True:
            try:
                Owner(self.home, start_limit_s=0.0).get("/devices", "&top=1")
                return
            except EdgeError as exc:
                if self.pid is None or time.monotonic() > ends_s:
                    raise RunFailed(f"the IoT Hub did not start: {exc}; log: {self.log}") from exc
                time.sleep(LOOK_S)

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        CloudHome.in_home(self.home).run.remove()
