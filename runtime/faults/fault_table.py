"""The faults of fault scripts: names, entries, what is counted of each. What they do is in `doing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from messaging.kinds import kind_named, names
from messaging.nearest import did_you_mean
from messaging.text import quoted
from runtime.faults import yaml_reader as y
from runtime.faults.yaml_reader import Field, Form, Wrong


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault."""

    name: str
    about: str
    counts: str  # what is counted, to see that it happened
    fields: tuple[Field, ...] = ()
    needs: tuple[str, ...] = ()  # of the machine
    needs_line: bool = False
    needs_disk: bool = False


def _names(node: y.Node) -> tuple[str, ...]:
    if isinstance(node, y.ScalarNode):
        return (y.read_name(node),)
    return y.list_of(y.read_name)(node)


def _address(node: y.Node) -> str:
    text = y.read_text(node)
    process, slash, rest = text.partition("/")
    if process not in ("agent", "hub") or (slash and not rest):
        raise Wrong(node, f"{quoted(text)} is no address of an actor; write hub/store or agent/agent")
    return text


def _kind(node: y.Node) -> str:
    import actors.hub.root  # noqa: F401 - with them, all kinds that travel in a hub are known
    from actors.agent import root  # noqa: F401

    text = y.read_text(node)
    if kind_named(text) is None:
        raise Wrong(node, f"{quoted(text)} is no kind of message{did_you_mean(text, names())}")
    return text


_WHO: Final = Field(
    "who",
    Form("`agent`, `hub`, `both`, `cloud` or a module; of a list one, by chance, each as often", _names),
    "whom it hits",
    is_needed=True,
)
_SETTLE: Final = Field(
    "settle",
    y.SHARE,
    "how often it waits, when it is due, until each publisher has been told since the last that something is "
    "stored",
    0.0,
)
_FOR: Final = Field("for", y.SPREAD, "how long", is_needed=True)
_ACTOR: Final = Field("actor", Form("address, such as `hub/store`", _address), "which one", is_needed=True)
_ENVELOPES: Final = (
    Field("to", Form("address", _address), "whom they are for", is_needed=True),
    Field("kind", Form("kind of message, such as `Append`", _kind), "which ones; all without it", ""),
    Field("from", Form("address", _address), "who sends them", ""),
    Field("count", y.COUNT, "how many are hit", 1),
    Field("skip", y.NUMBER, "how many are let through first", 0),
    Field("chance", y.SHARE, "how likely each is hit that could be", 1.0),
)
_LATER: Final = Field("by", y.SPREAD, "how long one waits", is_needed=True)
_CLIENT: Final = Field("client", y.NAME_FORM, "a publisher or consumer of the load", is_needed=True)


def _envelopes(name: str, about: str, counts: str, *more: Field) -> FaultKind:
    return FaultKind(f"{name} envelopes", about, counts, (*_ENVELOPES, *more))


