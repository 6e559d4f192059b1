"""Measures an edge with its link to the cloud: 20 modules of it publish 1 KB each over TLS, and all goes up.

Sustained: the pace that is asked for, with the link on and with the link off in turn; looked at are what the
cloud got, the time from a publisher's send to the cloud, and how long another client of the hub waits for its
PUBACKs meanwhile. Then an outage: the link is off for as many messages as 20 clients send in an hour, and is
switched on again; looked at are the hub's memory and the rate of the drain, with 20 sources and with one.
The cloud is the stand-in that the edge runs for itself; its books are read from its database.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runtime.iothub.telemetry import events_after
from scripts.bench.compare_hub import run_load
from scripts.bench.measure_backlog import BacklogPeer
from scripts.bench.mqtt_load import summary
from scripts.bench.mqtt_wire import STAMP
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.processes import cpu_s, pss_kb
from scripts.bench.raw_limits import fdatasync_ms, file_system

SOURCES = 20
LOCAL = SOURCES  # the publisher behind them, which sends to a module
BODY_BYTES = 1024
PACE = {"window": 100, "pause_us": 3000, "payload_bytes": BODY_BYTES}  # of the sources, at the steady pace
LOOK_S = 0.05
HOUR_MESSAGES = SOURCES * 3600
STILL_S = 30.0  # without anything new in the cloud: what is missing does not come any more
TARGETS = {"per_s": 1000.0, "to_cloud_p99_ms": 250.0, "growth_mb": 20.0}


class LinkPeer(BacklogPeer):
    """An edge whose first 20 publishers send to the cloud, and one more to a module."""

    def __init__(self, parent: Path) -> None:
        super().__init__(parent, SOURCES + 1)

    def _manifest(self) -> dict[str, Any]:
        manifest = super()._manifest()
        routes = manifest["modulesContent"]["$edgeHub"]["properties.desired"]["routes"]
        for name in self._names[:LOCAL]:
            routes[name] = f"FROM /messages/modules/{name}/* INTO $upstream"
        return manifest

    @property
    def cloud_database(self) -> Path:
        return self.home / "cloud" / "cloud.db"


class Part:
    """Some of the clients of an edge as the load of one generator."""

    name = "edge"

    def __init__(self, peer: LinkPeer, first: int, last: int, **settings: Any) -> None:
        self._peer, self._chosen, self._settings = peer, slice(first, last), settings
        self.processes = peer.processes

    def load(self, transport: str, publishers: int) -> dict[str, Any]:
        whole = self._peer.load(transport, SOURCES + 1)
        subscribers = whole["subscribers"] if self._chosen.start == LOCAL else []
        chosen = {"publishers": whole["publishers"][self._chosen], "subscribers": subscribers}
        return whole | chosen | self._settings


class Arrivals(threading.Thread):
    """Reads what the cloud has got, and checks that each source's messages came in order."""

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._over = threading.Event()
        self._after = 0
        self._wall_s = time.time() - time.perf_counter()
        self.next: dict[int, int] = {}  # by publisher, the number that comes next
        self.gaps = 0
        self.again = 0
        self.taken = 0  # each message once
        self.times_ns: list[int] = []
        self.began_s = self.ended_s = 0.0  # by the wall clock, first and last arrival

    def skip(self) -> None:
        """Leave out what is there."""
        with sqlite3.connect(f"file:{self._database}?mode=ro", uri=True) as connection:
            while events := events_after(connection, self._after, 5000):
                self._after = events[-1].sequence_number
        connection.close()

    def run(self) -> None:
        connection = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        while not self._over.wait(LOOK_S):
            while events := events_after(connection, self._after, 2000):
                self._after = events[-1].sequence_number
                for event in events:
                    self._take(event.telemetry.body, event.enqueued_s)
        connection.close()

    def _take(self, body: bytes, at_s: float) -> None:
        number, publisher, sent_ns = STAMP.unpack_from(body)
        expected = self.next.get(publisher, 0)
        if number < expected:
            self.again += 1
            return
        self.gaps += number > expected
        self.next[publisher] = number + 1
        self.taken += 1
        self.times_ns.append(int((at_s - self._wall_s) * 1e9) - sent_ns)
        self.began_s = self.began_s or at_s
        self.ended_s = at_s

    def stop(self, wanted: int) -> None:
        """Stop once so many have come, or nothing does any more."""
        seen, changed_s = -1, time.monotonic()
        while self.taken < wanted and time.monotonic() < changed_s + STILL_S:
            if self.taken != seen:
                seen, changed_s = self.taken, time.monotonic()
            time.sleep(LOOK_S)
        self._over.set()
        self.join()


