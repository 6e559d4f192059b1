"""Random fault scripts from a grammar: each is a file that `edge-actors faults run` can repeat.

    script   = edge, load, 2 to 4 disturbances that may overlap, or follow each other when all is well again
    edge     = a route to a module; perhaps one with a time to live, one to the cloud, a disk of its own
    expect   = the promise: nothing acknowledged is lost, order, the ledger, no actor dead, recovered

A seed gives the same script everywhere. Disturbances stand in a table with what they need of the edge; those
that cannot be in one script exclude each other by what they hold and want.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

MOST: Final = 4  # disturbances of one script
LINE: Final = "line"  # to the cloud, which faults can cut
DISK: Final = "disk"  # of its own, which can be full
Step = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One production of the grammar: a few steps that belong together."""

    name: str
    weight: int
    steps: Callable[[random.Random], list[Step]]
    needs: str = ""  # of the edge: LINE or DISK
    holds: frozenset[str] = frozenset()  # what nobody else in the script may hold or want
    wants: frozenset[str] = frozenset()


def _ms(chance: random.Random, low: int, high: int) -> str:
    return f"{chance.randrange(low, high + 1, 100)} ms"


def _spread(chance: random.Random, low: int, high: int) -> str:
    middle = chance.randrange(low, high + 1, 100)
    return f"{middle} ms ± {middle // 2} ms"


def _kill(*who: str, most: int = 4) -> Callable[[random.Random], list[Step]]:
    def make(chance: random.Random) -> list[Step]:
        times = chance.randint(2, most)
        whom: Any = list(who) if len(who) > 1 else who[0]
        return [{"every": _spread(chance, 600, 1800), "times": times, "fault": "kill", "who": whom}]

    return make


def _one(fault: str, **values: Any) -> Callable[[random.Random], list[Step]]:
    """Return what makes a step with one fault; values that are functions are drawn."""

    def make(chance: random.Random) -> list[Step]:
        drawn = {key: value(chance) if callable(value) else value for key, value in values.items()}
        return [{"at": _ms(chance, 300, 4000), "fault": fault, **drawn}]

    return make


def _often(fault: str, times: tuple[int, int], **values: Any) -> Callable[[random.Random], list[Step]]:
    def make(chance: random.Random) -> list[Step]:
        (step,) = _one(fault, **values)(chance)
        del step["at"]
        return [{"every": _spread(chance, 600, 1500), "times": chance.randint(*times), **step}]

    return make


def _length(low: int, high: int) -> Callable[[random.Random], str]:
    return lambda chance: _ms(chance, low, high)


def _among(*values: Any) -> Callable[[random.Random], Any]:
    return lambda chance: chance.choice(values)


