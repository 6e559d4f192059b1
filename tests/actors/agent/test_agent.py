"""The tree of the agent process in virtual time: root, security, agent, supervisors; modules are fakes."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from actors.addresses import AGENT, SECURITY
from actors.agent.agent import ROUTES_LIMIT_S, AgentActor
from actors.agent.deployment_keeper import DeploymentKeeper
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.module_report import ModuleReported
from actors.agent.module_tree import KillModules
from actors.agent.registry import RegistryActor
from actors.agent.restart_policy import RestartState
from actors.agent.rollout import start_groups
from actors.agent.root import REPLACE_LIMIT_S, AgentRootActor, StopEdge
from actors.agent.security import (
    CreateDevice,
    DeleteDevice,
    DeviceChanged,
    DeviceIdentity,
    EnableDevice,
    EnsureModules,
    GetDevice,
    ModulesEnsured,
    SecurityActor,
)
from actors.agent.supervisor_messages import RestartModule, StartModule, StopModule
from actors.agent_hub_messages import GetIdentities, Identities, Routes, set_routes
from actors.broker.settings import spec_in
from actors.hub.config import route_texts
from actors.hub.identity import HubIdentity
from actors.kernel.base import ChildSpec
from actors.kernel.hosts import ThreadSystem
from actors.kernel.memory_system import MemorySystem
from actors.manifest.deployment import parse_deployment
from actors.manifest.module_spec import EDGE_CLOUD, DesiredStatus, ModuleSpec, ProcessSettings
from actors.ports.modules import ModuleAccess, ModuleRecord, ModuleRun, OnExit
from messaging.broker.config import BrokerSpec
from messaging.client import Client
from messaging.envelope import Envelope, Secret
from messaging.errors import ConfigError
from messaging.kinds import kind_named
from messaging.lifecycle import Hello, ListDeadLetters, PeerDown, PeerUp, RequestFailed, Stop
from messaging.version import VERSION
from messaging.zmq_bus import ZmqBus
from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import HUB, REMOVED, manifest_text
from tests.fakes.module_records import FakeModuleRecords
from tests.fakes.module_runtime import FakeModuleRuntime
from tests.fakes.security import DAY_S, FakeSecurity

MODULES = (*AGENT_PATH, "modules")


def process(order: int | None = None, **others: Any) -> dict[str, Any]:
    module: dict[str, Any] = {"type": "process", "status": "running", "settings": {"command": ["x"]}}
    module |= {"restartPolicy": "always"}
    if order is not None:
        module["startupOrder"] = order
    return module | others


def no_registry() -> RegistryActor:
    return RegistryActor(None, security=SECURITY, random=lambda: 0.0)


class Edge:
    """The agent process on one thread, with a mailbox of the test's and one in the place of the hub."""

    def __init__(self, modules: dict[str, Any], *changes: tuple[tuple[str, ...], Any]) -> None:
        text = manifest_text((MODULES, modules), *changes)
        self.deployment = parse_deployment(text, "d.json")
        self.system = MemorySystem(seed=5, process="agent")
        self.cloud: ModuleSpec | None = (
            None  # the stand-in that it runs, which has to be ready before the hub
        )
        self.runtime = FakeModuleRuntime(self.system.clock)
        self.records = FakeModuleRecords()
        self.security = FakeSecurity(self.system.clock.now_s())
        self._take = self.system.mailbox("cli/ask")
        self.hub = self.system.mailbox("hub/identities")
        self.hub_root = self.system.mailbox("hub")
        self.router = self.system.mailbox("hub/router")

    def start(self) -> Edge:
        self.system.start("agent", lambda: AgentRootActor(self._security_actor, no_registry, self._agent))
        self.system.run()
        return self

    def _security_actor(self) -> SecurityActor:
        return SecurityActor(self.security)

    def _agent(self) -> AgentActor:
        return AgentActor(
            DeploymentKeeper(self.deployment),
            security=SECURITY,
            runtime=self.runtime,
            records=self.records,
            stop_grace_s=10.0,
            agent_pid=77,
            started_at_s=5.0,
            cloud=self.cloud,
            until_ready=self.cloud is not None,
        )

    def tell(self, to: str, message: object, sender: str = "cli/ask") -> None:
        self.system.bus.send(to, message, sender=sender)
        self.system.run()

    def ask(self, to: str, message: object) -> Any:
        bus = self.system.bus
        asked = bus.next_id()
        deadline_s = self.system.clock.monotonic_s() + 5.0
        bus.send(to, message, sender="cli/ask", correlation_id=asked, deadline_s=deadline_s)
        self.system.run()
        [reply] = [message_in(e) for e in self._take() if e.correlation_id == asked]
        return reply

    def modules(self) -> dict[str, dict[str, Any]]:
        listed = self.ask(AGENT, ListModules())
        return {module["name"]: module for module in listed.modules}


