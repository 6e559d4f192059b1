"""Every error that edge-actors raises on purpose.

EdgeError
├─ ConfigError                what the user wrote or set is wrong; the message names thing, value, way out
│  ├─ DeploymentError         the manifest
│  ├─ ImageRefused            the image on this device is not the one that the deployment pins
│  └─ RouteError              one route of the manifest, with its position
├─ EnvironmentFault           the machine does not allow it: port in use, no space, not permitted
│  └─ StartLater              a module cannot be started yet; the module runtime tells when
│     ├─ EngineAway           the container engine does not answer; works again when it is back
│     └─ ImageComing          the image of the module is being fetched
├─ ProtocolError
│  ├─ RemoteProtocolError     the peer broke the protocol; carries what to answer it with
│  └─ LocalProtocolError      we tried to break it
├─ IotHubError                refused as IoT Hub refuses it; carries IoT Hub's number and name for it
├─ AuthError                  an identity or its token was refused; says why
├─ StoreError                 the database could not do what was asked
│  ├─ StoreFull               for want of space; works again when there is some
│  └─ StoreDamaged            its file is damaged; the next start salvages what can be read
└─ BusError
   ├─ EnvelopeError           a frame is not an envelope of ours, or is too large
   ├─ AddressInUse            a second mailbox wants the same address
   └─ AskTimeout              nobody answered in time
"""

from __future__ import annotations


class EdgeError(Exception):
    """Root of all errors raised on purpose. `str(error)` is fit to be shown to a user."""


class ConfigError(EdgeError):
    """Something the user wrote or set is wrong."""


class DeploymentError(ConfigError):
    """The deployment manifest is wrong; the message names file, JSON path, value and what is allowed.

    `code` is what the edge reports as `lastDesiredStatus.code`: 400 format, 412 schema version, 417 empty.
    Source: spec sheet agent.md section 1.4.
    """

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


class ImageRefused(ConfigError):
    """An image does not have the digest that the deployment asks for: its module must not run."""


class RouteError(ConfigError):
    """A route does not parse or compile.

    Lines and columns count from 1. `reason` is the text that the reference hub gives, `hint` says more.
    Source: spec sheet routing.md section 1.4.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1, hint: str = "") -> None:
        details = f" ({hint})" if hint else ""
        super().__init__(f"line {line}, column {column}: {message}{details}")
        self.reason = message
        self.hint = hint
        self.line = line
        self.column = column


class EnvironmentFault(EdgeError):
    """The machine does not allow what is needed: a port in use, a folder that cannot be written."""


class StartLater(EnvironmentFault):
    """A module cannot be started yet: something has to be done first, and is being done."""


class EngineAway(StartLater):
    """The container engine is not there, may not be used by this user, or does not answer."""


class ImageComing(StartLater):
    """The image of a module is being fetched; it is started once that is done."""


class ProtocolError(EdgeError):
    """A rule of a wire protocol was broken."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. `answer` is what to send before closing, often nothing."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


class LocalProtocolError(ProtocolError):
    """Our own code asked a codec for something the protocol forbids."""


class IotHubError(EdgeError):
    """What a service or a device asked for is refused as IoT Hub would refuse it.

    `code` is IoT Hub's number, of which the first three digits are the HTTP status, `name` what IoT Hub calls
    it: 404001 `DeviceNotFound`.

    Source: spec sheet security-daemon.md section 4.6
    """

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name

    @property
    def status(self) -> int:
        """The HTTP status, which is also the status of an answer over MQTT."""
        return self.code // 1000


class AuthError(EdgeError):
    """An identity, its token or its certificate was refused; the message says why."""


class StoreError(EdgeError):
    """The database could not do what was asked; nothing of it was kept."""


class StoreFull(StoreError):
    """There was no space for it. Nothing of it was kept; the same call works once there is space."""


class StoreDamaged(StoreError):
    """What the database reads is not what was written; `finding` is what is wrong with it."""

    def __init__(self, message: str, finding: str) -> None:
        super().__init__(message)
        self.finding = finding


class BusError(EdgeError):
    """Root of what can go wrong with envelopes and mailboxes."""


class EnvelopeError(BusError):
    """A frame is not an envelope of this version, or an envelope is over the size limit."""


class AddressInUse(BusError):
    """A second mailbox was opened under an address that is taken."""


class AskTimeout(BusError):
    """No answer arrived within the time limit of an `ask`."""
