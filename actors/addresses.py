"""The addresses of the actors that others ask: light to import, for programs that only ask.

Source: who is started under which name is said in agent/root.py and hub/root.py.
"""

from __future__ import annotations

from typing import Final

AGENT_PROCESS: Final = "agent"
METRICS_OF_AGENT: Final = "agent/metrics"
INSPECTOR_OF_AGENT: Final = "agent/inspector"
SECURITY: Final = "agent/security"
AGENT: Final = "agent/agent"

HUB: Final = "hub"
METRICS: Final = "hub/metrics"
INSPECTOR: Final = "hub/inspector"
STORE: Final = "hub/store"
ROUTER: Final = "hub/router"
IDENTITIES: Final = "hub/identities"
UPSTREAM: Final = "hub/upstream"
TWINS: Final = "hub/twins"
METHODS: Final = "hub/methods"
HUB_CLIENT: Final = "hub/client"
MQTT: Final = "hub/mqtt"
AMQP: Final = "hub/amqp"
BROKER: Final = "hub/broker"
BRIDGES: Final = "hub/bridges"
