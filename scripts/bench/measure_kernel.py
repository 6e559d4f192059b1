"""How fast the kernel is beside Pykka's own queue and raw pyzmq, all in one run.

    scripts/bench/kernel [--envelopes N] [--rounds N] [--json]

Prints medians: envelopes/s between threads and between processes (encoding included) and the time of one
blocking ask. First as each comes: the agent keeps its threads on one core (runtime/machine/one_core.py),
Pykka leaves
them where they are; waking a thread on another core costs more than everything else that is measured here.
Then with everything, Pykka and pyzmq too, on one core alone. Needs the packages of this project
(`scripts/run` makes a .venv with them).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import pykka
import zmq

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from messaging.client import Client
from messaging.kinds import data_message, message
from messaging.lifecycle import Stop
from messaging.zmq_bus import ZmqBus
from runtime.machine.one_core import on_one_core


@data_message
class Parcel:
    """What is sent to measure throughput."""

    number: int
    last: bool


@message
class Question:
    """What is asked to measure latency."""

    number: int


@message
class Answer:
    """The answer to Question."""

    number: int


@message
class Done:
    """All parcels are there."""


class Counter(EdgeActor):
    """Takes parcels and answers questions."""

    def on_parcel(self, message: Parcel) -> None:
        if message.last:
            self.reply(Done())

    def on_question(self, message: Question) -> None:
        self.reply(Answer(message.number))


class PykkaCounter(pykka.ThreadingActor):
    """The same on Pykka's own queue."""

    def __init__(self, done: threading.Event) -> None:
        super().__init__()
        self._done = done

    def on_receive(self, message: object) -> object:
        if isinstance(message, Parcel):
            if message.last:
                self._done.set()
            return None
        assert isinstance(message, Question)
        return Answer(message.number)


def start_counter(bus: ZmqBus, exported: bool = False) -> threading.Event:
    ended = threading.Event()
    spec = ChildSpec("counter", Counter, exported=exported)
    ThreadSystem(bus).spawn(spec, f"{bus.process}/counter", "", lambda reason: ended.set())
    return ended


def stop_counter(client: Client, address: str, ended: threading.Event) -> None:
    client.tell(address, Stop())
    ended.wait(5)


def rate_of(client: Client, to: str, envelopes: int) -> float:
    client.ask(to, Question(0), Answer)
    began = time.perf_counter()
    for number in range(envelopes - 1):
        client.tell(to, Parcel(number, False))
    client.tell(to, Parcel(envelopes, True))
    client.receive(Done, 60)
    return envelopes / (time.perf_counter() - began)


def threads(run_dir: Path, envelopes: int) -> float:
    bus = ZmqBus("bench", run_dir)
    with Client(bus, "bench/asker") as client:
        ended = start_counter(bus)
        rate = rate_of(client, "bench/counter", envelopes)
        stop_counter(client, "bench/counter", ended)
    bus.close()
    return rate


def _other_process(run_dir: Path) -> None:
    bus = ZmqBus("other", run_dir)
    start_counter(bus, exported=True).wait()
    bus.close()


def processes(run_dir: Path, envelopes: int) -> float:
    other = multiprocessing.get_context("spawn").Process(target=_other_process, args=(run_dir,))
    other.start()
    while not (run_dir / "other.counter").exists():
        time.sleep(0.01)
    bus = ZmqBus("bench", run_dir)
    with Client(bus, "bench/asker", exported=True) as client:
        rate = rate_of(client, "other/counter", envelopes)
        client.tell("other/counter", Stop())
    bus.close()
    other.join(5)
    return rate


def pykka_queue(envelopes: int) -> float:
    done = threading.Event()
    counter = PykkaCounter.start(done)
    counter.ask(Question(0))
    began = time.perf_counter()
    for number in range(envelopes - 1):
        counter.tell(Parcel(number, False))
    counter.tell(Parcel(envelopes, True))
    done.wait()
    rate = envelopes / (time.perf_counter() - began)
    counter.stop()
    return rate


