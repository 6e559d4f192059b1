"""Whatever happens to line, store, link and identities, in whatever order.

Nothing is lost, every source keeps its order, and none starves.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.hub.client_services import ClientChanged
from actors.store.messages import Append
from actors.upstream.connection import CloudFault, Fault
from actors.upstream.link_state import SwitchLink
from actors.upstream.upkeep import LinkLimits
from tests.actors.link_world import HEAD, STORE, UP, LinkWorld

SOURCES = ["edge1/a", "edge1/b", "leaf1", "leaf2", "edge1/$edgeHub"]
PASSING = [Fault.UNREACHABLE, Fault.TIMEOUT, Fault.UNAUTHORIZED, Fault.THROTTLED, Fault.QUOTA, Fault.CLOCK]
HEALED_S = 1500.0  # the longest back-off is ten minutes

Step = Callable[["Play"], None]


class Play:
    """One run: what was published, and what the cloud does meanwhile."""

    def __init__(self, seed: int, most_connections: int, messages_per_s: float | None) -> None:
        self.world = LinkWorld(LinkLimits(most_connections, messages_per_s), seed=seed)
        self.published: dict[str, list[bytes]] = {source: [] for source in SOURCES}
        self.restarts = 0

    def publish(self, source: str, count: int) -> None:
        known = self.published[source]
        bodies = [b"%d" % number for number in range(len(known), len(known) + count)]
        known += bodies
        self.world.publish(source, *bodies)

    def cut(self, source: str, kind: Fault) -> None:
        if source in self.world.cloud.connections:
            self.world.cloud.cut(source, CloudFault(kind, kind.value))
            self.world.system.run()

    def refuse(self, source: str, kind: Fault) -> None:
        self.world.cloud.refuse(source, CloudFault(kind, kind.value))
        self.world.system.run()

    def fail(self, address: str) -> None:
        """Let an actor fail, not so often that it gives up."""
        if self.restarts < 4:
            self.restarts += 1
            broken = Append("x", None, 0, (), ()) if address == STORE else ClientChanged(None, 7)  # type: ignore[arg-type]
            self.world.turn(address, broken, sender=HEAD)

    def heal(self) -> None:
        cloud = self.world.cloud
        cloud.refusals.clear()
        cloud.come_back()
        cloud.release()
        self.world.tell(UP, SwitchLink(True), "service")
        self.world.system.advance(HEALED_S)


def with_cloud(act: Callable[[LinkWorld], None]) -> Step:
    def step(play: Play) -> None:
        act(play.world)
        play.world.system.run()

    return step


source = st.sampled_from(SOURCES)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda s, n: lambda play: play.publish(s, n), source, st.integers(1, 30)),
    st.builds(lambda s, n: lambda play: play.publish(s, n), source, st.integers(1, 3)),
    st.builds(lambda s: lambda play: play.world.system.advance(s), st.sampled_from([0.01, 0.3, 2.0, 40.0])),
    st.builds(lambda s, k: lambda play: play.cut(s, k), source, st.sampled_from(PASSING)),
    st.builds(lambda s, k: lambda play: play.refuse(s, k), source, st.sampled_from(PASSING)),
    st.builds(lambda s: with_cloud(lambda world: world.cloud.refusals.pop(s, None) and None), source),
    st.builds(lambda n: with_cloud(lambda world: world.cloud.release(n)), st.integers(1, 20)),
    st.sampled_from(
        [
            with_cloud(lambda world: world.cloud.go_away()),
            with_cloud(lambda world: world.cloud.come_back()),
            with_cloud(lambda world: world.cloud.hold()),
            with_cloud(lambda world: world.cloud.release()),
            with_cloud(lambda world: world.tell(UP, SwitchLink(False), "service")),
            with_cloud(lambda world: world.tell(UP, SwitchLink(True), "service")),
            lambda play: play.fail(STORE),
            lambda play: play.fail(UP),
        ]
    ),
)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 1000),
    most_connections=st.integers(1, 4),
    messages_per_s=st.sampled_from([None, 200.0]),
    story=st.lists(steps, min_size=1, max_size=30),
)
def test_nothing_is_lost_or_overtaken_and_nobody_starves(
    seed: int, most_connections: int, messages_per_s: float | None, story: list[Step]
) -> None:
    play = Play(seed, most_connections, messages_per_s)
    for step in story:
        step(play)
        assert len(play.world.cloud.connections) <= most_connections + 1
    play.heal()

    for source_id, bodies in play.published.items():
        arrived = play.world.cloud.bodies(source_id)
        assert list(dict.fromkeys(arrived)) == bodies  # some may have come twice
    if any(play.published.values()):
        ledger = play.world.ledger()
        assert (ledger.pending, ledger.dropped) == (0, 0)
        assert ledger.delivered == sum(map(len, play.published.values()))
