"""The agent's own link to the cloud, as `$edgeAgent`: a hub that does not run can still be repaired.

Understands: WatchDesired, FetchHubDesired and ReportState of AgentActor; Identities; AgentMethodAnswered;
             SendQuality of agent/metrics; LinkNews, ReconnectDue, TwinDue, ReportDueAgain, StopLimit of its
             own
Tells:       AgentActor (DesiredArrived, HubDesiredArrived), agent/methods (CallAgentMethod),
             agent/security (GetIdentities)
Started by:  AgentRootActor, when this edge has a cloud; a restart connects anew

What the cloud has counts: at each connection the twin is read, and what is reported is the difference to it.

Source: spec sheet agent.md sections 6.3 to 6.5
"""

from __future__ import annotations

import base64
import itertools
import logging
import random
from typing import Any, Final

import msgspec

from actors.addresses import SECURITY
from actors.agent.cloud_report import CloudReport
from actors.agent.link_messages import (
    METHODS,
    AgentMethodAnswered,
    CallAgentMethod,
    DesiredArrived,
    FetchHubDesired,
    QualityLost,
    QualitySent,
    ReportState,
    SendQuality,
    WatchDesired,
)
from actors.agent.other_twin import OtherTwin
from actors.agent_hub_messages import GetIdentities, HubDesiredArrived, Identities
from actors.hub.identity import HubIdentity
from actors.kernel.base import EdgeActor
from actors.metrics.agent_metrics import OFF, AgentMetrics
from actors.upstream.connection import CloudAccess, CloudConnection, CloudConnections, CloudFault, Fault
from actors.upstream.events import (
    Connected,
    DesiredPatched,
    Done,
    Events,
    Failed,
    Lost,
    MethodCalled,
    Observer,
)
from actors.upstream.rate import is_final, is_probed, retry_s
from messaging import system_properties as names
from messaging.envelope import Envelope, Secret
from messaging.identity import Identity
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, RequestFailed
from messaging.message import DIAGNOSTICS_TYPE, Message
from messaging.topics import Feature
from messaging.twin import Json, merge

log = logging.getLogger(__name__)

IDENTITIES_LIMIT_S: Final = 10.0
REFRESH_S: Final = 3600.0  # the twin is read anew, whatever patches came
FIRST_RETRY_S: Final = 0.2
TRIED_AGAIN: Final = "; it is tried again, and what is deployed here runs on"
TWIN_TRIES: Final = 3  # before the connection is made anew
STOP_LIMIT_S: Final = 2.0  # for the last report
_MAY_PASS: Final = frozenset({Fault.TIMEOUT, Fault.THROTTLED, Fault.QUOTA})
_WANTED: Final = frozenset({Feature.METHODS, Feature.DESIRED_PROPERTIES})


@message
class LinkNews:
    """The connections have told something. From their threads."""


@message
class ReconnectDue:
    """Timer: the wait after a fault is over."""


@message
class TwinDue:
    """Timer: read the twin."""


@message
class ReportDueAgain:
    """Timer: report what has changed meanwhile."""


@message
class StopLimit:
    """Timer: the last report had its time."""