def message_in(envelope: Envelope) -> Any:
    kind = kind_named(envelope.kind)
    assert kind is not None
    return kind.build(*envelope.body)


def test_the_hub_starts_first_and_the_others_by_their_order() -> None:
    edge = Edge({"late": process(), "first": process(1), "second": process(2), "also1": process(1)})

    edge.start()

    assert start_groups(edge.deployment) == [("edgeHub",), ("first", "also1"), ("second",), ("late",)]
    story = edge.runtime.story
    assert story[0] == "start edgeHub"
    assert set(story[1:3]) == {"start first", "start also1"}
    assert story[3:] == ["start second", "start late"]


def test_every_module_has_its_identity_before_it_starts() -> None:
    edge = Edge({"sensor": process(), "off": process(status="stopped")}).start()

    assert edge.runtime.access["sensor"] == edge.security.modules["sensor"]
    assert "off" in edge.security.modules
    assert "off" not in edge.runtime.access
    assert edge.modules()["off"]["status"] == "stopped"


def test_the_hub_needs_no_identity_from_us_and_does_not_wait_for_those_of_others() -> None:
    edge = Edge({"sensor": process()})
    edge.security.refused["sensor"] = "module 'sensor': this name cannot be that of a folder; rename it"

    edge.start()

    modules = edge.modules()
    assert modules["edgeHub"]["status"] == "running"
    assert modules["sensor"]["status"] == "failed"
    assert modules["sensor"]["description"] == edge.security.refused["sensor"]


def test_a_command_that_does_not_exist_is_the_status_of_that_module_alone() -> None:
    edge = Edge({"good": process(), "bad": process(1)})
    edge.runtime.broken["bad"] = "command 'x' not found in PATH '/bin'; install it"

    modules = edge.start().modules()

    assert modules["bad"]["status"] == "backoff"
    assert "command 'x' not found" in modules["bad"]["description"]
    assert modules["good"]["status"] == "running"


def test_a_container_without_an_engine_waits_with_the_reason_and_stops_nobody() -> None:
    """Source: agent.md section 8, row 44."""
    pump = {"type": "docker", "status": "running", "settings": {"image": "pump:1"}, "startupOrder": 1}
    edge = Edge({"pump": pump, "sensor": process()})
    edge.runtime.away["pump"] = "Docker Engine does not run; start it"

    modules = edge.start().modules()

    assert modules["pump"]["status"] == "backoff"
    assert "Docker Engine does not run; start it" in modules["pump"]["description"]
    assert (modules["pump"]["type"], modules["pump"]["image"]) == ("docker", "pump:1")
    assert modules["sensor"]["status"] == "running"


def test_the_list_tells_all_modules_in_order_of_start_and_the_routes_left_out() -> None:
    edge = Edge({"sensor": process()}).start()
    bad = (("r1", "FROM nowhere", "line 1, column 6: no such source"),)
    edge.tell(AGENT, Routes((), ((*bad[0], 1, 6),)))

    listed = edge.ask(AGENT, ListModules())

    assert isinstance(listed, ModuleList)
    assert [module["name"] for module in listed.modules] == ["edgeAgent", "edgeHub", "sensor"]
    assert listed.routes == bad
    agent, hub, sensor = listed.modules
    assert (agent["pid"], agent["since_s"], agent["type"]) == (77, 5.0, "built-in")
    assert hub["pid"] == edge.runtime.pid("edgeHub")
    assert sensor["command"] == ("x",)
    assert sensor.keys() >= {"type", "status", "desired", "pid", "restarts", "since_s", "exit_code"}
    assert edge.security.noted["sensor"] == "running"


