"""A real broker of somebody else: mosquitto, for the other end of bridges."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.waiting import wait_until

LIMIT_S = 60.0


def program() -> str:
    """Return where mosquitto is; skips the test where it is not installed."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip("mosquitto is not installed")
    return found


class Mosquitto:
    """One broker in a folder of its own. `with Mosquitto(…) as broker` starts it and removes everything."""

    def __init__(self, *lines: str, tls: tuple[Path, Path] | None = None, anonymous: bool = True) -> None:
        """Take further lines of its configuration; `tls`: certificate and key for its second port."""
        self._program = program()
        self.folder = Path(tempfile.mkdtemp(prefix="ea-mosquitto-"))
        self.port, self.tls_port = _free_port(), _free_port()
        user = pwd.getpwuid(os.geteuid()).pw_name
        configuration = [
            f"user {user}",
            "per_listener_settings false",
            f"allow_anonymous {'true' if anonymous else 'false'}",
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_queued_messages 0",
            "connection_messages true",
            "log_type all",
            f"log_dest file {self.folder}/log",
            *lines,
            f"listener {self.port} 127.0.0.1",
        ]
        if tls is not None:
            configuration += [
                f"listener {self.tls_port} 127.0.0.1",
                f"certfile {tls[0]}",
                f"keyfile {tls[1]}",
            ]
        self._configuration = self.folder / "mosquitto.conf"
        self._configuration.write_text("\n".join(configuration) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._configuration)], stdout=quiet, stderr=quiet
        )
        started = self._process

        def listens() -> bool:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert started.poll() is None, self.log()
                return False
            return True

        wait_until(listens, "mosquitto listens", LIMIT_S)

    def stop(self) -> None:
        """End it in order: what it has is saved."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT_S)
            self._process = None

    def log(self) -> str:
        """Return what it has logged."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def wait_for_log(self, text: str) -> None:
        """Wait until it has logged this."""
        wait_until(lambda: text in self.log(), self.log, LIMIT_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Peer:
    """A client with a persistent session at either broker; sends again what was not acknowledged."""

    def __init__(self, port: int, client_id: str, user_name: str = "", password: str = "") -> None:
        """Connect and wait for the answer."""
        self.got: list[tuple[str, bytes, int, bool]] = []  # topic, body, QoS, retain
        self._changed = threading.Condition()
        self._subscribed = 0
        self._published = 0
        self._connected = threading.Event()
        self._client = paho.Client(client_id, clean_session=False)
        self._client.max_inflight_messages_set(100)
        self._client.reconnect_delay_set(1, 1)
        if user_name:
            self._client.username_pw_set(user_name, password)
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_connect = lambda *_: self._connected.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._connected.wait(LIMIT_S), "nobody answers"

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        with self._changed:
            self.got.append((message.topic, message.payload, message.qos, bool(message.retain)))
            self._changed.notify_all()

    def _on_subscribe(self, *_: Any) -> None:
        with self._changed:
            self._subscribed += 1
            self._changed.notify_all()

    def _on_publish(self, *_: Any) -> None:
        with self._changed:
            self._published += 1
            self._changed.notify_all()

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe and wait for the answer."""
        wanted = self._subscribed + 1
        self._client.subscribe(topic_filter, qos)
        self._wait(lambda: self._subscribed >= wanted, "SUBACK")

    def publish(self, topic: str, body: bytes, qos: int = 1, retain: bool = False) -> None:
        """Publish without waiting."""
        self._client.publish(topic, body, qos, retain)

    def publish_numbers(self, topic: str, numbers: range) -> None:
        """Publish numbers at QoS 1, and wait until all of them are acknowledged."""
        wanted = self._published + len(numbers)
        for number in numbers:
            self.publish(topic, b"%d" % number)
        self._wait(lambda: self._published >= wanted, "PUBACK")

    def wait_for(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Wait until so many messages have come."""
        self._wait(lambda: len(self.got) >= count, f"{count} messages", limit_s)

    def wait_for_body(self, body: bytes, limit_s: float = LIMIT_S) -> None:
        """Wait until a message with this body has come."""
        self._wait(lambda: any(got[1] == body for got in self.got), repr(body), limit_s)

    def bodies(self) -> list[bytes]:
        """Return the bodies in the order in which they came."""
        return [body for _, body, _, _ in self.got]

    def _wait(self, is_so: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, limit_s), f"no {what}; {len(self.got)} messages came"


def first_times(bodies: list[bytes]) -> list[int]:
    """Return the numbers in bodies, each where it came first: at least once may repeat some."""
    return list(dict.fromkeys(int(body) for body in bodies))