def sustained(peer: LinkPeer, per_s: int, seconds: float, *, on: bool) -> dict[str, Any]:
    """Publish at a pace for some time, with the link on or off, and with a local client beside it."""
    peer.link("on" if on else "off")
    arrivals = Arrivals(peer.cloud_database)
    arrivals.skip()
    arrivals.start()
    pace = PACE | {"per_s": per_s / SOURCES, "seconds": seconds}
    hub, before_s, began_s = peer.hub_pid, cpu_s(peer.hub_pid), time.monotonic()
    with ThreadPoolExecutor() as pool:
        up = pool.submit(run_load, Part(peer, 0, LOCAL, **pace), f"tls/{SOURCES}/burst", seconds)
        local = pool.submit(run_load, Part(peer, LOCAL, LOCAL + 1), "tls/1/alone", seconds)
        sent, beside = up.result(), local.result()
    share = (cpu_s(hub) - before_s) / (time.monotonic() - began_s)
    arrivals.stop(sent["acknowledged"] if on else 0)
    if not on:
        peer.link("on")
        while peer.pending():
            time.sleep(10 * LOOK_S)
    return {
        "per_s": sent["acknowledged_per_s"],
        "to_cloud_per_s": arrivals.taken / max(arrivals.ended_s - arrivals.began_s, 0.001),
        "to_cloud_ms": summary(arrivals.times_ns),
        "local_ack_ms": beside["ack_ms"],
        "hub_share": share,
        "wrong": arrivals.gaps + (sent["acknowledged"] - arrivals.taken if on else 0),
    }


def outage(peer: LinkPeer, sources: int, messages: int) -> dict[str, Any]:
    """Fill the queues while the link is off, switch it on, and see how they drain."""
    peer.link("off")
    arrivals = Arrivals(peer.cloud_database)
    arrivals.skip()
    before_kb = pss_kb(peer.hub_pid)
    each = messages // sources
    load = {"messages": each, "payload_bytes": BODY_BYTES, "window": 50, "drain_s": STILL_S}
    filled = run_load(Part(peer, 0, sources, **load), f"tls/{sources}/burst", 0.0)
    full_kb = pss_kb(peer.hub_pid)
    arrivals.start()
    hub, hub_s, began_s = peer.hub_pid, cpu_s(peer.hub_pid), time.time()
    peer.link("on")
    arrivals.stop(filled["acknowledged"])
    took_s = arrivals.ended_s - arrivals.began_s
    hub_us = (cpu_s(hub) - hub_s) / max(arrivals.taken, 1) * 1e6
    drained_kb = pss_kb(hub)
    return {
        "sources": sources,
        "waited": filled["acknowledged"],
        "filled_per_s": filled["acknowledged"] / filled["window_s"],
        "first_s": arrivals.began_s - began_s,
        "drained_per_s": arrivals.taken / max(took_s, 0.001),
        "hub_us": hub_us,
        "pss_mb": [kb * 1024 / 1e6 for kb in (before_kb, full_kb, drained_kb)],
        "again": arrivals.again,
        "wrong": arrivals.gaps + filled["acknowledged"] - arrivals.taken,
    }


