"""REST: configurations, and content applied to one device.

Source: spec sheet security-daemon.md section 4.6
"""

from __future__ import annotations

from typing import Final

from messaging.errors import IotHubError
from messaging.query import parse_condition, parse_query
from runtime.iothub.policies import Permission
from runtime.iothub.rest.call import Call, Route, member, no_content, with_etag
from runtime.net.http_messages import Response, json_response

MOST: Final = 100


async def put(call: Call) -> Response:
    configuration, is_new = await call.hub.service.put_configuration(
        call.ids["configuration"], call.object_body(), call.if_match
    )
    return with_etag(configuration, 201 if is_new else 200)


async def get(call: Call) -> Response:
    return with_etag(await call.hub.service.configuration(call.ids["configuration"]))


async def list_all(call: Call) -> Response:
    return json_response(200, await call.hub.service.configurations(call.number("top", MOST, 1, MOST)))


async def delete(call: Call) -> Response:
    await call.hub.service.delete_configuration(call.ids["configuration"], call.if_match)
    return no_content()


async def test_queries(call: Call) -> Response:
    body = call.object_body()
    condition = member(body, "targetCondition", str, "")
    result: dict[str, object] = {"targetConditionError": None, "customMetricQueryErrors": {}}
    if condition not in ("", "*"):
        try:
            parse_condition(condition)
        except IotHubError as exc:
            result["targetConditionError"] = str(exc)
    errors: dict[str, str] = {}
    for name, text in member(body, "customMetricQueries", dict, {}).items():
        try:
            parse_query(str(text))
        except IotHubError as exc:
            errors[name] = str(exc)
    result["customMetricQueryErrors"] = errors
    return json_response(200, result)


async def apply(call: Call) -> Response:
    await call.hub.service.apply_configuration(call.identity.device_id, call.object_body())
    return no_content()


_READ, _WRITE = Permission.REGISTRY_READ, Permission.REGISTRY_WRITE

ROUTES = (
    Route("GET", "/configurations", list_all, _READ),
    Route("POST", "/configurations/testQueries", test_queries, _READ),
    Route("PUT", "/configurations/{configuration}", put, _WRITE),
    Route("GET", "/configurations/{configuration}", get, _READ),
    Route("DELETE", "/configurations/{configuration}", delete, _WRITE),
    Route("POST", "/devices/{device}/applyConfigurationContent", apply, _WRITE),
)