class AgentLinkActor(EdgeActor):
    """One connection as `$edgeAgent`, and for a moment one as `$edgeHub` while there is no hub to ask."""

    def __init__(
        self,
        device_id: str,
        host_name: str,
        connections: CloudConnections,
        *,
        ca_pem: str = "",
        https_port: int = 443,
        metrics: AgentMetrics = OFF,
    ) -> None:
        """Keep what is needed.

        Args:
            device_id: Of this edge.
            host_name: Of the IoT Hub.
            connections: Makes them.
            ca_pem: What to trust besides the system's own authorities.
            https_port: Of the IoT Hub.
            metrics: Where to count.
        """
        self._metrics = metrics
        self._quality: tuple[int, Envelope] | None = None  # what is on its way, and who asked
        self._agent_id = Identity(device_id, "$edgeAgent")
        self._hub_id = Identity(device_id, "$edgeHub")
        self._host_name = host_name
        self._connections = connections
        self._ca_pem = ca_pem
        self._https_port = https_port
        self._events = Events(lambda: self.context.tell_self(LinkNews()))
        self._numbers = itertools.count(1)
        self._keys: dict[str, Secret] = {}
        self._connection: CloudConnection | None = None
        self._observer: Observer | None = None
        self._is_up = False
        self._probing = False
        self._failures = 0
        self._fault: CloudFault | None = None
        self._told: Fault | None = None  # of which the log has a warning
        self._watcher = ""
        self._desired: Json | None = None  # None: not known on this connection
        self._version = 0
        self._patched = 0  # `$version` of the last patch that came while the twin was asked for
        self._twin_asked = 0
        self._twin_failures = 0
        self._state = CloudReport()
        self._report_asked = 0  # 0: no report is on its way
        self._report_timer = 0
        self._hub_asked: list[Envelope] = []
        self._hub_twin = OtherTwin(self._hub_desired, self._hub_failed)
        self._edge_stops = False
        self._stopping = False

    # life

    def on_start(self) -> None:
        self._ask_for_keys()
        self.set_timer(REFRESH_S, TwinDue())

    def on_stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._hub_twin.forget()
        self._connections.close()

    def on_stopping(self) -> None:
        self._stopping = True
        self.set_timer(STOP_LIMIT_S, StopLimit())
        self._report()
        self._stop_when_told()

    def on_stop_limit(self, message: StopLimit) -> None:
        self.context.ready_to_stop()

    def describe(self) -> dict[str, Any]:
        return {
            "identity": self._agent_id.id,
            "host_name": self._host_name,
            "is_up": self._is_up,
            "reason": "" if self._fault is None else self._fault.reason,
            "desired_version": self._version,
        }

    # keys

    def _ask_for_keys(self) -> None:
        self.request(SECURITY, GetIdentities(), IDENTITIES_LIMIT_S)

    def on_identities(self, message: Identities) -> None:
        known = (HubIdentity(*entry) for entry in message.entries)
        wanted = (self._agent_id.id, self._hub_id.id)
        self._keys = {each.id: each.keys[0] for each in known if each.id in wanted and each.keys}
        if self._connection is None and not self._stopping:
            self._connect()

    def on_request_failed(self, message: RequestFailed) -> None:
        self._lose(
            CloudFault(Fault.UNAUTHORIZED, f"the key of {self._agent_id} is not known: {message.reason}")
        )

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._lose(CloudFault(Fault.UNAUTHORIZED, f"the key of {self._agent_id} is not known yet"))

    # the connection

    def _connect(self) -> None:
        key = self._keys.get(self._agent_id.id)
        if key is None:
            self._lose(CloudFault(Fault.UNAUTHORIZED, f"there is no key of {self._agent_id} on this device"))
            return
        self._observer = Observer(self._agent_id.id, self._events)
        self._connection = self._connections.make(self._access(self._agent_id, key), self._observer)
        self._connection.want(_WANTED)
        self._connection.open()

    def _access(self, identity: Identity, key: Secret) -> CloudAccess:
        encoded = Secret(base64.b64encode(key.reveal()))
        return CloudAccess(identity, self._host_name, encoded, self._ca_pem, https_port=self._https_port)

    def on_link_news(self, message: LinkNews) -> None:
        for observer, event in self._events.take():
            if observer is None:
                if self._probing:
                    self._probing = False
                    self._ask_for_keys()
            elif self._hub_twin.is_for(observer):
                self._hub_twin.on_event(event)
            elif observer is self._observer:
                self._on_event(event)

    def _on_event(self, event: object) -> None:
        match event:
            case Connected():
                self._is_up = True
                self._get_twin()
            case Lost(fault):
                self._lose(fault)
            case Done(number, answer) if number == self._twin_asked:
                self._take_twin(msgspec.json.decode(answer))
            case Done(number, _) if number == self._report_asked:
                self._report_asked = 0
                self._state.taken()
                self._failures = 0
                self._report()
            case Failed(number, fault) if number == self._twin_asked:
                self._twin_failed(fault)
            case Failed(number, fault) if number == self._report_asked:
                self._report_failed(fault)
            case Done(number, _) if self._quality is not None and number == self._quality[0]:
                self._end_quality(QualitySent())
            case Failed(number, fault) if self._quality is not None and number == self._quality[0]:
                self._quality_failed(fault)
            case DesiredPatched(patch):
                self._metrics.synced()
                self._take_patch(msgspec.json.decode(patch))
            case MethodCalled(request_id, name, payload):
                self.tell(METHODS, CallAgentMethod(request_id, name, Secret(payload)))

    def _lose(self, fault: CloudFault) -> None:
        """Be without a connection, and see to getting another."""
        if self._twin_asked:
            self._metrics.not_synced()
        self._end_quality(_lost(fault))
        if self._connection is not None:
            self._connection.close()
        self._connection = self._observer = None
        self._state.lost()
        self._twin_asked = self._twin_failures = self._report_asked = 0
        self._is_up = False
        self._failures += 1
        # One refusal is none yet: at the first start the registry is just being told the keys.
        may_pass = fault.kind is Fault.UNAUTHORIZED and self._failures == 1 and self._desired is None
        if fault.kind is not self._told and not may_pass and not self._edge_stops:
            self._told = fault.kind
            reason = fault.reason + (TRIED_AGAIN if is_probed(fault.kind) else "")
            log.warning("the agent's link to %s is down: %s", self._host_name, reason)
        self._fault = fault
        self._stop_when_told()
        wait_s = FIRST_RETRY_S if may_pass else retry_s(fault.kind, self._failures, random.random())
        if wait_s > 0:
            self.set_timer(wait_s, ReconnectDue())
        else:
            self.on_reconnect_due(ReconnectDue())

    def on_reconnect_due(self, message: ReconnectDue) -> None:
        if self._connection is not None or self._probing or self._stopping or self._edge_stops:
            return
        if self._fault is not None and is_probed(self._fault.kind):
            self._probing = True
            self._connections.probe(self._host_name, self._events.reached)
        else:
            self._ask_for_keys()

    # desired properties

    def on_watch_desired(self, message: WatchDesired) -> None:
        self._watcher = self.envelope.sender
        if self._desired is not None:
            self._tell_desired()

    def on_twin_due(self, message: TwinDue) -> None:
        if self._is_up:
            self._get_twin()
        self.set_timer(REFRESH_S, TwinDue())

    def _get_twin(self) -> None:
        assert self._connection is not None
        self._metrics.synced()
        self._twin_asked, self._patched = next(self._numbers), 0
        self._connection.get_twin(self._twin_asked)

    def _take_twin(self, twin: Json) -> None:
        if twin["desired"]["$version"] < self._patched:
            self._get_twin()  # a patch overtook this answer, which was read before it
            return
        if self._told is not None:
            log.info("the agent's link to %s is up again", self._host_name)
        elif self._desired is None:
            log.info("the agent's link to %s is up", self._host_name)
        self._fault = self._told = None
        self._failures = self._twin_asked = self._twin_failures = 0
        self._state.read(_values(twin["reported"]))
        self._desired, self._version = _values(twin["desired"]), twin["desired"]["$version"]
        self._tell_desired()
        self._report()

    def _twin_failed(self, fault: CloudFault) -> None:
        self._metrics.not_synced()
        self._twin_asked = 0
        self._twin_failures += 1
        if self._twin_failures >= TWIN_TRIES:
            self._lose(fault)
            return
        log.warning("the twin of %s cannot be read: %s", self._agent_id, fault.reason)
        self.set_timer(max(1.0, retry_s(fault.kind, self._twin_failures, random.random())), TwinDue())

    def _take_patch(self, patch: Json) -> None:
        """Merge the next patch; after a gap the whole twin is read. Source: agent.md section 6.4"""
        version = patch.get("$version", 0)
        if self._twin_asked:
            self._patched = version
        if self._desired is None or version != self._version + 1:
            if self._is_up and not self._twin_asked:
                self._get_twin()
            return
        self._desired, self._version = merge(self._desired, _values(patch)), version
        self._tell_desired()

    def _tell_desired(self) -> None:
        if self._watcher:
            desired = Secret(msgspec.json.encode(self._desired, order="sorted"))
            self.tell(self._watcher, DesiredArrived(desired, self._version))

    # reported properties

    def on_report_state(self, message: ReportState) -> None:
        self._state.shall_be(msgspec.json.decode(message.state))
        self._edge_stops = message.is_last
        self._report()

    def on_report_due_again(self, message: ReportDueAgain) -> None:
        self._report_timer = 0
        self._report()

    def _report(self) -> None:
        """Send what the cloud has not, one patch at a time, unless the last one was a moment ago."""
        patch = self._state.patch()
        if not patch or self._connection is None:
            self._stop_when_told()
            return
        wait_s = self._state.wait_s(self.clock.monotonic_s())
        if wait_s > 0 and not self._stopping:
            if not self._report_timer:
                self._report_timer = self.set_timer(wait_s, ReportDueAgain())
            return
        self._state.sent(self.clock.monotonic_s())
        self._report_asked = next(self._numbers)
        self._connection.patch_reported(self._report_asked, msgspec.json.encode(patch))

    def _report_failed(self, fault: CloudFault) -> None:
        self._report_asked = 0
        log.warning("what %s reports is not taken: %s", self._agent_id, fault.reason)
        self._state.failed(is_final(fault.kind))
        if is_final(fault.kind):
            self._stop_when_told()
            return
        # It may have arrived; what the cloud has is read before the next one is sent.
        self._failures += 1
        self.set_timer(max(1.0, retry_s(fault.kind, self._failures, random.random())), TwinDue())

    def _stop_when_told(self) -> None:
        if self._stopping and not self._state.is_owed_an_answer:
            self.context.ready_to_stop()

    # quality telemetry

    def on_send_quality(self, message: SendQuality) -> None:
        if self._quality is not None:
            self.reply(QualityLost("another one is on its way", True))
        elif not self._is_up or self._connection is None:
            self.reply(QualityLost("there is no link to the cloud", True))
        else:
            self._quality = next(self._numbers), self.envelope
            properties = {names.CONTENT_TYPE: DIAGNOSTICS_TYPE}
            self._connection.send(self._quality[0], Message("/messages/", {}, properties, message.body))

    def _quality_failed(self, fault: CloudFault) -> None:
        self._end_quality(_lost(fault))
        if not is_final(fault.kind):
            self._lose(fault)  # or nothing more could be sent on this connection

    def _end_quality(self, answer: QualitySent | QualityLost) -> None:
        if self._quality is not None:
            _, envelope = self._quality
            self._quality = None
            self.reply(answer, envelope)

    # methods

    def on_agent_method_answered(self, message: AgentMethodAnswered) -> None:
        if self._connection is not None:
            self._connection.answer_method(message.request_id, message.status, message.payload)

    # what `$edgeHub` desires, while there is no hub to ask

    def on_fetch_hub_desired(self, message: FetchHubDesired) -> None:
        self._hub_asked.append(self.envelope)
        key = self._keys.get(self._hub_id.id)
        if key is None:
            self._hub_failed(f"there is no key of {self._hub_id} on this device")
        elif not self._hub_twin.is_asked_for:
            observer = Observer(self._hub_id.id, self._events)
            connection = self._connections.make(self._access(self._hub_id, key), observer)
            self._hub_twin.fetch(connection, observer)

    def _hub_desired(self, desired: Json) -> None:
        encoded = Secret(msgspec.json.encode(_values(desired), order="sorted"))
        asked, self._hub_asked = self._hub_asked, []
        for envelope in asked:
            self.reply(HubDesiredArrived(encoded, desired["$version"]), envelope)

    def _hub_failed(self, reason: str) -> None:
        asked, self._hub_asked = self._hub_asked, []
        for envelope in asked:
            self.reply(RequestFailed(envelope.kind, self.address, reason), envelope)


def _lost(fault: CloudFault) -> QualityLost:
    return QualityLost(fault.reason, is_probed(fault.kind) or fault.kind in _MAY_PASS)


def _values(section: Json) -> Json:
    return {key: value for key, value in section.items() if not key.startswith("$")}