def test_a_deployment_without_a_hub_has_none() -> None:
    edge = Edge({"sensor": process()}, ((*AGENT_PATH, "systemModules", "edgeHub"), REMOVED)).start()

    assert list(edge.modules()) == ["edgeAgent", "sensor"]


# commands


def test_commands_reach_their_module() -> None:
    edge = Edge({"sensor": process(), "other": process()}).start()

    stopped = edge.ask(AGENT, StopModule("sensor"))
    assert isinstance(stopped, ModuleReported)
    assert (stopped.name, stopped.status) == ("sensor", "stopped")
    assert edge.ask(AGENT, StartModule("sensor")).status == "running"
    pid = edge.runtime.pid("sensor")
    assert edge.ask(AGENT, RestartModule("sensor")).pid not in (0, pid)
    assert edge.runtime.story.count("start other") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sensr", "there is no module 'sensr' in the deployment; did you mean 'sensor'?"),
        ("zzz", "there is no module 'zzz' in the deployment; there are: edgeHub, sensor"),
        ("edgeAgent", "edgeAgent is this edge itself; end it with `edge-actors down`, start it with `run`"),
    ],
)
def test_a_command_for_a_module_that_is_not_there_is_refused(name: str, reason: str) -> None:
    edge = Edge({"sensor": process()}).start()

    refused = edge.ask(AGENT, StopModule(name))

    assert refused == RequestFailed("StopModule", AGENT, reason)


# what is no longer wanted, and failures


def test_a_module_of_an_earlier_deployment_is_ended_and_forgotten() -> None:
    edge = Edge({"old": process(), "sensor": process()}).start()
    successor = Edge({"sensor": process()})
    edge.runtime.lose_agent()
    successor.runtime, successor.records, successor.security = edge.runtime, edge.records, edge.security

    successor.start()

    assert successor.runtime.story[-2:] == ["stop old", "remove old"]
    assert "old" not in successor.records.kept
    assert list(successor.security.modules) == ["sensor"]
    assert list(successor.modules()) == ["edgeAgent", "edgeHub", "sensor"]
    assert successor.runtime.story.count("start sensor") == 1


def test_a_record_without_a_module_is_forgotten_too() -> None:
    edge = Edge({"sensor": process()})
    edge.records.kept["gone"] = ModuleRecord("h", 1, DesiredStatus.RUNNING, RestartState())

    edge.start()

    assert "gone" not in edge.records.kept


def test_an_agent_that_fails_leaves_its_modules_as_they_are() -> None:
    edge = Edge({"sensor": process(), "pump": process(1)}).start()
    story = list(edge.runtime.story)

    edge.tell(AGENT, Routes((), (("only a name",),)))  # type: ignore[arg-type]

    assert edge.system.cells[AGENT].restarts == 1
    assert edge.runtime.story == story
    modules = edge.modules()
    assert {modules[name]["status"] for name in ("edgeHub", "sensor", "pump")} == {"running"}
    assert edge.ask(AGENT, StopModule("pump")).status == "stopped"


def test_a_supervisor_that_gives_up_is_started_anew_and_takes_over() -> None:
    edge = Edge({"sensor": process(), "other": process()}).start()
    pid = edge.runtime.pid("sensor")

    for _ in range(6):
        edge.system.cells[f"{AGENT}/sensor"]._fail(None, ValueError("a bug"))
    edge.system.run()

    assert edge.runtime.pid("sensor") == pid
    assert edge.modules()["sensor"]["pid"] == pid
    assert edge.system.cells[AGENT].restarts == 1
    edge.runtime.end("sensor", 1)
    edge.system.run()
    assert edge.runtime.pid("sensor") not in (0, pid)


# stopping


