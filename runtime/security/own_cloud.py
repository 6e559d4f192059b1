"""Our own stand-in in the same home: what was made here with `edge-actors identity` is made there, too."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from actors.agent.registry_waits import is_refusal
from actors.upstream.connection import CloudFault
from messaging.envelope import Secret
from messaging.errors import EdgeError
from runtime.home import Home
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.owner import Cloud, Refused, device_path
from runtime.net.https_client import Service
from runtime.security.key_content import Identity, LeafChange
from runtime.security.key_store import KeyStore
from runtime.security.leaf_rules import is_own
from runtime.upstream.provisioning import Provisioned, remember


def service_of(home: Home, host_name: str) -> Service | None:
    """Return where the stand-in in this home answers, None when the IoT Hub of that name is another."""
    return Service(host_name, socket=CloudHome.in_home(home.path).socket) if is_own(home, host_name) else None


class OwnDevice:
    """The device of the edge there, which its owner may delete and make again. Used by one thread."""

    def __init__(self, provisioned: Provisioned, home: Home, on_changed: Callable[[], None]) -> None:
        """Keep what is needed; `on_changed` as `on_moved` of CloudRegistry."""
        self._provisioned = provisioned
        self._home = home
        self._on_changed = on_changed

    def after(self, fault: CloudFault) -> CloudFault:
        """Take over the key that the device has by now, if that is why it was refused. Blocks."""
        before = self._provisioned
        if not is_refusal(fault):
            return fault
        try:
            device = Cloud(self._home.path, start_limit_s=0.0).get(device_path(before.device_id))
            key = (device["authentication"]["symmetricKey"] or {}).get("primaryKey") or ""
            if (
                not key
                or not device["capabilities"].get("iotEdge")
                or key.encode() == before.device_key.reveal()
            ):
                return fault
            self._provisioned = replace(before, device_key=Secret(key.encode()))
            remember(self._home, self._provisioned, same_hub=True)
        except EdgeError:
            return fault  # it is not there, or not now
        self._on_changed()
        return replace(
            fault, reason=f"device '{before.device_id}' has a new key; the edge starts anew with it"
        )


def tell_leaves(home: Home, edge_id: str, keys: KeyStore) -> tuple[tuple[str, str], ...]:
    """Make, change and delete there the leaf devices that changed here, as children of the edge. Blocks.

    Returns:
        Those that it does not take, and why; they are tried again.

    Raises:
        EdgeError: it does not answer.
    """
    changes = keys.leaf_changes()
    if not changes:
        return ()
    cloud = Cloud(home.path, start_limit_s=0.0)
    scope = cloud.get(device_path(edge_id))["deviceScope"]
    problems = []
    for device_id, change in changes.items():
        try:
            _tell_one(cloud, device_id, change, scope)
        except Refused as exc:
            problems.append((device_id, str(exc)))
        else:
            keys.leaf_told(device_id, change.device)
    return tuple(problems)


def _tell_one(cloud: Cloud, device_id: str, change: LeafChange, scope: str) -> None:
    """Where both sides changed it, the cloud's word counts: what is there by now is followed afterwards."""
    wanted = None if change.device is None else _wanted(change.device, scope)
    if wanted is None or change.replaces:
        _call(cloud, "DELETE", device_id, None, is_there=True)
    if wanted is not None:
        _call(cloud, "PUT", device_id, wanted, is_there=change.in_cloud and not change.replaces)


def _call(cloud: Cloud, method: str, device_id: str, wanted: dict[str, Any] | None, is_there: bool) -> None:
    try:
        cloud.call(method, device_path(device_id), wanted, {"If-Match": "*"} if is_there else None)
    except Refused as exc:
        if exc.name != ("DeviceNotFound" if is_there else "DeviceAlreadyExists"):
            raise


def _wanted(device: Identity, scope: str) -> dict[str, Any]:
    auth: dict[str, Any] = {"type": device.auth_type}
    if device.auth_type == "sas":
        keys = (device.primary_key, device.secondary_key)
        names = ("primaryKey", "secondaryKey")
        auth["symmetricKey"] = dict(zip(names, (base64.b64encode(key).decode() for key in keys), strict=True))
    elif device.auth_type == "selfSigned":
        auth["x509Thumbprint"] = dict(
            zip(("primaryThumbprint", "secondaryThumbprint"), device.thumbprints, strict=False)
        )
    return {
        "deviceId": device.device_id,
        "status": device.status,
        "authentication": auth,
        "parentScopes": [scope],
    }
