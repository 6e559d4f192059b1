"""What AgentActor and the actors beside it tell the agent's link to the cloud, and what it tells them."""

from __future__ import annotations

from typing import Final

from messaging.envelope import Secret
from messaging.kinds import message

LINK: Final = "agent/link"
METHODS: Final = "agent/methods"


@message
class WatchDesired:
    """Tell me the desired properties of `$edgeAgent`, now and when they change: DesiredArrived."""


@message
class DesiredArrived:
    """The desired properties of `$edgeAgent`: a JSON object without `$version`. They may hold passwords."""

    desired: Secret
    version: int


@message
class FetchHubDesired:
    """Tell what `$edgeHub` desires. Answered with HubDesiredArrived or RequestFailed."""


@message
class ReportState:
    """All that `$edgeAgent` is to report, as JSON; the link sends what is new. Replaces what came before."""

    state: bytes
    is_last: bool = False  # the edge stops, and with it the IoT Hub that it runs for itself


@message
class CallAgentMethod:
    """The cloud calls a direct method of `$edgeAgent`. Answered with AgentMethodAnswered."""

    request_id: str
    name: str
    payload: Secret  # JSON; may hold the address of a storage account with its key


@message
class AgentMethodAnswered:
    """What the method answers; `payload` is JSON."""

    request_id: str
    status: int
    payload: bytes


@message
class SendQuality:
    """Send this as the quality telemetry of the edge. Answered with QualitySent or QualityLost."""

    body: bytes


@message
class QualitySent:
    """The cloud has it."""


@message
class QualityLost:
    """The cloud does not have it, or did not say so."""

    reason: str
    may_pass: bool  # it is worth to try again
