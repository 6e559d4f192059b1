"""Lines of the report about the kernel, raw limits, the link to the cloud, queues and routes."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from actors.upstream.protocol import UpstreamProtocol
from runtime.upstream.connections import UpstreamConnections
from scripts.bench import measure_kernel, measure_link, measure_upstream
from scripts.bench.compare_hub import Report, run_load
from scripts.bench.delay_line import DelayLine
from scripts.bench.measure_restarts import until
from scripts.bench.measure_routing import us_per_message
from scripts.bench.peer_cloud import KNOWN_PORTS, CloudPeer
from scripts.bench.peer_edge import EdgePeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from scripts.bench.plan import Plan, say
from scripts.bench.processes import cpu_s
from scripts.bench.raw_limits import fdatasync_ms, sqlite_rows, tls_echo
from scripts.bench.report import Bar, Line, Of, Sign, middle

FLAT = Bar(Of.RATIO, Sign.AT_MOST, 1.2)
MILLION, FEW = 1_000_000, 10_000
CHUNKS = 10  # that a queue is filled in, and tenths that it is drained in
MOSQUITTO_QUEUE = 100_000
DRAIN_CASE = "tls/1/burst"
FILL = {"window": 1000, "drain_s": 60.0}


def kernel(plan: Plan) -> Iterator[Line]:
    """Yield envelopes and asks beside Pykka's own queue and raw pyzmq."""
    envelopes, asks = plan.some(50_000, 5_000), plan.some(2_000, 200)
    for where, found in measure_kernel.measure(envelopes, asks, plan.rounds(5)).items():
        ours, others, pykkas, raw, our_ask, pykka_ask = map(tuple, found.values())
        yield Line(f"tell between threads, {where}", "1/s", ours, "Pykka's own queue", pykkas)
        yield Line(f"tell between threads, {where}", "1/s", ours, "raw pyzmq", raw)
        yield Line(f"tell between processes, {where}", "1/s", others, "raw pyzmq", raw)
        yield Line(f"ask, {where}", "µs", our_ask, "Pykka's own queue", pykka_ask)


def limits(plan: Plan) -> Iterator[Line]:
    """Yield what disk, SQLite and TLS allow, to read everything else by."""
    rounds = range(plan.rounds(3))
    disk = [fdatasync_ms(plan.directory) for _ in rounds]
    for part in ("p50", "p99"):
        yield Line(f"4 KiB and fdatasync, {part}", "ms", tuple(each[part] for each in disk))
    for batch in (1, 100):
        rows = [sqlite_rows(plan.directory, plan.seconds(1.5), batch) for _ in rounds]
        yield Line(f"raw SQLite, {batch} rows a commit", "rows/s", tuple(each["per_s"] for each in rows))
    echo = [tls_echo(plan.seconds(1.5), 100) for _ in rounds]
    yield Line("TLS echo of 256 bytes, 100 at once", "1/s", tuple(each["per_s"] for each in echo))
    yield Line("TLS echo of 256 bytes, one by one, p50", "ms", tuple(each["p50"] for each in echo))