def _number(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda chance: chance.randint(low, high)


def _checkpoint_failure(chance: random.Random) -> list[Step]:
    """Lose what tells the store that something was delivered; only its next start finds that out."""
    drop = {"fault": "drop envelopes", "to": "hub/store", "kind": "Delivered"}
    lost = {"at": _ms(chance, 300, 3000), **drop, "count": chance.randint(1, 4), "skip": chance.randint(0, 9)}
    kill = {"after": "step checkpoint", "plus": "500 ms", "fault": "kill", "who": "hub"}
    return [{"name": "checkpoint", **lost}, kill]


def _envelopes(
    name: str, weight: int, verb: str, kind: str, count: tuple[int, int], **values: Any
) -> Disturbance:
    to = "hub/mqtt" if kind == "Stored" else "hub/store"
    steps = _one(f"{verb} envelopes", to=to, kind=kind, count=_number(*count), **values)
    return Disturbance(name, weight, steps, wants=HUB)


_CLIENTS: Final = _among("pub1", "near")

# Only one may trace the hub, and a life that is recorded has to end by a power cut.
LIFE: Final = frozenset({"the life of the hub"})
# A step that waits for an answer would wait for ever for what another step holds up and ends later.
HUB: Final = frozenset({"answers of the hub"})
AGENT: Final = frozenset({"answers of the agent"})
CLIENTS: Final = frozenset({"answers of clients"})
# A line has one shape at a time, and nothing is late or swallowed while nobody is there to talk.
LINK: Final = frozenset({"the line to the cloud"})

_ACTORS: Final = ("hub/router", "hub/store", "hub/twins", "hub/identities", "hub/upstream")

DISTURBANCES: Final = (
    # processes
    Disturbance("kill the hub", 8, _kill("hub"), holds=LIFE, wants=AGENT),
    Disturbance("kill the agent", 6, _kill("agent", most=3), wants=AGENT),
    Disturbance("kill both", 5, _kill("agent", "hub", "both", most=5), holds=LIFE, wants=AGENT),
    Disturbance("kill the cloud", 2, _one("kill", who="cloud"), needs=LINE, holds=LINK),
    Disturbance("reboot", 2, _one("reboot", off=_length(200, 1500)), holds=LIFE, wants=AGENT | LINK),
    Disturbance("stall the hub", 3, _one("stop", who="hub", **{"for": _length(500, 4000)}), holds=LIFE | HUB),
    Disturbance("stall the agent", 2, _one("stop", who="agent", **{"for": _length(500, 4000)}), holds=AGENT),
    # actors and envelopes
    Disturbance("an actor fails", 4, _one("kill actor", actor=_among(*_ACTORS)), wants=HUB),
    Disturbance("the agent fails", 2, _one("kill actor", actor="agent/agent"), wants=AGENT),
    Disturbance(
        "an actor hangs",
        3,
        _one("hang actor", actor=_among(*_ACTORS), **{"for": _length(500, 4000)}),
        wants=HUB,
    ),
    _envelopes("batches get lost", 3, "drop", "Append", (1, 3), skip=_number(0, 20)),
    _envelopes("batches are damaged", 3, "corrupt", "Append", (1, 3)),
    _envelopes("batches are late", 3, "delay", "Append", (1, 6), by=_length(100, 900)),
    _envelopes("batches overtake", 3, "reorder", "Append", (1, 3), by=_length(300, 900)),
    _envelopes("answers come twice", 2, "double", "Stored", (1, 9)),
    _envelopes("deliveries are told twice", 2, "double", "Delivered", (1, 9)),
    Disturbance("a checkpoint fails", 3, _checkpoint_failure, holds=LIFE, wants=AGENT | HUB),
    # the link to the cloud
    Disturbance(
        "the link flaps", 4, _often("cut link", (2, 4), **{"for": _length(200, 1500)}), needs=LINE, holds=LINK
    ),
    Disturbance(
        "the link is gone", 3, _one("cut link", **{"for": _length(2000, 6000)}), needs=LINE, holds=LINK
    ),
    Disturbance(
        "the link is slow",
        2,
        _one("slow link", by=_among("100 ms", "300 ms"), **{"for": _length(1000, 4000)}),
        needs=LINE,
        holds=LINK,
        wants=LIFE,
    ),
    Disturbance(
        "the link is dead",
        2,
        _one("half-open link", **{"for": _length(1000, 4000)}),
        needs=LINE,
        holds=LINK,
        wants=LIFE,
    ),
    Disturbance(
        "the cloud refuses",
        3,
        _one("cloud answers", error=_among("throttled", "unauthorized"), **{"for": _length(1000, 3000)}),
        needs=LINE,
        holds=LINK,
        wants=LIFE,
    ),
    # disk and machine
    Disturbance(
        "the disk is full",
        3,
        _one("full disk", **{"for": _length(1000, 3000)}),
        needs=DISK,
        holds=LIFE | HUB,
    ),
    Disturbance(
        "syncs are slow",
        2,
        _one("slow sync", by=_among("50 ms", "200 ms"), **{"for": _length(1000, 3000)}),
        holds=LIFE,
    ),
    Disturbance("the power fails", 4, _one("power cut"), holds=LIFE, wants=AGENT | LINK),
    Disturbance("the certificate is renewed", 2, _one("renew certificate"), wants=AGENT),
    # clients
    Disturbance(
        "a client stalls",
        3,
        _one("stall client", client=_CLIENTS, **{"for": _length(500, 4000)}),
        holds=CLIENTS,
    ),
    Disturbance(
        "a client breaks off", 4, _often("drop client", (2, 4), client=_CLIENTS), wants=HUB | CLIENTS
    ),
    Disturbance("a token is renewed", 4, _often("renew token", (2, 4), client=_CLIENTS), wants=HUB | CLIENTS),
    Disturbance(
        "a take-over fight",
        3,
        _one("second client", client=_CLIENTS, count=_number(1, 4)),
        wants=HUB | CLIENTS,
    ),
    Disturbance("a wrong key", 1, _one("wrong key", client=_CLIENTS, count=_number(1, 4)), wants=HUB),
)


def script(seed: int) -> str:
    """Return a random script as YAML; another seed gives another one."""
    chance = random.Random(f"script {seed}")
    chosen = _choose(chance)
    needs = {one.needs for one in chosen}
    steps: list[Step] = []
    for number, one in enumerate(chosen):
        made = one.steps(chance)
        if number and chance.random() < 0.3:  # when all is well again, and not into what goes on
            made[0].pop("every", None)
            made[0].pop("times", None)
            made[0].pop("at", None)
            made[0] = {"after": "recovered", "plus": _ms(chance, 0, 500), **made[0]}
        steps += made
    edge, consumers = _edge(chance, needs)
    content = {
        "version": 1,
        "about": f"From the grammar, seed {seed}: {', '.join(one.name for one in chosen)}.",
        "edge": edge,
        "load": {
            "publishers": chance.randint(1, 3),
            "rate": f"{chance.choice((30, 60, 100, 150))}/s",
            "size": chance.choice(("64 B", "128 B", "1 KiB", "4 KiB")),
            "consumers": consumers,
        },
        "steps": steps,
        "expect": _promise(edge["routes"]),
    }
    return as_yaml(content)


def as_yaml(content: Mapping[str, Any]) -> str:
    """Return a script as a file has it."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000))


def _choose(chance: random.Random) -> list[Disturbance]:
    chosen: list[Disturbance] = []
    for _ in range(chance.randint(2, MOST)):
        left = [one for one in DISTURBANCES if one not in chosen and all(_can_meet(one, x) for x in chosen)]
        chosen += chance.choices(left, [one.weight for one in left])
    return chosen


def _can_meet(one: Disturbance, other: Disturbance) -> bool:
    return not (one.holds & (other.holds | other.wants) or other.holds & one.wants)


def _edge(chance: random.Random, needs: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an edge and the consumers of its load."""
    routes: dict[str, Any] = {"all": {"output": "out", "into": "near"}}
    consumers: dict[str, Any] = {"near": "always"}
    if chance.random() < 0.5:
        routes["urgent"] = {"output": "urgent", "into": "near", "priority": 0}
    if chance.random() < 0.5:
        routes["copy"] = {"output": "out", "into": "far"}
        if chance.random() < 0.5:
            routes["brief"] = {"output": "brief", "into": "far", "time to live": "1 s"}
        away = _spread(chance, 500, 2000)
        consumers["far"] = {"there": _spread(chance, 500, 1500), "away": away}
    edge: dict[str, Any] = {"routes": routes}
    if LINE in needs:
        edge["cloud"] = "behind a line"
        routes["up"] = {"output": "out", "into": "$upstream"}
    elif chance.random() < 0.3:
        routes["up"] = {"output": "out", "into": "$upstream"}
    if DISK in needs:
        edge["disk"] = "24 MB"
    return edge, consumers


def _promise(routes: Mapping[str, Any]) -> dict[str, Any]:
    promise: dict[str, Any] = {
        "lost": 0,
        "out of order": 0,
        "duplicates": "within 3000 messages",
        "ledger": "balanced",
        "bystander restarts": 0,
        "dead actors": 0,
        "left after down": 0,
        "recovered": "within 45 s",
    }
    if "up" in routes:
        promise["upstream recovered"] = "within 45 s"
    return promise


def day(seed: int) -> str:
    """Return a day of an edge as a script: its hours are 5 s long.

    Each hour somebody renews a token; the link is gone four times, the agent and the hub die twice each, a
    client breaks off every other hour, and in the night the machine is started anew.
    """
    hour_s = 5
    steps: list[Step] = [
        {"every": f"{hour_s} s ± 2 s", "times": 22, "fault": "renew token", "client": "pub1"},
        {"every": f"{hour_s} s ± 2 s", "times": 22, "fault": "renew token", "client": "near"},
        {"every": f"{2 * hour_s} s ± 4 s", "times": 10, "fault": "drop client", "client": "pub2"},
        {"every": f"{6 * hour_s} s ± 5 s", "times": 3, "fault": "cut link", "for": "6 s ± 4 s"},
        {"every": f"{10 * hour_s} s ± 5 s", "times": 2, "fault": "kill", "who": "hub"},
        {"every": f"{11 * hour_s} s ± 5 s", "times": 2, "fault": "kill", "who": "agent"},
        {"at": f"{12 * hour_s} s", "fault": "renew certificate"},
        {"at": f"{14 * hour_s} s", "fault": "stall client", "client": "far", "for": "10 s"},
        {"at": f"{23 * hour_s} s", "fault": "reboot", "off": "2 s"},
    ]
    routes = {
        "all": {"output": "out", "into": "near"},
        "urgent": {"output": "urgent", "into": "far", "priority": 0},
        "brief": {"output": "urgent", "into": "near", "time to live": "1 s"},
        "up": {"output": "out", "into": "$upstream"},
    }
    content = {
        "version": 1,
        "about": f"A day of an edge, its hours {hour_s} s long; seed {seed}.",
        "edge": {"routes": routes, "cloud": "behind a line"},
        "load": {
            "publishers": 2,
            "rate": "50/s",
            "consumers": {"near": "always", "far": {"there": "8 s ± 4 s", "away": "6 s ± 4 s"}},
        },
        "steps": steps,
        "expect": _promise(routes),
    }
    return as_yaml(content)
