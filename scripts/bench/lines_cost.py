"""Lines of the report about what the edge costs: memory, CPU and disk, idle and at a steady load."""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.compare_hub import Peer, Report, run_load
from scripts.bench.lines_hub import broker_us, faults_of
from scripts.bench.measure_clients import connected
from scripts.bench.measure_clients import measure as measure_clients
from scripts.bench.peer_edge import EdgePeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from scripts.bench.plan import Plan, say
from scripts.bench.processes import EdgeProcess, cpu_s, memory_kb, written_bytes
from scripts.bench.raw_limits import sqlite_rows
from scripts.bench.report import Bar, Line, Of, Sign

SETTLE_S = 15.0
IDLE_S = 60.0
LOADED_PER_S = 5000.0
LOADED_S = 10.0
LOOK_S = 0.25
COMMIT_ROWS = 10  # of the raw SQLite beside it: what a commit at that rate holds, about
STORM_CLIENTS, FEW_CLIENTS = 1000, 100
OWN = ("agent", "hub", "shim")  # the stand-in counts apart: an edge with a real IoT Hub has none


def megabytes(processes: Iterable[EdgeProcess], kind: str = "Pss") -> float:
    """Return the memory of processes together, in MB.

    Raises:
        PeerUnusable: one of them has ended.
    """
    sums = {process: memory_kb(process.pid).get(kind, 0) for process in processes}
    if gone := [process.label for process in sums if not memory_kb(process.pid)]:
        raise PeerUnusable(f"{', '.join(gone)} ended")
    return sum(sums.values()) * 1024 / 1e6


def own(peer: Peer) -> list[EdgeProcess]:
    return [process for process in peer.processes() if process.role in (*OWN, "broker")]


def cpu_of(processes: Iterable[EdgeProcess]) -> float:
    return sum(cpu_s(process.pid) for process in processes)


def idle(plan: Plan) -> Iterator[Line]:
    """Yield CPU and memory of an edge that runs no modules, beside mosquitto during the same minute."""
    with ExitStack() as stack:
        edge = stack.enter_context(EdgePeer(plan.directory))
        mosquitto = stack.enter_context(MosquittoPeer())
        time.sleep(plan.seconds(SETTLE_S))
        peers: list[Peer] = [edge, mosquitto]
        before = [cpu_of(own(peer)) for peer in peers]
        began_s = time.monotonic()
        time.sleep(plan.seconds(IDLE_S))
        took_s = time.monotonic() - began_s
        ours, theirs = (
            (cpu_of(own(peer)) - used_s) / took_s * 100 for peer, used_s in zip(peers, before, strict=True)
        )
        yield Line(
            "agent and hub, CPU",
            "% of a core",
            (ours,),
            "mosquitto",
            (theirs,),
            Bar(Of.FIGURE, Sign.BELOW, 0.5),
            f"over {took_s:.0f} s",
        )
        cloud = [process for process in edge.processes() if process.role == "cloud"]
        yield Line(
            "agent and hub, PSS",
            "MB",
            (megabytes(own(edge)),),
            "mosquitto",
            (megabytes(own(mosquitto)),),
            Bar(Of.FIGURE, Sign.BELOW, 70.0),
            f"of it anonymous {megabytes(own(edge), 'Anonymous'):.1f} MB, which no other program shares",
        )
        yield Line("stand-in, PSS", "MB", (megabytes(cloud),), bar=Bar(Of.FIGURE, Sign.BELOW, 40.0))