def upstream(plan: Plan) -> Iterator[Line]:
    """Yield the link alone, beside what the same stand-in takes from the generator; then an outage."""
    seconds = plan.seconds(2.0)
    most = measure_upstream.MOST
    place = measure_upstream.ADDRESS, measure_upstream.LINE_ADDRESS
    for protocol in (UpstreamProtocol.AMQP, UpstreamProtocol.MQTT):
        flooded: dict[int, list[float]] = {1: [], most: []}
        direct: dict[int, list[float]] = {1: [], most: []}
        paced: list[dict[str, float]] = []
        with CloudPeer(plan.directory, most, *place) as cloud:
            line = DelayLine(place[1], place[0], list(KNOWN_PORTS), 0.0)
            with line, closing(UpstreamConnections(protocol)) as connections:
                senders = measure_upstream.connect(connections, cloud)
                for _ in range(plan.rounds(3)):
                    for count, rates in flooded.items():
                        some = senders[:count]
                        found = measure_upstream.run(
                            some, lambda some=some: measure_upstream.flood(some, seconds)
                        )
                        rates.append(found["per_s"])
                    paced.append(
                        measure_upstream.run(
                            senders, lambda senders=senders: measure_upstream.pace(senders, seconds, 1000)
                        )
                    )
            for _ in range(plan.rounds(3)):
                for count, rates in direct.items():
                    window = measure_upstream.WINDOW // count
                    report = run_load(
                        cloud,
                        f"tls/{count}/burst/{measure_upstream.BODY_BYTES}B",
                        seconds,
                        window=window,
                    )
                    rates.append(report["acknowledged_per_s"])
        for count, rates in flooded.items():
            yield Line(
                f"{protocol}, link alone, {count} identit{'y' if count == 1 else 'ies'}, 1 KB",
                "messages/s",
                tuple(rates),
                "generator straight into the stand-in, MQTT",
                tuple(direct[count]),
            )
        for part in ("p50_ms", "p99_ms"):
            yield Line(
                f"{protocol}, send → done at 1,000/s, {part[:3]}", "ms", tuple(each[part] for each in paced)
            )
    yield from _outage(plan)


def _outage(plan: Plan) -> Iterator[Line]:
    directory = Path(tempfile.mkdtemp(prefix="bench-link-", dir=plan.directory))
    try:
        with measure_link.LinkPeer(directory) as peer:
            sources = measure_link.SOURCES
            measure_link.outage(peer, sources, 20 * sources)  # loads what the first time loads
            wrong = 0
            for count in (sources, 1):
                found = measure_link.outage(peer, count, plan.some(40_000, 4_000))
                wrong += found["wrong"]
                name = f"outage, {found['waited']:,} messages of {count} source{'s'[: count - 1]}"
                yield Line(f"{name}: drained into the stand-in", "messages/s", (found["drained_per_s"],))
                yield Line(f"{name}: link on → flowing", "s", (found["first_s"],))
    finally:
        shutil.rmtree(directory)
    if wrong:
        raise PeerUnusable(f"outage: {wrong} messages lost or out of order")


def drain(plan: Plan) -> Iterator[Line]:
    """Yield what a queue of a million for one module costs, and how fast it drains."""
    most = plan.some(MILLION, 5 * FEW)
    with EdgePeer(plan.directory, publishers=1) as peer:
        live = [_live(peer, plan.seconds(2.0)) for _ in range(plan.rounds(5))]
        few = [_through_queue(peer, FEW, 1) for _ in range(plan.rounds(3))]
        many = _through_queue(peer, most, CHUNKS)
    with MosquittoPeer() as mosquitto:
        client = mosquitto.load("tls", 1)["subscribers"][0] | {"clean_session": False}
        run_load(mosquitto, DRAIN_CASE, 0.0, messages=1, subscribers=[client], **FILL)
        count = plan.some(MOSQUITTO_QUEUE, FEW)
        run_load(mosquitto, DRAIN_CASE, 0.0, messages=count, subscribers=[], **FILL)
        client["filters"] = []  # they are in its session; all comes behind the CONNACK
        theirs = run_load(
            mosquitto, DRAIN_CASE, 0.0, publishers=[], subscribers=[client], take=count, drain_s=10.0
        )
    yield Line(
        f"{most:,} queued messages into a module",
        "messages/s",
        (many.drained_per_s,),
        f"mosquitto, {count:,} in memory",
        (rate_of(theirs["marks"]),),
        Bar(Of.FIGURE, Sign.AT_LEAST, 20_000),
    )
    stored, delivered = many.stored_us, many.delivered_us
    yield Line(
        f"hub CPU to store one behind {most - most // CHUNKS:,}",
        "µs",
        (stored[-1],),
        "behind none to a tenth of it",
        (stored[0],),
        FLAT,
    )
    yield Line(
        f"hub CPU to deliver one of {most:,}, first tenth",
        "µs",
        (delivered[0],),
        "last tenth",
        (delivered[-1],),
        FLAT,
    )
    yield Line(
        f"hub CPU of one through a queue of {most:,}",
        "µs",
        (many.whole_us,),
        f"of {FEW:,}",
        tuple(each.whole_us for each in few),
        FLAT,
    )
    yield Line(
        f"hub CPU of one through a queue of {most:,}, and of none",
        "µs",
        (many.whole_us,),
        "passed on at once",
        tuple(map(hub_us, live)),
        FLAT,
    )


