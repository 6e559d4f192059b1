"""Measures what routing costs: µs per message in the router, for 1 to 1,000 routes.

    scripts/bench/routing [--routes N]... [--messages N] [--rounds N] [--json]

The router is the real one, the store only counts. A batch has 100 messages, as one read of a socket. Of all
routes one matches, the last. Cases:

    source      no conditions: each route takes messages of another module
    property    a condition on a property; messages of equal header, as those of one sender on one topic
    new header  the same, and each message has a header that was never seen: a message id, for example
    body        a condition on the JSON body; parsed once for a message, which is checked
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from actors.hub.config import RouteText
from actors.hub.router import KeptRoutes, Publish, RouterActor
from actors.hub.trail import RoutingTrail
from actors.store.messages import Append
from messaging.bus import make_envelope
from messaging.clock import SystemClock
from messaging.message import Message, encode_header
from messaging.routing import compile as conditions

DEVICE, SENDER = "edge", "edge/sensor"
BATCH = 100
JSON_TYPE = {"contentType": "application/json", "contentEncoding": "utf-8"}
WHERE = {
    "source": "FROM /messages/modules/m{n}/* INTO {sink}",
    "property": "FROM /messages/* WHERE level = 'v{n}' INTO {sink}",
    "body": "FROM /messages/* WHERE $body.level = 'v{n}' INTO {sink}",
}
CASES = ("source", "property", "new header", "body")


class Counter:
    """What the router has for a context: counts where messages went."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.address, self.epoch = "bench/router", 1
        self.endpoints: dict[str, int] = {}

    def send(self, to: str, message: object, **_: Any) -> int:
        if isinstance(message, Append):
            for index, _ in message.entries:
                for endpoint_id, _, _ in message.headers[index][1]:
                    self.endpoints[endpoint_id] = self.endpoints.get(endpoint_id, 0) + 1
        return 0


def router_with(case: str, routes: int) -> tuple[RouterActor, Counter]:
    """Return a router with so many routes, started."""
    text = WHERE["property" if case == "new header" else case]
    texts = [
        RouteText(f"r{n}", text.format(n=n, sink=f'BrokeredEndpoint("/modules/m{n}/inputs/in")'), 0, 0)
        for n in range(routes)
    ]
    router, counter = RouterActor(DEVICE, KeptRoutes(texts, None), RoutingTrail()), Counter()
    router.context = counter  # type: ignore[assignment]
    router.on_start()
    return router, counter


def batches_of(case: str, routes: int) -> Callable[[], Publish]:
    """Return what makes the batches, each message for the last route."""
    last, numbers = f"v{routes - 1}", count()
    source = f"/messages/modules/{f'm{routes - 1}' if case == 'source' else 'sensor'}/outputs/o/"
    body = json.dumps({"level": last, "machine": {"temperature": 21.5}, "ambient": {"humidity": 24}}).encode()
    system = JSON_TYPE if case == "body" else {}
    properties = {} if case in ("source", "body") else {"level": last}
    header = encode_header(source, properties, system)

    def make() -> Publish:
        if case != "new header":
            return Publish(SENDER, 1, next(numbers), (header,), ((0, body),) * BATCH)
        new = [system | {"messageId": str(next(numbers))} for _ in range(BATCH)]
        headers = tuple(encode_header(source, properties, of) for of in new)
        return Publish(SENDER, 1, 0, headers, tuple((n, body) for n in range(BATCH)))

    return make


def us_per_message(case: str, routes: int, messages: int) -> float:
    """Return the time that the router takes for one message."""
    router, counter = router_with(case, routes)
    make = batches_of(case, routes)
    batches = [make() for _ in range(max(1, messages // BATCH))]
    router.envelope = make_envelope(batches[0], "bench/router", "hub/mqtt", 1, 0, 1, time.time(), 0.0)
    began = time.perf_counter()
    for batch in batches:
        router.on_publish(batch)
    took_s = time.perf_counter() - began
    expected = {f"{DEVICE}/m{routes - 1}/in": len(batches) * BATCH}
    if counter.endpoints != expected:
        raise SystemExit(f"{case}, {routes} routes: went to {counter.endpoints}, not {expected}")
    return took_s / (len(batches) * BATCH) * 1e6


def parsed_per_message(routes: int) -> float:
    """Return how often the body of a message is parsed when every route asks for it."""
    parse, parsed = conditions.parse_body, count()

    def counting(message: Message) -> object:
        next(parsed)
        return parse(message)

    conditions.parse_body = counting
    try:
        router, _ = router_with("body", routes)
        batch = batches_of("body", routes)()
        router.envelope = make_envelope(batch, "bench/router", "hub/mqtt", 1, 0, 1, 0.0, 0.0)
        router.on_publish(batch)
    finally:
        conditions.parse_body = parse
    return next(parsed) / BATCH


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench/routing", description=__doc__.splitlines()[0])
    parser.add_argument("--routes", type=int, action="append", help="default: 1, 10, 100 and 1000")
    parser.add_argument(
        "--messages", type=int, default=20_000, help="a round, at most; fewer with many routes"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = arguments.routes or [1, 10, 100, 1000]
    figures: dict[str, dict[int, list[float]]] = {case: {routes: [] for routes in sizes} for case in CASES}
    for _ in range(arguments.rounds):  # interleaved, so that a busy moment hits all of them
        for case, by_size in figures.items():
            for routes, values in by_size.items():
                messages = max(BATCH, min(arguments.messages, 2_000_000 // routes))
                values.append(us_per_message(case, routes, messages))
    parsed = parsed_per_message(max(sizes))
    if parsed > 1:
        raise SystemExit(f"bodies are parsed {parsed:g} times per message")
    if arguments.json:
        print(json.dumps({"us_per_message": figures, "parsed_per_message": parsed}))
        return
    print(f"µs per message in the router, medians of {arguments.rounds} rounds (least … most)")
    print(f"{'routes':>10}" + "".join(f"{case:>30}" for case in CASES))
    for routes in sizes:
        cells = [_cell(figures[case][routes]) for case in CASES]
        print(f"{routes:>10}" + "".join(f"{cell:>30}" for cell in cells))
    print(f"bodies parsed per message, with {max(sizes)} conditions on them: {parsed:g}")


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


if __name__ == "__main__":
    main()
