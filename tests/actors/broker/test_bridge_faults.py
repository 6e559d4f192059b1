"""Whatever happens to connection, process and both brokers, in whatever order: a bridge loses nothing.

Each direction keeps its order; what comes twice comes again in the same order.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from messaging.broker.bridges import BridgeRule, Direction
from messaging.mqtt.packets import Publish, ReturnCode
from tests.actors.bridge_world import World

RULES = BridgeRule(Direction.OUT, "up/#", "", "far/"), BridgeRule(Direction.IN, "down/#", "", "near/")
Step = Callable[["Play"], None]


class Play:
    """One run: what was published at either end, and what happens meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "bridge.db")
        self.out = 0
        self.into = 0
        self.unacknowledged: dict[int, Publish] = {}  # by the bridge, at the far broker
        self.world.begin(*RULES)
        self.settle()

    def settle(self) -> None:
        """Take note of what the bridge has acknowledged to the far broker."""
        far = self.world.far
        for packet_id in far.acknowledged_by_bridge:
            self.unacknowledged.pop(packet_id, None)
        far.acknowledged_by_bridge.clear()

    @property
    def is_up(self) -> bool:
        far = self.world.far
        return far.handler is not None and far.is_accepted

    def publish(self, count: int) -> None:
        bodies = [b"%d" % number for number in range(self.out, self.out + count)]
        self.out += count
        self.world.publish("up/x", *bodies)
        self.settle()

    def send(self, count: int) -> None:
        """The far broker delivers, as far as its window of 20 reaches."""
        if not self.is_up or self.world.far.transport.reading is False:
            return
        count = min(count, 20 - len(self.unacknowledged))
        messages = [Publish("down/1", b"%d" % (self.into + n), 1, 1 + self.into + n) for n in range(count)]
        self.into += count
        self.unacknowledged |= {message.packet_id: message for message in messages}
        if messages:
            self.world.far.send(*messages)
        self.settle()

    def lose(self) -> None:
        if self.world.far.handler is not None:
            self.settle()
            self.world.far.lose()

    def connect(self, code: ReturnCode = ReturnCode.ACCEPTED) -> None:
        world = self.world
        world.tick(1.0)
        if world.far.handler is None or world.far.is_accepted:
            return
        world.far.accept(code)
        self.settle()
        if code is ReturnCode.ACCEPTED and self.unacknowledged:
            world.far.send(*(message._replace(dup=True) for message in self.unacknowledged.values()))
            self.settle()

    def refuse(self) -> None:
        self.connect(ReturnCode.SERVER_UNAVAILABLE)

    def kill(self) -> None:
        """Kill the process, which ends the connection; the local broker publishes nothing it did not keep."""
        self.settle()
        self.world.far.handler = None
        self.world.unpublished = 0
        self.world.restart()
        self.world.bridge.set_rules(RULES)

    def swallow(self) -> None:
        """The line takes everything and brings nothing, until the connection is lost."""
        self.world.far.swallows = True

    def hold(self) -> None:
        self.world.far.acknowledges = False

    def acknowledge(self) -> None:
        self.world.far.acknowledges = True
        if self.is_up:
            self.world.far.acknowledge()
        else:
            self.world.far.unanswered.clear()
        self.settle()

    def confirm(self) -> None:
        self.world.confirm()
        self.settle()

    def flush(self) -> None:
        self.world.bridge.flush()

    def wait(self) -> None:
        self.world.tick(5.0)
        self.settle()

    def heal(self) -> None:
        self.lose()
        self.acknowledge()
        for _ in range(60):
            self.confirm()
            if not self.is_up:
                self.connect()
            self.wait()
        self.confirm()
        self.world.bridge.flush()


def _with(name: str, *arguments: object) -> Step:
    def step(play: Play) -> None:
        getattr(play, name)(*arguments)

    return step


counts = st.integers(1, 40)
steps = st.one_of(
    counts.map(lambda count: _with("publish", count)),
    counts.map(lambda count: _with("send", count)),
    st.sampled_from(
        [
            _with(name)
            for name in (
                "lose",
                "connect",
                "refuse",
                "kill",
                "hold",
                "swallow",
                "acknowledge",
                "confirm",
                "flush",
                "wait",
            )
        ]
    ),
)


@settings(max_examples=60)
@given(story=st.lists(steps, max_size=40))
def test_nothing_is_lost_or_overtaken(story: list[Step]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ea-bridge-"))
    try:
        play = Play(folder)
        for step in story:
            step(play)

        play.heal()

        out = [message.payload for message in play.world.far.got]
        into = [message.payload for message in play.world.near]
        assert list(map(int, dict.fromkeys(out))) == list(range(play.out))
        assert list(map(int, dict.fromkeys(into))) == list(range(play.into))
        shown = play.world.bridge.shown()
        assert (shown["queued"], shown["queuedIn"], shown["dropped"]) == (0, 0, 0)
        play.world.store.close()
    finally:
        shutil.rmtree(folder)
