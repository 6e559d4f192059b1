"""The format of fault scripts, in one place: every key, its form, what it means. Version 1.

`faults reference` shows these tables and FAULTS.md is made of them. Whatever is wrong in a script is told
with line and column before anything starts. Times, sizes and rates carry their unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from messaging.errors import ConfigError
from messaging.nearest import did_you_mean
from messaging.text import quoted
from runtime.faults import yaml_reader as y
from runtime.faults.container_image import SLOW
from runtime.faults.expectation_table import EXPECTATIONS
from runtime.faults.fault_table import FAULTS
from runtime.faults.scenario import (
    BYSTANDERS,
    PARTS,
    UPSTREAM,
    VERSION,
    After,
    At,
    EdgeOfScenario,
    Every,
    Expectation,
    Load,
    ModuleOfEdge,
    Presence,
    RouteOfLoad,
    Scenario,
    Step,
)
from runtime.faults.yaml_reader import Field, Form, Wrong

CLOUDS: Final = ("own", "behind a line")
EVENTS: Final = ("start", "recovered", "fault ended")


def _into(node: y.Node) -> str:
    return UPSTREAM if y.read_text(node) == UPSTREAM else y.read_name(node)


def _protocol(node: y.Node) -> str:
    return y.one_of(("Amqp", "AmqpWs", "Mqtt", "MqttWs"))(node)


ROUTE: Final = (
    Field("output", y.NAME_FORM, "on which output publishers send", is_needed=True),
    Field("into", Form(f"a consumer, or `{UPSTREAM}`", _into), "where it goes", is_needed=True),
    Field("priority", Form("0 to 9", y.number(0, 9)), "of the route"),
    Field("time to live", Form("time in whole seconds", y.read_whole_seconds), "of the route", 0),
)
MODULE: Final = (
    Field("command", Form("list of words", y.list_of(y.read_text)), "the program of a process module", ("",)),
    Field(
        "image",
        y.TEXT,
        "the image of a container, in place of a program; `sleeper` is made on the spot, `slow` is one of a "
        "registry that never answers",
        "",
    ),
    Field(
        "restart",
        y.choice("never", "on-failure", "on-unhealthy", "always"),
        "its restart policy",
        "always",
    ),
)
EDGE: Final = (
    Field(
        "routes",
        Form("by name: a route", y.named(lambda node: _route(node))),
        "who gets what",
        is_needed=True,
    ),
    Field(
        "cloud",
        y.choice(*CLOUDS),
        "the IoT Hub that the edge runs for itself, or one behind a line that faults can cut",
        "own",
    ),
    Field("protocol", Form("one of `Amqp`, `AmqpWs`, `Mqtt`, `MqttWs`", _protocol), "to the cloud", "Mqtt"),
    Field(
        "settings",
        Form("by name: text", y.texts),
        "settings of the edge, by the last part of their names in CONFIG.md",
        {},
    ),
    Field("hub environment", Form("by name: text", y.texts), "variables of edgeHub", {}),
    Field(
        "modules",
        Form("by name: a module", y.named(lambda node: ModuleOfEdge(**y.read_fields(node, MODULE)))),
        "what runs besides two bystanders, which every scenario has",
        {},
    ),
    Field("time to live", Form("time in whole seconds", y.read_whole_seconds), "of messages", 7200),
    Field("most bytes", y.SIZE, "limit of the message database", 0),
    Field("disk", y.SIZE, "a disk of its own for messages, of this size; needs root", 0),
)
PRESENCE: Final = (
    Field("there", y.SPREAD, "how long it is connected", is_needed=True),
    Field("away", y.SPREAD, "and then not", is_needed=True),
)
LOAD: Final = (
    Field("publishers", Form("1 to 16", y.number(1, 16)), "modules that send", 1),
    Field("rate", y.RATE, "of each publisher", is_needed=True),
    Field("size", y.SIZE, "of each message, 32 bytes at least", 128),
    Field(
        "over",
        y.choice("mqtt", "amqp"),
        "how publishers connect; over AMQP they have one output",
        "mqtt",
    ),
    Field(
        "consumers",
        Form("by name: `always`, or `there` and `away`", y.named(lambda node: _presence(node))),
        "modules that receive",
        {},
    ),
)


def _event(node: y.Node) -> str:
    text = y.read_text(node)
    if not re.fullmatch(r"\d+ acknowledged|step [a-z0-9-]+", text) and text not in EVENTS:
        hint = did_you_mean(text, EVENTS)
        known = f"{', '.join(EVENTS)}, `500 acknowledged` and `step NAME` are"
        raise Wrong(node, f"{quoted(text)} is no event{hint or f'; {known}'}")
    return text


WHEN: Final = (
    Field("at", y.SPREAD, "once, so long after the load runs"),
    Field("every", y.SPREAD, "again and again, with this between two"),
    Field("times", y.COUNT, "how often, with `every`"),
    Field(
        "after",
        Form(
            "`recovered`, `fault ended`, `step NAME`, `500 acknowledged` or `start`",
            _event,
        ),
        "once, after an event",
    ),
    Field("plus", y.SPREAD, "with `after`: so long behind it", y.Spread(0.0)),
    Field("name", y.NAME_FORM, "what other steps call it", ""),
    Field("fault", y.choice(*FAULTS), "what happens; its own entries stand beside it", is_needed=True),
)
SCENARIO: Final = (
    Field("version", Form(f"`{VERSION}`", y.number(VERSION, VERSION)), "of this format", is_needed=True),
    Field("about", y.TEXT, "what it shows", is_needed=True),
    Field("edge", Form("entries below", lambda node: _edge(node)), "the edge to start", is_needed=True),
    Field("load", Form("entries below", lambda node: _load(node)), "who sends and receives", is_needed=True),
    Field(
        "steps",
        Form("list of steps", lambda node: _steps(node)),
        "what happens, in time",
        is_needed=True,
    ),
    Field(
        "expect",
        Form("entries below", lambda node: _expect(node)),
        "what has to hold in the end",
        is_needed=True,
    ),
)


def load(path: Path) -> Scenario:
    """Read a script.

    Raises:
        ConfigError: it cannot be read, or says what cannot be; with file, line and column.
    """
    return y.load(path, lambda node: _scenario(node, path))


def _route(node: y.Node) -> RouteOfLoad:
    found = y.read_fields(node, ROUTE, "a route")
    return RouteOfLoad(found["output"], found["into"], found["priority"], found["time_to_live"])


def _edge(node: y.Node) -> EdgeOfScenario:
    found = y.read_fields(node, EDGE, "the edge")
    for name, module in found["modules"].items():
        if bool(module.image) == bool(module.command[0]):
            raise Wrong(y.node_at(node, "modules", name), "a module has either a `command` or an `image`")
    _check_settings(y.node_at(node, "settings"), found["settings"])
    return EdgeOfScenario(
        found["routes"],
        found["cloud"],
        found["protocol"],
        found["settings"],
        found["hub_environment"],
        found["modules"],
        found["time_to_live"],
        found["most_bytes"],
        found["disk"],
    )


def _check_settings(node: y.Node, given: Mapping[str, str]) -> None:
    from runtime.config.settings import NAMES, PREFIX, about

    for name, text in given.items():
        if name not in NAMES:
            short = name.removeprefix(PREFIX).lower()
            hint = did_you_mean(short, NAMES) or f"; there are {', '.join(NAMES)}"
            key = next(key for key, _ in y.read_entries(node) if key.value == name)
            raise Wrong(key, f"{quoted(name)} is no setting{hint}")
        try:
            about(name).read(text)
        except ValueError as exc:
            raise Wrong(y.node_at(node, name), f"{quoted(text)} is not allowed; allowed: {exc}") from None


def _presence(node: y.Node) -> Presence | None:
    if isinstance(node, y.ScalarNode):
        y.one_of(("always",))(node)
        return None
    return Presence(**y.read_fields(node, PRESENCE, "a consumer"))


def _load(node: y.Node) -> Load:
    found = y.read_fields(node, LOAD, "the load")
    if found["size"] < 32:
        raise Wrong(y.node_at(node, "size"), "a message has 32 bytes at least: they say who sent it when")
    return Load(found["publishers"], found["rate"], found["size"], found["over"], found["consumers"])


def _step(node: y.Node, number: int) -> Step:
    entries = {y.read_text(key): value for key, value in y.read_entries(node)}
    if "fault" not in entries:
        raise Wrong(node, "'fault' is missing of a step")
    kind = FAULTS[WHEN_FAULT.read(entries["fault"])]
    found = y.read_fields(node, (*WHEN, *kind.fields), f"the fault `{kind.name}`")
    values = {field.key: found[field.key] for field in kind.fields}
    chosen = [name for name in ("at", "every", "after") if found[name] is not None]
    if len(chosen) != 1:
        raise Wrong(node, "a step has one of `at`, `every` and `after`")
    if (found["times"] is not None) != (chosen == ["every"]):
        raise Wrong(node, "`every` comes with `times`, and `times` with nothing else")
    when: At | Every | After
    match chosen[0]:
        case "at":
            when = At(found["at"])
        case "every":
            when = Every(found["every"], found["times"])
        case _:
            when = After(found["after"], found["plus"])
    return Step(number, found["name"], when, kind.name, values)


WHEN_FAULT: Final = next(field.form for field in WHEN if field.name == "fault")


def _steps(node: y.Node) -> tuple[Step, ...]:
    if not isinstance(node, y.SequenceNode) or not node.value:
        raise Wrong(node, "a list of steps is expected here")
    steps = tuple(_step(item, number) for number, item in enumerate(node.value))
    names = [step.name for step in steps if step.name]
    for item, step in zip(node.value, steps, strict=True):
        if step.name and names.count(step.name) > 1:
            raise Wrong(item, f"two steps are called {quoted(step.name)}")
        event = step.when.event if isinstance(step.when, After) else ""
        wanted = event.removeprefix("step ")
        if event.startswith("step ") and (wanted not in names or wanted == step.name):
            hint = did_you_mean(wanted, names)
            raise Wrong(y.node_at(item, "after"), f"there is no other step called {quoted(wanted)}{hint}")
    return steps


def _expect(node: y.Node) -> tuple[Expectation, ...]:
    fields = [Field(kind.name, kind.form, kind.about) for kind in EXPECTATIONS.values()]
    found = y.read_fields(node, fields, "`expect`")
    given = {y.read_text(key) for key, _ in y.read_entries(node)}
    return tuple(Expectation(field.name, found[field.key]) for field in fields if field.name in given)


def _scenario(node: y.Node, path: Path) -> Scenario:
    found = y.read_fields(node, SCENARIO)
    needs: dict[str, None] = {}
    for step in found["steps"]:
        needs |= dict.fromkeys(FAULTS[step.fault].needs)
    if found["edge"].disk_bytes:
        needs["root"] = None
    if any(module.image for module in found["edge"].modules.values()):
        needs["docker"] = None
    if found["edge"].protocol.startswith("Amqp") or found["load"].over == "amqp":
        needs["amqp"] = None
    scenario = Scenario(
        path,
        path.stem,
        found["about"],
        found["edge"],
        found["load"],
        found["steps"],
        found["expect"],
        tuple(needs),
    )
    for check in (_check_routes, _check_steps, _check_expectations):
        check(node, scenario)
    return scenario


def _check_routes(node: y.Node, scenario: Scenario) -> None:
    routes, consumers = scenario.edge.routes, scenario.load.consumers
    for name, route in routes.items():
        if route.into != UPSTREAM and route.into not in consumers:
            hint = did_you_mean(route.into, consumers)
            place = y.node_at(node, "edge", "routes", name, "into")
            raise Wrong(place, f"{quoted(route.into)} is no consumer of the load{hint}")
    for consumer in consumers:
        if all(route.into != consumer for route in routes.values()):
            raise Wrong(y.node_at(node, "load", "consumers", consumer), "no route leads here")
    taken = {*scenario.load.publisher_names, *BYSTANDERS, *PARTS}
    for group in ("edge", "load"):
        names = scenario.edge.modules if group == "edge" else consumers
        for name in names:
            if name in taken:
                place = y.node_at(node, group, "modules" if group == "edge" else "consumers", name)
                raise Wrong(place, f"the name {quoted(name)} is taken by the scenario itself")
            taken.add(name)
    if scenario.load.over == "amqp" and len(scenario.outputs) > 1:
        raise Wrong(y.node_at(node, "load", "over"), "over AMQP all routes have one output")
    upstream = [route.output for route in routes.values() if route.into == UPSTREAM]
    if len(set(upstream)) < len(upstream):
        raise Wrong(y.node_at(node, "edge", "routes"), "two routes lead from one output to the cloud")


def _check_steps(node: y.Node, scenario: Scenario) -> None:
    names = (
        *PARTS,
        *BYSTANDERS,
        *scenario.edge.modules,
    )
    images = {module.image for module in scenario.edge.modules.values()}
    containers = tuple(name for name, module in scenario.edge.modules.items() if module.image)
    clients = (*scenario.load.publisher_names, *scenario.load.consumers)
    steps = y.node_at(node, "steps")
    for step, item in zip(scenario.steps, steps.value, strict=True):
        kind = FAULTS[step.fault]
        if kind.needs_line and scenario.edge.cloud != "behind a line":
            place = y.node_at(item, "fault")
            raise Wrong(place, f"`{kind.name}` needs an edge with `cloud: behind a line`")
        if kind.needs_disk and not scenario.edge.disk_bytes:
            raise Wrong(y.node_at(item, "fault"), f"`{kind.name}` needs an edge with `disk`, such as 8 MB")
        if kind.name == "power cut" and scenario.edge.disk_bytes:
            place = y.node_at(node, "edge", "disk")
            raise Wrong(place, "`power cut` is about the disk of the home; leave out `disk`")
        if kind.name == "slow pull" and SLOW not in images:
            raise Wrong(y.node_at(item, "fault"), f"`slow pull` needs a module with `image: {SLOW}`")
        for key, known in (("who", names), ("client", clients), ("module", containers)):
            wanted = step.values.get(key) or ()
            for name in (wanted,) if isinstance(wanted, str) else wanted:
                if name not in known:
                    hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                    raise Wrong(y.node_at(item, key), f"{quoted(name)} is not known{hint}")


def _check_expectations(node: y.Node, scenario: Scenario) -> None:
    expect = y.node_at(node, "expect")
    for one in scenario.expect:
        place = y.node_at(expect, one.name)
        try:
            EXPECTATIONS[one.name].check(scenario, one.value)
        except ConfigError as exc:
            raise Wrong(place, str(exc)) from None
