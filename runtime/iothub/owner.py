"""Talks to the running stand-in: its own REST, by a Unix socket, with the key of the home's owner."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from messaging import sas
from messaging.errors import ConfigError, EdgeError, EnvironmentFault
from messaging.nearest import did_you_mean
from runtime.home import Home
from runtime.iothub.cloud_home import CloudHome, Serving
from runtime.iothub.policies import OWNER, Policies
from runtime.run_directory import AGENT, Lock, RunDirectory

API_VERSION: Final = "2021-04-12"
ANSWER_LIMIT_S: Final = 30.0
START_LIMIT_S: Final = 5.0  # for a stand-in that starts with its edge
LOOK_S: Final = 0.05
TOKEN_S: Final = 600
# What cannot be done now, in distinction to what the user should have written differently.
NOT_THE_USERS: Final = ("DeviceNotOnline", "DeviceConnectionClosedRemotely")


class Refused(ConfigError):
    """The stand-in refuses what the user wants."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name  # IoT Hub's own, `DeviceNotFound` for example


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Cloud:
    """The stand-in that runs on one home. One that is starting, with its edge mostly, is waited for.

    Raises:
        EnvironmentFault: none runs.
    """

    def __init__(self, home: Path, start_limit_s: float = START_LIMIT_S) -> None:
        self.home = home
        self._place = CloudHome.in_home(home)
        self._place.run.check()
        ends_s = time.monotonic() + start_limit_s
        while not self.answers() and self._may_be_starting() and time.monotonic() < ends_s:
            time.sleep(LOOK_S)  # between two looks at what another process does
        if self._place.lock().holder() is None:
            raise EnvironmentFault(
                f"no IoT Hub runs on home {home}; start one with `edge-actors cloud run --home {home}`"
            )
        self.serving: Serving = self._place.read_serving()
        self.policies = Policies.load(self._place.policies)

    @property
    def ca_file(self) -> Path:
        """The certificate that clients have to trust."""
        return self._place.ca

    def get(self, path: str, query: str = "") -> Any:
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        timeout_s: float = ANSWER_LIMIT_S,
    ) -> Any:
        """Make a request and return the JSON of its answer, None when it has none.

        Raises:
            Refused: what was asked for is wrong.
            EnvironmentFault: the stand-in does not answer, or cannot do it now.
        """
        return self.exchange(method, path, body, headers, query, timeout_s)[0]

    def exchange(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        timeout_s: float = ANSWER_LIMIT_S,
    ) -> tuple[Any, Mapping[str, str]]:
        """As `call`; returns the headers of the answer, too."""
        connection = _UnixConnection(self._place.socket, timeout_s)
        sent = {"Authorization": self._token(), "Content-Type": "application/json", **(headers or {})}
        target = f"{path}?api-version={API_VERSION}{query}"
        try:
            connection.request(method, target, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise EnvironmentFault(
                f"the IoT Hub of home {self.home} does not answer ({exc}); it may be starting or ending: "
                f"try again, or see {self._place.log}"
            ) from exc
        finally:
            connection.close()
        if response.status >= 300:
            raise self._error(response.status, content)
        return json.loads(content) if content else None, dict(response.headers)

    def pages(self, query: str) -> Iterator[tuple[list[Any], str]]:
        """Ask for twins, page by page; each with its item type, `Twin` or `Raw`."""
        continuation = ""
        while True:
            sent = {"x-ms-max-item-count": "100"}
            if continuation:
                sent["x-ms-continuation"] = continuation
            rows, headers = self.exchange("POST", "/devices/query", {"query": query}, sent)
            yield rows, headers.get("x-ms-item-type", "Raw")
            continuation = headers.get("x-ms-continuation", "")
            if not continuation:
                return

    def answers(self) -> bool:
        """Return whether it takes connections."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self._place.socket)) == 0

    def _may_be_starting(self) -> bool:
        """Say whether it has its lock and is not up yet, or an edge is that runs one of its own."""
        if self._place.lock().holder() is not None:
            return True
        if Lock(RunDirectory.of(self.home), AGENT).holder() is None:
            return False
        from runtime.upstream import provisioning  # seldom needed here

        try:
            found = provisioning.load(Home(self.home))
            return found is None or self._place.read_serving().host_name == found.host_name
        except EdgeError:
            return False

    def _token(self) -> str:
        owner = self.policies.find(OWNER)
        expires_s = int(time.time()) + TOKEN_S
        return sas.make_token(self.serving.host_name, owner.keys[0], expires_s, OWNER)

    def _error(self, status: int, content: bytes) -> EdgeError:
        name, text = _read_error(status, content)
        if name == "DeviceNotFound":
            text += self._known_devices(text)
        if status >= 500 or status == 401 or name in NOT_THE_USERS:
            return EnvironmentFault(text)
        return Refused(text, name)

    def _known_devices(self, text: str) -> str:
        """Return the way out of a wrong device id: the nearest one there is, or the list."""
        found = text.split("'")
        devices = [device["deviceId"] for device in self.get("/devices", "&top=1000")]
        hint = did_you_mean(found[1], devices) if len(found) > 1 else ""
        return hint or "; see `edge-actors cloud device list`"


def device_path(device: str, module: str | None = None) -> str:
    """Return the path of an identity in the registry."""
    path = f"/devices/{quote(device, safe='')}"
    return path if module is None else f"{path}/modules/{quote(module, safe='')}"


def twin_path(device: str, module: str | None = None) -> str:
    """Return the path of a twin."""
    return device_path(device, module).replace("/devices/", "/twins/", 1)


def _read_error(status: int, content: bytes) -> tuple[str, str]:
    """Return IoT Hub's name of an error, '' for one of the provisioning service, and its text."""
    try:
        body = json.loads(content)
    except ValueError:
        return "", f"the IoT Hub answered {status}"
    message = str(body.get("Message") or body.get("message") or f"the IoT Hub answered {status}")
    if message.startswith("ErrorCode:"):
        name, _, text = message.removeprefix("ErrorCode:").partition(";")
        return name, text
    return "", message
