"""The link to the cloud in virtual time: the actor, a real store in memory, and a cloud to steer."""

from __future__ import annotations

from actors.agent.registry import REGISTRY
from actors.hub.identity_messages import Access, GetAccess
from actors.hub.trail import StorageTrail
from actors.kernel.base import EdgeActor
from actors.store.append_guard import AppendGuard
from actors.store.messages import Append
from actors.store.store import StoreActor
from actors.store.stored import EndpointLedger
from actors.upstream.connection import CloudConnections
from actors.upstream.link_state import GetLinkState, LinkState
from actors.upstream.switchboard import Where
from actors.upstream.upkeep import LinkLimits
from actors.upstream.upstream import UpstreamActor
from messaging.envelope import Secret
from messaging.lifecycle import RequestFailed
from messaging.message import encode_header
from messaging.upstream_queues import UPSTREAM, upstream_queue
from tests.actors.hub_world import World, to
from tests.fakes.cloud import MemorySwitch
from tests.fakes.cloud_connections import MemoryCloud
from tests.fakes.message_db import MemoryDisk, MemoryMessageDb

UP, STORE, ROUTER, TWINS, METHODS, IDENTITIES = (
    "hub/upstream",
    "hub/store",
    "hub/router",
    "hub/twins",
    "hub/methods",
    "hub/identities",
)
HEAD, OTHER_HEAD = "hub/mqtt", "hub/amqp"
DEVICE = "edge1"
OWN = f"{DEVICE}/$edgeHub"
HOST = "hub.example"
A, B, C = f"{DEVICE}/a", f"{DEVICE}/b", "leaf"
HEADER = encode_header("/messages/", {}, {})
SOON_S = 1.0  # within which everything that is not held up by anything has happened


class Keys(EdgeActor):
    """Stands for the identities: answers at once, with a key or with why there is none."""

    def __init__(self, refused: dict[str, str]) -> None:
        self._refused = refused

    def on_get_access(self, message: GetAccess) -> None:
        reason = self._refused.get(message.identity)
        if reason is None:
            self.reply(Access(message.identity, Secret(b"a2V5")))
        else:
            self.reply(RequestFailed("GetAccess", self.address, reason))


class LinkWorld(World):
    """Sources are identities as text; bodies come out of `cloud.bodies(source)`."""

    def __init__(
        self,
        limits: LinkLimits | None = None,
        cloud: CloudConnections | None = None,
        seed: int = 1,
        switch: MemorySwitch | None = None,
        start: bool = True,
    ) -> None:
        super().__init__(REGISTRY, ROUTER, TWINS, METHODS, HEAD, OTHER_HEAD, "service", "test", seed=seed)
        self.cloud = MemoryCloud() if cloud is None else cloud
        self.switch = switch or MemorySwitch()
        self.disk = MemoryDisk()
        self.no_key: dict[str, str] = {}
        self._index: dict[str, int] = {}
        self._guard = AppendGuard()
        self._limits = limits or LinkLimits()
        self.start(STORE, lambda: StoreActor(lambda: MemoryMessageDb(self.disk), self._guard, StorageTrail()))
        self.start(IDENTITIES, lambda: Keys(self.no_key))
        if start:
            self.start_link()

    def start_link(self) -> None:
        self.start(UP, self._link)
        self.system.advance(SOON_S)

    def _link(self) -> UpstreamActor:
        return UpstreamActor(
            lambda: self.cloud,
            self.switch,
            Where(HOST, DEVICE, lambda: ""),
            limits=self._limits,
            draw=lambda: 1.0,
        )

    def publish(self, source: str, *bodies: bytes, header: bytes = HEADER, priority: int = 9) -> None:
        """Store messages of a source for the cloud."""
        index = self._index[source] = self._index.get(source, -1) + 1
        entries = tuple((0, body) for body in bodies)
        matches = to(upstream_queue(source), priority=priority)
        self.turn(STORE, Append(source, 1, index, ((header, matches),), entries), sender=HEAD)

    def ledger(self) -> EndpointLedger:
        """Return what is counted for the cloud, once what was delivered is forgotten."""
        self.system.advance(SOON_S)
        return MemoryMessageDb(self.disk).ledger().endpoints[UPSTREAM]

    def state(self) -> LinkState:
        self.tell(UP, GetLinkState(), "service")
        return self.told("service", LinkState)[-1]

    def phase(self, identity: str) -> str:
        """Return in which state an identity is shown, "" for not at all."""
        return next((source[1] for source in self.state().sources if source[0] == identity), "")
