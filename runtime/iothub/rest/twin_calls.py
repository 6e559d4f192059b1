"""REST: twins, queries, direct methods.

Source: spec sheet security-daemon.md section 4.6
"""

from __future__ import annotations

from typing import Final

import msgspec

from runtime.iothub import refusals
from runtime.iothub.policies import Permission
from runtime.iothub.rest.call import (
    MOST_ITEMS,
    Call,
    Route,
    continuation,
    from_continuation,
    member,
    ranged,
    with_etag,
)
from runtime.net.http_messages import Response, json_response

PAGE: Final = 100
SHORTEST_ANSWER_S: Final = 5
LONGEST_ANSWER_S: Final = 300
USUAL_ANSWER_S: Final = 30
LONGEST_CONNECT_S: Final = 300


async def get(call: Call) -> Response:
    return with_etag(await call.hub.twin(call.identity))


async def patch(call: Call) -> Response:
    return with_etag(await call.hub.patch_twin(call.identity, call.object_body(), call.if_match))


async def replace(call: Call) -> Response:
    return with_etag(await call.hub.replace_twin(call.identity, call.object_body(), call.if_match))


async def method(call: Call) -> Response:
    body = call.object_body()
    response_s = body.get("responseTimeoutInSeconds")
    connect_s = body.get("connectTimeoutInSeconds")
    result = await call.hub.invoke_method(
        call.identity,
        member(body, "methodName", str, ""),
        body.get("payload"),
        ranged(
            "responseTimeoutInSeconds",
            USUAL_ANSWER_S if response_s is None else response_s,
            SHORTEST_ANSWER_S,
            LONGEST_ANSWER_S,
        ),
        ranged("connectTimeoutInSeconds", connect_s or 0, 0, LONGEST_CONNECT_S),
    )
    return json_response(200, {"status": result.status, "payload": result.payload})


async def query(call: Call) -> Response:
    text = call.object_body().get("query")
    if not isinstance(text, str):
        raise refusals.argument_invalid("query is missing, or not a text")
    wanted = call.request.header("x-ms-max-item-count")
    count = PAGE if not wanted else ranged("x-ms-max-item-count", wanted, 1, MOST_ITEMS)
    after = from_continuation(call.request.header("x-ms-continuation"))
    rows, more, understood = await call.hub.service.query(text, after, count)
    headers = [("x-ms-item-type", "Raw" if understood.columns or understood.count_as else "Twin")]
    if more is not None:
        headers.append(("x-ms-continuation", continuation(more)))
    return Response(200, msgspec.json.encode(rows), tuple(headers))


_SERVICE = Permission.SERVICE_CONNECT

ROUTES = (
    *(
        Route(verb, path, answer, _SERVICE)
        for path in ("/twins/{device}", "/twins/{device}/modules/{module}")
        for verb, answer in (("GET", get), ("PATCH", patch), ("PUT", replace))
    ),
    Route("POST", "/twins/{device}/methods", method, _SERVICE),
    Route("POST", "/twins/{device}/modules/{module}/methods", method, _SERVICE),
    Route("POST", "/devices/query", query, _SERVICE | Permission.REGISTRY_READ),
)
