"""Keys, certificates and the workload API of one edge, as the actors and the main program need them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.agent.certificate_ends import CertificateLife
from actors.hub.identity import AuthType, KnownIdentities
from actors.manifest.module_spec import EDGE_AGENT, EDGE_HUB
from actors.ports.modules import ModuleAccess
from actors.ports.security import DebugAccess, DeviceAccess
from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.time_text import iso_utc
from runtime.config.device_credentials import Enrollment
from runtime.daemon.caller import ModuleContainer, ModuleProcess
from runtime.daemon.module_details import ModuleState
from runtime.home import Home
from runtime.machine import process_table
from runtime.modules.environment import EdgeNames, module_variables
from runtime.security.certificates import (
    CaPlan,
    EdgeCa,
    ServerCertificate,
    ensure_edge_ca,
    ensure_server_certificate,
)
from runtime.security.given_ca import LOOK_EVERY_S, GivenCa, names_within
from runtime.security.hub_identities import own_identities, with_scope
from runtime.security.key_content import Identity
from runtime.security.key_store import KeyStore
from runtime.security.leaf_rules import adopt
from runtime.security.trust_bundle import ders
from runtime.storage.atomic_file import write_private_file
from runtime.upstream.provisioning import Provisioned
from runtime.upstream.registry import CloudRegistry
from runtime.upstream.scope_file import ScopeFile

if TYPE_CHECKING:  # imported with the first module that gets a socket: the hub needs none
    from runtime.daemon.workload_server import WorkloadServer

DEBUG_FOLDER: Final = "d"  # as the next
CA_FILE: Final = "ca.pem"
_NO_KEY: Final = Secret(b"")
SOCKETS_FOLDER: Final = "w"  # in the run directory; short, because a socket's path may have 107 bytes


class _Noted(Struct, frozen=True):
    status: str
    since_s: float | None
    exit_code: int | None
    image_id: str


class EdgeSecurity:
    """Implements `actors.ports.Security`. Made by the main thread, then used by SecurityActor alone."""

    def __init__(
        self,
        home: Home,
        run_dir: Path,
        *,
        names: EdgeNames,
        server_names: tuple[str, ...],
        process_of: Callable[[str], ModuleProcess | ModuleContainer | None],
        ca: CaPlan | GivenCa | None = None,
        trusted_pem: str = "",
        provisioned: Provisioned | None = None,
        group_of: Callable[[str], int | None] = lambda name: None,
        image_of: Callable[[str], str | None] = lambda name: None,
        now_s: Callable[[], float],
    ) -> None:
        """Make or read keys and certificates. Costs little when they exist and are valid.

        Args:
            home: Where they are kept.
            run_dir: Where the workload sockets go.
            names: Of this edge, as modules are told and as they stand in tokens.
            server_names: What clients may call the hub; the first is its host name.
            process_of: The process or container of a module, None while it does not run.
            ca: How the edge CA is made, or where somebody put it; None: as usual.
            trusted_pem: CA certificates that are trusted besides the edge CA.
            provisioned: Which device of which IoT Hub this edge is, None without a cloud.
            group_of: The group id that alone may use the socket of a module, None for anybody.
            image_of: The image of a module that is a container, None for a process.
            now_s: Seconds since 1970-01-01 UTC.

        Raises:
            ConfigError: what is kept is damaged or of another device; a name does not suit a certificate.
            EnvironmentFault: the home cannot be written.
        """
        self._home = home
        self._run_dir = run_dir
        self._names = names
        self._server_names = server_names
        self._process_of = process_of
        self._group_of = group_of
        self._image_of = image_of
        self._now_s = now_s
        self._trusted_pem = trusted_pem
        self._ca_source = ca or CaPlan()
        self._looked_s = 0.0
        self._keys = KeyStore.ensure(home.keys, names.device_id, now_s())
        self._provisioned = provisioned
        self._scope: ScopeFile | None = None
        if provisioned is not None:
            self._keys.link(provisioned.host_name)
            self._scope = ScopeFile(home.scope)
        self._renewing = threading.Lock()
        self._ca: EdgeCa
        self._certificate: ServerCertificate
        self.renew_certificates(now_s())
        self._server: WorkloadServer | None = None
        self._noting = threading.Lock()
        self._noted: dict[str, _Noted] = {}

    @property
    def keys(self) -> KeyStore:
        """Identities and keys of this edge."""
        return self._keys

    @property
    def certificate_file(self) -> Path:
        """Key, leaf and edge CA of the hub, as `ssl` loads them."""
        return self._certificate.path

    def registry(
        self, enrollment: Enrollment | None, on_moved: Callable[[], None], is_own: bool
    ) -> CloudRegistry | None:
        """Return the registry of the IoT Hub, None without a cloud. Arguments as of CloudRegistry."""
        if self._provisioned is None or self._scope is None:
            return None
        return CloudRegistry(
            self._provisioned,
            self._home,
            self._keys,
            self._scope,
            self._now_s,
            enrollment,
            on_moved,
            is_own,
        )

    def prepare_module(self, name: str, now_s: float) -> bool:
        """Make the identity of a module; see Security."""
        module_id = _module_id(name)
        self._keys.ensure_module(module_id, now_s)
        return self._provisioned is not None and self._keys.waits_for_cloud(module_id)

    def ensure_module(self, name: str, now_s: float) -> ModuleAccess:
        """Make the identity of a module and open its workload socket; see Security."""
        module_id = _module_id(name)
        self._keys.ensure_module(module_id, now_s)
        identity = self._keys.use_module(module_id)
        path = self._workload_server().open(name, self._group_of(name))
        return ModuleAccess(identity.generation_id, f"unix://{path}")

    def forget_module(self, name: str) -> None:
        """Take the identity of a module away and close its workload socket; see Security."""
        if name not in (EDGE_AGENT, EDGE_HUB):  # these have theirs whether they are deployed or not
            self._keys.remove_module(name)
        if self._server is not None:
            self._server.close(name)
        with self._noting:
            self._noted.pop(name, None)

    def open_debug(self, name: str, pid: int, start_ticks: int) -> DebugAccess:
        """Open a workload socket of a module for a process of ours; see Security."""
        if not self._keys.has_module(name):
            raise ConfigError(f"there is no identity of module '{name}'; is it in the deployment?")
        pidfd = process_table.open_pidfd(pid, start_ticks)
        if pidfd is None:
            raise ConfigError(f"process {pid}, for which a debug socket was to be opened, has ended")
        path = self._workload_server().open_debug(name, self._run_dir / DEBUG_FOLDER, pidfd)
        ca_file = path.with_name(CA_FILE)
        write_private_file(ca_file, self._ca.certificate_pem.encode())
        generation_id = self._keys.ensure_module(name, self._now_s()).generation_id
        access = ModuleAccess(generation_id, f"unix://{path}")
        return DebugAccess(module_variables(self._names, name, access), str(ca_file))

    def identities(self) -> KnownIdentities:
        """Return all that may connect to the hub; see Security."""
        kept = self._keys.identities()
        known, is_whole = own_identities(kept), True
        if self._provisioned is not None and self._scope is not None:
            known = with_scope(known, self._scope.identities, self._provisioned, self._keys.pending())
            is_whole = self._scope.at_s > 0
        authorities = (*ders(self._ca.certificate_pem), *ders(self._trusted_pem))
        return KnownIdentities(known, authorities, is_whole=is_whole)

    def create_device(
        self, device_id: str, auth_type: AuthType, thumbprints: Sequence[str], now_s: float
    ) -> DeviceAccess:
        """Make the identity of a device behind this edge; see Security."""
        return _access(self._keys.create_device(device_id, now_s, auth_type, thumbprints))

    def enable_device(self, device_id: str, enabled: bool) -> None:
        """Let a device behind this edge connect, or not any more; see Security."""
        adopt(self._home, self._keys, device_id)
        self._keys.enable_device(device_id, enabled)

    def delete_device(self, device_id: str) -> None:
        """Forget a device behind this edge; see Security."""
        adopt(self._home, self._keys, device_id)
        self._keys.delete_device(device_id)

    def device(self, device_id: str) -> DeviceAccess | None:
        """Return a device behind this edge; see Security."""
        if device_id == self._keys.device_id:
            return None
        for identity in self.identities().identities:
            if identity.id == device_id:
                keys = (*identity.keys, _NO_KEY, _NO_KEY)
                return DeviceAccess(device_id, keys[0], keys[1], identity.auth_type, identity.thumbprints)
        return None

    def renew_certificates(self, now_s: float) -> bool:
        """Issue anew what is due; see Security."""
        with self._renewing:
            before = getattr(self, "_certificate", None)
            folder = self._home.certificates
            source = self._ca_source
            if isinstance(source, GivenCa):
                self._ca = source.read(folder, self._server_names[0], now_s)
            else:
                self._ca = ensure_edge_ca(folder, self._keys.device_id, now_s, source)
            names = names_within(self._ca, self._server_names)
            self._certificate = ensure_server_certificate(folder, names, self._ca, now_s)
            self._looked_s = now_s
            return before is not None and before != self._certificate

    def serve_under(self, server_names: tuple[str, ...]) -> None:
        """Have a certificate under other names for the next start of the hub. In the agent's thread."""
        self._server_names = server_names
        self.renew_certificates(self._now_s())

    def validity(self) -> str:
        """Say for how long the certificates of this edge count, for the log."""
        ends = (
            (one.not_after_s, what) for one, what in ((self._ca, "edge CA"), (self._certificate, "hub's"))
        )
        return ", ".join(f"{what} valid until {iso_utc(at_s)[:10]}" for at_s, what in ends)

    def certificates(self) -> tuple[CertificateLife, ...]:
        """Return from when until when the certificates of this edge count; see Security."""
        ca, hub, source = self._ca, self._certificate, self._ca_source
        given = str(source.cert.path) if isinstance(source, GivenCa) else ""
        return (
            CertificateLife("edge_ca", ca.not_before_s, ca.not_after_s, given),
            CertificateLife("hub", hub.not_before_s, hub.not_after_s),
        )

    def renew_at_s(self) -> float:
        """Return when the next certificate is due; see Security."""
        if isinstance(self._ca_source, GivenCa):  # others may stand there by then
            return self._looked_s + LOOK_EVERY_S
        return min(self._ca.renew_at_s, self._certificate.renew_at_s)

    def note_module(
        self, name: str, status: str, since_s: float | None, exit_code: int | None, image_id: str = ""
    ) -> None:
        """Take note of how a module is doing; see Security."""
        with self._noting:
            self._noted[name] = _Noted(status, since_s, exit_code, image_id)

    def close(self) -> None:
        """Close all workload sockets."""
        if self._server is not None:
            self._server.close_all()

    def _workload_server(self) -> WorkloadServer:
        if self._server is None:
            from runtime.daemon.workload_api import WorkloadApi
            from runtime.daemon.workload_server import WorkloadServer

            api = WorkloadApi(
                hub_host=self._names.iothub_hostname,
                keys=self._keys,
                edge_ca=lambda: self._ca,
                trusted_pem=self._trusted_pem,
                process_of=self._process_of,
                modules=self.states,
                now_s=self._now_s,
            )
            self._server = WorkloadServer(self._run_dir / SOCKETS_FOLDER, api.handle)
        return self._server

    def states(self) -> Sequence[ModuleState]:
        """Return how all modules are doing, for both APIs. Any thread may call."""
        with self._noting:
            noted = dict(self._noted)
        # To those who ask, agent and hub are the containers that they are in the reference.
        images = {name: self._image_of(name) for name in noted} | {EDGE_AGENT: "", EDGE_HUB: ""}
        return [
            ModuleState(
                name=name,
                type="process" if images[name] is None else "docker",
                image=images[name] or "",
                status=_in_daemon_words(module.status),
                started_utc=_utc(module.since_s) if _in_daemon_words(module.status) == "running" else None,
                exited_utc=_utc(module.since_s) if _in_daemon_words(module.status) != "running" else None,
                exit_code=module.exit_code,
                image_id=module.image_id,
            )
            for name, module in sorted(noted.items())
        ]


def _module_id(name: str) -> str:
    return f"${name}" if name in (EDGE_AGENT, EDGE_HUB) else name


def _access(identity: Identity) -> DeviceAccess:
    return DeviceAccess(
        identity.device_id,
        Secret(identity.primary_key),
        Secret(identity.secondary_key),
        identity.auth_type,
        identity.thumbprints,
    )


def _in_daemon_words(status: str) -> str:
    """Return what the daemon of the reference says: it knows no health, and nobody who waits for a restart.

    Source: spec sheet security-daemon.md section 2.2
    """
    return {"backoff": "failed", "downloading": "stopped", "unhealthy": "running"}.get(status, status)


def _utc(at_s: float | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat()
