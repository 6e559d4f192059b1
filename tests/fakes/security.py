"""Identities and certificates without files."""

from __future__ import annotations

from collections.abc import Sequence

from actors.agent.certificate_ends import CertificateLife
from actors.hub.identity import AuthType, HubIdentity, KnownIdentities
from actors.ports.modules import ModuleAccess
from actors.ports.security import DebugAccess, DeviceAccess
from messaging.envelope import Secret
from messaging.errors import ConfigError

DAY_S = 86_400.0


class FakeSecurity:
    """Generation ids count up; certificates live for 30 days and are due after 24."""

    def __init__(self, now_s: float) -> None:
        self.modules: dict[str, ModuleAccess] = {}
        self.devices: dict[str, DeviceAccess] = {}
        self.disabled: set[str] = set()
        self.noted: dict[str, str] = {}
        self.refused: dict[str, str] = {}  # modules that get no identity, with the reason
        self.renewals = 0
        self.asked = 0  # for the identity of a module
        self.fault: ConfigError | None = None  # raised at each renewal while it is set
        self._due_s = now_s + 24 * DAY_S
        self.lives: tuple[CertificateLife, ...] = ()

    def ensure_module(self, name: str, now_s: float) -> ModuleAccess:
        self.asked += 1
        if name in self.refused:
            raise ConfigError(self.refused[name])
        return self.modules.setdefault(name, ModuleAccess(f"g{len(self.modules)}", f"unix:///w/{name}"))

    def prepare_module(self, name: str, now_s: float) -> bool:
        if name in self.refused:
            raise ConfigError(self.refused[name])
        return name not in self.modules

    def forget_module(self, name: str) -> None:
        self.modules.pop(name, None)

    def open_debug(self, name: str, pid: int, start_ticks: int) -> DebugAccess:
        if name not in self.modules:
            raise ConfigError(f"there is no identity of module '{name}'")
        return DebugAccess({"IOTEDGE_MODULEID": name}, "/d/ca.pem")

    def identities(self) -> KnownIdentities:
        modules = (HubIdentity(f"edge1/{name}", keys=_keys(f"edge1/{name}")) for name in self.modules)
        devices = (
            HubIdentity(
                made.device_id,
                made.auth_type,
                (made.primary_key, made.secondary_key),
                made.thumbprints,
                made.device_id not in self.disabled,
            )
            for made in self.devices.values()
        )
        return KnownIdentities((*modules, *devices), (b"edge CA %d" % self.renewals,))

    def create_device(
        self, device_id: str, auth_type: AuthType, thumbprints: Sequence[str], now_s: float
    ) -> DeviceAccess:
        if device_id in self.devices:
            raise ConfigError(f"device '{device_id}' exists already; choose another id")
        made = DeviceAccess(device_id, *_keys(device_id), auth_type, tuple(thumbprints))
        self.devices[device_id] = made
        return made

    def enable_device(self, device_id: str, enabled: bool) -> None:
        self._need(device_id)
        if enabled:
            self.disabled.discard(device_id)
        else:
            self.disabled.add(device_id)

    def delete_device(self, device_id: str) -> None:
        self._need(device_id)
        del self.devices[device_id]

    def _need(self, device_id: str) -> None:
        if device_id not in self.devices:
            raise ConfigError(f"there is no leaf device '{device_id}'")

    def device(self, device_id: str) -> DeviceAccess | None:
        return self.devices.get(device_id)

    def renew_certificates(self, now_s: float) -> bool:
        if self.fault is not None:
            raise self.fault
        due = now_s >= self._due_s
        if due:
            self._due_s = now_s + 24 * DAY_S
            self.renewals += 1
        return due

    def certificates(self) -> tuple[CertificateLife, ...]:
        return self.lives

    def renew_at_s(self) -> float:
        return self._due_s

    def note_module(
        self, name: str, status: str, since_s: float | None, exit_code: int | None, image_id: str = ""
    ) -> None:
        self.noted[name] = status


def _keys(name: str) -> tuple[Secret, Secret]:
    return Secret(name.encode()), Secret(b"2")
