from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.manifest.module_spec import (
    EDGE_CLOUD,
    EDGE_HUB,
    BuiltInSettings,
    DockerSettings,
    ModuleSpec,
    ProcessSettings,
)
from actors.ports.modules import ModuleAccess, ModuleEnd
from messaging.errors import ConfigError, EnvironmentFault
from runtime.agent.modules import EdgeModules
from runtime.modules.environment import EdgeNames
from runtime.modules.isolation import ProcessIsolation
from runtime.run_directory import RunDirectory
from tests.runtime.module_processes import lives

LIMIT_S = 10.0
ACCESS = ModuleAccess("638", "unix:///run/w/sensor/workload.sock")
TELL = "import json, os; print(json.dumps(dict(os.environ) | {'cwd': os.getcwd()}))"


class Workshop:
    def __init__(self, folder: Path) -> None:
        self.run = RunDirectory(folder / "run", folder / "home")
        self.run.home.mkdir()
        self.run.prepare()
        self.folder = folder
        self.ends: queue.Queue[ModuleEnd] = queue.Queue()
        self.modules = EdgeModules(
            self.run,
            names=EdgeNames("edge1", "hub.example", "localhost"),
            deployment_folder=folder,
            log_level="debug",
            log_format="text",
            isolation=ProcessIsolation("off", None),
            close_hub_sockets=lambda: None,
            hub_sockets=self._no_sockets,
        )

    def _no_sockets(self) -> tuple[dict[str, str], tuple[int, ...]]:
        raise EnvironmentFault("cannot listen on 127.0.0.1:8883: port 8883 is in use")

    def printed(self, module: ModuleSpec) -> dict[str, str]:
        """Run a module to its end; return the JSON it printed."""
        self.modules.start(module, ACCESS, self.ends.put)
        assert self.ends.get(timeout=LIMIT_S).exit_code == 0
        return dict(json.loads((self.run.home / "logs" / f"{module.name}.log").read_text()))


@pytest.fixture
def workshop(run_dir: Path) -> Iterator[Workshop]:
    made = Workshop(run_dir)
    yield made
    made.modules.kill_all()
    made.modules.close()


def python(code: str, **fields: object) -> ModuleSpec:
    settings = ProcessSettings((sys.executable, "-c", code))
    return ModuleSpec(**({"name": "sensor", "settings": settings} | fields))  # type: ignore[arg-type]


def test_a_module_is_told_all_that_a_device_sdk_looks_for(workshop: Workshop) -> None:
    """Source: agent.md section 8, row 75."""
    told = workshop.printed(python(TELL))

    assert {name: value for name, value in told.items() if name.startswith("IOTEDGE_")} == {
        "IOTEDGE_WORKLOADURI": ACCESS.workload_uri,
        "IOTEDGE_DEVICEID": "edge1",
        "IOTEDGE_MODULEID": "sensor",
        "IOTEDGE_MODULEGENERATIONID": "638",
        "IOTEDGE_IOTHUBHOSTNAME": "hub.example",
        "IOTEDGE_GATEWAYHOSTNAME": "localhost",
        "IOTEDGE_AUTHSCHEME": "sasToken",
        "IOTEDGE_APIVERSION": "2022-08-03",
    }
    assert told["EDGE_ACTORS_RUN"] == str(workshop.run.path)


def test_the_manifest_sets_what_it_likes_but_not_who_the_module_is(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source: agent.md section 8, row 75."""
    monkeypatch.setenv("A_SECRET_OF_OURS", "x")

    told = workshop.printed(python(TELL, env={"INTERVAL": "5", "IOTEDGE_MODULEID": "other", "HOME": "/tmp"}))

    assert (told["INTERVAL"], told["HOME"], told["IOTEDGE_MODULEID"]) == ("5", "/tmp", "sensor")
    assert "A_SECRET_OF_OURS" not in told
    assert told["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_relative_working_directory_starts_at_the_deployment_file(workshop: Workshop) -> None:
    (workshop.folder / "sub").mkdir()
    settings = ProcessSettings((sys.executable, "-c", TELL), "sub")

    told = workshop.printed(python("", settings=settings))

    assert told["cwd"] == str(workshop.folder / "sub")


def test_a_container_is_refused_by_the_runtime_of_processes(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match="module 'pump' is not a process"):
        workshop.modules.start(ModuleSpec("pump", DockerSettings("pump:1")), ACCESS, workshop.ends.put)


def test_a_program_of_ours_finds_the_run_directories_that_we_find(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/somewhere")

    spec = workshop.modules._spec_of(ModuleSpec(EDGE_CLOUD, BuiltInSettings()), ModuleAccess())

    assert spec.env["XDG_RUNTIME_DIR"] == "/somewhere"


def test_a_hub_without_its_sockets_says_why(workshop: Workshop) -> None:
    with pytest.raises(EnvironmentFault, match="port 8883 is in use"):
        workshop.modules.start(ModuleSpec(EDGE_HUB, BuiltInSettings()), ModuleAccess(), workshop.ends.put)


def test_the_process_of_a_module_is_known_while_it_runs(workshop: Workshop) -> None:
    assert workshop.modules.process_of("sensor") is None

    run = workshop.modules.start(python("import time; time.sleep(1000)"), ACCESS, workshop.ends.put)
    process = workshop.modules.process_of("sensor")
    workshop.modules.kill("sensor")
    workshop.ends.get(timeout=LIMIT_S)

    assert process is not None
    assert process.pid == run.pid
    assert workshop.modules.process_of("sensor") is None


def test_a_module_that_asks_while_it_is_being_started_is_waited_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    found: list[object] = []
    start = workshop.modules._processes.start

    def slow_start(*arguments: object) -> object:
        running = start(*arguments)  # type: ignore[arg-type]
        asker.start()
        assert asked.wait(LIMIT_S)
        return running

    def ask() -> None:
        asked.set()
        found.append(workshop.modules.process_of("sensor"))

    asker = threading.Thread(target=ask)
    monkeypatch.setattr(workshop.modules._processes, "start", slow_start)

    run = workshop.modules.start(python("import time; time.sleep(1000)"), ACCESS, workshop.ends.put)
    asker.join(LIMIT_S)

    assert [getattr(process, "pid", None) for process in found] == [run.pid]


def test_kill_all_leaves_nobody(workshop: Workshop) -> None:
    sleep = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
    runs = [
        workshop.modules.start(python(sleep, name=name), ACCESS, workshop.ends.put) for name in ("a", "b")
    ]

    workshop.modules.kill_all()

    assert not any(lives(run.pid) for run in runs)
