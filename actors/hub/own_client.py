"""The hub's own identity, `$edgeHub`, as a client of the hub: it reports in its twin and answers methods.

Understands: HeadStarted, ClientChanged, ClientGone of heads; Twin, TwinRefused, ReportedPatched,
             DesiredPatch, CallMethod, as heads do; Endpoints, Routes; Identities; BridgesReport of the
             bridges; ActorRestarted, ReportDue, DeadlinePassed, RequestFailed; ListClients of the agent
Tells:       hub/twins, hub/methods, hub/upstream (as heads do), hub/router (ListEndpoints, ListRoutes),
             agent/security (GetIdentities), hub/identities (Identities), agent/agent (HubDesiredArrived)
Started by:  HubRootActor; a restart wipes the map of clients, as a start of the hub does

What `$edgeHub` desires, the routes above all, goes to the agent, which puts it in force: it also has to know
that for a hub that does not run, and without the cloud.

However many clients come at once, the twin gets one patch in a while: each costs a sync to disk and, with a
link, a message to the cloud.

Source: spec sheet observability.md section 5.1
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from actors.addresses import AGENT, AGENT_PROCESS, IDENTITIES, METHODS, ROUTER, SECURITY, TWINS, UPSTREAM
from actors.agent_hub_messages import (
    Clients,
    GetIdentities,
    HubDesiredArrived,
    Identities,
    ListClients,
    Routes,
)
from actors.broker.bridge_messages import BridgesReport
from actors.hub.client_services import (
    CallMethod,
    ClientChanged,
    ClientGone,
    DesiredPatch,
    DesiredTold,
    GetTwin,
    HeadStarted,
    MethodAnswered,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from actors.hub.own_report import MOST_GONE, ClientTimes, bridge_entries, client_entries, hub_report
from actors.hub.router import Endpoints, ListEndpoints, ListRoutes
from actors.kernel.base import EdgeActor
from actors.manifest.hub_manifest import parse_hub_desired
from messaging.envelope import Secret
from messaging.errors import DeploymentError
from messaging.identity import Identity
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, DeadlinePassed, PeerDown, PeerUp, RequestFailed, Watch
from messaging.topics import Feature
from messaging.twin import Json, difference, merge

log = logging.getLogger(__name__)

TWIN_LIMIT_S: Final = 20.0
AGENT_LIMIT_S: Final = 10.0
REFRESH: Final = "refreshdevicescopeidentitycache"
PING: Final = "ping"
_SERVICES: Final = (TWINS, METHODS, UPSTREAM)  # that know clients
_WANTS: Final = (Feature.DESIRED_PROPERTIES.name, Feature.METHODS.name)


@message
class ReportDue:
    """Timer: report what has changed."""


class _Scope(msgspec.Struct):
    """The payload of RefreshDeviceScopeIdentityCache. All identities are asked for, whichever it names."""

    device_ids: list[str] = msgspec.field(name="deviceIds")


class HubClientActor(EdgeActor):
    """Head and client in one, for one identity. It has no connection."""

    def __init__(
        self,
        device_id: str,
        *,
        report_s: float,
    ) -> None:
        """Keep of which edge this is the hub, and the least time between two reports."""
        self._identity = Identity(device_id, "$edgeHub").id
        self._report_s = report_s
        self._next_report_s = 0.0  # monotonic, not earlier
        self._timer = False
        self._clients: dict[str, ClientTimes] = {}
        self._left_out = 0
        self._bridges: Json = {}
        self._version: int | None = None  # of the desired properties
        self._desired: Json = {}
        self._problem = ""  # with them
        self._agent_is_up = False
        self._bad_routes: list[tuple[str, str]] | None = None
        self._reported: Json | None = None  # None: nothing yet, and what the twin has is of an earlier hub
        self._under_way: tuple[int, Json] | None = None  # the request, and what is reported with it
        self._twin_asked = 0
        self._refreshing: dict[int, str] = {}  # request of ours → of the method call

    # life

    def on_start(self) -> None:
        for service in _SERVICES:
            self.tell(service, Watch())
            self.tell(service, HeadStarted())
            self._introduce(service)
        self.tell(ROUTER, Watch())
        self.tell(ROUTER, ListEndpoints())
        self.context.watch_peer(AGENT_PROCESS)
        self._ask_twin()

    def on_peer_up(self, message: PeerUp) -> None:
        self._agent_is_up = True
        self._tell_agent()

    def on_peer_down(self, message: PeerDown) -> None:
        self._agent_is_up = False

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        if message.address == ROUTER:
            self.tell(ROUTER, ListEndpoints())
        elif message.address in _SERVICES:
            self._introduce(message.address)

    def describe(self) -> dict[str, Any]:
        connected = sum(1 for times in self._clients.values() if times.head)
        return {"connected": connected, "known": len(self._clients), "left_out": self._left_out}

    def _introduce(self, service: str) -> None:
        self.tell(service, ClientChanged(self._identity, _WANTS))

    def _ask_twin(self) -> None:
        self._twin_asked = self.request(TWINS, GetTwin(self._identity), TWIN_LIMIT_S)

    # clients of all heads

    def on_head_started(self, message: HeadStarted) -> None:
        started = self.envelope.sender
        for identity in [who for who, times in self._clients.items() if times.head == started]:
            self._gone(identity)

    def on_client_changed(self, message: ClientChanged) -> None:
        known = self._clients.get(message.identity)
        head = self.envelope.sender
        if known is not None and known.head:
            known.head = head  # it subscribed to something, or went from one head to another
            return
        now_s = self.clock.now_s()
        gone_s = None if known is None else known.disconnected_s
        self._clients[message.identity] = ClientTimes(head, now_s, gone_s)
        self._report_soon()

    def on_client_gone(self, message: ClientGone) -> None:
        known = self._clients.get(message.identity)
        if known is not None and known.head == self.envelope.sender:
            self._gone(message.identity)

    def on_list_clients(self, message: ListClients) -> None:
        self.reply(Clients(tuple(identity for identity, times in self._clients.items() if times.head)))

    def _gone(self, identity: str) -> None:
        times = self._clients.pop(identity)
        if "/" in identity:  # a module stays in the map, now as its last entry; a device does not
            times.head, times.disconnected_s = "", self.clock.now_s()
            self._clients[identity] = times
            gone = [who for who, known in self._clients.items() if not known.head]
            if len(gone) > MOST_GONE:
                del self._clients[gone[0]]
        self._report_soon()

    # what is reported

    def on_bridges_report(self, message: BridgesReport) -> None:
        self._bridges = bridge_entries(message.bridges)
        self._report_soon()

    def on_endpoints(self, message: Endpoints) -> None:
        """The routes may have changed."""
        self.tell(ROUTER, ListRoutes())

    def on_routes(self, message: Routes) -> None:
        self._bad_routes = [(name, problem) for name, _, problem, _, _ in message.bad]
        self._report_soon()

    def on_twin(self, message: Twin) -> None:
        desired = msgspec.json.decode(message.document)["desired"]
        self._take_desired({}, desired, desired["$version"])

    def on_desired_patch(self, message: DesiredPatch) -> None:
        self.reply(DesiredTold(message.identity, message.version))
        if self._version is None:
            self._report_soon()  # the whole twin comes first
        else:
            self._take_desired(self._desired, msgspec.json.decode(message.patch), message.version)

    def _take_desired(self, before: Json, patch: Json, version: int) -> None:
        patch.pop("$version", None)
        self._desired, self._version = merge(before, patch), version
        self._problem = ""
        if self._desired:
            try:
                parse_hub_desired(msgspec.json.encode(self._desired), self._version)
            except DeploymentError as exc:
                self._problem = str(exc)
        self._tell_agent()
        self._report_soon()

    def _tell_agent(self) -> None:
        if self._agent_is_up and self._version is not None and self._desired and not self._problem:
            encoded = Secret(msgspec.json.encode(self._desired, order="sorted"))
            self.tell(AGENT, HubDesiredArrived(encoded, self._version))

    def on_reported_patched(self, message: ReportedPatched) -> None:
        if self._under_way is not None and self._under_way[0] == self.envelope.correlation_id:
            self._reported = self._under_way[1]
            self._under_way = None
            self._report_soon()

    def on_report_due(self, message: ReportDue) -> None:
        self._timer = False
        if self._version is None:
            if not self._twin_asked:
                self._ask_twin()
        elif self._bad_routes is not None and self._under_way is None:
            self._report(hub_report(self._version, self._bad_routes, self._problem))

    def _report(self, report: Json) -> None:
        if self._reported is None:
            patch = report | {"clients": None, "bridges": None}
        else:
            entries, left_out = client_entries(self._clients.items())
            if left_out and not self._left_out:
                log.warning("%d clients are not reported: a twin has no room for more", left_out)
            self._left_out = left_out
            report["clients"] = entries
            if self._bridges:
                report["bridges"] = self._bridges
            patch = difference(self._reported, report)
        if patch:
            self._next_report_s = self.clock.monotonic_s() + self._report_s
            asked = PatchReported(self._identity, msgspec.json.encode(patch))
            self._under_way = self.request(TWINS, asked, TWIN_LIMIT_S), report

    def _report_soon(self) -> None:
        if not self._timer:
            self._timer = True
            wait_s = max(0.0, self._next_report_s - self.clock.monotonic_s())
            self.set_timer(wait_s, ReportDue())

    # failures: everything is tried again with the next report

    def on_twin_refused(self, message: TwinRefused) -> None:
        self._failed(self.envelope.correlation_id, f"{message.status} {message.reason}")

    def on_request_failed(self, message: RequestFailed) -> None:
        self._failed(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._failed(message.correlation_id, f"{message.address} does not answer")

    def _failed(self, correlation_id: int, reason: str) -> None:
        call = self._refreshing.pop(correlation_id, None)
        if call is not None:
            self._answer(call, 500, f"the identities cannot be had: {reason}")
            return
        if correlation_id == self._twin_asked:
            self._twin_asked = 0
        elif self._under_way is not None and self._under_way[0] == correlation_id:
            self._under_way = None
        else:
            return
        log.warning("the twin of %s cannot be kept: %s", self._identity, reason)
        self._next_report_s = self.clock.monotonic_s() + self._report_s
        self._report_soon()

    # methods

    def on_call_method(self, message: CallMethod) -> None:
        name = message.name.lower()
        if name == PING:
            self._answer(message.request_id, 200)
        elif name != REFRESH:
            self._answer(message.request_id, 404, f"{self._identity} has no method of this name")
        else:
            try:
                msgspec.json.decode(message.payload, type=_Scope)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._answer(message.request_id, 400, 'the payload has to be {"deviceIds": ["…"]}')
                return
            asked = self.request(SECURITY, GetIdentities(refresh=True), AGENT_LIMIT_S)
            self._refreshing[asked] = message.request_id

    def on_identities(self, message: Identities) -> None:
        self.tell(IDENTITIES, message)
        call = self._refreshing.pop(self.envelope.correlation_id, None)
        if call is not None:
            self._answer(call, 200)

    def _answer(self, request_id: str, status: int, reason: str = "") -> None:
        payload = msgspec.json.encode({"message": reason}) if reason else b"null"
        self.tell(METHODS, MethodAnswered(self._identity, request_id, status, payload))