def raw_pyzmq(envelopes: int) -> float:
    """PUSH to PULL between two threads, one packed msgpack array each: the limit of what we build on."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.set_hwm(0)
    pull.bind("inproc://raw")
    done = threading.Event()

    def drain() -> None:
        for _ in range(envelopes):
            msgpack.unpackb(pull.recv(), use_list=False)
        done.set()

    threading.Thread(target=drain).start()
    push = context.socket(zmq.PUSH)
    push.set_hwm(0)
    push.connect("inproc://raw")
    began = time.perf_counter()
    for number in range(envelopes):
        push.send(msgpack.packb((1, number, False)), zmq.NOBLOCK)
    done.wait()
    rate = envelopes / (time.perf_counter() - began)
    push.close()
    pull.close()
    context.term()
    return rate


def ask_us(run_dir: Path, asks: int) -> float:
    bus = ZmqBus("bench", run_dir)
    with Client(bus, "bench/asker") as client:
        ended = start_counter(bus)
        times = _times(lambda number: client.ask("bench/counter", Question(number), Answer), asks)
        stop_counter(client, "bench/counter", ended)
    bus.close()
    return statistics.median(times) * 1e6


def pykka_ask_us(asks: int) -> float:
    counter = PykkaCounter.start(threading.Event())
    times = _times(lambda number: counter.ask(Question(number)), asks)
    counter.stop()
    return statistics.median(times) * 1e6


def _times(ask: Callable[[int], object], asks: int) -> list[float]:
    times = []
    for number in range(asks):
        began = time.perf_counter()
        ask(number)
        times.append(time.perf_counter() - began)
    return times


def measure(envelopes: int, asks: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the figures of each round: on all cores, then on one."""
    run_dir = Path(tempfile.mkdtemp(prefix="ea-", dir="/tmp"))
    measures: dict[str, Callable[[], float]] = {
        "edge-actors, threads, envelopes/s": lambda: on_one_core(lambda: threads(run_dir, envelopes)),
        "edge-actors, processes, envelopes/s": lambda: processes(run_dir, envelopes),
        "Pykka's own queue, messages/s": lambda: pykka_queue(envelopes),
        "raw pyzmq, frames/s": lambda: raw_pyzmq(envelopes),
        "edge-actors, ask, µs": lambda: on_one_core(lambda: ask_us(run_dir, asks)),
        "Pykka's own queue, ask, µs": lambda: pykka_ask_us(asks),
    }
    cores = os.sched_getaffinity(0)
    regimes = {f"{len(cores)} cores": cores, "one core for all": {min(cores)}}
    found: dict[str, dict[str, list[float]]] = {where: {name: [] for name in measures} for where in regimes}
    try:
        for _ in range(rounds):  # interleaved, so that a busy moment hits all of them
            for where, allowed in regimes.items():
                os.sched_setaffinity(0, allowed)
                for name, measure_one in measures.items():
                    found[where][name].append(measure_one())
    finally:
        os.sched_setaffinity(0, cores)
    run_dir.rmdir()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench/kernel", description=__doc__.splitlines()[0])
    parser.add_argument("--envelopes", type=int, default=100_000)
    parser.add_argument("--asks", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds = measure(arguments.envelopes, arguments.asks, arguments.rounds)
    results = {where: result_of(values) for where, values in rounds.items()}
    if arguments.json:
        print(json.dumps({"results": results, "rounds": rounds}))
        return
    for where, (figures, ratios) in results.items():
        print(f"on {where}, medians of {arguments.rounds} rounds (least … most)")
        for name, value in figures.items():
            values = rounds[where][name]
            print(f"  {name:40} {value:12,.1f}   ({min(values):,.1f} … {max(values):,.1f})")
        for name, value in ratios.items():
            print(f"  {name:40} {value:12.2f} ×")


def result_of(rounds: dict[str, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medians and what they are beside each other."""
    figures = {name: statistics.median(values) for name, values in rounds.items()}
    ours, others, pykkas, raw, our_ask, pykka_ask = figures.values()
    return figures, {
        "tell, threads, beside Pykka": ours / pykkas,
        "tell, processes, beside Pykka": others / pykkas,
        "tell, threads, beside raw pyzmq": ours / raw,
        "ask beside Pykka": our_ask / pykka_ask,
    }


if __name__ == "__main__":
    main()
