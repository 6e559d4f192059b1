"""Makes the registry of the IoT Hub and what is known here the same.

Modules that are here get an identity there with our keys, modules that went are deleted there, and the scope
is fetched. With our own stand-in in the same home, leaf devices that were made here are made there, too.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from msgspec.structs import replace

from actors.agent.registry_plan import LocalModule, plan
from actors.hub.identity import HubIdentity
from actors.ports.security import SyncOutcome
from actors.upstream.connection import CloudFault, Fault
from messaging.errors import EdgeError, EnvironmentFault
from messaging.identity import EDGE_HUB
from runtime.home import Home
from runtime.net.https_client import CloudError, HttpsClient, Service
from runtime.security import own_cloud
from runtime.security.key_content import Identity
from runtime.security.key_store import KeyStore
from runtime.upstream.provisioning import Provisioned
from runtime.upstream.registry_client import RegistryClient
from runtime.upstream.scope_file import ScopeFile

log = logging.getLogger(__name__)

# These are about one module, and the others go on: that the device itself may ask has been seen by then.
_ONE_MODULES: Final = (400, 403, 404, 409, 412, 413)


class RegistrySync:
    """What one sync needs. Blocks: for a worker thread."""

    def __init__(
        self,
        provisioned: Provisioned,
        home: Home,
        keys: KeyStore,
        scope: ScopeFile,
        now_s: Callable[[], float],
        after_fault: Callable[[CloudFault], CloudFault] | None = None,
    ) -> None:
        """Keep what is needed; `after_fault` looks what has become of a device that is refused."""
        self._provisioned = provisioned
        self._home = home
        self._keys = keys
        self._scope = scope
        self._now_s = now_s
        self._after_fault = after_fault

    def run(self) -> SyncOutcome:
        """Do it, and return how it went."""
        found = self._provisioned
        try:
            own = own_cloud.service_of(self._home, found.host_name)
            service = own or Service(found.host_name, found.https_port, found.ca_pem)
            with ExitStack() as stack:
                hub_client = client = stack.enter_context(HttpsClient(service))
                if found.identity is not None and own is None:
                    # A token counts before a certificate, but it is $edgeHub that has one, not the device.
                    client = stack.enter_context(HttpsClient(replace(service, identity=found.identity)))
                registry = RegistryClient(
                    client, hub_client, found.host_name, found.device_id, found.device_key, self._now_s
                )
                problems = self._sync_modules(registry)
                if own is None:
                    self._keys.keep_leaves_here()
                else:
                    problems += own_cloud.tell_leaves(self._home, found.device_id, self._keys)
                identities = self._fetch_scope(registry)
            if own is not None:
                self._keys.follow_cloud({identity.id: identity for identity in identities})
            return SyncOutcome(None, problems, len(identities))
        except CloudError as exc:
            fault = exc.fault
            return SyncOutcome(fault if self._after_fault is None else self._after_fault(fault))
        except EdgeError as exc:  # our own disk is full, for example
            away = isinstance(exc, EnvironmentFault)
            return SyncOutcome(CloudFault(Fault.UNREACHABLE if away else Fault.REFUSED, str(exc)))
        except Exception as exc:  # the next sync must be told of the end of this one
            log.exception("registry and scope could not be made the same")
            reason = f"an error of the edge itself ({type(exc).__name__}); see `edge-actors logs edgeAgent`"
            return SyncOutcome(CloudFault(Fault.REFUSED, reason))

    def _sync_modules(self, registry: RegistryClient) -> tuple[tuple[str, str], ...]:
        """Return the modules that the cloud does not take, with its reason."""
        keys = self._keys
        listed = registry.modules()
        local = {}
        by_id = {identity.module_id: identity for identity in keys.identities() if identity.module_id}
        for name, cloud_generation_id in keys.cloud_modules().items():
            if name in by_id:  # else it has just gone
                local[name] = LocalModule(cloud_generation_id, _texts(by_id[name]))
        steps = plan(local, keys.cloud_deletes(), listed)
        for name in steps.delete:
            registry.delete_module(name)
            keys.module_deleted(name)
        for name in steps.forget:
            keys.module_deleted(name)
        problems = []
        for name in (*steps.create, *steps.update):
            if name in steps.create and local[name].cloud_generation_id:
                log.warning(
                    "module '%s' was deleted at %s and is made again", name, self._provisioned.host_name
                )
            try:
                known = listed[name] if name in steps.update else registry.create_module(name)
                identity = keys.register_module(name, known.generation_id)
                if identity is None:
                    registry.delete_module(name)  # it went while it was made
                else:
                    registry.put_keys(identity, known.generation_id)
            except CloudError as exc:
                if exc.fault.status not in _ONE_MODULES:
                    raise
                problems.append((name, exc.fault.reason))
        return tuple(problems)

    def _fetch_scope(self, registry: RegistryClient) -> list[HubIdentity]:
        hub = next(found for found in self._keys.identities() if found.module_id == EDGE_HUB)
        identities = registry.scope(hub.primary_key)
        self._scope.replace(self._now_s(), identities)
        return identities


def _texts(identity: Identity) -> tuple[str, str]:
    return (
        base64.b64encode(identity.primary_key).decode(),
        base64.b64encode(identity.secondary_key).decode(),
    )
