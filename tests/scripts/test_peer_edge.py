"""What measurements of our own edge rest on: the SDK's tokens, and the edge's processes told apart."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from azure.iot.device.common.auth.sastoken import RenewableSasToken
from azure.iot.device.common.auth.signing_mechanism import SymmetricKeySigningMechanism

from scripts.bench.peer_edge import TOKEN_LIFE_S, Identity
from scripts.bench.processes import EdgeProcess, cpu_s, of_edge, pss_kb

KEY = "c2VjcmV0IGtleSBmb3IgdGVzdHMgb25seQ=="
MODULE = f"HostName=hub.example;DeviceId=edge 1;ModuleId=pub1;SharedAccessKey={KEY};GatewayHostName=edge"
DEVICE = f"HostName=hub.example;DeviceId=leaf;SharedAccessKey={KEY}"


@pytest.mark.parametrize(
    ("connection_string", "client_id", "path"),
    [
        pytest.param(MODULE, "edge 1/pub1", "devices/edge 1/modules/pub1", id="module"),
        pytest.param(DEVICE, "leaf", "devices/leaf", id="leaf device"),
    ],
)
def test_a_token_is_the_one_the_sdk_makes_of_the_same_key(
    connection_string: str, client_id: str, path: str
) -> None:
    identity = Identity.from_connection_string(connection_string)

    theirs = RenewableSasToken(f"hub.example/{path}", SymmetricKeySigningMechanism(KEY), ttl=TOKEN_LIFE_S)

    assert str(theirs) == identity.token(theirs.expiry_time - TOKEN_LIFE_S)
    client = identity.client()
    assert (client["client_id"], client["username"]) == (
        client_id,
        f"hub.example/{client_id}/?api-version=2021-04-12",
    )


AGENT = """
import os, subprocess, sys
marked = os.environ | {"EDGE_ACTORS_RUN": "/run/edge-actors/01234567"}
wait = "import sys; sys.stdin.read()"
hub = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, env=marked)
module = subprocess.Popen(
    ["sh", "-c", 'exec 3<&0; sh -c "echo \\$\\$; read end" <&3 & wait'], start_new_session=True,
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=marked | {"IOTEDGE_MODULEID": "sensor"},
)
cloud = subprocess.Popen(
    [sys.executable, "-c", wait], stdin=subprocess.PIPE, env=marked | {"EDGE_ACTORS_MODULE": "edgeCloud"}
)
print(cloud.pid, hub.pid, module.pid, module.stdout.readline().strip(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        assert process.stdin
        process.stdin.close()  # its own end closes the pipes that its children wait on
        process.wait(timeout=10)


def test_processes_of_an_edge_are_told_apart(agent: subprocess.Popen[str]) -> None:
    assert agent.stdout
    cloud, hub, shim, module = (int(pid) for pid in agent.stdout.readline().split())

    found = of_edge(agent.pid)

    assert found[0] == EdgeProcess(agent.pid, "agent", "agent")
    assert {(process.pid, process.role) for process in found[1:]} == {
        (cloud, "cloud"),
        (hub, "hub"),
        (shim, "shim"),
        (module, "module"),
    }
    assert {process.name for process in found if process.pid in (shim, module)} == {"sensor"}


def test_a_process_that_is_gone_has_no_memory_and_no_cpu_time() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    assert (pss_kb(gone.pid), cpu_s(gone.pid)) == (0, 0.0)


def test_our_own_memory_is_read() -> None:
    assert 1_000 < pss_kb(os.getpid()) < 10_000_000
