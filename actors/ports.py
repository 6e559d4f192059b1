"""What actors need from the outside world, as Protocols; `runtime/` implements them, tests pass fakes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from actors.cloud_connection import CloudFault
from actors.hub_identity import AuthType, KnownIdentities
from actors.module_spec import DesiredStatus, ModuleSpec
from actors.registries import RegistryCredential
from actors.restart_policy import RestartState
from actors.stored import MAX_POSITION, DropReason, Ledger, Run, Segment
from messaging.envelope import Secret
from messaging.identity import Identity

if TYPE_CHECKING:
    from actors.certificate_ends import CertificateLife
    from messaging.broker.journal import Changes, Kept


class MessageStore(Protocol):
    """The durable queues of the hub: one per endpoint, and the body of each message once.

    Used by one thread only. Whatever changes something happens inside `with store.transaction()`: all of
    it is on disk when the block has ended, or none of it. Every method raises StoreError when the
    database cannot do it, StoreFull when that is for want of space.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Commit what the block did, with one sync to disk; undo all of it when anything in it failed."""
        ...

    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        """Store messages and return the sequence number of the first; the others follow it one by one.

        Messages without a match take their numbers, are counted as received and unrouted, and are not kept.

        Args:
            segments: In order.
            now_s: Seconds since 1970-01-01 UTC; the time to live of every match starts here.
        """
        ...

    def delivered(self, ranges: Mapping[str, Sequence[tuple[int, int]]]) -> int:
        """Forget messages that endpoints took, all at once; return how many of them were still waiting.

        A range is first and last position, both included; ranges may overlap. Positions where nothing
        waits (any longer: said twice, expired meanwhile) are not counted.

        Raises:
            ValueError: A position is not in 0 to MAX_POSITION.
        """
        ...

    def dropped(self, endpoint_id: str, ranges: Sequence[tuple[int, int]], reason: DropReason) -> int:
        """Give up messages of an endpoint; return how many of them were still waiting."""
        ...

    def drop_queue(self, endpoint_id: str, reason: DropReason, limit: int = 1000) -> int:
        """Give up the next `limit` messages of an endpoint; a smaller result says that none is left."""
        ...

    def expire(self, now_s: float, limit: int = 1000) -> dict[str, int]:
        """Delete at most `limit` messages past their time to live; return how many at which endpoint.

        A sum below `limit` says that none is left.
        """
        ...

    def due_headers(self, now_s: float, limit: int = 1000) -> list[tuple[bytes, int]]:
        """Return of what `expire` would delete the headers, and how many messages have each."""
        ...

    def drop_oldest(self, limit: int = 1000) -> dict[str, int]:
        """Give up the oldest messages of the lowest priority at which any wait, for want of space.

        Of all endpoints at once, so that the bodies they share go; at most `limit` sequence numbers.

        Returns:
            How many at which endpoint; nothing says that none is left.
        """
        ...

    def read(
        self,
        endpoint_id: str,
        after_position: int,
        max_count: int,
        max_bytes: int,
        now_s: float,
        last_position: int = MAX_POSITION,
    ) -> list[Run]:
        """Return the next messages behind `after_position` (-1: from the start) in order of delivery.

        None behind `last_position`. At most `max_count`, and as many as fit into `max_bytes` by
        `Run.size_bytes`, but at least one when any waits. Expired messages are passed over.
        """
        ...

    def pending(self, endpoint_id: str) -> int:
        """Return how many messages wait for the endpoint."""
        ...

    def waiting(self, endpoint_ids: Sequence[str], now_s: float) -> list[str]:
        """Return those of these queues in which a message waits that has not expired, in the same order."""
        ...

    def endpoint_ids(self) -> tuple[str, ...]:
        """Return the queues that messages were stored for, those in which some wait among them."""
        ...

    def ledger(self) -> Ledger:
        """Return the ledger of this moment."""
        ...

    def save_session(self, identity_id: str, record: bytes) -> None:
        """Keep what must survive a restart of the session of a client."""
        ...

    def delete_session(self, identity_id: str) -> None:
        """Forget the session of a client; nothing happens when there is none."""
        ...

    def sessions(self) -> dict[str, bytes]:
        """Return all kept sessions by identity."""
        ...

    def tidy(self) -> int:
        """Give free space back to the file system, a slice at a time; return the bytes still to give.

        For moments without traffic, outside a transaction. A store that went short of space also gets its
        reserve back here, as soon as there is room for it.
        """
        ...

    def close(self) -> None:
        """Close the database, outside a transaction. Nothing else may be called after that."""
        ...


class BrokerStore(Protocol):
    """What the broker keeps on disk. Used by one thread only; every method raises StoreError."""

    def load(self) -> Kept:
        """Return all of it."""
        ...

    def write(self, changes: Changes) -> None:
        """Write them; on return all of it is on disk, else nothing."""
        ...

    def tidy(self) -> None:
        """Give free space back to the file system, a slice."""
        ...

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        ...


class TwinStore(Protocol):
    """The twins on disk, as bytes by identity. Used by one thread only; every method raises StoreError."""

    def load(self, identity: str) -> bytes | None:
        """Return what was saved for an identity, None when nothing was."""
        ...

    def save(self, twins: Mapping[str, bytes]) -> None:
        """Replace twins; on return all of them are on disk, else none."""
        ...

    def remove(self, identity: str) -> None:
        """Forget the twin of an identity, if there is one; on return that is on disk."""
        ...

    def identities(self) -> list[str]:
        """Return all identities that have a twin."""
        ...

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        ...


class Transport(Protocol):
    """One connection of a client, with TLS or without. Used on the event loop of its head."""

    peer: str  # address and port, for logs

    @property
    def unsent_bytes(self) -> int:
        """What was written and waits in memory, because the peer does not read."""
        ...

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """What the peer showed in the TLS handshake, as DER: its own certificate first; () for none.

        It has the private key of that one. Nothing else has been verified.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send; what the socket does not take now waits in memory."""
        ...

    def close(self) -> None:
        """Send what waits, then close; a peer that does not read it is cut off after a while."""
        ...

    def pause_reading(self) -> None:
        """Read no more: the peer's socket fills up."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...

    def authenticated(self) -> None:
        """The peer has said who it is: it is not counted among the strangers any more."""
        ...