def test_modules_stop_in_reverse_order_and_the_hub_last() -> None:
    """Source: agent.md section 8, row 24."""
    edge = Edge({"first": process(1), "second": process(2), "also2": process(2)}).start()

    edge.tell("agent", StopEdge())

    stops = [line for line in edge.runtime.story if line.startswith("stop")]
    assert set(stops[:2]) == {"stop second", "stop also2"}
    assert stops[2:] == ["stop first", "stop edgeHub"]
    assert edge.system.cells == {}


def test_an_edge_that_is_ended_while_it_starts_starts_nobody_any_more() -> None:
    """Source: agent.md section 8, row 39."""
    edge = Edge({"sensor": process()})
    edge.system.start("agent", lambda: AgentRootActor(edge._security_actor, no_registry, edge._agent))

    edge.tell("agent", StopEdge())

    assert edge.system.cells == {}
    assert edge.runtime.story == []
    assert edge.system.bus.dead_letters.count == 0


def test_a_stubborn_module_holds_up_the_stop_until_it_is_killed() -> None:
    edge = Edge({"first": process(1), "second": process(2)}).start()
    edge.runtime.stubborn |= {"first", "second"}
    edge.tell("agent", StopEdge())
    assert edge.runtime.pid("first") != 0
    assert "agent" in edge.system.cells

    edge.tell(AGENT, KillModules())

    assert [edge.runtime.pid(name) for name in ("first", "second", "edgeHub")] == [0, 0, 0]
    assert [edge.runtime.story.count(f"start {name}") for name in ("first", "second", "edgeHub")] == [1, 1, 1]
    assert edge.system.cells == {}


def test_a_module_that_is_stopping_is_not_started_again_when_it_crashes_meanwhile() -> None:
    edge = Edge({"first": process(1), "second": process(2)}).start()
    edge.runtime.stubborn |= {"second"}
    edge.tell("agent", StopEdge())

    edge.runtime.end("second", signal=signal.SIGSEGV)
    edge.system.run()

    assert edge.runtime.story.count("start second") == 1
    assert edge.system.cells == {}


# identities and certificates


def test_the_hub_is_told_all_identities_when_it_is_there_and_at_each_change() -> None:
    edge = Edge({"sensor": process()}).start()
    assert edge.hub() == []  # it is not up, so there is nobody to tell

    edge.tell(SECURITY, PeerUp("hub", 7))
    [told] = edge.hub()
    assert [entry[0] for entry in message_in(told).entries] == ["edge1/sensor"]

    made = edge.ask(SECURITY, CreateDevice("leaf1"))
    assert made == DeviceIdentity("leaf1", Secret(b"leaf1"), Secret(b"2"))
    [told] = edge.hub()
    assert [entry[0] for entry in message_in(told).entries] == ["edge1/sensor", "leaf1"]

    edge.tell(SECURITY, PeerDown("hub"))
    edge.ask(SECURITY, CreateDevice("leaf2"))
    assert edge.hub() == []


def test_whoever_asks_for_identities_gets_them() -> None:
    edge = Edge({"sensor": process()}).start()

    answer = edge.ask(SECURITY, GetIdentities())

    sensor = HubIdentity("edge1/sensor", keys=(Secret(b"edge1/sensor"), Secret(b"2")))
    assert answer == Identities((sensor.entry(),), (b"edge CA 0",))


def test_the_hub_hears_at_once_of_a_device_that_is_disabled_enabled_or_deleted() -> None:
    edge = Edge({}).start()
    edge.tell(SECURITY, PeerUp("hub", 7))
    prints = ("A" * 40,)
    made = edge.ask(SECURITY, CreateDevice("leaf1", "selfSigned", prints))
    edge.hub()

    answers, heard = [], []
    for asked in (EnableDevice("leaf1", False), EnableDevice("leaf1", True), DeleteDevice("leaf1")):
        answers.append(edge.ask(SECURITY, asked))
        [told] = edge.hub()
        heard.append([(each[0], each[1], each[3], each[4]) for each in message_in(told).entries])

    assert (made.auth_type, made.thumbprints) == ("selfSigned", prints)
    assert answers == [DeviceChanged("leaf1")] * 3
    assert heard == [
        [("leaf1", "selfSigned", prints, False)],
        [("leaf1", "selfSigned", prints, True)],
        [],
    ]


