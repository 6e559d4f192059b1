"""A simulated temperature sensor: the "hello world" of IoT Edge, on the official Azure IoT SDK.

It sends a reading to its output `temperatureOutput` every second (or every INTERVAL_S seconds). `sequence`
counts from 1 at each start and `run` is the time of that start, so a reader can tell a lost reading from a
restart. A reading is sent again until the hub has acknowledged it; meanwhile no new one is taken.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, NoReturn

from azure.iot.device import IoTHubModuleClient, Message

OUTPUT = "temperatureOutput"
RETRY_S = 0.5
REPORT_EVERY_S = 60.0
GOODBYE_S = 0.5


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reading(sequence: int, run: str) -> dict[str, Any]:
    """Return one reading of a machine that warms up from 21 to 100 degrees over its first readings."""
    temperature = min(21 + sequence * 0.5, 100) + random.uniform(-0.25, 0.25)
    return {
        "sequence": sequence,
        "run": run,
        "machine": {"temperature": round(temperature, 2), "pressure": round(1 + (temperature - 21) / 9, 2)},
        "ambient": {
            "temperature": round(21 + random.uniform(-0.5, 0.5), 2),
            "humidity": round(25 + random.uniform(-1, 1), 1),
        },
        "timeCreated": utc_now(),
    }


def as_message(body: dict[str, Any]) -> Message:
    return Message(
        json.dumps(body),
        message_id=f"{body['run']}-{body['sequence']}",
        content_encoding="utf-8",
        content_type="application/json",
    )


def connect() -> IoTHubModuleClient:
    """Return a connected client; keeps trying, for the module may be up before the hub is."""
    client = None
    waiting = False
    while True:
        try:
            if client is None:
                client = IoTHubModuleClient.create_from_edge_environment(connection_retry_interval=1)
            client.connect()
            return client
        except Exception as exc:  # noqa: BLE001 - the SDK has a dozen, and all mean: not yet
            if not waiting:
                print(f"sensor: waiting for the hub ({exc})", flush=True)
            waiting = True
            time.sleep(RETRY_S)


def send(client: IoTHubModuleClient, message: Message) -> None:
    """Send until acknowledged. A send that failed may have arrived: readers see a reading at least once."""
    while True:
        try:
            client.send_message_to_output(message, OUTPUT)
            return
        except Exception:  # noqa: BLE001 - the hub is restarting, or the link is down
            time.sleep(RETRY_S)


def main() -> None:
    interval_s = number_of_seconds("INTERVAL_S", 1.0)
    client = None
    try:
        client = connect()
        run = utc_now()
        print(f"sensor: sending to {OUTPUT} every {interval_s:g} s", flush=True)
        sequence, next_s = 0, time.monotonic()
        report_s = next_s + REPORT_EVERY_S
        while True:
            sequence += 1
            send(client, as_message(reading(sequence, run)))
            now_s = time.monotonic()
            if now_s >= report_s:
                print(f"sensor: {sequence} readings sent", flush=True)
                report_s = now_s + REPORT_EVERY_S
            next_s = max(next_s + interval_s, now_s)
            time.sleep(next_s - now_s)
    except KeyboardInterrupt:
        say_goodbye(client)


def number_of_seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        sys.exit(f"sensor: {name}={text!r}: expected seconds, more than 0 and at most 86400")
    return value


def interrupt(_signal: int, _frame: object) -> NoReturn:
    # The main thread may be deep in the SDK, waiting for an answer: only an exception gets it out.
    raise KeyboardInterrupt


def say_goodbye(client: IoTHubModuleClient | None) -> NoReturn:
    """Disconnect and end, within a second even if the hub is gone and the SDK would wait for it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if client is not None:
        goodbye = threading.Thread(target=client.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(GOODBYE_S)
    print("sensor: stopped", flush=True)
    os._exit(0)


if __name__ == "__main__":
    logging.getLogger("azure.iot.device").setLevel(
        logging.CRITICAL
    )  # it tells each lost connection at length
    signal.signal(signal.SIGTERM, interrupt)
    main()
