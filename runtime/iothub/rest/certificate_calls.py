"""REST: the certificate authorities whose devices may connect. Azure keeps them elsewhere; these are our own.

Source: spec sheet hub-protocols.md section 5.5
"""

from __future__ import annotations

from typing import Any

from runtime.iothub import refusals
from runtime.iothub.enrollments import check_id, der_of
from runtime.iothub.hub import AUTHORITY
from runtime.iothub.policies import Permission
from runtime.iothub.rest.call import Call, Route, member, no_content
from runtime.net.http_messages import Response, json_response


async def put(call: Call) -> Response:
    from runtime.iothub import device_certificates  # heavy

    name = call.ids["certificate"]
    check_id(name)
    der = der_of(member(call.object_body(), "certificate", str, ""))
    try:
        subject = device_certificates.check_readable(der, is_group=True)
    except ValueError as exc:
        raise refusals.argument_invalid(f"the certificate '{name}' is not usable: {exc}") from exc
    document = {"der": der, "commonName": subject, "thumbprint": device_certificates.thumbprint(der)}
    await call.hub.save_document(AUTHORITY, name, document)
    return json_response(200, _shown(name, document))


async def list_all(call: Call) -> Response:
    found = await call.hub.documents(AUTHORITY)
    return json_response(200, [_shown(name, document) for name, document in found.items()])


async def delete(call: Call) -> Response:
    name = call.ids["certificate"]
    if await call.hub.document(AUTHORITY, name) is None:
        raise refusals.no_such_certificate(name)
    await call.hub.save_document(AUTHORITY, name, None)
    return no_content()


def _shown(name: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "commonName": document["commonName"], "thumbprint": document["thumbprint"]}


_READ, _WRITE = Permission.REGISTRY_READ, Permission.REGISTRY_WRITE

ROUTES = (
    Route("GET", "/certificates", list_all, _READ),
    Route("PUT", "/certificates/{certificate}", put, _WRITE),
    Route("DELETE", "/certificates/{certificate}", delete, _WRITE),
)
