"""The direct methods of `$edgeAgent`. Source: spec sheet agent.md sections 5 and 8.9."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from actors.agent.link_messages import AgentMethodAnswered, CallAgentMethod
from actors.agent.log_query import BundleRequest, LogRequest
from actors.agent.methods import LIST_LIMIT_S, MOST_TASKS, RESTART_LIMIT_S, AgentMethodsActor
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import RestartModule
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.registry import Registry
from messaging.envelope import Envelope, Secret
from messaging.lifecycle import RequestFailed
from tests.actors.hub_world import World

METHODS, AGENT, LINK = "agent/methods", "agent/agent", "agent/link"
LOGS = {"schemaVersion": "1.0", "items": {"id": "all"}}


class FakeWorker:
    """Keeps what it is to do; a test says when it is done."""

    def __init__(self) -> None:
        self.reads: list[tuple[LogRequest, Sequence[str], Callable[[int, bytes], None]]] = []
        self.uploads: list[tuple[LogRequest, Sequence[str], Callable[[str], None]]] = []
        self.bundles: list[tuple[BundleRequest, Callable[[str], None]]] = []
        self.closed = False

    def read(self, request: LogRequest, modules: Sequence[str], done: Callable[[int, bytes], None]) -> None:
        self.reads.append((request, modules, done))

    def upload(self, request: LogRequest, modules: Sequence[str], done: Callable[[str], None]) -> None:
        self.uploads.append((request, modules, done))

    def upload_bundle(self, request: BundleRequest, done: Callable[[str], None]) -> None:
        self.bundles.append((request, done))

    def close(self) -> None:
        self.closed = True


class MethodWorld(World):
    def __init__(self) -> None:
        super().__init__(AGENT, LINK)
        self.worker = FakeWorker()
        self.metrics = AgentMetrics(Registry(self.clock, (("iothub", "h"),)))
        self.start(METHODS, lambda: AgentMethodsActor(AGENT, self.worker, self.metrics))
        self._calls = 0

    def call(self, name: str, payload: Any = None, raw: bytes | None = None) -> str:
        self._calls += 1
        encoded = json.dumps(payload).encode() if raw is None else raw
        self.tell(METHODS, CallAgentMethod(f"r{self._calls}", name, Secret(encoded)), LINK)
        return f"r{self._calls}"

    def answers(self) -> list[tuple[str, int, Any]]:
        told = self.told(LINK, AgentMethodAnswered)
        return [(each.request_id, each.status, json.loads(each.payload)) for each in told]

    def answer(self, name: str, payload: Any = None, raw: bytes | None = None) -> tuple[int, Any]:
        self.call(name, payload, raw)
        [(_, status, answer)] = self.answers()
        return status, answer

    def asked(self, kind: type) -> Envelope:
        [letter] = [each for each in self.letters(AGENT) if each.kind == kind.__name__]
        return letter

    def list(self, *names: str) -> None:
        modules = tuple({"name": name} for name in names)
        asked = self.asked(ListModules)
        self.tell(METHODS, ModuleList(modules, (), {}), AGENT, asked.correlation_id)


@pytest.fixture
def world() -> MethodWorld:
    return MethodWorld()


@pytest.mark.parametrize("payload", [b"null", b"", b"{}", b'{"foo":"bar"}', b"not JSON"])
@pytest.mark.parametrize("name", ["ping", "PING", "Ping"])
def test_a_ping_is_answered_whatever_it_carries(world: MethodWorld, name: str, payload: bytes) -> None:
    """Source: agent.md section 8, row 104."""
    assert world.answer(name, raw=payload) == (200, None)


@pytest.mark.parametrize("name", ["Reboot", "", "  "])
def test_a_method_that_is_not_there_is_400_and_names_those_that_are(world: MethodWorld, name: str) -> None:
    """Source: agent.md section 8, row 105."""
    status, answer = world.answer(name)

    assert status == 400
    assert repr(name) in answer["message"]
    assert "UploadModuleLogs, UploadSupportBundle, ping" in answer["message"]


@pytest.mark.parametrize(
    "name", ["RestartModule", "GetModuleLogs", "UploadModuleLogs", "UploadSupportBundle", "GetTaskStatus"]
)
@pytest.mark.parametrize("payload", [b"null", b"", b"[]", b"{"])
def test_a_method_that_needs_a_payload_is_400_without(world: MethodWorld, name: str, payload: bytes) -> None:
    """Source: agent.md section 8, row 107."""
    status, answer = world.answer(name, raw=payload)

    assert status == 400
    assert "the payload has to be a JSON object such as" in answer["message"]


# UploadSupportBundle

BUNDLE = {"schemaVersion": "1.0", "sasUrl": "https://a/b?sig=s"}


def test_a_support_bundle_is_a_task_that_tells_its_end(world: MethodWorld) -> None:
    """Source: agent.md sections 5.2 and 5.4."""
    status, task = world.answer("uploadsupportbundle", BUNDLE | {"Since": "2d", "edgeRuntimeOnly": True})

    assert (status, task["status"], task["message"]) == (200, "Running", "")
    [(request, done)] = world.worker.bundles
    assert request == BundleRequest("https://a/b?sig=s", "2d", "", True)
    assert "sig=s" not in repr(request)
    done("the disk is full")
    world.system.run()
    asked = {"schemaVersion": "1.0", "correlationId": task["correlationId"]}
    world.call("GetTaskStatus", asked)
    assert world.answers()[-1][2] == {
        "status": "Failed",
        "message": "upload support bundle: the disk is full",
        "correlationId": task["correlationId"],
    }


@pytest.mark.parametrize("version", ["1.0", "3.4", "abc"])
def test_a_support_bundle_takes_any_schema_version(world: MethodWorld, version: str) -> None:
    """Source: agent.md section 5.1."""
    assert world.answer("UploadSupportBundle", BUNDLE | {"schemaVersion": version})[0] == 200


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schemaVersion": " "}, "schemaVersion is missing"),
        ({"sasUrl": None}, "sasUrl is missing"),
        ({"since": "yesterday"}, "since 'yesterday' is no time"),
        ({"until": []}, "until '[]' is no time"),
        ({"edgeRuntimeOnly": "yes"}, "edgeRuntimeOnly is neither true nor false"),
    ],
)
def test_a_support_bundle_that_makes_no_sense_is_400(
    world: MethodWorld, change: dict[str, Any], told: str
) -> None:
    status, answer = world.answer("UploadSupportBundle", BUNDLE | change)

    assert status == 400
    assert told in answer["message"]
    assert not world.worker.bundles


# RestartModule


def test_a_restart_is_answered_when_it_is_done(world: MethodWorld) -> None:
    """Source: agent.md section 8, row 108."""
    call = world.call("restartmodule", {"schemaVersion": "1.0", "ID": "sensor"})
    asked = world.asked(RestartModule)
    assert asked.body == ("sensor",)
    assert world.answers() == []

    done = ModuleReported("sensor", "running", "running", 5, 0, 1.0, None, None, "")
    world.tell(METHODS, done, AGENT, asked.correlation_id)

    assert world.answers() == [(call, 200, None)]


def test_a_restart_of_an_unknown_module_is_500_with_the_reason(world: MethodWorld) -> None:
    """Source: agent.md section 8, row 108."""
    call = world.call("RestartModule", {"schemaVersion": "1.0", "id": "sensr"})
    asked = world.asked(RestartModule)

    failed = RequestFailed("RestartModule", AGENT, "there is no module 'sensr'; did you mean 'sensor'?")
    world.tell(METHODS, failed, AGENT, asked.correlation_id)

    assert world.answers() == [(call, 500, {"message": failed.reason})]


def test_a_restart_that_is_not_done_in_time_is_500(world: MethodWorld) -> None:
    """Source: agent.md section 8, row 106."""
    call = world.call("RestartModule", {"schemaVersion": "1.0", "id": "sensor"})

    world.system.advance(RESTART_LIMIT_S)

    [(request_id, status, answer)] = world.answers()
    assert (request_id, status) == (call, 500)
    assert "not done in time" in answer["message"]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({"schemaVersion": "2.0", "id": "sensor"}, 500),
        ({"schemaVersion": "1.0", "ids": "sensor"}, 400),
        ({"schemaVersion": "1.0", "id": " "}, 400),
        ({"id": "sensor"}, 400),
    ],
)
def test_a_restart_that_is_asked_for_wrongly_restarts_nothing(
    world: MethodWorld, payload: Any, status: int
) -> None:
    """Source: agent.md section 8, rows 106 and 108."""
    assert world.answer("RestartModule", payload)[0] == status
    assert world.letters(AGENT) == []


# logs


def test_logs_are_read_elsewhere_and_answered_as_they_come(world: MethodWorld) -> None:
    call = world.call("GetModuleLogs", LOGS)
    world.list("edgeAgent", "sensor")
    [(asked, names, done)] = world.worker.reads
    assert (asked.items[0][0], list(names)) == ("all", ["edgeAgent", "sensor"])
    assert world.answers() == []

    done(200, b'[{"id":"sensor"}]')
    world.system.run()

    assert world.answers() == [(call, 200, [{"id": "sensor"}])]


def test_logs_without_a_list_of_modules_are_500(world: MethodWorld) -> None:
    call = world.call("GetModuleLogs", LOGS)

    world.system.advance(LIST_LIMIT_S)

    [(request_id, status, _)] = world.answers()
    assert (request_id, status) == (call, 500)


@pytest.mark.parametrize(
    ("problem", "shown"),
    [("", ("Completed", "")), ("the host is not there", ("Failed", "upload logs: the host is not there"))],
)
def test_an_upload_is_a_task_whose_state_can_be_asked_for(
    world: MethodWorld, problem: str, shown: tuple[str, str]
) -> None:
    """Source: agent.md section 8, row 112."""
    status, task = world.answer("UploadModuleLogs", LOGS | {"sasUrl": "https://a/b?sig=x"})
    assert status == 200
    assert (task["status"], task["message"]) == ("Running", "")
    question = {"schemaVersion": "1.0", "correlationId": task["correlationId"]}
    assert world.answer("GetTaskStatus", question) == (200, task)

    world.list("sensor")
    [(_, _, done)] = world.worker.uploads
    done(problem)
    world.system.run()

    _, after = world.answer("GetTaskStatus", question)
    assert (after["status"], after["message"]) == shown


def test_a_task_that_nobody_knows_is_unknown(world: MethodWorld) -> None:
    status, task = world.answer("GetTaskStatus", {"schemaVersion": "1.0", "correlationId": "abc"})

    assert (status, task) == (200, {"status": "Unknown", "message": "", "correlationId": "abc"})


def test_an_upload_for_which_the_modules_are_not_known_has_failed(world: MethodWorld) -> None:
    _, task = world.answer("UploadModuleLogs", LOGS | {"sasUrl": "https://a/b?sig=x"})

    world.system.advance(LIST_LIMIT_S)

    question = {"schemaVersion": "1.0", "correlationId": task["correlationId"]}
    assert world.answer("GetTaskStatus", question)[1]["status"] == "Failed"


def test_tasks_that_have_ended_make_room_for_new_ones(world: MethodWorld) -> None:
    upload = LOGS | {"sasUrl": "https://a/b?sig=x"}
    _, first = world.answer("UploadModuleLogs", upload)
    world.list("sensor")
    world.worker.uploads[0][2]("")
    world.system.run()

    for _ in range(MOST_TASKS):
        world.answer("UploadModuleLogs", upload)

    question = {"schemaVersion": "1.0", "correlationId": first["correlationId"]}
    assert world.answer("GetTaskStatus", question)[1]["status"] == "Unknown"


def test_calls_are_counted_under_the_registered_spelling_without_the_common_labels() -> None:
    """Source: observability.md section 13, row 18."""
    world = MethodWorld()

    for name in ("PING", "ping", "nosuchmethod"):
        world.answer(name)

    [family] = world.metrics.registry.collect()
    assert (family.name, family.kind) == ("edgeagent_direct_method_invocations_count", "counter")
    assert [(sample.labels, sample.value) for sample in family.samples] == [((("method_name", "ping"),), 2)]
