from __future__ import annotations

import pytest

from actors.agent.process_permission import Origin, allowed, check
from actors.manifest.deployment import parse_deployment
from messaging.errors import DeploymentError
from tests.actors.manifests import AGENT, manifest_text

PUMP = ("/usr/bin/python3", "/opt/pump/main.py")


@pytest.mark.parametrize(
    ("command", "origin", "allow", "answer"),
    [
        pytest.param(PUMP, Origin.LOCAL, [], True, id="a local file may run anything"),
        pytest.param(PUMP, Origin.CLOUD, [], False, id="the cloud nothing by default"),
        pytest.param(PUMP, Origin.CLOUD, [PUMP], True, id="word for word"),
        pytest.param((*PUMP, "-v"), Origin.CLOUD, [PUMP], False, id="one word more"),
        pytest.param(PUMP[:1], Origin.CLOUD, [PUMP], False, id="one word less"),
        pytest.param((*PUMP, "-v"), Origin.CLOUD, [(*PUMP, "*")], True, id="further words allowed"),
        pytest.param(PUMP, Origin.CLOUD, [(*PUMP, "*")], True, id="further words may be missing"),
        pytest.param((PUMP[0], "-c", "x"), Origin.CLOUD, [(*PUMP, "*")], False, id="before the star"),
        pytest.param(("python3", PUMP[1]), Origin.CLOUD, [PUMP], False, id="found in a PATH"),
        pytest.param(PUMP, Origin.CLOUD, [("*",)], False, id="a star alone is no program"),
        pytest.param(PUMP, Origin.CLOUD, [("/bin/true",), PUMP], True, id="any of several"),
        pytest.param((), Origin.CLOUD, [()], False, id="no command at all"),
    ],
)
def test_a_command_is_allowed(
    command: tuple[str, ...], origin: Origin, allow: list[tuple[str, ...]], answer: bool
) -> None:
    assert allowed(command, origin, allow) is answer


def test_a_deployment_from_elsewhere_with_a_process_is_refused_with_code_400() -> None:
    module = {"type": "process", "status": "running", "restartPolicy": "always"}
    modules = {"pump": module | {"settings": {"command": ["rm", "a b"]}}}
    deployment = parse_deployment(manifest_text(((*AGENT, "modules"), modules)), "cloud")

    check(deployment, Origin.LOCAL, [])
    check(deployment, Origin.CLOUD, [("rm", "a b")])
    with pytest.raises(DeploymentError, match=r"module 'pump'.*rm 'a b'.*--deployment") as refused:
        check(deployment, Origin.CLOUD, [])

    assert refused.value.code == 400
