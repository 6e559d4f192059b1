"""REST: devices, modules, statistics.

Source: spec sheet security-daemon.md sections 4.3 and 4.6
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from messaging.errors import IotHubError
from runtime.iothub import refusals, registry, shown
from runtime.iothub.hub import IotHub
from runtime.iothub.policies import Permission
from runtime.iothub.rest.call import MOST_ITEMS, Call, Route, member, no_content, with_etag
from runtime.net.http_messages import Response, json_response

BULK: Final = 100
# The identity service of an edge reads another type of authentication than others do.
IDENTITY_SERVICE_VERSION: Final = "2017-11-08-preview"
ITSELF: Final = ""


async def put(call: Call) -> Response:
    wanted = call.object_body()
    await call.hub.put(call.identity, wanted, call.if_match)
    return await get(call)


async def get(call: Call) -> Response:
    return with_etag(_for_caller(call, await call.hub.service.describe(call.identity)))


async def delete(call: Call) -> Response:
    await call.hub.delete(call.identity, call.if_match)
    return no_content()


async def list_devices(call: Call) -> Response:
    return json_response(200, await call.hub.service.devices(call.number("top", MOST_ITEMS, 1, MOST_ITEMS)))


async def list_modules(call: Call) -> Response:
    modules = await call.hub.service.modules(call.identity.device_id)
    return json_response(200, [_for_caller(call, module) for module in modules])


async def bulk(call: Call) -> Response:
    items = call.body()
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise refusals.argument_invalid("the body is not an array of devices")
    if len(items) > BULK:
        raise refusals.argument_invalid(f"{len(items)} devices at once; at most {BULK} are allowed")
    errors = []
    for item in items:
        try:
            await _import(call.hub, item)
        except IotHubError as exc:
            errors.append(
                {
                    "deviceId": item.get("id"),
                    "moduleId": item.get("moduleId"),
                    "errorCode": exc.name,
                    "errorStatus": str(exc),
                }
            )
    result = {"isSuccessful": not errors, "errors": errors, "warnings": []}
    return json_response(400 if errors else 200, result)


async def device_statistics(call: Call) -> Response:
    statistics = await call.hub.service.statistics()
    del statistics["connectedDeviceCount"]
    return json_response(200, statistics)


async def service_statistics(call: Call) -> Response:
    statistics = await call.hub.service.statistics()
    return json_response(200, {"connectedDeviceCount": statistics["connectedDeviceCount"]})


async def _import(hub: IotHub, item: Mapping[str, Any]) -> None:
    identity = registry.identity_of(member(item, "id", str, ""), member(item, "moduleId", str, "") or None)
    wanted = {name: value for name, value in item.items() if name not in ("id", "moduleId")}
    twin = {name: item[name] for name in ("tags", "properties") if item.get(name) is not None}
    match member(item, "importMode", str, "create").lower():
        case "create":
            await hub.put(identity, wanted)
            if twin:
                await hub.patch_twin(identity, twin)
        case "update":
            await hub.put(identity, wanted, "*")
        case "updateifmatchetag":
            await hub.put(identity, wanted, member(item, "eTag", str, ""))
        case "delete":
            await hub.delete(identity)
        case "deleteifmatchetag":
            await hub.delete(identity, member(item, "eTag", str, ""))
        case "updatetwin":
            await hub.patch_twin(identity, twin)
        case "updatetwinifmatchetag":
            await hub.patch_twin(identity, twin, member(item, "twinETag", str, ""))
        case other:
            raise refusals.argument_invalid(f"importMode '{other}' is not known")


def _for_caller(call: Call, content: dict[str, Any]) -> dict[str, Any]:
    if call.query.get("api-version") == IDENTITY_SERVICE_VERSION:
        return shown.for_identity_service(content)
    return content


_READ, _WRITE = Permission.REGISTRY_READ, Permission.REGISTRY_WRITE

ROUTES = (
    Route("GET", "/devices", list_devices, _READ),
    Route("POST", "/devices", bulk, _WRITE),
    Route("PUT", "/devices/{device}", put, _WRITE),
    Route("GET", "/devices/{device}", get, _READ, by=ITSELF),
    Route("DELETE", "/devices/{device}", delete, _WRITE),
    Route("GET", "/devices/{device}/modules", list_modules, _READ, by=ITSELF),
    Route("PUT", "/devices/{device}/modules/{module}", put, _WRITE, by=ITSELF),
    Route("GET", "/devices/{device}/modules/{module}", get, _READ, by=ITSELF),
    Route("DELETE", "/devices/{device}/modules/{module}", delete, _WRITE, by=ITSELF),
    Route("GET", "/statistics/devices", device_statistics, _READ),
    Route("GET", "/statistics/service", service_statistics, Permission.SERVICE_CONNECT),
)
