"""Gives modules and devices their identities, tells the hub who may connect, renews certificates in time.

Understands: EnsureModules, ForgetModule, GetIdentities, CreateDevice, GetDevice, EnableDevice,
             DeleteDevice, OpenDebugSocket, RenewalDue, ModuleReported, PeerUp, PeerDown;
             RegistrySynced, PatienceEnds
Tells:       hub/identities (Identities) and hub (CertificateChanged), at PeerUp and at each change;
             RegistryActor (SyncRegistry), when the cloud should know or may know something new;
             AgentActor (RestartModule), for each module that runs when there is another edge CA
Started by:  AgentRootActor, before anything that needs an identity
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from actors.addresses import AGENT, HUB, IDENTITIES
from actors.agent.certificate_ends import DAY_S, remark
from actors.agent.module_report import ModuleReported
from actors.agent.registry import RegistrySynced, SyncRegistry
from actors.agent.supervisor_messages import RestartModule
from actors.agent_hub_messages import GetIdentities, Identities
from actors.hub.config import CertificateChanged
from actors.hub.identity import AuthType, KnownIdentities
from actors.kernel.base import EdgeActor
from actors.manifest.module_spec import EDGE_AGENT, EDGE_CLOUD, EDGE_HUB
from actors.ports.security import DeviceAccess, Security
from messaging.envelope import Envelope, Secret
from messaging.errors import EdgeError
from messaging.kinds import message
from messaging.lifecycle import PeerDown, PeerUp, RequestFailed

log = logging.getLogger(__name__)

CLOUD_LIMIT_S: Final = 5.0  # how long modules that are new wait for the cloud, and clients that it may know
LONGEST_WAIT_S: Final = 24 * 3600.0  # the clock may be set meanwhile
RETRY_S: Final = 3600.0


@message
class EnsureModules:
    """Make what these modules need before they start. Answered with ModulesEnsured."""

    names: tuple[str, ...]


@message
class ModulesEnsured:
    """For each module (name, generation id, workload URI, problem); with a problem the others are ""."""

    entries: tuple[tuple[str, str, str, str], ...]


@message
class ForgetModule:
    """This module is in no deployment any more and has ended: it may not connect again."""

    name: str


@message
class CreateDevice:
    """Make the identity of a device behind this edge. Answered with DeviceIdentity.

    What it proves itself with is told as in `Security.create_device`.
    """

    device_id: str
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()


@message
class GetDevice:
    """Tell the keys of a device behind this edge. Answered with DeviceIdentity."""

    device_id: str


@message
class DeviceIdentity:
    """With what a device connects: keys, empty when it has none, or certificates with these thumbprints."""

    device_id: str
    primary_key: Secret
    secondary_key: Secret
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()


@message
class EnableDevice:
    """Let a device behind this edge connect, or not any more. Answered with DeviceChanged."""

    device_id: str
    enabled: bool


@message
class DeleteDevice:
    """Forget a device behind this edge. Answered with DeviceChanged."""

    device_id: str


@message
class DeviceChanged:
    """It is done, and the hub is told."""

    device_id: str


@message
class OpenDebugSocket:
    """Let a module run by hand while this process lives. Answered with DebugSocket."""

    name: str
    pid: int
    start_ticks: int  # of the process; clock ticks since boot


@message
class DebugSocket:
    """With what a module runs by hand."""

    environment: dict[str, str]
    ca_file: str


@message
class PatienceEnds:
    """Timer: whoever waits for the cloud since this ticket has waited long enough."""

    ticket: int


@message
class RenewalDue:
    """Timer: look after the certificates."""


@message
class LifeLook:
    """Timer: tell the operator what is near its end and not ours to renew."""


class SecurityActor(EdgeActor):
    """The one user of the keys while the edge runs.

    With a cloud, a module that is new waits a moment for its identity there, and so for its generation id;
    without an answer it starts with one of ours, and the cloud is told later.
    """

    def __init__(self, security: Security, registry: str = "") -> None:
        """Keep what is needed; `registry` is the address of the RegistryActor, "" without a cloud."""
        self._security = security
        self._registry = registry
        self._hub_is_up = False
        self._told = KnownIdentities(())  # what the hub was told last
        self._ticket = 0
        self._waiting: list[tuple[int, Envelope, EnsureModules | GetIdentities]] = []  # with their tickets
        self._running: dict[str, None] = {}  # modules that trust the edge CA since they started

    def on_start(self) -> None:
        self.context.watch_peer(HUB)
        self._wait_for_renewal()
        self.on_life_look(LifeLook())

    def on_ensure_modules(self, message: EnsureModules) -> None:
        new = [name for name in message.names if self._is_new(name)]  # all are made, not the first alone
        if self._registry and new:
            self._wait_for_cloud(message)
        else:
            self._answer_modules(message, self.envelope)

    def on_forget_module(self, message: ForgetModule) -> None:
        try:
            self._security.forget_module(message.name)
        except EdgeError as exc:
            log.error("the identity of module %s could not be taken away: %s", message.name, exc)
            return
        self._tell_hub()
        self._sync()

    def on_get_identities(self, message: GetIdentities) -> None:
        if self._registry and message.refresh:
            self._wait_for_cloud(message)  # somebody may have been made there a moment ago
        else:
            self.reply(self._identities())

    def on_registry_synced(self, message: RegistrySynced) -> None:
        self._tell_hub_changes()
        self._answer_waiting(message.ticket)

    def on_patience_ends(self, message: PatienceEnds) -> None:
        self._answer_waiting(message.ticket)

    def on_create_device(self, message: CreateDevice) -> None:
        try:
            made = self._security.create_device(
                message.device_id, message.auth_type, message.thumbprints, self.clock.now_s()
            )
        except EdgeError as exc:
            self.reply(RequestFailed("CreateDevice", self.address, str(exc)))
            return
        log.info("device %s created", made.device_id)
        self._tell_hub()
        self._sync()
        self._reply_with(made)

    def on_enable_device(self, message: EnableDevice) -> None:
        def change() -> None:
            self._security.enable_device(message.device_id, message.enabled)

        self._change_device(message.device_id, change, "enabled" if message.enabled else "disabled")

    def on_delete_device(self, message: DeleteDevice) -> None:
        self._change_device(
            message.device_id, lambda: self._security.delete_device(message.device_id), "deleted"
        )

    def on_get_device(self, message: GetDevice) -> None:
        found = self._security.device(message.device_id)
        if found is None:
            reason = (
                f"there is no device '{message.device_id}' behind this edge; "
                f"make it with `edge-actors identity create {message.device_id}`"
            )
            self.reply(RequestFailed("GetDevice", self.address, reason))
        else:
            self._reply_with(found)

    def on_open_debug_socket(self, message: OpenDebugSocket) -> None:
        try:
            opened = self._security.open_debug(message.name, message.pid, message.start_ticks)
        except EdgeError as exc:
            self.reply(RequestFailed("OpenDebugSocket", self.address, str(exc)))
            return
        log.info("module %s may run by hand while process %d lives", message.name, message.pid)
        self.reply(DebugSocket(dict(opened.environment), opened.ca_file))

    def on_peer_up(self, message: PeerUp) -> None:
        self._hub_is_up = True
        self._tell_hub()
        self.tell(HUB, CertificateChanged())  # maybe it was, by an agent that could not tell any more

    def on_peer_down(self, message: PeerDown) -> None:
        self._hub_is_up = False

    def on_renewal_due(self, message: RenewalDue) -> None:
        before = self._security.identities().authorities
        try:
            changed = self._security.renew_certificates(self.clock.now_s())
        except EdgeError as exc:
            log.error("certificates cannot be renewed, tried again in an hour: %s", exc)
            self.set_timer(RETRY_S, RenewalDue())
            return
        if changed and self._hub_is_up:
            self.tell(HUB, CertificateChanged())
            self._tell_hub()  # the edge CA is one of the authorities
        if self._security.identities().authorities != before:
            self._restart_modules()
        self._wait_for_renewal()

    def on_life_look(self, message: LifeLook) -> None:
        for life in self._security.certificates():
            found = remark(life, self.clock.now_s())
            if found is not None:
                log.log(found.level, "%s", found.text)
        self.set_timer(DAY_S, message)

    def on_module_reported(self, message: ModuleReported) -> None:
        self._security.note_module(
            message.name, message.status, message.since_s, message.exit_code, message.image_id
        )
        if message.pid and message.name not in (EDGE_AGENT, EDGE_HUB, EDGE_CLOUD):
            self._running[message.name] = None
        else:
            self._running.pop(message.name, None)

    def on_request_failed(self, message: RequestFailed) -> None:
        """A module that was to be started again has gone meanwhile."""

    def describe(self) -> dict[str, Any]:
        return {
            "identities": len(self._security.identities().identities),
            "renew_certificates_at_s": self._security.renew_at_s(),
        }

    def _ensure(self, name: str) -> tuple[str, str, str, str]:
        try:
            access = self._security.ensure_module(name, self.clock.now_s())
        except EdgeError as exc:
            return (name, "", "", str(exc))
        return (name, access.generation_id, access.workload_uri, "")

    def _is_new(self, name: str) -> bool:
        try:
            return self._security.prepare_module(name, self.clock.now_s())
        except EdgeError:
            return False  # told to who asked when its access is made

    def _answer_modules(self, message: EnsureModules, envelope: Envelope) -> None:
        before = self._security.identities()
        self.reply(ModulesEnsured(tuple(self._ensure(name) for name in message.names)), envelope)
        if self._security.identities() != before:
            self._tell_hub()

    def _sync(self) -> int:
        """Have the cloud told and asked; returns the ticket of it."""
        self._ticket += 1
        if self._registry:
            self.tell(self._registry, SyncRegistry(self._ticket))
        return self._ticket

    def _wait_for_cloud(self, message: EnsureModules | GetIdentities) -> None:
        ticket = self._sync()
        self._waiting.append((ticket, self.envelope, message))
        self.set_timer(CLOUD_LIMIT_S, PatienceEnds(ticket))

    def _answer_waiting(self, ticket: int) -> None:
        """Answer who waits since this ticket or an earlier one."""
        due = [waiting for waiting in self._waiting if waiting[0] <= ticket]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > ticket]
        for _, envelope, asked in due:
            if isinstance(asked, EnsureModules):
                self._answer_modules(asked, envelope)
            else:
                self.reply(self._identities(), envelope)

    def _tell_hub_changes(self) -> None:
        if self._security.identities() != self._told:
            self._tell_hub()

    def _tell_hub(self) -> None:
        """Send all there is; a hub that is not up gets them when it is."""
        if self._hub_is_up:
            self._told = self._security.identities()
            self.tell(IDENTITIES, self._identities())

    def _identities(self) -> Identities:
        known = self._security.identities()
        entries = tuple(identity.entry() for identity in known.identities)
        return Identities(entries, known.authorities, known.is_whole)

    def _change_device(self, device_id: str, change: Callable[[], None], outcome: str) -> None:
        try:
            change()
        except EdgeError as exc:
            self.reply(RequestFailed(self.envelope.kind, self.address, str(exc)))
            return
        log.info("device %s %s", device_id, outcome)
        self._tell_hub()
        self._sync()
        self.reply(DeviceChanged(device_id))

    def _reply_with(self, device: DeviceAccess) -> None:
        self.reply(
            DeviceIdentity(
                device.device_id,
                device.primary_key,
                device.secondary_key,
                device.auth_type,
                device.thumbprints,
            )
        )

    def _restart_modules(self) -> None:
        """Have all that run read the trust bundle anew: SDKs do so when they start, and never again.

        Source: spec sheet security-daemon.md section 3.3
        """
        if self._running:
            log.info("there is another edge CA: modules are started again, so that they trust it")
        for name in list(self._running):
            self.tell(AGENT, RestartModule(name))

    def _wait_for_renewal(self) -> None:
        wait_s = self._security.renew_at_s() - self.clock.now_s()
        self.set_timer(min(max(wait_s, 0.0), LONGEST_WAIT_S), RenewalDue())
