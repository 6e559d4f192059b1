"""A hub process with its real link to the stand-in, over a line that a test can cut."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from actors.addresses import UPSTREAM
from actors.hub.identity import HubIdentity
from actors.upstream.link_state import GetLinkState, LinkState
from actors.upstream.protocol import UpstreamProtocol
from messaging.client import Client
from messaging.errors import BusError
from messaging.identity import Identity
from runtime.faults.line import Line, Profile
from runtime.security.client_certificates import thumbprints_of
from tests.integration.cloud import Cloud
from tests.integration.cloud_worlds import PORTS
from tests.integration.hub_process import DEVICE, HubProcess
from tests.integration.sdk_clients import SDK_PORT, loopback_address
from tests.runtime.client_certificates import ClientCertificate

OWN = f"{DEVICE}/$edgeHub"


class LinkedHub:
    """`with LinkedHub(…) as linked`: cloud, line and hub; `modules` are of the edge, `devices` behind it."""

    def __init__(
        self,
        routes: Mapping[str, str],
        modules: Sequence[str] = (),
        devices: Sequence[str] = (),
        profile: Profile | None = None,
        certificates: Sequence[ClientCertificate] = (),
        seed: int = 20261121,
        protocol: UpstreamProtocol = UpstreamProtocol.MQTT,
        **settings: Any,
    ) -> None:
        """Keep what is wanted.

        `certificates` are of further devices, which have no keys; `settings` are of the hub, `seed` is for
        what the line does by chance.
        """
        self._ending = ExitStack()
        self.host_name = loopback_address()
        self.cloud = Cloud(loopback_address(), self.host_name)
        port = PORTS[protocol]
        self.line = Line((self.host_name, port), (self.cloud.address, port), profile, seed=seed)
        self._settings = {"cloud_protocol": protocol, **settings}
        self._routes = routes
        self._modules = [f"{DEVICE}/{module}" for module in modules]
        self._devices = list(devices)
        self._shown = [(_identity_of(shown), shown) for shown in certificates]
        self._taken: dict[str, list[bytes]] = {}
        self._after = 0

    def __enter__(self) -> LinkedHub:
        self._ending.enter_context(self.cloud)
        self._ending.enter_context(self.line)
        self.cloud.create(DEVICE, capabilities={"iotEdge": True})
        key = {name: base64.b64encode(os.urandom(32)).decode() for name in ("primaryKey", "secondaryKey")}
        self.cloud.create(OWN, if_match="*", authentication={"type": "sas", "symmetricKey": key})
        for client_id in (*self._modules, *self._devices):
            self.cloud.create(client_id)
        scope = self.cloud.call(self.cloud.hub.find(Identity(DEVICE))).device_scope
        for identity, _ in self._shown:
            thumbprint = {"primaryThumbprint": identity.thumbprints[0]}
            proof = {"type": "selfSigned", "x509Thumbprint": thumbprint}
            self.cloud.create(identity.id, authentication=proof, parentScopes=[scope])
        clients = (OWN, *self._modules, *self._devices)
        self.hub = HubProcess(
            self._routes,
            address=loopback_address(),
            port=SDK_PORT,
            program="runtime.hub",
            iothub=self.host_name,
            cloud_keys={name: base64.b64decode(self.cloud.key(name)) for name in clients},
            cloud_ca_file=str(self.cloud.ca_file),
            with_certificates=self._shown,
            **self._settings,
        )
        self._ending.enter_context(self.hub)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    # the cloud's side

    def taken(self, client_id: str) -> list[bytes]:
        """Return the bodies that the cloud has from one identity, in order."""
        while events := self.cloud.call(self.cloud.hub.events(self._after)):
            self._after = events[-1].sequence_number
            for event in events:
                self._taken.setdefault(str(event.identity), []).append(event.telemetry.body)
        return self._taken.get(client_id, [])

    def reported(self, client_id: str) -> Any:
        """Return the reported properties as the cloud has them."""
        return self.cloud.call(self.cloud.hub.device_twin(Identity.parse(client_id)))["reported"]

    def patch_desired(self, client_id: str, patch: dict[str, Any]) -> None:
        wanted = {"properties": {"desired": patch}}
        self.cloud.call(self.cloud.hub.patch_twin(Identity.parse(client_id), wanted))

    # the hub's side

    def state(self) -> LinkState | None:
        """Ask the hub how its link is; None when it does not answer."""
        try:
            with Client.outside(self.hub.run_dir) as client:
                return client.ask(UPSTREAM, GetLinkState(), LinkState, 2.0)
        except BusError:
            return None


def _identity_of(shown: ClientCertificate) -> HubIdentity:
    return HubIdentity(shown.name, "selfSigned", thumbprints=tuple(thumbprints_of(shown.ders[0])))
