"""Twins and direct methods of the unmodified Python SDK at a running hub, over TLS and over its end."""

from __future__ import annotations

import http.client
import json
import queue
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from actors.addresses import METHODS, TWINS
from actors.agent_hub_messages import SetDesired
from actors.hub.client_services import InvokeMethod, MethodFailed, MethodResult
from messaging.client import Client
from tests.integration.broker_world import CONNECT, spec
from tests.integration.hub_process import HubProcess
from tests.integration.sdk_clients import SDK_PORT, loopback_address, sdk_client

ROUTES = {"changes": "FROM /twinChangeNotifications/* INTO $upstream"}
LIMIT_S = 20.0


@pytest.fixture(params=[None, spec(CONNECT)], ids=["broker off", "broker on"])
def hub(request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    made = HubProcess(
        ROUTES,
        modules=("pump",),
        devices=("leaf",),
        address=loopback_address(),
        port=SDK_PORT,
        broker=request.param,
    )
    with made:
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(hub: HubProcess, ending: ExitStack, name: str) -> Any:
    client = sdk_client(hub, name)
    ending.callback(lambda: client.shutdown() if client.connected else None)
    client.connect()
    return client


@pytest.mark.parametrize("name", ["edge1/pump", "leaf"])
def test_reported_properties_are_in_the_twin_also_after_the_hub_was_killed(
    hub: HubProcess, ending: ExitStack, name: str
) -> None:
    client = connected(hub, ending, name)
    first = client.get_twin()
    client.patch_twin_reported_properties({"rpm": 5, "state": {"on": True, "old": 1}})
    client.patch_twin_reported_properties({"state": {"old": None}})
    client.shutdown()
    hub.kill()
    hub.start()

    again = connected(hub, ending, name)

    assert first == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    assert again.get_twin()["reported"] == {"rpm": 5, "state": {"on": True}, "$version": 3}
    changes = hub.upstream(2)  # more, when the hub was killed before it knew that they had arrived
    assert {change["SystemProperties"]["messageType"] for change in changes} == {"twinChangeNotification"}


def test_a_patch_that_is_not_allowed_is_an_error_of_the_call(hub: HubProcess, ending: ExitStack) -> None:
    from azure.iot.device import exceptions

    client = connected(hub, ending, "edge1/pump")

    with pytest.raises(exceptions.ClientError):
        client.patch_twin_reported_properties({"r.p.m": 5})

    assert client.get_twin()["reported"] == {"$version": 1}


def test_desired_properties_come_as_patches_also_to_a_client_that_came_back_by_itself(
    hub: HubProcess, ending: ExitStack
) -> None:
    patches: queue.Queue[dict[str, Any]] = queue.Queue()
    client = connected(hub, ending, "edge1/pump")
    client.on_twin_desired_properties_patch_received = patches.put

    first = patch_after(hub, patches, b'{"rpm": 5, "old": 1}', 2)
    hub.kill()
    hub.start()
    hub.wait_for_log("edge1/pump connected", 2)
    second = patch_after(hub, patches, b'{"rpm": 6}', 3)

    assert (first, second) == (
        {"rpm": 5, "old": 1, "$version": 2},
        {"rpm": 6, "old": None, "$version": 3},
    )
    assert client.get_twin()["desired"] == {"rpm": 6, "$version": 3}


def patch_after(
    hub: HubProcess, patches: queue.Queue[dict[str, Any]], desired: bytes, version: int
) -> dict[str, Any]:
    """Set desired properties and wait for their patch.

    A hub that starts may not hear the first word, and one that was killed before it heard that a patch was
    taken tells that once more.
    """
    with Client.outside(hub.run_dir) as us:
        for _ in range(40):
            us.tell(TWINS, SetDesired((("pump", desired),)))
            with suppress(queue.Empty):
                while (patch := patches.get(timeout=LIMIT_S / 40))["$version"] != version:
                    pass
                return patch
    raise AssertionError("no patch came")


def test_methods_are_answered_and_a_client_without_them_is_404(hub: HubProcess, ending: ExitStack) -> None:
    from azure.iot.device import MethodResponse

    client = connected(hub, ending, "edge1/pump")

    def answer(request: Any) -> None:
        payload = {"name": request.name, "got": request.payload}
        client.send_method_response(MethodResponse.create_from_method_request(request, 207, payload))

    with Client.outside(hub.run_dir) as us:
        absent = us.ask(METHODS, InvokeMethod("edge1/pump", "start", b"{}", 5, 0), MethodFailed)
        client.on_method_request_received = answer
        call = InvokeMethod("edge1/pump", "start", b'{"rpm":5}', 10, LIMIT_S)
        answered = us.ask(METHODS, call, MethodResult)

    assert absent.status == 404
    assert (answered.status, answered.payload) == (207, b'{"name": "start", "got": {"rpm": 5}}')


def post_method(hub: HubProcess, target: str, caller: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Call a method over HTTPS, as a module does."""
    connection = http.client.HTTPSConnection(
        hub.address, hub.web_port, context=ssl.create_default_context(cafile=str(hub.ca_file))
    )
    headers = {"x-ms-edge-moduleId": caller, "Authorization": hub.token(caller)}
    connection.request("POST", f"/twins/{target}/methods?api-version=2019-10-01", json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_a_module_calls_a_method_of_a_leaf_device_over_https(hub: HubProcess, ending: ExitStack) -> None:
    from azure.iot.device import MethodResponse

    client = connected(hub, ending, "leaf")

    def answer(request: Any) -> None:
        client.send_method_response(MethodResponse.create_from_method_request(request, 501, request.payload))

    absent = post_method(hub, "leaf", "edge1/pump", {"methodName": "start"})
    client.on_method_request_received = answer
    call = {"methodName": "start", "payload": {"rpm": 5}, "connectTimeoutInSeconds": 20}
    answered = post_method(hub, "leaf", "edge1/pump", call)
    wrong = post_method(hub, "leaf", "edge1/pump", {"methodName": ""})

    assert absent == (404, {"message": "'leaf' is not connected, or takes no method calls"})
    assert answered == (200, {"status": 501, "payload": {"rpm": 5}})
    assert wrong == (400, {"message": "methodName is missing"})
