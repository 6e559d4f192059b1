"""A device or module with the unmodified official Python SDK, moved by a test. Speaks as device.js does.

    python sdk_program.py CREDENTIAL KIND

CREDENTIAL is a connection string, or `edge` for a module that takes everything from its environment; KIND is
device or module. Lines come and go on standard input and output, or on a connection to CONTROL (host:port).
It imports nothing of the project, for it may run as a user who cannot read that.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse

SYSTEM = {
    "messageId": "message_id",
    "correlationId": "correlation_id",
    "userId": "user_id",
    "contentType": "content_type",
    "contentEncoding": "content_encoding",
    "expiryTimeUtc": "expiry_time_utc",
    "ack": "ack",
}


class Program:
    """What the test can have done."""

    def __init__(self, client: Any, say: Any) -> None:
        self.client = client
        self.say = say
        self.statuses: dict[str, int | None] = {}

    def open(self, options: dict[str, Any], reopens: bool) -> None:
        """Connect; this SDK connects again by itself, nearly always."""
        self.client.connect()
        if reopens:
            threading.Thread(target=self.stay_connected, daemon=True).start()

    def stay_connected(self) -> None:
        """Connect again where the SDK has given up.

        It may do so for good when a connection breaks in the moment in which it is made, which it takes for
        one of its permanent errors (2.14; seen when the hub is killed twice within half a second).
        """
        while True:
            time.sleep(1)
            if not self.client.connected:
                try:
                    self.client.connect()
                except Exception:  # noqa: BLE001 - tried again in a second
                    continue

    def send(self, message: dict[str, Any]) -> None:
        self.client.send_message(message_of(message))

    def send_output(self, output: str, message: dict[str, Any]) -> None:
        self.client.send_message_to_output(message_of(message), output)

    def send_many(self, output: str, first: int, count: int) -> None:
        """Send numbers, each again until it is acknowledged: the SDK gives up when a connection breaks."""
        for number in range(first, first + count):
            while True:
                try:
                    if output:
                        self.client.send_message_to_output(str(number), output)
                    else:
                        self.client.send_message(str(number))
                    break
                except Exception as exc:  # noqa: BLE001 - whatever it was, it is tried again
                    self.say({"event": "retry", "number": number, "error": repr(exc)})

    def listen(self) -> None:
        self.client.on_message_received = lambda message: self.say({"event": "message", **shown(message)})

    def method(self, name: str, status: int | None) -> None:
        """Answer calls of a method with a status; None: never."""
        self.statuses[name] = status
        self.client.on_method_request_received = self.called

    def called(self, request: Any) -> None:
        status = self.statuses.get(request.name, 404)
        if status is not None:
            payload = {"name": request.name, "payload": request.payload}
            self.client.send_method_response(
                MethodResponse.create_from_method_request(request, status, payload)
            )

    def invoke(self, device: str, module: str | None, parameters: dict[str, Any]) -> Any:
        return self.client.invoke_method(parameters, device, module)

    def twin(self) -> Any:
        return self.client.get_twin()

    def desired(self) -> None:
        self.client.on_twin_desired_properties_patch_received = lambda patch: self.say(
            {"event": "desired", "patch": patch}
        )

    def report(self, patch: dict[str, Any]) -> None:
        self.client.patch_twin_reported_properties(patch)

    def close(self) -> None:
        self.client.shutdown()


def message_of(content: dict[str, Any]) -> Message:
    message = Message(content["body"])
    for name, attribute in SYSTEM.items():
        if name in content:
            setattr(message, attribute, content[name])
    message.custom_properties = content.get("properties", {})
    return message


def shown(message: Any) -> dict[str, Any]:
    found = {name: getattr(message, attribute) for name, attribute in SYSTEM.items()}
    body = message.data.decode()
    return found | {"body": body, "properties": message.custom_properties, "input": message.input_name}


def end_with_a_thread(what: threading.ExceptHookArgs) -> None:
    """End, as runtime/docs/MODULES.md advises: without its network thread the SDK is deaf for ever."""
    threading.__excepthook__(what)
    os._exit(1)


def main() -> None:
    credential, kind = sys.argv[1:3]
    if os.environ.get("CONTROL"):
        host, port = os.environ["CONTROL"].rsplit(":", 1)
        control = socket.create_connection((host, int(port)))
        reader, writer = control.makefile(), control.makefile("w")
    else:
        reader, writer = sys.stdin, sys.stdout  # type: ignore[assignment]
    lock = threading.Lock()

    def say(what: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(what), file=writer, flush=True)

    if credential == "edge":
        client = IoTHubModuleClient.create_from_edge_environment()
    else:
        with open(os.environ["CA_FILE"]) as file:
            trusted = file.read()
        of_kind = IoTHubModuleClient if kind == "module" else IoTHubDeviceClient
        client = of_kind.create_from_connection_string(credential, server_verification_cert=trusted)
    threading.excepthook = end_with_a_thread
    program = Program(client, say)
    say({"event": "hello", "module": os.environ.get("IOTEDGE_MODULEID", "")})

    def do(request_id: int, name: str, arguments: list[Any]) -> None:
        method = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
        try:
            say({"id": request_id, "result": getattr(program, method)(*arguments)})
        except Exception as exc:  # noqa: BLE001 - the test is told
            message = f"{exc}: {exc.__cause__!r}"  # the cause has the status of a method call
            say({"id": request_id, "error": {"name": type(exc).__name__, "message": message}})

    with ThreadPoolExecutor(64) as pool:
        for line in reader:
            request_id, name, *arguments = json.loads(line)
            pool.submit(do, request_id, name, arguments)
    os._exit(0)  # the SDK's threads may wait for a hub that is gone


if __name__ == "__main__":
    main()