class ConnectionHandler(Protocol):
    """What a listener tells its head, all on the head's event loop."""

    def connected(self, transport: Transport) -> Any:
        """A connection was accepted; the answer is handed back with all that follows."""
        ...

    def received(self, client: Any, data: bytes) -> None:
        """Bytes came."""
        ...

    def writing_paused(self, client: Any) -> None:
        """So much waits in memory for this peer that nothing more should be written."""
        ...

    def writing_resumed(self, client: Any) -> None:
        """The peer has taken most of it."""
        ...

    def disconnected(self, client: Any, error: str) -> None:
        """The connection is gone, by whichever side."""
        ...


class Listener(Protocol):
    """The listening sockets of a protocol head."""

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections; those that came earlier have waited in the backlog."""
        ...

    def close(self) -> None:
        """Stop accepting. The sockets stay open: who connects meanwhile waits in the backlog."""
        ...


class CheckCertificate(Protocol):
    """Reads certificates for the hub; see `runtime.client_certificates.check_certificate`."""

    def __call__(
        self,
        certificates: Sequence[bytes],
        identity: Identity,
        auth_type: str,
        thumbprints: Collection[str],
        authorities: Sequence[bytes],
        now_s: float,
    ) -> float:
        """Return until when the first certificate proves the identity, in seconds since 1970-01-01 UTC.

        Raises:
            AuthError: it does not.
        """
        ...


class LinkSwitch(Protocol):
    """Whether the link to the cloud is wanted, kept over restarts."""

    def is_on(self) -> bool:
        """Return whether it is switched on; it is until somebody switches it off."""
        ...

    def switch(self, on: bool) -> None:
        """Switch it on or off, for good.

        Raises:
            EnvironmentFault: that cannot be kept.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModuleAccess:
    """With what a module reaches the workload API and introduces itself to the hub."""

    generation_id: str = ""
    workload_uri: str = ""


@dataclass(frozen=True, slots=True)
class ModuleRun:
    """A module that runs. Its start tells one run of a name from another."""

    pid: int
    started_at_s: float  # seconds since 1970-01-01 UTC
    not_isolated: str = ""  # why it has the rights of the edge itself; "" when it has not, or is a part of it
    spec_hash: str | None = None  # from what it was made; None when the run itself does not say
    image_id: str = ""  # the engine's id of the image; "" for a process
    has_check: bool = False  # whether it says by a check of its own when it is healthy …
    is_healthy: bool = True  # … and whether it does; one without a check is healthy
    remarks: tuple[str, ...] = ()  # what a user should know of it: what of its settings has no effect


