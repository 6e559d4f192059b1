"""The port to the cloud: one connection of one identity, and what it tells.

The link of the hub keeps one for each identity that has something to send or to receive, the agent keeps one
for `$edgeAgent`. Neither the stand-in nor Azure is known here.

Source: hub-protocols.md sections 1.8 to 1.14, 7.8
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from msgspec import Struct

from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import Message
from messaging.topics import Feature


class Fault(Enum):
    """Why the cloud did not do something: what is to be done next depends on it."""

    UNREACHABLE = "unreachable"  # no connection, or it was lost: probe until it is there again
    UNTRUSTED = "untrusted"  # its certificate is not one of those trusted, or is for another name
    CLOCK = "clock"  # a certificate or token counts as expired or not yet valid: a clock is wrong
    UNAUTHORIZED = "unauthorized"  # wrong key, disabled, deleted or unknown: MQTT does not say which
    THROTTLED = "throttled"  # too many calls; later
    QUOTA = "quota"  # the day's messages are used up; later
    TOO_LARGE = "too large"  # this message, never
    REFUSED = "refused"  # this request, never
    TIMEOUT = "timeout"  # no answer in time; it may have arrived


class CloudFault(Struct, frozen=True):
    """What went wrong, for a decision and for a log; never holds a key, a token or a body."""

    kind: Fault
    reason: str  # names the thing and the way out, where there is one
    status: int = 0  # as HTTP has it; 0: there was no answer


class CloudAccess(Struct, frozen=True):
    """As whom to connect, and where."""

    identity: Identity
    host_name: str  # of the IoT Hub
    key: Secret  # of the identity itself, or of `signer`; base64
    ca_pem: str = ""  # what to trust besides the system's own authorities
    model_id: str = ""  # plug and play
    signer: Identity | None = None  # the edge's `$edgeHub`, which may speak for those of its scope
    https_port: int = 443  # where its clock is looked at when it refuses a token


class CloudObserver(Protocol):
    """Whom a connection tells. Called in foreign threads: hand on to the actor and return at once."""

    def connected(self) -> None:
        """The connection stands; what is asked from now on travels."""
        ...

    def lost(self, fault: CloudFault) -> None:
        """There is no connection, or not any more; it does not come back by itself.

        Everything asked and not answered by then has been answered with a fault before this call.
        """
        ...

    def done(self, number: int, answer: bytes) -> None:
        """The cloud did what was asked under this number; `answer` is JSON for a twin, else empty."""
        ...

    def failed(self, number: int, fault: CloudFault) -> None:
        """The cloud did not do it, or did not say so."""
        ...

    def desired_changed(self, patch: bytes) -> None:
        """Desired properties were patched: JSON with `$version`."""
        ...

    def method_called(self, request_id: str, name: str, payload: bytes) -> None:
        """The cloud calls a direct method; answer with `answer_method`. The payload is JSON."""
        ...

    def message_received(self, message: Message, taken: Callable[[bool], None]) -> None:
        """A cloud-to-device message came; the cloud forgets it at `taken(True)` and not before.

        After `taken(False)`, or when the connection ends first, it comes again. Any thread may call `taken`.
        """
        ...


class CloudConnection(Protocol):
    """One connection of one identity. Any thread may call; every call returns at once.

    Numbers are the caller's; each gets exactly one `done` or `failed`. Messages keep the order of `send`.
    """

    def open(self) -> None:
        """Connect, once: ends in `connected` or `lost`."""
        ...

    def want(self, features: frozenset[Feature]) -> None:
        """Subscribe to what is wanted of METHODS, DESIRED_PROPERTIES and C2D, now and at each `open`."""
        ...

    def send(self, number: int, message: Message) -> None:
        """Send telemetry; done when the cloud has acknowledged it.

        One that failed for a reason that may pass is the last: those sent behind it on this connection fail
        as well, so that none of them can arrive before it is sent again.
        """
        ...

    def get_twin(self, number: int) -> None:
        """Ask for the twin: JSON with `desired` and `reported`, both with `$version`."""
        ...

    def patch_reported(self, number: int, patch: bytes) -> None:
        """Merge a JSON patch into the reported properties."""
        ...

    def answer_method(self, request_id: str, status: int, payload: bytes) -> None:
        """Answer a call; nothing happens when the connection it came by has ended."""
        ...

    def close(self) -> None:
        """Disconnect and give back all threads; nothing is told after this has been done."""
        ...


class CloudConnections(Protocol):
    """Makes connections, and knows whether the cloud can be reached at all."""

    def make(self, access: CloudAccess, observer: CloudObserver) -> CloudConnection:
        """Return a connection that is not open yet."""
        ...

    def probe(self, host_name: str, reached: Callable[[], None]) -> None:
        """Try every 500 ms to reach the host, by TCP alone, and call once when that works.

        One probe per host is shared by all who ask. Called in a foreign thread.
        """
        ...

    def close(self) -> None:
        """End all probes and connections."""
        ...
