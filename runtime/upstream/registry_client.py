"""The identity registry of the IoT Hub as an edge device sees it: its modules, and all in its scope. Blocks.

Source: spec sheet security-daemon.md sections 4.3 and 4.5, hub-protocols.md section 5.4
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from actors.agent.registry_plan import CloudModule
from actors.hub.identity import AUTH_TYPES, HubIdentity, capital_thumbprint
from actors.upstream.connection import CloudFault, Fault
from messaging import sas
from messaging.envelope import Secret
from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity
from messaging.text import quoted
from runtime.net.https_client import CloudError, HttpsClient
from runtime.security.key_content import Identity as Keys

log = logging.getLogger(__name__)

MODULES_VERSION: Final = "2017-11-08-preview"
SCOPE_VERSION: Final = "2020-06-30-preview"
FLAT_SCOPE_VERSION: Final = "2018-08-30-preview"
NESTED_CALL: Final = "devicesAndModulesInTargetDeviceScope"
FLAT_CALL: Final = "devicesAndModulesInDeviceScope"
PAGE: Final = 100
MOST_PAGES: Final = 10_000  # a service that never comes to an end is left
TOKEN_S: Final = 300
NO_SUCH_CALL: Final = (400, 404, 405, 501)  # of the nested API, on a hub that has only the flat one


class RegistryClient:
    """Speaks for one edge device; used by one thread at a time."""

    def __init__(
        self,
        client: HttpsClient,
        hub_client: HttpsClient,
        host_name: str,
        device_id: str,
        device_key: Secret,
        now_s: Callable[[], float],
    ) -> None:
        """Take the connections and as whom to speak.

        Args:
            client: Of the device.
            hub_client: Of `$edgeHub`; another one where the device shows a certificate.
            host_name: Of the IoT Hub.
            device_id: Of the edge.
            device_key: In base64; empty when the device shows a certificate.
            now_s: Seconds since 1970-01-01 UTC.
        """
        self._client = client
        self._hub_client = hub_client
        self._host_name = host_name
        self._device_id = device_id
        self._device_key = sas.decode_key(device_key.reveal().decode()) if device_key.reveal() else None
        self._now_s = now_s

    def modules(self) -> dict[str, CloudModule]:
        """Return the modules of the device, by id.

        Raises:
            CloudError: the cloud is away or refuses the device.
        """
        listed = self._call("GET", self._modules_path)
        if not isinstance(listed, list):
            raise _not_a_hub(self._host_name)
        found = (_cloud_module(entry) for entry in listed)
        return {module.module_id: module for module in found if module is not None}

    def create_module(self, module_id: str) -> CloudModule:
        """Make an identity without keys, and return it; one that is there already is returned as it is.

        Raises:
            CloudError: the cloud is away or refuses it.
        """
        path = self._module_path(module_id)
        try:
            made = self._call("PUT", path, {"moduleId": module_id, "deviceId": self._device_id})
        except CloudError as exc:
            if exc.fault.status != 409:
                raise
            made = self._call("GET", path)
        module = _cloud_module(made)
        if module is None:
            raise _not_a_hub(self._host_name)
        return module

    def put_keys(self, keys: Keys, generation_id: str) -> None:
        """Give an identity the keys of a module of ours; `generation_id` is the one in the registry.

        Raises:
            CloudError: the cloud is away or refuses it.
        """
        assert keys.module_id is not None
        body = {
            "moduleId": keys.module_id,
            "deviceId": self._device_id,
            "generationId": generation_id,
            "authentication": {
                "type": "sas",
                "symmetricKey": {
                    "primaryKey": base64.b64encode(keys.primary_key).decode(),
                    "secondaryKey": base64.b64encode(keys.secondary_key).decode(),
                },
            },
        }
        self._call("PUT", self._module_path(keys.module_id), body, {"If-Match": "*"})

    def delete_module(self, module_id: str) -> None:
        """Delete an identity; one that is not there is no error.

        Raises:
            CloudError: the cloud is away or refuses it.
        """
        try:
            self._call("DELETE", self._module_path(module_id), None, {"If-Match": "*"})
        except CloudError as exc:
            if exc.fault.status != 404:
                raise

    def scope(self, hub_key: bytes) -> list[HubIdentity]:
        """Return all devices and modules in the scope of the edge, itself included.

        Args:
            hub_key: Of the module `$edgeHub`, which alone may ask.

        Raises:
            CloudError: the cloud is away or refuses it.
        """
        token = self._token(Identity.edge_hub(self._device_id), hub_key)
        try:
            pages = list(self._nested_pages(token))
        except CloudError as exc:
            if exc.fault.status not in NO_SUCH_CALL:
                raise
            log.debug("%s; asking with the flat API of device scopes", exc)
            pages = list(self._flat_pages(token))
        return [identity for page in pages for identity in read_scope(page)]

    def _nested_pages(self, token: str) -> Iterator[Mapping[str, Any]]:
        path = f"{self._hub_path}/{NESTED_CALL}?api-version={SCOPE_VERSION}"
        body: dict[str, Any] = {"pageSize": PAGE, "authChain": self._device_id}

        def page(link: str) -> Any:
            sent = {**body, "continuationLink": link} if link else body
            return self._hub_client.call("POST", path, sent, {"Authorization": token}).body

        return self._pages(page)

    def _flat_pages(self, token: str) -> Iterator[Mapping[str, Any]]:
        path = f"{self._hub_path}/{FLAT_CALL}?deviceCount={PAGE}"

        def page(link: str) -> Any:
            continued = f"&continuationToken={quote(link, safe='')}" if link else ""
            target = f"{path}{continued}&api-version={FLAT_SCOPE_VERSION}"
            return self._hub_client.call("GET", target, None, {"Authorization": token}).body

        return self._pages(page)

    def _pages(self, page_at: Callable[[str], Any]) -> Iterator[Mapping[str, Any]]:
        link = ""
        for _ in range(MOST_PAGES):
            page = page_at(link)
            if not isinstance(page, dict):
                raise _not_a_hub(self._host_name)
            yield page
            following = page.get("continuationLink")
            if not isinstance(following, str) or not following or following == link:
                return
            link = following

    @property
    def _modules_path(self) -> str:
        return f"/devices/{quote(self._device_id, safe='')}/modules"

    @property
    def _hub_path(self) -> str:
        return f"{self._modules_path}/$edgeHub"

    def _module_path(self, module_id: str) -> str:
        return f"{self._modules_path}/{quote(module_id, safe='')}"

    def _call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        sent = dict(headers or {})
        if self._device_key is not None:
            sent["Authorization"] = self._token(Identity(self._device_id), self._device_key)
        return self._client.call(method, f"{path}?api-version={MODULES_VERSION}", body, sent).body

    def _token(self, identity: Identity, key: bytes) -> str:
        return sas.make_token(sas.audience_of(self._host_name, identity), key, int(self._now_s()) + TOKEN_S)


def read_scope(page: Mapping[str, Any]) -> Iterator[HubIdentity]:
    """Yield the identities of a page; what cannot be understood is left out and logged."""
    for kind in ("devices", "modules"):
        entries = page.get(kind)
        for entry in entries if isinstance(entries, list) else ():
            try:
                yield _hub_identity(entry)
            except (ConfigError, AuthError, ValueError, TypeError, AttributeError, KeyError) as exc:
                shown = quoted(str(entry.get("deviceId"))) if isinstance(entry, dict) else "no object"
                log.warning("an identity in the scope of this edge is left out (%s): %s", shown, exc)


def _hub_identity(entry: Mapping[str, Any]) -> HubIdentity:
    identity = Identity(entry["deviceId"], entry.get("moduleId"))
    auth = entry.get("authentication") or {}
    auth_type = auth.get("type", "none")
    if auth_type not in AUTH_TYPES:
        raise ValueError(f"authentication {quoted(str(auth_type))} is not known")
    keys: tuple[Secret, ...] = ()
    prints: tuple[str, ...] = ()
    if auth_type == "sas":
        given = auth.get("symmetricKey") or {}
        texts = (given.get("primaryKey"), given.get("secondaryKey"))
        keys = tuple(Secret(sas.decode_key(text)) for text in texts if text)
    elif auth_type == "selfSigned":
        given = auth.get("x509Thumbprint") or {}
        texts = (given.get("primaryThumbprint"), given.get("secondaryThumbprint"))
        prints = tuple(capital_thumbprint(text) for text in texts if text)
    return HubIdentity(
        identity.id,
        auth_type,
        keys,
        prints,
        entry.get("status") != "disabled",
        entry.get("deviceScope") or "",
        tuple(map(str, entry.get("parentScopes") or ())),
        str(entry.get("generationId") or ""),
    )


def _cloud_module(entry: Any) -> CloudModule | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("moduleId"), str):
        return None
    auth = entry.get("authentication")
    keys = auth.get("symmetricKey") if isinstance(auth, dict) else None
    keys = keys if isinstance(keys, dict) else {}
    return CloudModule(
        entry["moduleId"],
        str(entry.get("generationId") or ""),
        (str(keys.get("primaryKey") or ""), str(keys.get("secondaryKey") or "")),
    )


def _not_a_hub(host_name: str) -> CloudError:
    text = f"{host_name} answers, but not as an IoT Hub does; is the host name right?"
    return CloudError(CloudFault(Fault.REFUSED, text))
