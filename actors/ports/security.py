"""Identities, keys and certificates, and the registry of the IoT Hub, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from actors.hub.identity import AuthType, KnownIdentities
from actors.upstream.connection import CloudFault
from messaging.envelope import Secret

if TYPE_CHECKING:
    from actors.agent.certificate_ends import CertificateLife
from actors.ports.modules import ModuleAccess


class DeviceAccess(Struct, frozen=True):
    """With what a device behind this edge connects to it."""

    device_id: str
    primary_key: Secret
    secondary_key: Secret
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()


class DebugAccess(Struct, frozen=True):
    """With what a module runs by hand."""

    environment: Mapping[str, str]
    ca_file: str  # the certificate authority to trust


class Security(Protocol):
    """Identities, keys, certificates and the sockets of the workload API. Used by SecurityActor alone."""

    def ensure_module(self, name: str, now_s: float) -> ModuleAccess:
        """Make the identity of a module unless it has one, and open its workload socket.

        Raises:
            EdgeError: the name does not suit, or nothing can be written.
        """
        ...

    def prepare_module(self, name: str, now_s: float) -> bool:
        """Make the identity of a module unless it has one; return whether it waits for one in the cloud.

        Raises:
            EdgeError: as `ensure_module`.
        """
        ...

    def forget_module(self, name: str) -> None:
        """Take the identity of a module away and close its workload socket; one without any is no error.

        Raises:
            EdgeError: nothing can be written.
        """
        ...

    def open_debug(self, name: str, pid: int, start_ticks: int) -> DebugAccess:
        """Open one more workload socket of a module, for programs of our own user to speak in its name.

        It is closed when the process ends that is given by pid and start time.

        Raises:
            EdgeError: there is no such module or process, or no socket can be made.
        """
        ...

    def identities(self) -> KnownIdentities:
        """Return all that may connect to the hub."""
        ...

    def create_device(
        self, device_id: str, auth_type: AuthType, thumbprints: Sequence[str], now_s: float
    ) -> DeviceAccess:
        """Make the identity of a device behind this edge.

        Args:
            auth_type: With "sas" it gets keys.
            thumbprints: For "selfSigned", one or two.

        Raises:
            EdgeError: it exists, its id or what it is to prove itself with does not suit, or nothing can be
                written.
        """
        ...

    def enable_device(self, device_id: str, enabled: bool) -> None:
        """Let a device behind this edge connect, or not any more.

        Raises:
            EdgeError: there is none of that id, or nothing can be written.
        """
        ...

    def delete_device(self, device_id: str) -> None:
        """Forget a device behind this edge.

        Raises:
            EdgeError: there is none of that id, or nothing can be written.
        """
        ...

    def device(self, device_id: str) -> DeviceAccess | None:
        """Return a device behind this edge, None when there is none of that id."""
        ...

    def renew_certificates(self, now_s: float) -> bool:
        """Issue anew what is due; return whether the hub has to load its certificate again.

        Raises:
            EdgeError: a certificate cannot be issued or written.
        """
        ...

    def certificates(self) -> tuple[CertificateLife, ...]:
        """Return from when until when the certificates of this edge count. Any thread may call."""
        ...

    def renew_at_s(self) -> float:
        """Return when `renew_certificates` has something to do, in seconds since 1970-01-01 UTC."""
        ...

    def note_module(
        self, name: str, status: str, since_s: float | None, exit_code: int | None, image_id: str = ""
    ) -> None:
        """Take note of how a module is doing, for whoever asks the daemon for a list."""
        ...


class SyncOutcome(Struct, frozen=True):
    """How far registry and scope of the cloud and what is known here are the same now."""

    fault: CloudFault | None = None  # it did not come to its end; what was known stays
    problems: tuple[tuple[str, str], ...] = ()  # modules that the cloud does not take, and why
    identities: int = 0  # in the scope


class Registry(Protocol):
    """The registry of the IoT Hub, and the scope of this edge in it."""

    host_name: str  # of the IoT Hub
    device_id: str
    is_own: bool  # the IoT Hub is the stand-in that this edge runs for itself

    def start_sync(self, done: Callable[[SyncOutcome], None]) -> None:
        """Make modules known there and the scope known here. `done` is called once, in a foreign thread."""
        ...
