"""Who decides about a device behind this edge: we, our own stand-in with us, or an IoT Hub elsewhere."""

from __future__ import annotations

from actors.hub.identity import HubIdentity
from messaging.errors import ConfigError, EdgeError
from messaging.identity import Identity as Name
from runtime.home import Home
from runtime.iothub.cloud_home import CloudHome
from runtime.security.hub_identities import own_identities, with_scope
from runtime.security.key_content import Identity
from runtime.security.key_store import KeyStore
from runtime.upstream.provisioning import Provisioned, load
from runtime.upstream.scope_file import ScopeFile

_AZURE = (".azure-devices.net", ".azure-devices.us", ".azure-devices.cn")


def is_own(home: Home, host_name: str) -> bool:
    """Return whether the IoT Hub of that name is the stand-in in this home."""
    try:
        return CloudHome.in_home(home.path).read_serving().host_name.lower() == host_name.lower()
    except EdgeError:
        return False


def has_own_cloud(home: Home) -> bool:
    """Return whether the IoT Hub of the edge on this home is a stand-in of its own, and runs."""
    found = load(home)
    return (
        found is not None
        and is_own(home, found.host_name)
        and CloudHome.in_home(home.path).lock().holder() is not None
    )


def check_create(home: Home, device_id: str) -> None:
    """Return when a device may be made here.

    Raises:
        ConfigError: the IoT Hub has one of that id, or devices are made there; says how.
    """
    found = load(home)
    if found is None:
        return
    if not is_own(home, found.host_name):
        raise _elsewhere(found, device_id, "made", create_line(found, device_id))
    # One that was deleted here is in the scope until the stand-in has been told.
    if _in_scope(home, device_id) and device_id not in KeyStore.open(home.keys).pending():
        raise ConfigError(f"device '{device_id}' exists already; choose another id")


def check_change(home: Home, device_id: str, azure: str, other: str) -> None:
    """Return when a device may be changed here: it was made here, or in our own stand-in.

    Args:
        azure: What `az iot hub device-identity …` is to do in place of it: `delete`.
        other: With what it is done at a stand-in elsewhere.

    Raises:
        ConfigError: it was made in the IoT Hub, and is changed there; says how.
    """
    found = load(home)
    if found is None or is_own(home, found.host_name) or not _in_scope(home, device_id):
        return
    kept = {identity.device_id for identity in KeyStore.open(home.keys).identities()}
    if device_id not in kept:
        raise _elsewhere(found, device_id, "changed", _line(found, device_id, azure, other))


def adopt(home: Home, keys: KeyStore, device_id: str) -> None:
    """Have a leaf device in the key store that was made in our own stand-in, so that it can be changed here.

    Raises:
        EnvironmentFault: the key store cannot be written.
    """
    found = load(home)
    if found is None or device_id == found.device_id or not is_own(home, found.host_name):
        return
    for identity in ScopeFile(home.scope).identities:
        if identity.id == device_id:
            keys.adopt_leaf(identity)


def create_line(found: Provisioned, device_id: str) -> str:
    """Return the commands that make a device behind this edge in its IoT Hub."""
    if not found.host_name.endswith(_AZURE):
        return f"edge-actors cloud device create {device_id} --parent {found.device_id}"
    hub = found.host_name.partition(".")[0]
    return (
        f"az iot hub device-identity create -n {hub} -d {device_id}` and "
        f"`az iot hub device-identity parent set -n {hub} -d {device_id} --pd {found.device_id}"
    )


def known_identities(home: Home) -> tuple[Identity, ...]:
    """Return who may connect, the edge device first: those of the key store, and what the cloud said besides.

    Raises:
        ConfigError: the home has not been run yet, or cannot be read.
    """
    keys = KeyStore.open(home.keys)
    kept = keys.identities()
    found = load(home)
    if found is None:
        return kept
    known = with_scope(own_identities(kept), ScopeFile(home.scope).identities, found, keys.pending())
    return tuple(map(_shown, known))


def _shown(identity: HubIdentity) -> Identity:
    name = Name.parse(identity.id)
    primary, secondary = (*(key.reveal() for key in identity.keys), b"", b"")[:2]
    return Identity(
        name.device_id,
        name.module_id,
        "",
        "enabled" if identity.enabled else "disabled",
        primary,
        secondary,
        identity.auth_type,
        identity.thumbprints,
    )


def _line(found: Provisioned, device_id: str, azure: str, other: str) -> str:
    if not found.host_name.endswith(_AZURE):
        return other
    verb, _, rest = azure.partition(" ")
    hub = found.host_name.partition(".")[0]
    return f"az iot hub device-identity {verb} -n {hub} -d {device_id} {rest}".rstrip()


def _elsewhere(found: Provisioned, device_id: str, done: str, line: str) -> ConfigError:
    return ConfigError(
        f"devices behind this edge are {done} in its IoT Hub {found.host_name}, so '{device_id}' is, too: "
        f"`{line}`; this edge knows it within seconds of its first connection"
    )


def _in_scope(home: Home, device_id: str) -> bool:
    return any(identity.id == device_id for identity in ScopeFile(home.scope).identities)
