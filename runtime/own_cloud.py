"""Our own stand-in in the same home: what was made here with `edge-actors identity` is made there, too."""

from __future__ import annotations

import base64
from typing import Any, Final

from messaging.errors import EdgeError
from runtime.home import Home
from runtime.https_client import Service
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.owner import Cloud, Refused, device_path
from runtime.key_content import Identity
from runtime.key_store import KeyStore

_ANY: Final = {"If-Match": "*"}


def service_of(home: Home, host_name: str) -> Service | None:
    """Return where the stand-in in this home answers, None when the IoT Hub of that name is another."""
    place = CloudHome.in_home(home.path)
    try:
        if place.read_serving().host_name.lower() != host_name.lower():
            return None
    except EdgeError:
        return None
    return Service(host_name, socket=place.socket)


def tell_leaves(home: Home, edge_id: str, keys: KeyStore) -> None:
    """Make, change and delete there the leaf devices that changed here, as children of the edge. Blocks.

    Raises:
        EdgeError: it does not answer, or refuses one; says why.
    """
    changes = keys.leaf_changes()
    if not changes:
        return
    cloud = Cloud(home.path)
    scope = cloud.get(device_path(edge_id))["deviceScope"]
    for device_id, device in changes.items():
        _tell_one(cloud, device_id, device, scope)
        keys.leaf_told(device_id, device)


def _tell_one(cloud: Cloud, device_id: str, device: Identity | None, scope: str) -> None:
    path = device_path(device_id)
    try:
        cloud.call("PUT" if device else "DELETE", path, device and _wanted(device, scope), _ANY)
    except Refused as exc:
        if exc.name != "DeviceNotFound":
            raise
        if device is not None:
            cloud.call("PUT", path, _wanted(device, scope))


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