_ALL: Final = (
    # processes
    FaultKind("kill", "SIGKILL; an agent is started again, as systemd would", "deaths", (_WHO, _SETTLE)),
    FaultKind("stop", "SIGSTOP, and SIGCONT after a while", "processes that stood still", (_WHO, _FOR)),
    FaultKind(
        "reboot",
        "agent, hub, stand-in and all modules are killed at once; later the edge starts",
        "deaths of the agent",
        (Field("off", y.SPREAD, "how long the machine is off", is_needed=True),),
    ),
    FaultKind(
        "no memory", "the hub gets no more memory than it has", "refusals of the kernel", (_FOR,), ("strace",)
    ),
    FaultKind(
        "kill container",
        "SIGKILL of the container of a module, by the engine",
        "deaths",
        (Field("module", y.NAME_FORM, "of the edge, with an `image`", is_needed=True),),
        needs=("docker",),
    ),
    FaultKind(
        "slow pull",
        "the registry of the image `slow` takes connections and says nothing, then ends them",
        "pulls that waited",
        (_FOR,),
        ("docker",),
    ),
    # actors
    FaultKind("kill actor", "its handler raises; it is started again as after any", "failures", (_ACTOR,)),
    FaultKind("hang actor", "its handler does not return for a while", "handlers that hung", (_ACTOR, _FOR)),
    # envelopes
    _envelopes("drop", "they never arrive", "envelopes lost"),
    _envelopes("delay", "they come late, and all behind them", "envelopes delayed", _LATER),
    _envelopes("double", "they arrive twice", "envelopes doubled"),
    _envelopes("reorder", "others of their sender overtake them", "envelopes overtaken", _LATER),
    _envelopes("corrupt", "their end is missing", "envelopes damaged"),
    # the link to the cloud
    FaultKind("cut link", "connections are reset, new ones refused", "cuts", (_FOR,), needs_line=True),
    FaultKind(
        "slow link",
        "everything takes its time on the way, in each direction",
        "bytes that were late",
        (
            Field("by", y.TIME, "how late", is_needed=True),
            Field("rate", y.SIZE, "bytes a second", 0),
            _FOR,
        ),
        needs_line=True,
    ),
    FaultKind(
        "half-open link",
        "connections stand, new ones are accepted, nothing gets through",
        "bytes swallowed",
        (_FOR,),
        needs_line=True,
    ),
    FaultKind(
        "cloud answers",
        "the IoT Hub refuses what devices send, or does not let them in",
        "refusals",
        (
            Field(
                "error",
                y.choice("throttled", "unauthorized", "busy", "too large", "quota"),
                "how",
                is_needed=True,
            ),
            Field("count", y.COUNT, "so many times at most", 1_000_000),
            Field("nth", y.COUNT, "only where a message is among them whose number this divides", 1),
            _FOR,
        ),
        needs_line=True,
    ),
    # disk and database
    FaultKind("full disk", "no byte is left", "bytes that fill it", (_FOR,), ("root",), needs_disk=True),
    FaultKind(
        "slow sync",
        "each fsync of the hub takes longer",
        "syncs that were slow",
        (Field("by", y.TIME, "how much", is_needed=True), _FOR),
        ("strace",),
    ),
    FaultKind(
        "write error",
        "writes of the hub fail with EIO",
        "writes that failed",
        (
            Field("nth", y.COUNT, "which write is the first that fails", 1),
            Field("count", y.COUNT, "how many fail", 1),
            _FOR,
        ),
        ("strace",),
    ),
    FaultKind(
        "damage database",
        "the hub is killed, and its message database damaged before it starts again",
        "damaged files",
        (
            Field("how", y.choice("flip bits", "tear"), "bits flipped, or the end cut off", is_needed=True),
            Field("count", y.COUNT, "how many bits", 8),
        ),
    ),
    FaultKind(
        "power cut",
        "everything is killed; of what was not synced the disk keeps what it likes",
        "lives that ended so",
        (Field("moments", y.NUMBER, "other moments of the life whose disk is looked into as well", 0),),
        needs=("strace",),
    ),
    # machine
    FaultKind(
        "move clock",
        "the clock of agent and hub is set; that of the IoT Hub stays right",
        "clocks moved",
        (Field("by", y.SIGNED_TIME, "how much", is_needed=True), Field("for", y.SPREAD, "then it is right")),
    ),
    FaultKind("stop engine", "the edge cannot reach the Docker Engine", "cuts", (_FOR,), ("docker",)),
    FaultKind("expire certificate", "the hub's certificate has run out when it starts", "certificates"),
    FaultKind("renew certificate", "the hub's certificate is made anew while it serves", "certificates"),
    # clients
    FaultKind("stall client", "it reads and writes nothing and stays connected", "stalls", (_CLIENT, _FOR)),
    FaultKind("drop client", "its connection breaks without a word; it connects again", "breaks", (_CLIENT,)),
    FaultKind(
        "renew token",
        "it connects again with another token, as SDKs do before theirs expires",
        "new connections",
        (_CLIENT,),
    ),
    FaultKind(
        "second client",
        "another connects with its identity, again and again",
        "take-overs",
        (_CLIENT, Field("count", y.COUNT, "how often", 1)),
    ),
    FaultKind(
        "wrong key",
        "somebody connects as it with a wrong key",
        "refusals",
        (_CLIENT, Field("count", y.COUNT, "how often", 1)),
    ),
)
FAULTS: Final[Mapping[str, FaultKind]] = {kind.name: kind for kind in _ALL}
