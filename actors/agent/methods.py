"""Answers the direct methods of `$edgeAgent`: ping, restarts, logs, bundles, and what became of an upload.

Understands: CallAgentMethod; ModuleList, ModuleReported, RequestFailed, DeadlinePassed of what it asks;
             LogsRead and TaskEnded of its own threads
Tells:       AgentActor (ListModules, RestartModule), agent/link (AgentMethodAnswered)
Started by:  AgentRootActor, when this edge has a cloud; a restart forgets tasks and calls, which time out

Source: spec sheet agent.md section 5
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from actors.agent.link_messages import AgentMethodAnswered, CallAgentMethod
from actors.agent.log_query import (
    BundleRequest,
    LogRequest,
    MethodRefused,
    check_schema_version,
    fields_of,
    parse_bundle_request,
    parse_request,
    text_of,
)
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import RestartModule
from actors.kernel.base import EdgeActor
from actors.metrics.agent_metrics import OFF, AgentMetrics
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, RequestFailed
from messaging.text import quoted

log = logging.getLogger(__name__)

LIST_LIMIT_S: Final = 10.0
RESTART_LIMIT_S: Final = 120.0
MOST_TASKS: Final = 1000  # remembered; the oldest that has ended is forgotten first
NAMES: Final = (
    "GetModuleLogs",
    "GetTaskStatus",
    "RestartModule",
    "UploadModuleLogs",
    "UploadSupportBundle",
    "ping",
)
UPLOAD_LOGS: Final = "upload logs"
UPLOAD_BUNDLE: Final = "upload support bundle"
_BY_ID: Final = '{"schemaVersion": "1.0", "id": "sensor"}'
_BY_CORRELATION: Final = '{"schemaVersion": "1.0", "correlationId": "…"}'


class LogWorker(Protocol):
    """Reads and uploads logs in threads of its own; every call returns at once. `done` is called there."""

    def read(self, request: LogRequest, modules: Sequence[str], done: Callable[[int, bytes], None]) -> None:
        """Tell the status and the JSON that GetModuleLogs answers with."""
        ...

    def upload(self, request: LogRequest, modules: Sequence[str], done: Callable[[str], None]) -> None:
        """Upload what UploadModuleLogs asks for, and tell why that failed; "" when it did not."""
        ...

    def upload_bundle(self, request: BundleRequest, done: Callable[[str], None]) -> None:
        """Make a support bundle and upload it; tell why that failed, "" when it did not."""
        ...

    def close(self) -> None:
        """Begin nothing new."""
        ...


@message
class LogsRead:
    """From the log worker: what GetModuleLogs answers."""

    request_id: str
    status: int
    payload: bytes


@message
class TaskEnded:
    """From the log worker: a task is over; `problem` is "" when it did all it had to."""

    task_id: str
    problem: str


class _Task(Struct):
    what: str
    status: str = "Running"
    message: str = ""


class _LogCall(Struct, frozen=True):
    """A call that waits for the names of the modules. With a task it was answered already."""

    request_id: str
    request: LogRequest
    task_id: str = ""


class AgentMethodsActor(EdgeActor):
    """One method handler each; what takes time happens elsewhere."""

    def __init__(self, agent: str, worker: LogWorker, metrics: AgentMetrics = OFF) -> None:
        """Take the address of the AgentActor, who reads logs, and where to count."""
        self._metrics = metrics
        self._agent = agent
        self._worker = worker
        self._links: dict[str, str] = {}  # request id of a call → whom to answer
        self._restarts: dict[int, str] = {}  # correlation id → request id
        self._lists: dict[int, _LogCall] = {}
        self._tasks: dict[str, _Task] = {}

    def on_stop(self) -> None:
        self._worker.close()

    def on_call_agent_method(self, message: CallAgentMethod) -> None:
        self._links[message.request_id] = self.envelope.sender
        payload, name = message.payload.reveal(), message.name
        for known in NAMES:
            if known.lower() == name.lower():
                self._metrics.method_called(known)
        try:
            match name.lower():
                case "ping":
                    self._answer(message.request_id, 200, None)
                case "restartmodule":
                    self._restart(message.request_id, payload)
                case "getmodulelogs":
                    self._list_for(_LogCall(message.request_id, self._parsed(payload, False)))
                case "uploadmodulelogs":
                    self._begin_upload(message.request_id, self._parsed(payload, True))
                case "uploadsupportbundle":
                    self._begin_bundle(message.request_id, parse_bundle_request(payload, self.clock.now_s()))
                case "gettaskstatus":
                    self._tell_task(message.request_id, payload)
                case _:
                    supported = ", ".join(NAMES)
                    reason = f"there is no method {quoted(name)}; supported: {supported}"
                    raise MethodRefused(400, reason)
        except MethodRefused as exc:
            self._refuse(message.request_id, exc.status, str(exc))

    def describe(self) -> dict[str, Any]:
        return {"calls": len(self._links), "tasks": len(self._tasks)}

    # restart

    def _restart(self, request_id: str, payload: bytes) -> None:
        fields = fields_of(payload, _BY_ID)
        check_schema_version(fields)
        name = text_of(fields, "id")
        log.info("the cloud restarts module %s", quoted(name))
        self._restarts[self.request(self._agent, RestartModule(name), RESTART_LIMIT_S)] = request_id

    def on_module_reported(self, message: ModuleReported) -> None:
        request_id = self._restarts.pop(self.envelope.correlation_id, None)
        if request_id is not None:
            self._answer(request_id, 200, None)

    # logs

    def _parsed(self, payload: bytes, needs_url: bool) -> LogRequest:
        return parse_request(payload, self.clock.now_s(), needs_url)

    def _list_for(self, call: _LogCall) -> None:
        self._lists[self.request(self._agent, ListModules(), LIST_LIMIT_S)] = call

    def _begin_upload(self, request_id: str, request: LogRequest) -> None:
        task_id = self._new_task(UPLOAD_LOGS)
        self._list_for(_LogCall(request_id, request, task_id))
        self._answer(request_id, 200, self._shown(task_id))

    def _begin_bundle(self, request_id: str, request: BundleRequest) -> None:
        task_id = self._new_task(UPLOAD_BUNDLE)
        log.info("the cloud asks for a support bundle")
        tell = self.context.tell_self
        self._worker.upload_bundle(request, lambda why: tell(TaskEnded(task_id, why)))
        self._answer(request_id, 200, self._shown(task_id))

    def on_module_list(self, message: ModuleList) -> None:
        call = self._lists.pop(self.envelope.correlation_id, None)
        if call is None:
            return
        names = [module["name"] for module in message.modules]
        tell = self.context.tell_self
        if call.task_id:
            self._worker.upload(call.request, names, lambda why: tell(TaskEnded(call.task_id, why)))
        else:
            self._worker.read(
                call.request,
                names,
                lambda status, payload: tell(LogsRead(call.request_id, status, payload)),
            )

    def on_logs_read(self, message: LogsRead) -> None:
        self._answer_json(message.request_id, message.status, message.payload)

    # tasks

    def on_task_ended(self, message: TaskEnded) -> None:
        task = self._tasks.get(message.task_id)
        if task is None:
            return
        task.status = "Failed" if message.problem else "Completed"
        if message.problem:
            task.message = f"{task.what}: {message.problem}"
            log.error("%s: that failed: %s", task.what, message.problem)

    def _new_task(self, what: str) -> str:
        task_id = str(uuid.uuid4())
        ended = [known for known, task in self._tasks.items() if task.status != "Running"]
        if len(self._tasks) >= MOST_TASKS and ended:
            del self._tasks[ended[0]]
        self._tasks[task_id] = _Task(what)
        return task_id

    def _tell_task(self, request_id: str, payload: bytes) -> None:
        fields = fields_of(payload, _BY_CORRELATION)
        check_schema_version(fields)
        self._answer(request_id, 200, self._shown(text_of(fields, "correlationId")))

    def _shown(self, task_id: str) -> dict[str, str]:
        task = self._tasks.get(task_id, _Task("", "Unknown"))
        return {"status": task.status, "message": task.message, "correlationId": task_id}

    # answers

    def on_request_failed(self, message: RequestFailed) -> None:
        self._failed(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._failed(message.correlation_id, "it was not done in time; look at it with `edge-actors list`")

    def _failed(self, correlation_id: int, reason: str) -> None:
        request_id = self._restarts.pop(correlation_id, None)
        if request_id is not None:
            self._refuse(request_id, 500, reason)
        call = self._lists.pop(correlation_id, None)
        if call is not None and call.task_id:
            self.on_task_ended(TaskEnded(call.task_id, reason))
        elif call is not None:
            self._refuse(call.request_id, 500, reason)

    def _refuse(self, request_id: str, status: int, reason: str) -> None:
        self._answer(request_id, status, {"message": reason})

    def _answer(self, request_id: str, status: int, answer: object) -> None:
        self._answer_json(request_id, status, msgspec.json.encode(answer))

    def _answer_json(self, request_id: str, status: int, payload: bytes) -> None:
        link = self._links.pop(request_id, "")
        if link:
            self.tell(link, AgentMethodAnswered(request_id, status, payload))