@pytest.mark.parametrize("asked", [EnableDevice("leaf9", False), DeleteDevice("leaf9")])
def test_a_device_that_is_not_there_cannot_be_changed(asked: EnableDevice | DeleteDevice) -> None:
    edge = Edge({}).start()

    assert edge.ask(SECURITY, asked).reason == "there is no leaf device 'leaf9'"


def test_a_device_that_exists_is_not_made_again() -> None:
    edge = Edge({}).start()
    made = edge.ask(SECURITY, CreateDevice("leaf1"))

    refused = edge.ask(SECURITY, CreateDevice("leaf1"))

    assert refused == RequestFailed(
        "CreateDevice", SECURITY, "device 'leaf1' exists already; choose another id"
    )
    assert edge.ask(SECURITY, GetDevice("leaf1")) == made
    assert "identity create leaf9" in edge.ask(SECURITY, GetDevice("leaf9")).reason


def test_certificates_are_renewed_in_time_and_the_hub_hears_of_it() -> None:
    edge = Edge({}).start()
    edge.tell(SECURITY, PeerUp("hub", 7))
    edge.hub_root()
    edge.hub()

    edge.system.advance(90 * DAY_S)

    assert edge.security.renewals == 3
    assert [message_in(told).authorities for told in edge.hub()] == [
        *((b"edge CA 1",), (b"edge CA 2",), (b"edge CA 3",))
    ]
    assert [e.kind for e in edge.hub_root()].count("CertificateChanged") == 3


def test_modules_that_run_are_started_again_for_another_edge_ca_but_not_the_hub() -> None:
    edge = Edge({"pump": process(), "valve": process()}).start()
    edge.ask(AGENT, StopModule("valve"))
    edge.security.fault = ConfigError("disk full")
    edge.system.advance(24 * DAY_S + 1)
    began = len(edge.runtime.story)
    edge.security.fault = None

    edge.system.advance(3600.0)

    assert edge.runtime.story[began:] == ["stop pump", "start pump"]
    assert edge.modules()["pump"]["status"] == "running"
    assert edge.modules()["valve"]["status"] == "stopped"


def test_a_hub_that_comes_up_loads_the_certificate_that_was_renewed_while_it_or_we_were_away() -> None:
    edge = Edge({}).start()
    edge.system.advance(25 * DAY_S)
    assert edge.security.renewals == 1
    assert edge.hub_root() == []

    edge.tell(SECURITY, PeerUp("hub", 7))

    assert [e.kind for e in edge.hub_root()] == ["CertificateChanged"]


def test_a_renewal_that_fails_is_tried_again_in_an_hour() -> None:
    edge = Edge({}).start()
    edge.security.fault = ConfigError("disk full")
    edge.system.advance(24 * DAY_S + 1)
    edge.security.fault = None

    edge.system.advance(3600.0)

    assert edge.security.renewals == 1
    assert edge.system.cells[SECURITY].restarts == 0


def test_the_root_answers_hello_with_its_own_incarnation() -> None:
    edge = Edge({}).start()

    edge.tell("agent", Hello("hub", 42, VERSION), sender="hub")

    [welcome] = [message_in(e) for e in edge.hub_root() if e.kind == "Welcome"]
    assert (welcome.process, welcome.epoch) == ("agent", edge.system.bus.epoch)


@pytest.mark.parametrize("version", ["", "0.0.1"], ids=["before versions were told", "older"])
def test_a_hub_of_another_version_is_replaced_once_and_not_welcome_before(version: str) -> None:
    edge = Edge({}).start()
    old = edge.runtime.pid("edgeHub")

    edge.tell("agent", Hello("hub", 42, version), sender="hub")
    edge.tell("agent", Hello("hub", 42, version), sender="hub")

    assert edge.runtime.story == ["start edgeHub", "stop edgeHub", "start edgeHub"]
    assert edge.runtime.pid("edgeHub") != old
    assert edge.modules()["edgeHub"]["restarts"] == 0
    assert edge.hub_root() == []
    edge.tell("agent", Hello("hub", 43, VERSION), sender="hub")
    assert [e.kind for e in edge.hub_root()] == ["Welcome"]


