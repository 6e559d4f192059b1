"""Measures a long outage: what a backlog costs while the cloud is away, and how it drains afterwards.

One publisher fills the queue of the cloud while its link is off; the edge is stopped and started with it;
then the link is switched on and the backlog goes into the IoT Hub stand-in, as the messages of one sender,
while another publisher sends to a module.
Looked at are the hub's memory, the time to the first PUBACK with and without the backlog, the rate of the
drain, the latency of the other traffic meanwhile, and the size of the database at each step.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from scripts.bench.compare_hub import run_load
from scripts.bench.measure_footprint import first_puback_s
from scripts.bench.peer_edge import EdgePeer, EdgeRun
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.processes import pss_kb
from scripts.bench.raw_limits import fdatasync_ms, file_system

FILLER, OTHER = 0, 3  # of the publishers pub1 … pub4
STARTS = 3
LOOK_S = 0.05
SETTLE_S = 60.0  # longest wait for what a step leaves behind
ROUND_S = 3.0
SLOWEST_PER_S = 1000.0  # of a drain that is waited for
TARGETS = {"growth_mb": 50.0, "drained_per_s": 10_000.0, "other_p99_ms": 100.0, "start_longer_s": 1.0}


class BacklogPeer(EdgePeer):
    """An edge whose first publisher sends to the cloud, the others to a module."""

    def _manifest(self) -> dict[str, Any]:
        manifest = super()._manifest()
        routes = manifest["modulesContent"]["$edgeHub"]["properties.desired"]["routes"]
        routes["pub1"] = "FROM /messages/modules/pub1/* INTO $upstream"
        return manifest

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def hub_pid(self) -> int:
        return next(process.pid for process in self.processes() if process.role == "hub")

    def database_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.home.glob("hub.db*") if "reserve" not in file.name)

    def link(self, state: str) -> None:
        """Switch the link to the cloud on or off."""
        result = self._run.ask("upstream", state)
        if result.returncode:
            raise PeerUnusable(f"edge: upstream {state}: {result.stderr.strip()}")

    def pending(self) -> int:
        """Return how many messages wait for the cloud; the ledger has to balance."""
        return self._run.pending("iothub")

    def restarted_s(self) -> float:
        """Stop the edge and start it on the same home; return the seconds from exec to the first PUBACK."""
        earlier = self._run
        earlier.__exit__()
        self._run = EdgeRun(earlier.deployment, earlier.home, earlier.log_file, plain=True)
        self._run.__enter__()
        leaf = self._publishers[OTHER]
        took_s = first_puback_s(self._run, leaf, self.directory / "ca.pem")
        self._run.wait("plain")
        return took_s


class Fill(BacklogPeer):
    """The load of the publisher that sends to the cloud: nobody receives."""

    def __init__(self, peer: BacklogPeer, messages: int) -> None:
        self._peer, self._messages = peer, messages

    def processes(self) -> list[Any]:
        return self._peer.processes()

    def load(self, transport: str, publishers: int) -> dict[str, Any]:
        whole = self._peer.load(transport, publishers)
        return {
            **whole,
            "publishers": [whole["publishers"][FILLER]],
            "subscribers": [],
            "messages": self._messages,
            "window": 1000,
            "drain_s": SETTLE_S,
        }


class Others(BacklogPeer):
    """A moderate load from another publisher to a module: a burst of ten about each 10 ms."""

    def __init__(self, peer: BacklogPeer) -> None:
        self._peer = peer

    def processes(self) -> list[Any]:
        return self._peer.processes()

    def load(self, transport: str, publishers: int) -> dict[str, Any]:
        whole = self._peer.load(transport, 4)
        return {**whole, "publishers": [whole["publishers"][OTHER]], "window": 10, "pause_us": 10_000}


class Watch(threading.Thread):
    """Looks at the hub's memory, and counts the lines of the stand-in's file, until it is told to stop."""

    def __init__(self, peer: BacklogPeer, wanted: int = 0) -> None:
        super().__init__(daemon=True)
        self._pid, self._file_of_cloud, self._wanted = peer.hub_pid, peer.home / "upstream.jsonl", wanted
        self._over = threading.Event()
        self.most_kb = 0
        self.lines = 0
        self.began_s = self.ended_s = 0.0
        self.drained = threading.Event()
        self._file = self._file_of_cloud.open("rb") if self._file_of_cloud.exists() else None

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.most_kb = max(self.most_kb, pss_kb(self._pid))
            if self._wanted:
                self._count()

    def _count(self) -> None:
        if self._file is None:
            if not self._file_of_cloud.exists():
                return
            self._file = self._file_of_cloud.open("rb")
        now_s = time.monotonic()
        came = sum(chunk.count(b"\n") for chunk in iter(lambda: self._read(), b""))
        if came and not self.lines:
            self.began_s = now_s - LOOK_S
        self.lines += came
        if self.lines >= self._wanted and not self.drained.is_set():
            self.ended_s = now_s
            self.drained.set()

    def _read(self) -> bytes:
        assert self._file is not None
        return self._file.read(1 << 20)

    def stop(self) -> None:
        self._over.set()
        self.join()
        if self._file is not None:
            self._file.close()


def measure(peer: BacklogPeer, messages: int) -> dict[str, Any]:
    """Run all steps and return what was seen."""
    peer.link("off")
    empty_s = sorted(peer.restarted_s() for _ in range(STARTS))
    undisturbed = run_load(Others(peer), "plain/4/burst", ROUND_S)
    before_kb, empty_bytes = pss_kb(peer.hub_pid), peer.database_bytes()

    watch = Watch(peer)
    watch.start()
    filled = run_load(Fill(peer, messages), "plain/4/burst", ROUND_S)
    watch.stop()
    growth_kb = watch.most_kb - before_kb
    waiting, full_bytes = peer.pending(), peer.database_bytes()
    say(f"{waiting:,} messages wait after {filled['window_s']:.1f} s, {full_bytes / 1e6:.0f} MB")

    backlog_s = sorted(peer.restarted_s() for _ in range(STARTS))
    say(f"first PUBACK after {empty_s[STARTS // 2]:.2f} s without and {backlog_s[STARTS // 2]:.2f} s with it")
    fresh_kb = pss_kb(peer.hub_pid)

    watch = Watch(peer, messages)
    watch.start()
    peer.link("on")
    others = []
    while not watch.drained.is_set() and len(others) * ROUND_S < SETTLE_S + messages / SLOWEST_PER_S:
        others.append(run_load(Others(peer), "plain/4/burst", ROUND_S))
    watch.stop()
    took_s = watch.ended_s - watch.began_s
    say(f"{watch.lines:,} drained in {took_s:.1f} s")
    drained_bytes = settled_bytes(peer)
    return {
        "messages": messages,
        "waiting": waiting,
        "filled_per_s": messages / filled["window_s"],
        "hub_before_mb": before_kb * 1024 / 1e6,
        "growth_mb": growth_kb * 1024 / 1e6,
        "growth_while_draining_mb": (watch.most_kb - fresh_kb) * 1024 / 1e6,
        "empty_start_s": empty_s,
        "backlog_start_s": backlog_s,
        "start_longer_s": backlog_s[STARTS // 2] - empty_s[STARTS // 2],
        "drained": watch.lines,
        "drained_per_s": watch.lines / took_s,
        "other_p99_ms": max(report["end_to_end_ms"]["p99"] for report in others),
        "other_median_p99_ms": statistics.median(report["end_to_end_ms"]["p99"] for report in others),
        "undisturbed_p99_ms": undisturbed["end_to_end_ms"]["p99"],
        "other_p50_ms": max(report["end_to_end_ms"]["p50"] for report in others),
        "other_per_s": min(report["received_per_s"] for report in others),
        "other_faults": sum(report["lost"] + report["out_of_order"] for report in others),
        "left": peer.pending(),
        "empty_mb": empty_bytes / 1e6,
        "full_mb": full_bytes / 1e6,
        "drained_mb": drained_bytes / 1e6,
        "most_cores_of_others": max(report["other_cores"] for report in others),
    }


def settled_bytes(peer: BacklogPeer) -> int:
    """Wait until the database shrinks no more; return its size."""
    give_up_s, sizes = time.monotonic() + SETTLE_S, [peer.database_bytes()]
    while time.monotonic() < give_up_s and not (len(sizes) > 8 and min(sizes[-8:]) == max(sizes[-8:])):
        time.sleep(1.0)
        sizes.append(peer.database_bytes())
    return sizes[-1]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(found: dict[str, Any]) -> None:
    def verdict(name: str, below: bool = True) -> str:
        target = TARGETS[name]
        reached = found[name] < target if below else found[name] >= target
        return f"target {'<' if below else '>='} {target:,g}: {'reached' if reached else 'missed'}"

    starts = [f"{found[name][STARTS // 2]:.2f}" for name in ("empty_start_s", "backlog_start_s")]
    sizes = " → ".join(f"{found[name]:.1f}" for name in ("empty_mb", "full_mb", "drained_mb"))
    for line in (
        f"{found['waiting']:,} messages of 256 bytes stored, {found['filled_per_s']:,.0f}/s",
        f"hub memory +{found['growth_mb']:.1f} MB on {found['hub_before_mb']:.1f} ({verdict('growth_mb')}); "
        f"while draining +{found['growth_while_draining_mb']:.1f} MB",
        f"exec → first PUBACK {starts[0]} s, with the backlog {starts[1]} s ({verdict('start_longer_s')})",
        f"drained {found['drained_per_s']:,.0f}/s ({verdict('drained_per_s', below=False)}), "
        f"{found['left']} left",
        f"other traffic meanwhile, {found['other_per_s']:,.0f}/s: end to end {found['other_p50_ms']:.1f} ms "
        f"p50, {found['other_p99_ms']:.1f} ms p99 in the worst {ROUND_S:g} s ({verdict('other_p99_ms')}), "
        f"{found['other_median_p99_ms']:.1f} in most; without a backlog {found['undisturbed_p99_ms']:.1f}",
        f"database {sizes} MB: empty, full, drained",
        f"something else took up to {found['most_cores_of_others']:.0%} of a core meanwhile",
    ):
        print(line)


def missed(found: dict[str, Any]) -> bool:
    return (
        found["waiting"] != found["messages"]
        or found["left"] > 0
        or found["other_faults"] > 0
        or found["drained_mb"] > found["full_mb"] / 4
        or found["drained_per_s"] < TARGETS["drained_per_s"]
        or any(found[name] >= TARGETS[name] for name in ("growth_mb", "other_p99_ms", "start_longer_s"))
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/backlog", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many wait (default 1,000,000)")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="for the home; on a real disk, 2 GB free"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"--directory {arguments.directory} is not a directory; name one on a real disk")
    directory = Path(tempfile.mkdtemp(prefix="bench-backlog-", dir=arguments.directory))
    try:
        with BacklogPeer(directory) as peer:
            found = measure(peer, arguments.messages)
    except PeerUnusable as error:
        print(f"scripts/bench/backlog: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory)
    disk = {
        "file_system": file_system(arguments.directory),
        "fdatasync_ms": fdatasync_ms(arguments.directory),
    }
    if arguments.json:
        print(json.dumps({**found, "disk": disk}, indent=1))
    else:
        show(found)
        print(f"{disk['file_system']}, fdatasync {disk['fdatasync_ms']['p50']:.2f} ms p50")
    return int(missed(found))


if __name__ == "__main__":
    sys.exit(main())
