"""`edge_main` in trouble: `python -m tests.integration.troubled_edge HOME …`; TROUBLE says which.

`slow hub`: its hub has the disk of slow_hub.py. `no security`: an actor of the agent cannot start.
`agent hangs`: it never comes back from listing its modules for whoever asks from outside.
"""

from __future__ import annotations

import os
import sys
import time

import runtime.agent.modules
from actors.addresses import METRICS_OF_AGENT
from actors.agent.agent import AgentActor
from actors.agent.module_list import ListModules
from actors.agent.security import SecurityActor
from tests.integration.edge_main import main

_list_modules = AgentActor.on_list_modules


def _fail(self: SecurityActor) -> None:
    raise OSError("no entropy on this machine")


def _hang(self: AgentActor, message: ListModules) -> None:
    if self.envelope.sender == METRICS_OF_AGENT:  # which asks before there is a module
        _list_modules(self, message)
    else:
        time.sleep(1000)


if __name__ == "__main__":
    match os.environ["TROUBLE"]:
        case "slow hub":
            runtime.agent.modules.HUB_PROGRAM = "tests.integration.slow_hub"  # type: ignore[misc]
        case "no security":
            SecurityActor.on_start = _fail  # type: ignore[method-assign]
        case "agent hangs":
            AgentActor.on_list_modules = _hang  # type: ignore[method-assign]
    sys.exit(main())
