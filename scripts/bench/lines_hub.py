"""Lines of the report about the way from publisher to module: throughput and latency beside mosquitto."""

from collections.abc import Iterator
from contextlib import ExitStack

from scripts.bench.compare_hub import BARS, DISTURBED, GENERATOR_BUSY, Peer, Report, measure_case, run_load
from scripts.bench.peer_edge import EdgePeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from scripts.bench.plan import Plan, say
from scripts.bench.raw_limits import fdatasync_ms
from scripts.bench.report import Bar, Line, Of, Sign, middle

SECONDS = 1.5
CLIENTS, CONSUMERS = 100, 10
OTHERS = (
    "plain/16/burst",
    "plain/100/burst",
    *(f"{transport}/4/burst/{size}B" for transport in ("plain", "tls") for size in (100, 1024, 65536)),
    *(f"{transport}/4/burst/{kind}" for transport in ("plain", "tls") for kind in ("10to", "json")),
)
QUICK = ("plain/4/burst/65536B", "plain/4/burst/10to", "tls/4/burst/json")  # of the others
LOADED = "tls/4/burst"
PERCENTS = (10, 50, 80)
LATENCY_SECONDS = 2.0
RAW_WRITES = 500
WRONG = ("unacknowledged", "lost", "out_of_order")
# What is added to the raw disk's own time by the bar: percentile → ms.
ACK_BARS_MS, MODULE_BARS_MS = {"p50": 1.0, "p99": 3.0}, {"p50": 1.5, "p99": 5.0}


def throughput(plan: Plan) -> Iterator[Line]:
    """Yield messages/s and CPU of every case.

    Raises:
        PeerUnusable: a peer could not be used for a case, or lost messages; the others have been yielded.
    """
    wrong: list[str] = []
    with ExitStack() as stack:
        peers: list[Peer] = [
            stack.enter_context(EdgePeer(plan.directory, CLIENTS, CONSUMERS)),
            stack.enter_context(MosquittoPeer()),
        ]
        for case in (*BARS, *(QUICK if plan.quick else OTHERS)):
            count = plan.rounds(5 if case in BARS else 3)
            try:
                rounds = measure_case(peers, case, count, plan.seconds(SECONDS))
            except PeerUnusable as error:
                wrong.append(str(error))  # the other cases are measured
                continue
            ours, theirs = rounds["edge"], rounds["mosquitto"]
            wrong += faults_of(case, rounds)
            yield Line(
                case,
                "messages/s",
                tuple(report["received_per_s"] for report in ours),
                "mosquitto",
                tuple(report["received_per_s"] for report in theirs),
                Bar(Of.RATIO, Sign.AT_LEAST, BARS[case]) if case in BARS else None,
                note_on(ours + theirs),
            )
            if case in BARS:
                yield Line(
                    f"{case}, CPU of 1,000 messages",
                    "ms",
                    tuple(map(broker_us, ours)),
                    "mosquitto",
                    tuple(map(broker_us, theirs)),
                )
    if wrong:
        raise PeerUnusable("; ".join(wrong))


def latency(plan: Plan) -> Iterator[Line]:
    """Yield times at parts of what each side takes at most."""
    with ExitStack() as stack:
        peers: list[Peer] = [
            stack.enter_context(EdgePeer(plan.directory)),
            stack.enter_context(MosquittoPeer()),
        ]
        most = {
            name: middle([report["received_per_s"] for report in reports])
            for name, reports in measure_case(peers, LOADED, plan.rounds(3), plan.seconds(SECONDS)).items()
        }
        for percent in PERCENTS:
            found: dict[str, list[Report]] = {peer.name: [] for peer in peers}
            for _ in range(plan.rounds(3)):
                for peer in peers:
                    per_s = most[peer.name] * percent / 100 / 4
                    found[peer.name].append(
                        run_load(
                            peer,
                            LOADED,
                            plan.seconds(LATENCY_SECONDS),
                            per_s=per_s,
                            window=max(100, int(per_s)),
                        )
                    )
            ours, theirs = found["edge"], found["mosquitto"]
            rates = [f"{most[name] * percent / 100:,.0f}" for name in ("edge", "mosquitto")]
            for key, what in (("ack_ms", "send → acknowledgement"), ("end_to_end_ms", "module to module")):
                for part in ("p50", "p99"):
                    yield Line(
                        f"{LOADED} at {percent} %, {what} {part}",
                        "ms",
                        times_of(ours, key, part),
                        "mosquitto",
                        times_of(theirs, key, part),
                        note=f"{rates[0]} and {rates[1]} messages/s, of its own each"
                        if part == "p50"
                        else "",
                    )


def durable(plan: Plan) -> Iterator[Line]:
    """Yield times at 1,000 messages/s over TLS beside those of the raw disk."""
    reports: list[Report] = []
    raw: list[dict[str, float]] = []
    with EdgePeer(plan.directory) as peer:
        for number in range(1, plan.rounds(5) + 1):
            raw.append(fdatasync_ms(plan.directory, RAW_WRITES))
            reports.append(
                run_load(peer, "tls/1/burst", plan.seconds(3.0), per_s=1000.0, pause_us=0, window=1000)
            )
            say(f"round {number}: {reports[-1]['ack_ms']}, raw {raw[-1]}, late {reports[-1]['late_ms']}")
    bars = {"ack_ms": ACK_BARS_MS, "end_to_end_ms": MODULE_BARS_MS}
    for key, what in (("ack_ms", "send → acknowledgement"), ("end_to_end_ms", "module to module")):
        for part in ("p50", "p99"):
            late_ms = middle(times_of(reports, "late_ms", part))
            yield Line(
                f"1,000/s over TLS, {what} {part}",
                "ms",
                times_of(reports, key, part),
                f"fdatasync {part}",
                tuple(each[part] for each in raw),
                Bar(Of.MORE, Sign.AT_MOST, bars[key][part]),
                f"the generator itself was {late_ms:.2f} ms late, which counts" if key == "ack_ms" else "",
            )
    if wrong := faults_of("1,000/s", {"edge": reports}):
        raise PeerUnusable("; ".join(wrong))


def times_of(reports: list[Report], key: str, part: str) -> tuple[float, ...]:
    return tuple(report[key][part] for report in reports if report[key])


def broker_us(report: Report) -> float:
    """Return the CPU time of all of a broker's processes for a message, in µs; its stand-in left out."""
    return float(
        sum(cpu["us_per_message"] for cpu in report["cpu"] if not cpu["process"].startswith("cloud"))
    )


def faults_of(case: str, rounds: dict[str, list[Report]]) -> list[str]:
    """Return what went wrong with messages, a sentence for each kind and side."""
    counts = {
        (name, fault): sum(report[fault] for report in reports)
        for name, reports in rounds.items()
        for fault in WRONG
    }
    return [f"{case}: {name}: {count} {fault}" for (name, fault), count in counts.items() if count]


def note_on(reports: list[Report]) -> str:
    """Return what makes figures doubtful: a generator at its limit, or a machine that did something else."""
    busy = middle([report["generator_cpu_share"] for report in reports])
    others = middle([report["other_cores"] for report in reports])
    notes = []
    if busy > GENERATOR_BUSY:
        notes.append(f"the generator took {busy:.0%} of a core and may be what is measured")
    if others > DISTURBED:
        notes.append(f"something else took {others:.0%} of a core meanwhile")
    return "; ".join(notes)
