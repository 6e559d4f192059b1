"""REST: what the hub of an edge asks about the devices below it.

Source: spec sheet security-daemon.md section 4.5
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from messaging.identity import EDGE_HUB
from runtime.iothub import refusals, registry, shown
from runtime.iothub.policies import Permission
from runtime.iothub.records import Registered
from runtime.iothub.rest.call import Call, Route, continuation, from_continuation, member, ranged
from runtime.net.http_messages import Response, json_response

PAGE: Final = 100
MOST: Final = 1000

_Found = tuple[Sequence[Registered], Sequence[Registered]]


async def in_target_scope(call: Call) -> Response:
    body = call.object_body()
    count = ranged("pageSize", body.get("pageSize", PAGE), 1, MOST)
    found = await call.hub.service.in_scope(call.identity.device_id, _chain(call, body))
    return _page(found, count, from_continuation(member(body, "continuationLink", str, "")))


async def on_behalf_of(call: Call) -> Response:
    body = call.object_body()
    target = registry.identity_of(
        member(body, "targetDeviceId", str, ""), member(body, "targetModuleId", str, "") or None
    )
    chain = _chain(call, body)
    if chain[0] != target.device_id:
        raise refusals.argument_invalid("authChain does not begin with targetDeviceId")
    return _all(await call.hub.service.one_in_scope(call.identity.device_id, chain, target))


async def in_scope(call: Call) -> Response:
    count = call.number("deviceCount", PAGE, 1, MOST)
    edge_id = call.identity.device_id
    found = await call.hub.service.in_scope(edge_id, [edge_id])
    return _page(found, count, from_continuation(call.query.get("continuationToken")))


async def one_in_scope(call: Call) -> Response:
    target = registry.identity_of(
        call.query.get("targetDeviceId", ""), call.query.get("targetModuleId") or None
    )
    edge_id = call.identity.device_id
    chain = [edge_id] if target.device_id == edge_id else [target.device_id, edge_id]
    return _all(await call.hub.service.one_in_scope(edge_id, chain, target))


def _chain(call: Call, body: dict[str, Any]) -> list[str]:
    """Return the device ids of `authChain`, from the target up to who asks."""
    text = member(body, "authChain", str, "")
    chain = [part.partition("/")[0] for part in text.split(";") if part]
    edge_id = call.identity.device_id
    # A module and its device are one step, and so is the edge that asks for itself.
    steps = [device_id for device_id, _ in itertools.groupby(chain)] or [edge_id]
    return [registry.identity_of(device_id).device_id for device_id in steps]


def _page(found: _Found, count: int, after: str) -> Response:
    """Return the devices behind `after`; the modules come with the first page."""
    devices, modules = found
    rest = sorted(devices, key=lambda device: device.identity.device_id)
    rest = [device for device in rest if device.identity.device_id > after]
    page = rest[:count]
    link = continuation(page[-1].identity.device_id) if len(rest) > count else None
    return _reply(page, () if after else modules, link)


def _all(found: _Found) -> Response:
    return _reply(*found, None)


def _reply(devices: Sequence[Registered], modules: Sequence[Registered], link: str | None) -> Response:
    content = {
        "devices": [shown.in_scope_json(device) for device in devices],
        "modules": [shown.in_scope_json(module) for module in modules],
        "continuationLink": link,
    }
    return json_response(200, content)


_HUB = "/devices/{device}/modules/$edgeHub/"
_NONE = Permission(0)


def _routes(method: str, name: str, answer: Any) -> list[Route]:
    # `$` comes percent-encoded or as it is.
    paths = (_HUB + name, _HUB.replace("$", "%24") + name)
    return [Route(method, path, answer, _NONE, by=EDGE_HUB) for path in paths]


ROUTES = (
    *_routes("POST", "devicesAndModulesInTargetDeviceScope", in_target_scope),
    *_routes("POST", "getDeviceAndModuleOnBehalfOf", on_behalf_of),
    *_routes("GET", "devicesAndModulesInDeviceScope", in_scope),
    *_routes("GET", "deviceAndModuleInDeviceScope", one_in_scope),
)
