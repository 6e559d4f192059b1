"""Sends what its standard input says, as a device of the edge: one JSON object a line, one answer for each.

Run as a program by the fixtures, beside the edge: `python driver.py FOLDER`, where FOLDER will hold what
`edge-actors identity create --out` writes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from azure.iot.device import IoTHubDeviceClient, Message

RETRY_S = 0.05
CONNECT_LIMIT_S = 30.0


def connected(folder: Path) -> Any:
    """Return a client that is connected, as soon as there are credentials and a hub."""
    ends_s = time.monotonic() + CONNECT_LIMIT_S
    while not folder.exists():
        if time.monotonic() > ends_s:
            sys.exit("the edge did not start")
        time.sleep(RETRY_S)
    client = IoTHubDeviceClient.create_from_connection_string(
        (folder / "connection-string.txt").read_text().strip(),
        server_verification_cert=(folder / "ca.pem").read_text(),
        connection_retry=False,
    )
    while True:
        try:
            client.connect()
            return client
        except Exception:
            if time.monotonic() > ends_s:
                raise
            time.sleep(RETRY_S)


def main() -> None:
    client = connected(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        message: Any = Message(bytes.fromhex(asked["body"]))  # type: ignore[no-untyped-call]
        if asked["json"]:
            message.content_type, message.content_encoding = "application/json", "utf-8"
        message.custom_properties.update(asked["properties"])
        client.send_message(message)
        print("sent", flush=True)


if __name__ == "__main__":
    main()
