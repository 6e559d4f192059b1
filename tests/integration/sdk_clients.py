"""The unmodified official SDK as publisher and consumer, each with its own book of what happened."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right, insort
from typing import Any

from tests.integration.hub_process import HubProcess
from tests.waiting import wait_until

SDK_PORT = 8883  # the SDK's own, not to be changed


def loopback_address() -> str:
    """Return an address of its own for each test: the SDK's port is always the same."""
    return f"127.{1 + os.urandom(1)[0] % 254}.{os.urandom(1)[0]}.{1 + os.urandom(1)[0] % 254}"


def sdk_client(hub: HubProcess, client_id: str, **settings: Any) -> Any:
    """Return an SDK client for a device or module."""
    from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient

    ca = hub.ca_file.read_text()
    if shown := hub.certificates.get(client_id):
        return IoTHubDeviceClient.create_from_x509_certificate(
            X509(str(shown.certificate_file), str(shown.key_file)),
            hub.iothub,
            client_id,
            gateway_hostname=hub.address,
            server_verification_cert=ca,
            **settings,
        )
    kind = IoTHubModuleClient if "/" in client_id else IoTHubDeviceClient
    return kind.create_from_connection_string(
        hub.connection_string(client_id), server_verification_cert=ca, **settings
    )


class SdkPublisher:
    """Publishes numbered messages at a steady pace and writes down which were acknowledged, and when."""

    def __init__(self, hub: HubProcess, client_id: str, per_s: float, **settings: Any) -> None:
        self.acknowledged: list[tuple[int, float]] = []  # number and time (monotonic)
        self.errors: list[str] = []
        self.client = sdk_client(hub, client_id, **settings)
        self._per_s = per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=client_id, daemon=True)

    def start(self) -> None:
        self.client.connect()
        self._thread.start()

    def stop(self) -> None:
        """Stop when the message under way is acknowledged."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the message under way was never acknowledged"

    def wait_for(self, count: int, limit_s: float = 30.0) -> None:
        """Wait until so many messages are acknowledged."""
        wait_until(
            lambda: len(self.acknowledged) >= count,
            lambda: f"{len(self.acknowledged)} of {count}, {self.errors}",
            limit_s,
        )

    def first_after(self, moment_s: float) -> float:
        """Return when the first message after this moment was acknowledged."""
        return next(at_s for _, at_s in self.acknowledged if at_s >= moment_s)

    def numbers(self) -> list[int]:
        return [number for number, _ in self.acknowledged]

    def _run(self) -> None:
        from azure.iot.device import Message

        due_s = time.monotonic()
        for number in range(1_000_000):
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
            due_s = max(due_s + 1 / self._per_s, time.monotonic() - 0.1)
            try:
                self._send(Message(str(number)))
            except Exception as exc:  # noqa: BLE001 - the SDK may say no; then it is not acknowledged
                self.errors.append(repr(exc))
            else:
                self.acknowledged.append((number, time.monotonic()))

    def _send(self, message: Any) -> None:
        if hasattr(self.client, "send_message_to_output"):
            self.client.send_message_to_output(message, "out")
        else:
            self.client.send_message(message)


class SdkConsumer:
    """Takes what comes to the inputs of one module."""

    def __init__(self, hub: HubProcess, client_id: str, **settings: Any) -> None:
        self.messages: list[Any] = []
        self.client = sdk_client(hub, client_id, **settings)

    def start(self) -> None:
        """Connect and subscribe; the handler subscribes by itself."""
        self.client.connect()
        self.client.on_message_received = self.messages.append

    def numbers_of(self, module: str) -> list[int]:
        """Return what came from one module, in order, with its repetitions."""
        return [
            int(message.data)
            for message in list(self.messages)
            if message.custom_properties["$.cmid"] == module
        ]

    def wait_for(self, module: str, number: int, limit_s: float = 30.0) -> None:
        """Wait for a message of a module."""
        what = f"{number} comes of {module}"
        wait_until(lambda: number in self.numbers_of(module)[-1000:], what, limit_s)


HANDLER_THREADS = 4  # of the SDK for what comes: neighbours may change places there


def are_in_order(numbers: list[int]) -> bool:
    """Say whether numbers rise, but for those that a thread of the SDK holds while others go on."""
    later: list[int] = []  # negative, so that what rises is appended
    for number in reversed(numbers):
        held = len(later) - bisect_right(later, -number)
        if held >= HANDLER_THREADS:
            return False
        insort(later, -number)
    return True


def once(numbers: list[int]) -> list[int]:
    """Drop repetitions: at least once may be twice, but the first of each must be in order."""
    return list(dict.fromkeys(numbers))
