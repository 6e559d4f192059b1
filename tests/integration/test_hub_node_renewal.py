"""The unmodified Node SDK renews tokens while one module publishes and another receives.

They are two, because of a flaw of the SDK that no hub can mend: to renew, it takes its listeners off, waits
for the PUBACK of what it publishes, and goes on acknowledging what comes in meanwhile, which nobody hears.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.hub_process import HubProcess
from tests.integration.node_sdk import NodeProgram, need_node
from tests.integration.sdk_clients import SDK_PORT, loopback_address, once
from tests.integration.sdk_site import AMQP_PORT

# Who sends and who receives.
PAIRS = {"mqtt": ("a", "b"), "amqp": ("c", "d")}
ROUTES = {
    protocol: f'FROM /messages/modules/{one}/outputs/out INTO BrokeredEndpoint("/modules/{other}/inputs/in")'
    for protocol, (one, other) in PAIRS.items()
}
SECONDS = "8"


def send_and_receive(hub: HubProcess, protocol: str) -> list[int]:
    """Let a pair send numbers and renew tokens all the while; return the numbers."""
    sender, receiver = (hub.connection_string(f"edge1/{name}") for name in PAIRS[protocol])
    ca_file = str(hub.ca_file)
    with NodeProgram("renewal.js", protocol, receiver, ca_file) as receiving:
        assert receiving.next() == "open"
        with NodeProgram("renewal.js", protocol, sender, ca_file, SECONDS) as sending:
            assert sending.next() == "open"
            sent: list[int] = sending.next()
        got = [receiving.next()]
        while got[-1] != sent[-1]:
            got.append(receiving.next())
    print(f"{protocol}: {len(sent)} sent, {len(got) - len(set(got))} came in again")
    assert sent == list(range(len(sent)))
    assert once(got) == sent
    if protocol == "amqp":  # a new token on the same connection and links
        assert got == sent
    return sent


@pytest.mark.slow
def test_node_modules_that_renew_their_tokens_lose_and_double_nothing() -> None:
    need_node()
    modules = tuple(name for pair in PAIRS.values() for name in pair)
    address = loopback_address()
    with (
        HubProcess(ROUTES, modules=modules, address=address, port=SDK_PORT, amqp_port=AMQP_PORT) as hub,
        ThreadPoolExecutor() as pool,
    ):
        sent = list(pool.map(lambda protocol: send_and_receive(hub, protocol), PAIRS))

        for name in PAIRS["mqtt"]:
            hub.wait_for_log(f"edge1/{name} connected", count=4)
        for name in PAIRS["amqp"]:
            assert len(hub.wait_for_log(f"edge1/{name} connected")) == 1
        assert hub.stop() == 0
        assert hub.ledger().total.received == sum(map(len, sent))
