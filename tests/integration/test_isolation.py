"""What a module that runs as a user of its own cannot do to the edge and to other modules."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.edge_process import EdgeProcess, shell
from tests.runtime.module_processes import lives, wait_until_ended

# Found by everybody, where the interpreter of the tests may be below a closed folder.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run modules as users of their own"),
    pytest.mark.skipif(PYTHON is None, reason="needs a python3 that everybody may use"),
]

SLEEP = 'echo kept >"$HOME/mine"; echo $$ >"$PIPE"; exec sleep 1000'

# Does what it is told and says how that went.
ATTACK = """
import glob, json, os, signal, socket, sys
def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
def own_socket():
    connect(os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://"))
def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
target = json.loads(os.environ["TARGET"])
agent = parent(os.getppid())
attempts = {
    "own socket": own_socket,
    "own data": lambda: open(os.environ["HOME"] + "/mine", "w").close(),
    "own log": lambda: open("/dev/stdout", "a").close(),
    "keys": lambda: open(target["home"] + "/keys.json").close(),
    "certificates": lambda: os.listdir(target["home"] + "/certificates"),
    "messages": lambda: open(target["home"] + "/hub.db").close(),
    "home": lambda: os.listdir(target["home"]),
    "logs": lambda: open(target["home"] + "/logs/victim.log").close(),
    "run directory": lambda: os.listdir(target["run"]),
    "bus": lambda: connect(target["run"] + "/agent.agent"),
    "lock": lambda: open(target["run"] + "/agent.lock").close(),
    "state": lambda: os.listdir(target["run"] + "/modules"),
    "other socket": lambda: connect(target["run"] + "/w/victim/workload.sock"),
    "other sockets": lambda: os.listdir(target["run"] + "/w"),
    "own socket replaced": lambda: os.unlink(os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://")),
    "other data": lambda: open(target["home"] + "/module-data/victim/mine").close(),
    "kill agent": lambda: os.kill(agent, signal.SIGKILL),
    "kill shim": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill module": lambda: os.kill(target["victim"], signal.SIGKILL),
    "environment": lambda: open(f"/proc/{target['victim']}/environ").read(1),
    "root": lambda: os.setuid(0),
}
said = {"uid": os.getuid(), "groups": os.getgroups()}
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
said |= {name: status[name].strip() for name in ("CapPrm", "CapBnd", "NoNewPrivs")}
for name, attempt in attempts.items():
    try:
        attempt()
        said[name] = "done"
    except PermissionError:
        said[name] = "refused"
    except OSError as exc:
        said[name] = str(exc)
with open(os.environ["PIPE"], "w") as pipe:
    pipe.write(json.dumps(said) + chr(10))
"""


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    made.folder.chmod(0o711)
    made.pipe.chmod(0o666)
    yield made
    made.close()


def attacker(target: dict[str, Any]) -> dict[str, Any]:
    module = shell("", env={"TARGET": {"value": json.dumps(target)}}, restartPolicy="never", startupOrder=5)
    return module | {"settings": {"command": [PYTHON, "-c", ATTACK]}}


def test_a_module_can_use_what_is_its_own_and_nothing_else(edge: EdgeProcess) -> None:
    edge.deploy({"victim": shell(SLEEP)})
    edge.start()
    victim = int(edge.line())
    edge.wait_for(victim="running", edgeHub="running")
    assert edge.process is not None
    edge.process.kill()  # the victim lives on and is taken over
    edge.wait()
    target = {"home": str(edge.home), "run": str(edge.run.path), "victim": victim}
    edge.deploy({"victim": shell(SLEEP), "attacker": attacker(target)})
    edge.start()

    said = json.loads(edge.line())

    uid = said.pop("uid")
    assert uid == (edge.home / "module-data" / "attacker").stat().st_uid != 0
    assert uid != (edge.home / "module-data" / "victim").stat().st_uid
    assert [said.pop(name) for name in ("groups", "NoNewPrivs")] == [[], "1"]
    assert {int(said.pop(name), 16) for name in ("CapPrm", "CapBnd")} == {0}
    assert {name for name, how in said.items() if how == "done"} == {"own socket", "own data", "own log"}
    assert set(said.values()) == {"done", "refused"}
    listed = edge.wait_for(victim="running", attacker="stopped")
    assert listed["victim"]["not_isolated"] == ""
    assert listed["victim"]["pid"] == victim


def test_a_module_of_another_user_is_stopped_with_its_whole_group(edge: EdgeProcess) -> None:
    edge.deploy({"victim": shell('sleep 1000 & echo $! >"$PIPE"; trap "" TERM; wait; sleep 1000')})
    edge.start(grace_s="0.2")
    child = int(edge.line())
    module = edge.wait_for(victim="running")["victim"]["pid"]
    assert os.stat(f"/proc/{child}").st_uid == os.stat(f"/proc/{module}").st_uid != 0

    edge.signal(signal.SIGTERM)

    assert edge.wait() == 0
    assert not lives(module)
    wait_until_ended(child)


def test_what_cannot_be_isolated_runs_and_is_listed_with_the_reason(edge: EdgeProcess) -> None:
    closed = edge.folder / "closed"
    closed.mkdir(mode=0o700)
    module = shell(SLEEP)
    module["settings"]["workingDirectory"] = "closed"
    edge.deploy({"victim": module})

    edge.start()
    listed = edge.wait_for(victim="running")

    assert str(closed) in listed["victim"]["not_isolated"]
    assert os.stat(f"/proc/{listed['victim']['pid']}").st_uid == 0
