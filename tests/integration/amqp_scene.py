"""What comes to clients of a hub process from the cloud or from callers, said by a test in their place."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from actors.addresses import METHODS, ROUTER, TWINS
from actors.agent_hub_messages import SetDesired
from actors.hub.client_services import InvokeMethod, MethodFailed, MethodResult
from actors.store.messages import Stored
from actors.upstream.messages import C2dReceived
from messaging.client import Client
from messaging.message import encode_header
from tests.integration.hub_process import HubProcess

LIMIT_S = 20.0

T = TypeVar("T")


def receive_c2d(hub: HubProcess, device: str, body: bytes, **system: str) -> None:
    """Have a message for a device come from the cloud; it is on the hub's disk."""
    received = C2dReceived(device, encode_header("", {"a": "b"}, {**system}), body)
    with Client.outside(hub.run_dir) as us:
        us.tell(ROUTER, received)
        us.receive(Stored, LIMIT_S)


def desire_until(hub: HubProcess, module: str, patch: dict[str, Any], heard: Callable[[float], T]) -> T:
    """Have desired properties of a module set, again and again until `heard` returns within its time."""
    text = json.dumps(patch).encode()
    with Client.outside(hub.run_dir) as us:
        for _ in range(40):
            us.tell(TWINS, SetDesired(((module, text),)))
            with suppress(AssertionError):
                return heard(LIMIT_S / 40)
    raise AssertionError("no patch came")


def call_method(
    hub: HubProcess, identity: str, name: str, payload: bytes, response_s: float = LIMIT_S
) -> MethodResult | MethodFailed:
    """Call a method; waits for the client to want calls, and for its answer."""
    call = InvokeMethod(identity, name, payload, response_s, LIMIT_S)
    with Client.outside(hub.run_dir) as us:
        answer = us.ask(METHODS, call, object, 2 * LIMIT_S)
    assert isinstance(answer, (MethodResult, MethodFailed))
    return answer