@dataclass(frozen=True, slots=True)
class ModuleEnd:
    """How a run ended; code and signal are None when nobody saw it."""

    exit_code: int | None
    signal: int | None
    started_at_s: float  # seconds since 1970-01-01 UTC
    ended_at_s: float  # the same
    engine_away: bool = False  # out of sight or ended with the container engine: no fault of the module's
    out_of_memory: bool = False  # killed for want of memory, it or a process of its


OnExit = Callable[[ModuleEnd], None]


@dataclass(frozen=True, slots=True)
class ModuleHealth:
    """What the module's own check says of a run, when that changes."""

    healthy: bool
    started_at_s: float  # of the run; seconds since 1970-01-01 UTC


OnHealth = Callable[[ModuleHealth], None]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How far everything is fetched that a deployment needs: for a container its image.

    `problems` says by module why something is not to be had; `outdated` are modules whose container was made
    from another image than the one its name means by now.
    """

    is_done: bool
    doing: str = ""  # fit to be shown; "" when nothing is going on
    problems: Mapping[str, str] = field(default_factory=dict)
    outdated: frozenset[str] = frozenset()


OnPreparation = Callable[[Preparation], None]


class ModuleRuntime(Protocol):
    """Runs modules, as processes or as containers. Any thread may call.

    `on_exit` is called in a foreign thread, once per run, maybe before `start` has returned; the name can be
    started again by then.
    """

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module.

        Raises:
            StartLater: it cannot be started yet; see `when_possible`.
            EdgeError: it cannot be started; says why, and what to do.
        """
        ...

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        """Call once, in any thread, when a module whose start raised StartLater can be tried again.

        Without effect when its last start did not fail that way.
        """
        ...

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        """Tell from now on, in a foreign thread, when the health of a module changes.

        Healthy is also one without a check of its own.
        """
        ...

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds. Returns at once.

        Where nothing runs, a start that was postponed is given up.
        """
        ...

    def kill(self, name: str) -> None:
        """Kill a module. Returns at once."""
        ...

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        """Take over what runs under `name`, whoever started it; or tell how it ended, or None.

        For a run that this process watches already, `on_exit` takes the place of the one before.
        """
        ...

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        """Fetch what these modules need before any of them is replaced. Returns at once.

        `on_progress` is called in a foreign thread while it goes on, and once with `is_done`, maybe before
        this returns. The next call takes the place of this one, whose `on_progress` is not called any more.

        Args:
            modules: All that the coming deployment wants, also those that stay as they are.
            credentials: Of its registries.
            on_progress: Whom to tell.
        """
        ...

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """Take these for the deployment in force: its accounts count, and what it needs is kept.

        What the deployment before it needed is kept as well, for a return to it.
        """
        ...

    def rest(self, name: str) -> None:
        """Give back what is held for the next start: it ended, and stays so until somebody asks for it."""
        ...

    def remove(self, name: str) -> None:
        """Forget a module that has ended."""
        ...

    def names(self) -> tuple[str, ...]:
        """Return what was started and not removed, running or not."""
        ...


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """What outlives the agent of one module: from what it was made, and how it fared."""

    spec_hash: str
    startup_order: int
    desired: DesiredStatus
    restart: RestartState
    by_hand: DesiredStatus | None = None  # what a user asked for since the deployment
    started_at_s: float | None = None  # the last run; seconds since 1970-01-01 UTC
    parts: Mapping[str, str] = field(default_factory=dict)  # `part_hashes` of what it was made from


class ModuleRecords(Protocol):
    """Keeps the records of all modules. Any thread may call; each module's are its supervisor's to write."""

    def all(self) -> Mapping[str, ModuleRecord]:
        """Return all that are readable, by module."""
        ...

    def load(self, name: str) -> ModuleRecord | None:
        """Return the record of a module, None when there is none or it is damaged."""
        ...

    def save(self, name: str, record: ModuleRecord, durable: bool = True) -> None:
        """Keep a record; `durable` also through a power cut, which takes the time of a sync to disk.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Forget a module; one that is not there is no error."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceAccess:
    """With what a device behind this edge connects to it."""

    device_id: str
    primary_key: Secret
    secondary_key: Secret
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DebugAccess:
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


@dataclass(frozen=True, slots=True)
class SyncOutcome:
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
