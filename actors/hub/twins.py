"""Keeps the twins of all clients: they report, the deployment or the cloud desires.

Understands: GetTwin, PatchReported, SetDesired, DesiredTold, ForgetTwin, HeadStarted, ClientChanged,
             ClientGone, Stored; from the cloud's side ActorRestarted, LinkChanged, CloudTwin, CloudRefused,
             ReportedSent, DesiredChanged, DesiredFollowed, DeadlinePassed, RequestFailed
Tells:       whoever asked (Twin, ReportedPatched, TwinRefused, TwinForgotten), heads (DesiredPatch),
             hub/router (Publish), the cloud's actor (WatchLink, FetchTwin, SendReported)
Started by:  HubRootActor, on a thread of its own: it waits for the disk

What a client was told to be stored is on disk, and reaches the cloud when there is one: what the cloud lacks
is the difference between what it had when last heard of and what is reported now. That holds however often
the link or this hub went away meanwhile; a row of merged patches could not tell what they removed.

Source: hub-protocols.md sections 1.12, 7.6; routing.md section 3.4
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from actors.agent_hub_messages import SetDesired
from actors.hub.client_services import (
    ClientChanged,
    ClientGone,
    DesiredPatch,
    DesiredTold,
    ForgetTwin,
    GetTwin,
    HeadStarted,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinForgotten,
    TwinRefused,
)
from actors.hub.desired_followers import DesiredFollowers
from actors.hub.router import Publish
from actors.hub.twin_change import change_header
from actors.hub.twin_record import TwinRecord
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.storage import TwinStore
from actors.store.messages import Stored
from actors.upstream.messages import (
    CloudRefused,
    CloudTwin,
    DesiredChanged,
    DesiredFollowed,
    FetchTwin,
    LinkChanged,
    ReportedSent,
    SendReported,
    WatchLink,
)
from messaging.envelope import Envelope
from messaging.errors import IotHubError, StoreError
from messaging.identity import Identity
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, DeadlinePassed, RequestFailed, Watch
from messaging.topics import Feature
from messaging.twin import Json, difference

log = logging.getLogger(__name__)

CLOUD_LIMIT_S: Final = 10.0  # for one answer of the cloud; a client that asks for its twin waits for it
ROUTE_LIMIT_S: Final = 10.0  # for a change to be on disk as a message; the client that made it waits for that
RETRY_S: Final = 30.0  # after a failure, unless the link comes back earlier
MOST_REMEMBERED: Final = 500  # twins in memory, of up to 72 KiB; the others are read again when needed
_FAILED: Final = 500


@message
class TwinRetry:
    """Timer: ask the cloud again for this identity."""

    identity: str


class TwinActor(EdgeActor):
    """Answers from its own copy; asks the cloud for a newer one while there is a link."""

    def __init__(
        self,
        open_store: Callable[[], TwinStore],
        router: str,
        cloud: str,
        edge_device_id: str,
        desired: Mapping[str, Json],
        metrics: HubMetrics = OFF,
    ) -> None:
        """Keep what is needed; `desired` are those of the deployment, by name of the module."""
        self._metrics = metrics
        self._asked_s: dict[str, float] = {}  # when the cloud was, monotonic, for each that is under way
        self._open_store = open_store
        self._store: TwinStore | None = None
        self._router = router
        self._cloud = cloud
        self._hub = Identity(edge_device_id, "$edgeHub")
        self._deployed = dict(desired)
        self._records: dict[str, TwinRecord] = {}
        self._changed: dict[str, TwinRecord] = {}  # in this turn
        self._after: list[tuple[Envelope | None, Callable[[], None]]] = []  # once that is on disk
        self._followers = DesiredFollowers()
        self._is_up = False
        self._under_way: dict[str, int] = {}  # identity → correlation id of what the cloud was asked
        self._stale: set[str] = set()  # of these the cloud's copy is wanted
        self._readers: dict[str, list[Envelope]] = {}  # who waits for it
        self._patched: dict[str, int] = {}  # `$version` of the last patch that came while it was asked for
        self._unrouted: dict[int, tuple[str, Envelope]] = {}  # by Publish of a change: who waits for it
        self._epochs = itertools.count(1)

    # life

    def on_start(self) -> None:
        self._epochs = itertools.count(int(self.clock.monotonic_s() * 1e6))
        self._store = self._open_store()
        self.tell(self._cloud, Watch())
        self.tell(self._cloud, WatchLink())
        for module, values in self._deployed.items():
            self._set_desired(module, values)
        self.on_turn_end()

    def on_stop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def on_turn_end(self) -> None:
        """Store what this turn changed, with one sync to disk; only then say so."""
        while self._changed or self._after:  # what is done after that may change something in turn
            self._commit()
        while len(self._records) > MOST_REMEMBERED:
            del self._records[next(iter(self._records))]

    def _commit(self) -> None:
        changed, self._changed = self._changed, {}
        after, self._after = self._after, []
        if changed:
            assert self._store is not None
            try:
                self._store.save({identity: record.encode() for identity, record in changed.items()})
            except StoreError as exc:
                log.error("twins cannot be stored: %s", exc)
                for identity in changed:
                    self._records.pop(identity, None)  # what is on disk counts
                    if self._under_way.get(identity) == 0:
                        self._failed(identity, str(exc))
                    self._answer_readers(identity)
                for envelope, _ in after:
                    if envelope is not None:
                        self.reply(TwinRefused("", _FAILED, str(exc)), envelope)
                return
        for _, act in after:
            act()

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self.on_link_changed(LinkChanged(False))
        self.tell(self._cloud, WatchLink())

    def describe(self) -> dict[str, Any]:
        return {"clients": len(self._followers), "remembered": len(self._records), "cloud": self._is_up}

    # clients

    def on_head_started(self, message: HeadStarted) -> None:
        self._followers.head_started(self.envelope.sender)

    def on_client_changed(self, message: ClientChanged) -> None:
        identity = message.identity
        wants = Feature.DESIRED_PROPERTIES.name in message.features
        if self._followers.changed(identity, self.envelope.sender, wants):
            record = self._record(identity)
            if record.told is None:  # what changes from now on it has to be told, even by another hub process
                self._change(identity, record.with_told(record.desired.values), _nothing)
            self._catch_up(identity)
            self._refresh(identity)

    def on_client_gone(self, message: ClientGone) -> None:
        self._followers.gone(message.identity, self.envelope.sender)

    def on_desired_told(self, message: DesiredTold) -> None:
        """The client has a patch, and with it those before: what it lacks counts from there from now on."""
        values = self._followers.taken(message.identity, message.version)
        if values is not None:
            self._change(message.identity, self._record(message.identity).with_told(values), _nothing)

    def on_get_twin(self, message: GetTwin) -> None:
        if not self._is_up:
            self._answer(message.identity, self.envelope)
            return
        self._readers.setdefault(message.identity, []).append(self.envelope)
        self._refresh(message.identity)

    def on_patch_reported(self, message: PatchReported) -> None:
        identity = message.identity
        try:
            patch = _parsed(message.patch)
            record = self._record(identity).with_reported(patch, self.clock.now_s())
        except IotHubError as exc:
            self.reply(TwinRefused(identity, exc.status, str(exc)))
            return
        envelope = self.envelope

        def stored() -> None:
            if identity == self._hub.id:
                self._patched_for(identity, envelope)
            else:
                self._publish_change(identity, message.patch, envelope)
            self._go_on(identity)

        self._change(identity, record, stored, envelope)

    def on_forget_twin(self, message: ForgetTwin) -> None:
        """Forget the twin; one of a module that was made anew begins with what its deployment desires."""
        identity = message.identity
        assert self._store is not None
        try:
            self._store.remove(identity)
        except StoreError as exc:
            self.reply(RequestFailed("ForgetTwin", self.address, str(exc)))
            return
        for known in (
            self._records,
            self._changed,
            self._under_way,
            self._asked_s,
            self._readers,
            self._patched,
        ):
            known.pop(identity, None)
        self._stale.discard(identity)
        self._followers.forget_sent(identity)
        for module, values in self._deployed.items():
            if Identity(self._hub.device_id, module).id == identity:
                self._set_desired(module, values)
        self.reply(TwinForgotten(identity))

    # the deployment

    def on_set_desired(self, message: SetDesired) -> None:
        self._deployed = {module: msgspec.json.decode(values) for module, values in message.desired}
        for module, values in self._deployed.items():
            self._set_desired(module, values)

    def _set_desired(self, module: str, values: Json) -> None:
        identity = Identity(self._hub.device_id, module).id
        before = self._record(identity)
        try:
            record = before.with_desired(values, self.clock.now_s())
        except IotHubError as exc:
            log.error("twin of '%s' in the deployment: %s; its desired properties stay", identity, exc)
            return
        if record is not before:
            self._change(identity, record, lambda: self._tell_desired(identity, before, record))

    def _tell_desired(self, identity: str, before: TwinRecord, now: TwinRecord) -> None:
        """Tell a client that wants to know what has changed."""
        if now.told is not None or self._followers.last_sent(identity) is not None:
            self._catch_up(identity)
        elif before.desired.version != now.desired.version:
            self._send_patch(identity, difference(before.desired.values, now.desired.values))

    def _catch_up(self, identity: str) -> None:
        """Tell a client what changed since it was last told, which may be long ago.

        What was sent on this connection counts: it arrives, or the connection ends.
        """
        record = self._record(identity)
        sent = self._followers.last_sent(identity)
        knows = record.told if sent is None else sent
        news = {} if knows is None else difference(knows, record.desired.values)
        if news:
            self._send_patch(identity, news)

    def _send_patch(self, identity: str, patch: Json) -> None:
        head = self._followers.head_of(identity)
        if not head:
            return
        record = self._record(identity)
        version, values = record.desired.version, record.desired.values
        body = msgspec.json.encode({**patch, "$version": version})

        def send() -> None:
            self._followers.sent(identity, version, values)
            self.tell(head, DesiredPatch(identity, version, body))

        in_doubt = record.with_sent()
        if in_doubt is record:
            send()
        else:
            self._change(identity, in_doubt, send)

    # the cloud

    def on_link_changed(self, message: LinkChanged) -> None:
        self._is_up = message.is_up
        if message.is_up:
            assert self._store is not None
            for identity in {*self._store.identities(), *self._followers}:
                self._refresh(identity)
            return
        self._under_way.clear()
        self._asked_s.clear()
        self._stale.clear()
        for identity in list(self._readers):
            self._answer_readers(identity)

    def on_cloud_twin(self, message: CloudTwin) -> None:
        identity = message.identity
        if not self._ended(identity):
            return
        self._metrics.twin_told("upstream", identity, self._took_s(identity))
        desired, reported = msgspec.json.decode(message.desired), msgspec.json.decode(message.reported)
        if desired.get("$version", 0) < self._patched.get(identity, 0):
            self._refresh(identity)  # a patch overtook this answer, which was read before it
            return
        before = self._record(identity)
        record = before.with_cloud(desired, reported, self.clock.now_s())

        def stored() -> None:
            self._tell_desired(identity, before, record)
            self._answer_readers(identity)
            self._go_on(identity)

        self._change(identity, record, stored)

    def on_reported_sent(self, message: ReportedSent) -> None:
        identity = message.identity
        if self._ended(identity):
            self._metrics.reported("upstream", identity, self._took_s(identity))
            record = self._record(identity).with_taken()
            self._change(identity, record, lambda: self._go_on(identity))

    def on_cloud_refused(self, message: CloudRefused) -> None:
        self._failed(message.identity, f"{message.status} {message.reason}")

    def on_request_failed(self, message: RequestFailed) -> None:
        if self.envelope.correlation_id in self._unrouted:
            self._not_routed(self.envelope.correlation_id, message.reason)
        elif self.envelope.correlation_id:
            self._failed(self._asked_with(self.envelope.correlation_id), message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        if message.correlation_id in self._unrouted:
            self._not_routed(message.correlation_id, f"not on disk within {ROUTE_LIMIT_S:g} s")
        self._failed(self._asked_with(message.correlation_id), f"no answer within {CLOUD_LIMIT_S:g} s")

    def on_desired_changed(self, message: DesiredChanged) -> None:
        identity = message.identity
        if identity in self._under_way:
            self._patched[identity] = message.version
        before = self._record(identity)
        record = before.with_desired_patch(message.version, msgspec.json.decode(message.patch))
        if record is None:
            self._refresh(identity)  # something in between was missed
        else:
            self._change(identity, record, lambda: self._tell_desired(identity, before, record))

    def on_desired_followed(self, message: DesiredFollowed) -> None:
        self._refresh(message.identity)

    def on_twin_retry(self, message: TwinRetry) -> None:
        self._go_on(message.identity)

    def _refresh(self, identity: str) -> None:
        """Ask for the cloud's copy, while there is a link; a new link asks for all."""
        if self._is_up:
            self._stale.add(identity)
            self._go_on(identity)

    def _go_on(self, identity: str) -> None:
        """Do what is next with the cloud for one identity: one thing at a time, its copy first."""
        if not self._is_up or identity in self._under_way:
            return
        record = self._record(identity)
        if identity in self._stale or record.known is None:
            self._stale.discard(identity)
            self._patched.pop(identity, None)
            self._under_way[identity] = self._ask(identity, FetchTwin(identity))
        elif patch := record.unsent():
            asked = SendReported(identity, msgspec.json.encode(patch))
            self._under_way[identity] = 0  # until it is on disk that it may have arrived
            self._change(identity, record.with_trial(), lambda: self._send(identity, asked))

    def _send(self, identity: str, asked: SendReported) -> None:
        if self._under_way.get(identity) == 0:
            self._under_way[identity] = self._ask(identity, asked)

    def _ask(self, identity: str, question: FetchTwin | SendReported) -> int:
        self._asked_s[identity] = self.clock.monotonic_s()
        return self.request(self._cloud, question, CLOUD_LIMIT_S)

    def _took_s(self, identity: str) -> float:
        now_s = self.clock.monotonic_s()
        return now_s - self._asked_s.pop(identity, now_s)

    def _ended(self, identity: str) -> bool:
        """Say whether this is the answer to what the cloud was last asked for this identity."""
        if self._under_way.get(identity) != self.envelope.correlation_id:
            return False
        del self._under_way[identity]
        return True

    def _asked_with(self, correlation_id: int) -> str:
        return next((who for who, asked in self._under_way.items() if asked == correlation_id), "")

    def _failed(self, identity: str, reason: str) -> None:
        """Nothing came of it. What the cloud has is unknown now; the next request asks for that first."""
        if identity not in self._under_way:
            return
        del self._under_way[identity]
        self._asked_s.pop(identity, None)
        self._stale.add(identity)
        log.warning("twin of '%s': the cloud does not take part: %s", identity, reason)
        self.set_timer(RETRY_S, TwinRetry(identity))
        self._answer_readers(identity)

    # changes as messages

    def on_stored(self, message: Stored) -> None:
        """The message of a change is on disk too, so its client may forget it."""
        for batch in message.batches:
            if (waiting := self._unrouted.pop(batch, None)) is not None:
                self._patched_for(*waiting)

    def _not_routed(self, correlation_id: int, reason: str) -> None:
        """The twin has the change, and the cloud will; only its message is missing."""
        identity, envelope = self._unrouted.pop(correlation_id)
        log.error("a change of reported properties of '%s' could not be routed: %s", identity, reason)
        self._patched_for(identity, envelope)

    # answers

    def _patched_for(self, identity: str, asked: Envelope) -> None:
        self._metrics.reported("edge_hub", identity, self.clock.now_s() - asked.sent_at_s)
        self.reply(ReportedPatched(identity), asked)

    def _answer_readers(self, identity: str) -> None:
        for envelope in self._readers.pop(identity, ()):
            self._answer(identity, envelope)

    def _answer(self, identity: str, envelope: Envelope) -> None:
        record = self._record(identity)
        self._metrics.twin_told("edge_hub", identity, self.clock.now_s() - envelope.sent_at_s)
        self.reply(Twin(identity, record.document()), envelope)
        told = record.with_told(record.desired.values)
        if told is not record:
            self._change(identity, told, _nothing)

    def _publish_change(self, identity: str, patch: bytes, asked: Envelope) -> None:
        """Route the patch as a message for `FROM /twinChangeNotifications`; answer once that is kept."""
        header = change_header(Identity.parse(identity), self._hub, self.clock.now_s())
        # An epoch of its own for each: one that is refused shall not keep the others out.
        publish = Publish(str(self._hub), next(self._epochs), 0, (header,), ((0, patch),))
        self._unrouted[self.request(self._router, publish, ROUTE_LIMIT_S)] = identity, asked

    # records

    def _record(self, identity: str) -> TwinRecord:
        record = self._records.pop(identity, None)
        if record is None:
            assert self._store is not None
            encoded = self._store.load(identity)
            record = TwinRecord.new(self.clock.now_s()) if encoded is None else TwinRecord.decode(encoded)
        self._records[identity] = record  # the last one in the dict is the last one used
        return record

    def _change(
        self, identity: str, record: TwinRecord, then: Callable[[], None], asked: Envelope | None = None
    ) -> None:
        """Have a record stored at the end of this turn, and do something after that."""
        self._record(identity)
        self._records[identity] = self._changed[identity] = record
        self._after.append((asked, then))


def _nothing() -> None:
    """What is done once a note of ours is on disk."""


def _parsed(patch: bytes) -> object:
    try:
        return msgspec.json.decode(patch)
    except (ValueError, RecursionError) as exc:
        raise IotHubError(400004, "ArgumentInvalid", f"reported properties: not JSON: {exc}") from exc
