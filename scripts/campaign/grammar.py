"""Random fault scripts from a grammar: each is a file that `edge-actors faults run` can repeat.

    script   = edge, load, 2 to 4 disturbances that may overlap, or follow each other when all is well again
    edge     = a route to a module; perhaps one with a time to live, one to the cloud, a disk of its own
    expect   = the promise: nothing acknowledged is lost, order, the ledger, no actor dead, recovered

What a seed gives is the same on every machine that can do the same faults. Disturbances stand in a table with
what they need; those that cannot be in one script exclude each other by a name they share.
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
    machine: str = ""  # what the machine has to be able to do, as `runtime.faults.needs` calls it
    only_one_of: str = ""  # at most one with this word in a script


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
    return [lost, {"after": "recovered", "fault": "kill", "who": "hub"}]


_CLIENTS: Final = _among("pub1", "near")
_STORE: Final = {"to": "hub/store", "kind": "Append"}

# What exists twice of one name: two that trace the hub, or that fill and damage one disk.
TRACER: Final = "tracer"
HUB_STATE: Final = "state of the hub"

DISTURBANCES: Final = (
    Disturbance("kill the hub", 8, _kill("hub"), only_one_of=HUB_STATE),
    Disturbance("kill the agent", 6, _kill("agent", most=3)),
    Disturbance("kill both", 5, _kill("agent", "hub", "both", most=5), only_one_of=HUB_STATE),
    Disturbance("kill the cloud", 2, _one("kill", who="cloud"), needs=LINE),
    Disturbance("reboot", 2, _one("reboot", off=_length(200, 1500)), only_one_of=HUB_STATE),
    Disturbance("stall the hub", 3, _one("stop", who="hub", **{"for": _length(500, 4000)})),
    Disturbance("stall the agent", 2, _one("stop", who="agent", **{"for": _length(500, 4000)})),
    Disturbance(
        "an actor fails",
        4,
        _one(
            "kill actor",
            actor=_among(
                "hub/router", "hub/store", "hub/twins", "hub/identities", "hub/upstream", "agent/agent"
            ),
        ),
    ),
    Disturbance(
        "an actor hangs",
        3,
        _one(
            "hang actor", actor=_among("hub/router", "hub/store", "hub/twins"), **{"for": _length(500, 4000)}
        ),
    ),
    Disturbance(
        "batches get lost", 3, _one("drop envelopes", **_STORE, count=_number(1, 3), skip=_number(0, 20))
    ),
    Disturbance("batches are damaged", 3, _one("corrupt envelopes", **_STORE, count=_number(1, 3))),
    Disturbance(
        "batches are late", 3, _one("delay envelopes", **_STORE, by=_length(100, 900), count=_number(1, 6))
    ),
    Disturbance(
        "batches overtake", 3, _one("reorder envelopes", **_STORE, by=_length(100, 500), count=_number(1, 3))
    ),
    Disturbance(
        "answers come twice",
        2,
        _one("double envelopes", to="hub/mqtt", kind="Stored", count=_number(1, 9)),
    ),
    Disturbance(
        "deliveries are told twice",
        2,
        _one("double envelopes", to="hub/store", kind="Delivered", count=_number(1, 9)),
    ),
    Disturbance("a checkpoint fails", 3, _checkpoint_failure, only_one_of=HUB_STATE),
    Disturbance("the link flaps", 4, _often("cut link", (2, 4), **{"for": _length(200, 1500)}), needs=LINE),
    Disturbance("the link is gone", 3, _one("cut link", **{"for": _length(2000, 6000)}), needs=LINE),
    Disturbance(
        "the link is slow",
        2,
        _one("slow link", by=_among("100 ms", "300 ms"), **{"for": _length(1000, 4000)}),
        needs=LINE,
    ),
    Disturbance("the link is dead", 2, _one("half-open link", **{"for": _length(1000, 4000)}), needs=LINE),
    Disturbance(
        "the cloud refuses",
        3,
        _one("cloud answers", error=_among("throttled", "unauthorized"), **{"for": _length(1000, 3000)}),
        needs=LINE,
    ),
    Disturbance(
        "the disk is full",
        3,
        _one("full disk", **{"for": _length(1000, 3000)}),
        needs=DISK,
        machine="root",
        only_one_of=HUB_STATE,
    ),
    Disturbance(
        "syncs are slow",
        2,
        _one("slow sync", by=_among("50 ms", "200 ms"), **{"for": _length(1000, 3000)}),
        machine="strace",
        only_one_of=HUB_STATE,
    ),
    Disturbance(
        "the power fails",
        4,
        _one("power cut"),
        machine="strace",
        only_one_of=HUB_STATE,
    ),
    Disturbance("the certificate is renewed", 2, _one("renew certificate")),
    Disturbance("a client stalls", 3, _one("stall client", client=_CLIENTS, **{"for": _length(500, 4000)})),
    Disturbance("a client breaks off", 4, _often("drop client", (2, 4), client=_CLIENTS)),
    Disturbance("a token is renewed", 4, _often("renew token", (2, 4), client=_CLIENTS)),
    Disturbance("a take-over fight", 3, _one("second client", client=_CLIENTS, count=_number(1, 4))),
    Disturbance("a wrong key", 1, _one("wrong key", client=_CLIENTS, count=_number(1, 4))),
)


def script(seed: int, machine: Collection[str] = ("root", "strace")) -> str:
    """Return a random script as YAML.

    Args:
        seed: Another one is another script.
        machine: What the machine can do: some of `root` and `strace`.
    """
    chance = random.Random(f"script {seed}")
    chosen = _choose(chance, machine)
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


def _choose(chance: random.Random, machine: Collection[str]) -> list[Disturbance]:
    possible = [one for one in DISTURBANCES if not one.machine or one.machine in machine]
    chosen: list[Disturbance] = []
    for _ in range(chance.randint(2, MOST)):
        taken = {one.only_one_of for one in chosen} - {""}
        left = [one for one in possible if one not in chosen and one.only_one_of not in taken]
        chosen += chance.choices(left, [one.weight for one in left])
    return chosen


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
        {"at": f"{14 * hour_s} s", "fault": "stall client", "client": "near", "for": "10 s"},
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