def loaded(plan: Plan) -> Iterator[Line]:
    """Yield memory, CPU and bytes written at 5,000 messages/s over TLS."""
    reports: dict[str, list[Report]] = {"edge": [], "mosquitto": []}
    memory: dict[str, list[float]] = {"edge": [], "mosquitto": []}
    written: list[float] = []
    with ExitStack() as stack:
        peers: list[Peer] = [
            stack.enter_context(EdgePeer(plan.directory)),
            stack.enter_context(MosquittoPeer()),
        ]
        for _ in range(plan.rounds(3)):
            for peer in peers:
                members = own(peer)
                before = sum(written_bytes(process.pid) for process in members)
                with Peak(members) as peak:
                    report = run_load(
                        peer, "tls/1/burst", plan.seconds(LOADED_S), per_s=LOADED_PER_S, window=5000
                    )
                reports[peer.name].append(report)
                memory[peer.name].append(peak.most_mb)
                if peer is peers[0]:
                    bytes_ = sum(written_bytes(process.pid) for process in members) - before
                    written.append(bytes_ / report["sent"])
                say(f"{peer.name}: {report['received_per_s']:,.0f}/s, {peak.most_mb:.1f} MB")
    raw = [sqlite_rows(plan.directory, plan.seconds(2.0), COMMIT_ROWS) for _ in range(plan.rounds(3))]
    reached = min(report["acknowledged_per_s"] for report in reports["edge"])
    yield Line(
        "agent and hub, PSS at its most",
        "MB",
        tuple(memory["edge"]),
        "mosquitto",
        tuple(memory["mosquitto"]),
        Bar(Of.FIGURE, Sign.BELOW, 120.0),
        f"at {reached:,.0f} messages/s in the slowest round",
    )
    yield Line(
        "CPU of 1,000 messages",
        "ms",
        tuple(map(broker_us, reports["edge"])),
        "mosquitto",
        tuple(map(broker_us, reports["mosquitto"])),
    )
    yield Line(
        "written to disk for a message of 256 bytes",
        "bytes",
        tuple(written),
        f"raw SQLite, {COMMIT_ROWS} a commit",
        tuple(each["bytes"] for each in raw),
    )
    wrong = faults_of("5,000/s", reports)
    if reached < LOADED_PER_S * 0.95:
        wrong.append(f"only {reached:,.0f} of {LOADED_PER_S:,.0f} messages/s came through")
    if wrong:
        raise PeerUnusable("; ".join(wrong))


class Peak:
    """Looks at the memory of processes while it is open, and keeps the most."""

    def __init__(self, members: list[EdgeProcess]) -> None:
        self._members = members
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most_mb = 0.0

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.most_mb = max(self.most_mb, megabytes(self._members))

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.most_mb = max(self.most_mb, megabytes(self._members))


def storm(plan: Plan) -> Iterator[Line]:
    """Yield what a thousand clients cost that come at once, and that come again after a killed hub."""
    count = plan.some(STORM_CLIENTS, FEW_CLIENTS)
    found, theirs = [], []
    for number in range(1, plan.rounds(3) + 1):
        directory = Path(tempfile.mkdtemp(prefix="bench-storm-", dir=plan.directory))
        try:
            found.append(measure_clients(directory, count))
        finally:
            shutil.rmtree(directory)
        with MosquittoPeer() as mosquitto:
            theirs.append(connected(mosquitto, count))
        say(f"round {number}: {found[-1]}, mosquitto {theirs[-1]}")
    connects = tuple(each["connect_s"] for each in theirs)
    for name, unit, values, others in (
        (f"{count} clients connect at once over TLS", "s", [f["first_connect_s"] for f in found], connects),
        ("all served again after kill -9 of the hub", "s", [f["storm"]["all_served_s"] for f in found], ()),
        ("flow of 1,000/s beside them is back", "s", [f["storm"]["flow_back_s"] for f in found], ()),
        (
            "its p99 while they come back",
            "ms",
            [f["storm"]["flow_ms"]["p99"] for f in found if "p99" in f["storm"]["flow_ms"]],
            (),
        ),
        (
            "memory of a client",
            "KiB",
            [f["each_kb"] for f in found],
            tuple(each["each_kb"] for each in theirs),
        ),
    ):
        yield Line(name, unit, tuple(values), "mosquitto" if others else "", others)
