"""A filter on the official Azure IoT SDK: passes on the readings of `sensor.py` that are warm enough.

What arrives at `input1` with a machine temperature above THRESHOLD (0 by default, so that all pass) goes
to `filteredOutput`, in order, with the sensor's `sequence` and `run` kept. A reading is sent again until the
hub has acknowledged it. A desired property `threshold` counts before THRESHOLD, and what counts is reported;
the direct method `count` tells how many readings there were.

The SDK acknowledges a message to the hub as soon as it arrives. So what is in the memory of this program when
it is killed hard is lost; on SIGTERM everything received so far is still passed on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

# The synchronous client runs four handlers at once and so loses the order; this one starts them one by one.
from azure.iot.device import Message, MethodResponse
from azure.iot.device.aio import IoTHubModuleClient

INPUT = "input1"
OUTPUT = "filteredOutput"
RETRY_S = 0.5
REPORT_EVERY_S = 60.0
DRAIN_S = 0.5
GOODBYE_S = 0.3


@dataclass(slots=True)
class Filter:
    """Decides about one message after the other, and counts."""

    threshold: float
    run: str
    received: int = 0
    passed: int = 0
    unreadable: int = 0

    def counts(self) -> dict[str, int]:
        """Return the answer to the direct method `count`."""
        return {"received": self.received, "passed": self.passed, "unreadable": self.unreadable}

    def decide(self, data: bytes) -> Message | None:
        """Return the message to pass on, or None for one that is too cold or not a reading."""
        self.received += 1
        try:
            body = json.loads(data)
            warm_enough = float(body["machine"]["temperature"]) > self.threshold
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1
            return None
        if not warm_enough:
            return None
        self.passed += 1
        body["filterSequence"], body["filterRun"] = self.passed, self.run
        return Message(
            json.dumps(body),
            message_id=f"{self.run}-{self.passed}",
            content_encoding="utf-8",
            content_type="application/json",
        )


async def connect(inbox: asyncio.Queue[bytes]) -> IoTHubModuleClient:
    """Return a client that fills `inbox`; keeps trying, for the module may be up before the hub is."""
    loop = asyncio.get_running_loop()

    async def on_message(message: Any) -> None:
        # The SDK calls this in a loop of its own.
        if message.input_name == INPUT:
            loop.call_soon_threadsafe(inbox.put_nowait, message.data)

    client = None
    waiting = False
    while True:
        try:
            if client is None:
                client = await asyncio.to_thread(
                    IoTHubModuleClient.create_from_edge_environment, connection_retry_interval=1
                )
            await client.connect()
            # The setter waits for the hub's answer, so it must not run in this loop.
            await asyncio.to_thread(setattr, client, "on_message_received", on_message)
            return client
        except Exception as exc:  # noqa: BLE001 - the SDK has a dozen, and all mean: not yet
            if not waiting:
                print(f"filter: waiting for the hub ({exc})", flush=True)
            waiting = True
            await asyncio.sleep(RETRY_S)


async def forward(client: IoTHubModuleClient, inbox: asyncio.Queue[bytes], decide: Filter) -> None:
    """Pass messages on for ever, one at a time: that keeps their order."""
    while True:
        message = decide.decide(await inbox.get())
        if message is not None:
            await send(client, message)
        inbox.task_done()


async def send(client: IoTHubModuleClient, message: Message) -> None:
    """Send until acknowledged. A send that failed may have arrived: readers see a reading at least once."""
    while True:
        try:
            await client.send_message_to_output(message, OUTPUT)
            return
        except Exception:  # noqa: BLE001 - the hub is restarting, or the link is down
            await asyncio.sleep(RETRY_S)


async def obey(client: IoTHubModuleClient, decide: Filter) -> None:
    """Apply desired properties and answer direct methods, for ever."""
    loop = asyncio.get_running_loop()
    default = decide.threshold
    patches: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def on_patch(patch: dict[str, Any]) -> None:
        # The SDK calls these two in a loop of its own.
        loop.call_soon_threadsafe(patches.put_nowait, patch)

    async def on_method(request: Any) -> None:
        known = request.name == "count"
        answer = MethodResponse.create_from_method_request(
            request, 200 if known else 404, decide.counts() if known else {"error": "there is only 'count'"}
        )
        await client.send_method_response(answer)

    desired = await until_done(subscribe, client, on_patch, on_method)
    while True:
        if "threshold" in desired:
            value = desired["threshold"]
            decide.threshold = float(value) if isinstance(value, int | float) else default
            print(f"filter: passing on what is warmer than {decide.threshold:g}", flush=True)
            await until_done(client.patch_twin_reported_properties, {"threshold": decide.threshold})
        desired = await patches.get()


async def subscribe(client: IoTHubModuleClient, on_patch: Any, on_method: Any) -> dict[str, Any]:
    """Listen for patches and methods, then return the desired properties as they are."""
    await asyncio.to_thread(setattr, client, "on_twin_desired_properties_patch_received", on_patch)
    await asyncio.to_thread(setattr, client, "on_method_request_received", on_method)
    desired: dict[str, Any] = (await client.get_twin())["desired"]
    return desired


async def until_done(action: Any, *arguments: Any) -> Any:
    """Try until the hub is there to take it."""
    while True:
        try:
            return await action(*arguments)
        except Exception:  # noqa: BLE001 - the hub is restarting, or the link is down
            await asyncio.sleep(RETRY_S)


async def stay_connected(client: IoTHubModuleClient) -> None:
    """Connect again where the SDK has given up; nothing else would, while no message arrives to be sent."""
    while True:
        await asyncio.sleep(1)
        if not client.connected:
            try:
                await client.connect()
            except Exception:  # noqa: BLE001 - tried again in a second
                continue


async def report(decide: Filter) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        print(
            f"filter: {decide.received} received, {decide.passed} passed on, {decide.unreadable} unreadable",
            flush=True,
        )


async def filter_messages(inbox: asyncio.Queue[bytes], decide: Filter) -> None:
    client = await connect(inbox)
    print(f"filter: passing on what is warmer than {decide.threshold:g} from {INPUT} to {OUTPUT}", flush=True)
    try:
        await asyncio.gather(
            forward(client, inbox, decide), obey(client, decide), stay_connected(client), report(decide)
        )
    finally:
        await client.shutdown()


async def main() -> NoReturn:
    decide = Filter(threshold=number("THRESHOLD", 0.0), run=utc_now())
    inbox: asyncio.Queue[bytes] = asyncio.Queue()
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    work = asyncio.create_task(filter_messages(inbox, decide))
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()  # it never returns: this raises what ended it
    try:
        await asyncio.wait_for(inbox.join(), DRAIN_S)
    except TimeoutError:
        print("filter: the hub is away; some readings were not passed on", flush=True)
    work.cancel()
    await asyncio.wait({work}, timeout=GOODBYE_S)
    print("filter: stopped", flush=True)
    # The SDK may still wait for a hub that is gone; SIGTERM has to end this within a second all the same.
    os._exit(0)


def number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        return float(text) if text else default
    except ValueError:
        sys.exit(f"filter: {name}={text!r}: expected a number")


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    logging.getLogger("azure.iot.device").setLevel(
        logging.CRITICAL
    )  # it tells each lost connection at length
    asyncio.run(main())
