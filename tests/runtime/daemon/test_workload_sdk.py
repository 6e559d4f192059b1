"""The unmodified Python SDK asks the workload API for its trust bundle and its token."""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from runtime.daemon.caller import ModuleProcess
from runtime.daemon.workload_api import WorkloadApi
from runtime.daemon.workload_server import WorkloadServer
from runtime.security.certificates import ensure_edge_ca
from runtime.security.key_content import Identity
from runtime.security.key_store import KeyStore
from tests.runtime.module_processes import module_process

# Waits to be let go, so that its process is known before it asks.
MODULE = """
import json, sys
from azure.iot.device import IoTHubModuleClient
sys.stdin.readline()
client = IoTHubModuleClient.create_from_edge_environment()
settings = client._mqtt_pipeline.pipeline_configuration
print(json.dumps({"token": str(settings.sastoken), "trust": settings.server_verification_cert}))
client.shutdown()
"""
TOKEN = re.compile(r"SharedAccessSignature sr=(?P<sr>[^&]+)&sig=(?P<sig>[^&]+)&se=(?P<se>\d+)")


class Edge:
    """A key store, an edge CA and the workload API, as much as a module sees of them at its start."""

    def __init__(self, home: Path) -> None:
        now_s = time.time()
        self.keys = KeyStore.ensure(home / "identities.json", "edge1", now_s)
        self.ca = ensure_edge_ca(home / "certificates", "edge1", now_s)
        self.processes: dict[str, ModuleProcess] = {}
        api = WorkloadApi(
            hub_host="hub.example",
            keys=self.keys,
            edge_ca=lambda: self.ca,
            process_of=self.processes.get,
            modules=lambda: (),
            now_s=time.time,
        )
        self.server = WorkloadServer(home / "w", api.handle)

    def start(self, module: Identity, socket_module: str) -> subprocess.Popen[str]:
        """Start a module in a session of its own; it asks once a line arrives on its standard input."""
        assert module.module_id is not None
        environment = {
            "IOTEDGE_IOTHUBHOSTNAME": "hub.example",
            "IOTEDGE_DEVICEID": "edge1",
            "IOTEDGE_MODULEID": module.module_id,
            "IOTEDGE_GATEWAYHOSTNAME": "gw.example",
            "IOTEDGE_MODULEGENERATIONID": module.generation_id,
            "IOTEDGE_WORKLOADURI": f"unix://{self.server.open(socket_module)}",
            "IOTEDGE_APIVERSION": "2022-08-03",
            "IOTEDGE_AUTHSCHEME": "sasToken",
        }
        return subprocess.Popen(
            [sys.executable, "-c", MODULE],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def edge() -> Iterator[Edge]:
    with tempfile.TemporaryDirectory(prefix="ea-") as name:
        edge = Edge(Path(name))
        yield edge
        edge.server.close_all()


@pytest.mark.parametrize("module_id", ["tempSensor", "$edgeHub", "a.b-c_1"])
def test_a_module_gets_the_trust_bundle_and_a_token_that_its_key_verifies(edge: Edge, module_id: str) -> None:
    module = edge.keys.ensure_module(module_id, time.time())
    name = module_id.removeprefix("$")

    with edge.start(module, name) as process:
        edge.processes[name] = module_process(process.pid)
        output, errors = process.communicate("go\n", timeout=60)

    assert process.returncode == 0, errors
    told = json.loads(output)
    token = TOKEN.fullmatch(told["token"])
    assert token is not None
    signed = f"{token['sr']}\n{token['se']}".encode()
    assert base64.b64decode(unquote(token["sig"])) == hmac.digest(module.primary_key, signed, "sha256")
    assert unquote(token["sr"]) == f"hub.example/devices/edge1/modules/{module_id}"
    assert told["trust"] == edge.ca.certificate_pem


@pytest.mark.parametrize("registered", [True, False], ids=["of another module", "of no module"])
def test_a_foreign_process_is_refused(edge: Edge, registered: bool) -> None:
    module = edge.keys.ensure_module("tempSensor", time.time())
    edge.processes["tempSensor"] = module_process(os.getpid())

    with edge.start(module, "tempSensor") as process:
        if registered:
            edge.processes["other"] = module_process(process.pid)
        output, errors = process.communicate("go\n", timeout=60)

    assert process.returncode != 0
    assert output == ""
    assert "403 Client Error: Forbidden" in errors


def test_a_module_is_refused_at_the_socket_of_another(edge: Edge) -> None:
    module = edge.keys.ensure_module("tempSensor", time.time())
    edge.keys.ensure_module("filter", time.time())

    with edge.start(module, "filter") as process:
        edge.processes["tempSensor"] = module_process(process.pid)
        _, errors = process.communicate("go\n", timeout=60)

    assert "403 Client Error: Forbidden" in errors