def test_an_order_to_replace_the_hub_that_comes_before_it_has_a_supervisor_is_given_again() -> None:
    edge = Edge({})
    edge.cloud = ModuleSpec(EDGE_CLOUD, ProcessSettings(()))
    edge.runtime.labels, edge.runtime.checked = True, {EDGE_CLOUD}
    hub = edge.deployment.edge_hub
    assert hub is not None
    edge.runtime.start(hub, ModuleAccess(), lambda end: None)  # by an agent that is gone
    edge.start()
    edge.tell("agent", Hello("hub", 42, "0.0.1"), sender="hub")
    before = edge.runtime.story.count("stop edgeHub")

    edge.runtime.check_health(EDGE_CLOUD, True)
    edge.system.run()
    for _ in range(2):
        edge.tell("agent", Hello("hub", 42, "0.0.1"), sender="hub")

    assert before == 0
    assert edge.runtime.story[-2:] == ["stop edgeHub", "start edgeHub"]
    assert edge.runtime.story.count("stop edgeHub") == 1


def test_an_order_to_replace_the_hub_that_nobody_answers_is_given_again() -> None:
    edge = Edge({}).start()
    edge.runtime.stubborn = {"edgeHub"}
    edge.tell("agent", Hello("hub", 42, "0.0.1"), sender="hub")
    edge.system.advance(REPLACE_LIMIT_S)

    edge.runtime.stubborn = set()
    edge.tell("agent", Hello("hub", 42, "0.0.1"), sender="hub")

    assert edge.runtime.story == ["start edgeHub", "stop edgeHub", "stop edgeHub", "start edgeHub"]


def test_a_hub_that_comes_back_with_another_version_is_used_as_it_is_and_said_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    edge = Edge({}).start()

    for epoch in (42, 43, 43):
        edge.tell("agent", Hello("hub", epoch, "9.9.9"), sender="hub")

    assert edge.runtime.story == ["start edgeHub", "stop edgeHub", "start edgeHub"]
    assert [e.kind for e in edge.hub_root()] == ["Welcome", "Welcome"]
    assert caplog.text.count("of version 9.9.9, this agent of") == 1
    assert "edge-actors down" in caplog.text


def test_the_routes_of_the_deployment_are_told_whenever_the_hub_comes_up() -> None:
    edge = Edge({}).start()

    edge.tell(AGENT, PeerUp("hub", 7))
    edge.tell(AGENT, PeerUp("hub", 9))

    told = edge.router()
    assert [(e.kind, e.is_request) for e in told] == [("SetRoutes", True)] * 2
    hub = edge.deployment.hub
    assert message_in(told[0]) == set_routes(route_texts(hub), hub.ttl_s)
    assert [name for name, *_ in message_in(told[0]).routes] == list(hub.routes)


def test_routes_that_the_hub_could_not_take_are_told_again() -> None:
    edge = Edge({}).start()
    edge.tell(AGENT, PeerUp("hub", 7))
    [asked] = edge.router()

    failed = RequestFailed("SetRoutes", "hub/router", "it failed")
    edge.system.bus.send(AGENT, failed, sender="hub/router", correlation_id=asked.correlation_id)
    edge.system.advance(1.0)
    after_a_failure = edge.router()
    edge.system.advance(ROUTES_LIMIT_S)
    after_silence = edge.router()
    edge.tell(AGENT, PeerDown("hub"))
    edge.system.advance(10 * ROUTES_LIMIT_S)

    assert [e.kind for e in after_a_failure] == ["SetRoutes"]
    assert [e.kind for e in after_silence] == ["SetRoutes"]
    assert edge.router() == []