def _live(peer: EdgePeer, seconds: float) -> Report:
    return run_load(peer, DRAIN_CASE, seconds, window=FILL["window"])


def _through_queue(peer: EdgePeer, count: int, chunks: int) -> "Passed":
    """Fill the consumer's queue in chunks while it is away, let it take everything, wait for the last delete.

    Raises:
        PeerUnusable: not everything came.
    """
    [hub] = [process.pid for process in peer.processes() if process.role == "hub"]
    stored, before_s = [], cpu_s(hub)
    for number in range(chunks):
        filled = run_load(peer, DRAIN_CASE, 0.0, messages=count // chunks, subscribers=[], **FILL)
        stored.append(hub_us(filled))
        say(f"{(number + 1) * count // chunks:,} queued, {stored[-1]:.1f} us of the hub each")
    taken = run_load(peer, DRAIN_CASE, 0.0, publishers=[], take=count, pids=[hub], drain_s=30.0)
    if taken["lost"] or taken["out_of_order"]:
        raise PeerUnusable(
            f"edge: of {count:,} queued {taken['lost']} did not come, {taken['out_of_order']} out of order"
        )
    marks = taken["marks"]
    delivered = [
        (later["cpu_s"] - one["cpu_s"]) * 1e6 / max(1, later["received"] - one["received"])
        for one, later in itertools.pairwise(marks)
    ]
    until(lambda: not peer.run.pending(), "the end of what was delivered")
    whole_us = (cpu_s(hub) - before_s) * 1e6 / count
    say(f"{count:,} drained, {rate_of(marks):,.0f}/s, {whole_us:.1f} us of the hub each in all")
    return Passed(stored, delivered, whole_us, rate_of(marks))


@dataclass(frozen=True, slots=True)
class Passed:
    """What messages cost that waited in a queue: µs of the hub each, by chunk, by tenth and in all."""

    stored_us: list[float]
    delivered_us: list[float]
    whole_us: float
    drained_per_s: float


def rate_of(marks: list[dict[str, float]]) -> float:
    """Return messages a second from the first mark to the last."""
    first, last = marks[0], marks[-1]
    return (last["received"] - first["received"]) / max(last["at_s"] - first["at_s"], 1e-9)


def hub_us(report: Report) -> float:
    """Return the CPU time of the hub's own process for a message, in µs."""
    return float(sum(cpu["us_per_message"] for cpu in report["cpu"] if cpu["process"].startswith("hub")))


def routes(plan: Plan) -> Iterator[Line]:
    """Yield the router's time for a message with 100 routes beside one route, of which one matches."""
    few, many = 1, 100
    for case in ("source", "property", "new header", "body"):
        found: dict[int, list[float]] = {few: [], many: []}
        for _ in range(plan.rounds(5)):
            for count, values in found.items():
                values.append(
                    us_per_message(case, count, plan.some(20_000, 2_000) // (1 if count == few else 4))
                )
        slope_ns = (middle(found[many]) - middle(found[few])) / (many - few) * 1e3
        yield Line(
            f"{many} routes, {case}",
            "µs",
            tuple(found[many]),
            "one route",
            tuple(found[few]),
            FLAT if case == "source" else None,
            f"{slope_ns:.0f} ns for each route more",
        )
