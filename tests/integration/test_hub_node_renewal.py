"""The unmodified Node SDK renews tokens while one module publishes and another receives.

They are two, because of a flaw of the SDK that no hub can mend: to renew, it takes its listeners off, waits
for the PUBACK of what it publishes, and goes on acknowledging what comes in meanwhile, which nobody hears.
"""

from __future__ import annotations

from tests.integration.hub_process import HubProcess
from tests.integration.node_sdk import NodeProgram, need_node
from tests.integration.sdk_clients import SDK_PORT, loopback_address, once

ROUTE = {"ab": 'FROM /messages/modules/a/outputs/out INTO BrokeredEndpoint("/modules/b/inputs/in")'}
SECONDS = "8"


def test_node_modules_that_renew_their_tokens_lose_and_double_nothing() -> None:
    need_node()
    with HubProcess(ROUTE, modules=("a", "b"), address=loopback_address(), port=SDK_PORT) as hub:
        texts = [hub.connection_string(f"edge1/{name}") for name in ("a", "b")]
        ca_file = str(hub.ca_file)
        with NodeProgram("renewal.js", texts[1], ca_file) as receiving:
            assert receiving.next() == "open"
            with NodeProgram("renewal.js", texts[0], ca_file, SECONDS) as sending:
                assert sending.next() == "open"
                sent = sending.next()
            got = [receiving.next()]
            while got[-1] != sent[-1]:
                got.append(receiving.next())
            for name in ("a", "b"):
                hub.wait_for_log(f"edge1/{name} connected", count=4)

        print(f"{len(sent)} sent, {len(got) - len(set(got))} came in again")
        assert sent == list(range(len(sent)))
        assert once(got) == sent
        assert hub.stop() == 0
        assert hub.ledger().total.received == len(sent)