def measure(peer: LinkPeer, options: argparse.Namespace) -> dict[str, Any]:
    """Run all steps and return what was seen."""
    outage(peer, SOURCES, 20 * SOURCES)  # so that the first figures are not those of loading the SDK
    rounds: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for number in range(1, options.rounds + 1):
        for on in (True, False):
            found = sustained(peer, options.per_s, options.seconds, on=on)
            rounds[on].append(found)
            print(f"round {number}: link {'on' if on else 'off'}, {found['per_s']:,.0f}/s", file=sys.stderr)
    outages = [outage(peer, sources, options.messages) for sources in (SOURCES, 1)]
    return {"on": rounds[True], "off": rounds[False], "outages": outages}


def middle(rounds: list[dict[str, Any]], *path: str) -> float:
    """Return the median over rounds of one figure."""
    values: list[Any] = list(rounds)
    for name in path:
        values = [value[name] for value in values]
    return statistics.median(values)


def verdict(name: str, value: float, *, below: bool = True) -> str:
    target = TARGETS[name]
    reached = value < target if below else value >= target
    return f"target {'<' if below else '>='} {target:,g}: {'reached' if reached else 'missed'}"


def show(found: dict[str, Any]) -> None:
    on, off = found["on"], found["off"]
    per_s, p99_ms = middle(on, "to_cloud_per_s"), middle(on, "to_cloud_ms", "p99")
    local = [middle(rounds, "local_ack_ms", which) for rounds in (on, off) for which in ("p50", "p99")]
    print(
        f"{SOURCES} sources, {BODY_BYTES} bytes: {per_s:,.0f}/s into the cloud "
        f"({verdict('per_s', per_s, below=False)}); publisher to cloud "
        f"{middle(on, 'to_cloud_ms', 'p50'):.0f} ms p50, {p99_ms:.0f} ms p99 "
        f"({verdict('to_cloud_p99_ms', p99_ms)})\n"
        f"PUBACK of a local client meanwhile {local[0]:.2f} ms p50, {local[1]:.2f} ms p99; with the link off "
        f"{local[2]:.2f} and {local[3]:.2f}; hub {middle(on, 'hub_share'):.0%} of a core, "
        f"{middle(off, 'hub_share'):.0%} without"
    )
    for one in found["outages"]:
        before_mb, full_mb, drained_mb = one["pss_mb"]
        growth_mb = max(full_mb, drained_mb) - before_mb
        print(
            f"outage, {one['waited']:,} messages of {one['sources']} source{'s'[: one['sources'] - 1]}: "
            f"flowing {one['first_s']:.2f} s after the link was switched on, drained "
            f"{one['drained_per_s']:,.0f}/s at {one['hub_us']:.0f} us of the hub each; hub memory "
            f"{before_mb:.1f} → {full_mb:.1f} → {drained_mb:.1f} MB: before, full, drained; "
            f"+{growth_mb:.1f} ({verdict('growth_mb', growth_mb)}); {one['again']} came twice"
        )
    print(f"{wrong(found)} lost or out of order")


def wrong(found: dict[str, Any]) -> int:
    """Return how many messages were lost or out of order."""
    return sum(int(one["wrong"]) for part in found.values() for one in part)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/link", description=__doc__)
    parser.add_argument(
        "--per-s", type=int, default=1200, help="messages a second that are sent (default 1200)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each sustained round (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="with the link on and off (default 3)")
    parser.add_argument(
        "--messages", type=int, default=HOUR_MESSAGES, help=f"of an outage (default {HOUR_MESSAGES:,})"
    )
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for the home; a real disk")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the text")
    options = parser.parse_args()
    if not options.directory.is_dir():
        parser.error(f"--directory {options.directory} is not a directory; name one on a real disk")
    directory = Path(tempfile.mkdtemp(prefix="bench-link-", dir=options.directory))
    try:
        with LinkPeer(directory) as peer:
            found = measure(peer, options)
    except PeerUnusable as error:
        print(f"scripts/bench/link: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
        disk_ms = fdatasync_ms(options.directory)["p50"]
        print(f"{os.cpu_count()} cores, {file_system(options.directory)}, fdatasync {disk_ms:.2f} ms p50")
    return int(wrong(found) > 0)


if __name__ == "__main__":
    sys.exit(main())