def test_the_rules_of_the_broker_are_told_with_the_routes_until_they_are_taken() -> None:
    edge = Edge({}, ((*HUB, "schemaVersion"), "1.2"), ((*HUB, "mqttBroker"), {"bridges": []}))
    broker = edge.system.mailbox("hub/broker")
    edge.start()
    edge.tell(AGENT, PeerUp("hub", 7))
    [asked] = broker()

    for _ in range(4):  # the router is silent as well, which makes nothing more
        edge.system.advance(ROUTES_LIMIT_S)
    after_silence = broker()
    edge.tell(AGENT, PeerDown("hub"))
    edge.system.advance(10 * ROUTES_LIMIT_S)

    assert (asked.kind, asked.is_request) == ("SetBroker", True)
    assert spec_in(message_in(asked)) == BrokerSpec()
    assert [e.kind for e in after_silence] == ["SetBroker"] * 4
    assert broker() == []


def test_a_hub_without_a_broker_is_told_no_rules() -> None:
    edge = Edge({})
    broker = edge.system.mailbox("hub/broker")
    edge.start()

    edge.tell(AGENT, PeerUp("hub", 7))

    assert broker() == []


def test_a_hub_that_does_not_tell_its_routes_harms_nobody() -> None:
    edge = Edge({"sensor": process()}).start()
    edge.tell(AGENT, PeerUp("hub", 7))
    [asked] = edge.router()

    failed = RequestFailed("SetRoutes", "hub/router", "hub/router has stopped")
    edge.system.bus.send(AGENT, failed, sender="hub/router", correlation_id=asked.correlation_id)
    edge.tell(AGENT, PeerUp("hub", 9))
    edge.system.advance(10.0)

    assert edge.system.cells[AGENT].failures == 0
    assert edge.security.asked == 1  # its identity was not asked for anew


def test_the_root_tells_dead_letters() -> None:
    edge = Edge({}).start()
    edge.tell("agent/nobody", StopEdge())

    letters = edge.ask("agent", ListDeadLetters())

    assert letters.count == 1
    assert letters.letters[0]["to"] == "agent/nobody"


def test_a_group_that_hangs_does_not_hold_up_the_next_for_ever(bus: ZmqBus, client: Client) -> None:
    deployment = parse_deployment(manifest_text((MODULES, {"hangs": process(1), "next": process(2)})), "d")
    gate, next_started = threading.Event(), threading.Event()

    class Runtime(FakeModuleRuntime):
        def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
            if module.name == "hangs":
                assert gate.wait(10.0)
            if module.name == "next":
                next_started.set()
            return super().start(module, access, on_exit)

    class ImpatientAgent(AgentActor):
        group_limit_s = 0.05

    def build() -> AgentActor:
        return ImpatientAgent(
            DeploymentKeeper(deployment),
            security="test/asker",
            runtime=Runtime(bus.clock),
            records=FakeModuleRecords(),
            stop_grace_s=10.0,
            agent_pid=1,
            started_at_s=0.0,
        )

    ended = threading.Event()
    ThreadSystem(bus).spawn(ChildSpec("agent", build), "test/agent", "", lambda reason: ended.set())
    client.receive(EnsureModules)
    client.tell("test/agent", ModulesEnsured((("hangs", "1", "u", ""), ("next", "2", "u", ""))))

    assert next_started.wait(5.0)
    gate.set()
    client.tell("test/agent", Stop())
    assert ended.wait(5.0)


def test_settings_of_the_hub_that_are_not_to_be_had_are_listed_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = {"MaxConnectedClients": {"value": "many"}, "OptimizeForPerformance": {"value": False}}
    caplog.set_level("INFO", "actors.agent.module_tree")
    edge = Edge({}, ((*AGENT_PATH, "systemModules", "edgeHub", "env"), env)).start()

    [(name, problem)] = edge.modules()["edgeHub"]["settings"]

    assert name == "MaxConnectedClients"
    assert problem.startswith("'many' is not allowed; allowed: a whole number from 1 to 1000000.")
    assert edge.modules()["edgeAgent"]["settings"] == ()
    told = [record.getMessage() for record in caplog.records if "edgeHub's variable" in record.getMessage()]
    assert told == [
        f"edgeHub's variable MaxConnectedClients: {problem}",
        "edgeHub's variable OptimizeForPerformance has no effect: messages are in SQLite, not in RocksDB",
    ]
