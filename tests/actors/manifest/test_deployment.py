"""What a good manifest means. Source: spec sheet agent.md sections 1.1 to 1.5 and 8.5."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.manifest.deployment import Deployment, parse_deployment
from actors.manifest.hub_manifest import LOWEST_PRIORITY, RouteSpec, StoreFullPolicy
from actors.manifest.module_spec import (
    LAST_STARTUP_ORDER,
    BuiltInSettings,
    DesiredStatus,
    DockerSettings,
    ImagePullPolicy,
    ModuleSpec,
    ProcessSettings,
    RestartPolicy,
)
from actors.manifest.registries import RegistryCredential
from tests.actors.manifests import (
    AGENT,
    AT_AGENT,
    AT_HUB,
    AT_SENSOR,
    HUB,
    REMOVED,
    SENSOR,
    manifest,
    manifest_text,
)

PUMP = (*AGENT, "modules", "pump")


def parsed(*changes: tuple[tuple[str, ...], Any]) -> Deployment:
    return parse_deployment(manifest_text(*changes), "d.json")


def test_a_manifest_is_read_field_by_field() -> None:
    deployment = parsed()

    assert deployment.schema_version == "1.1"
    assert deployment.runtime.min_docker_version == "v1.25"
    assert deployment.runtime.registry_credentials == {
        "acr": RegistryCredential("reg.example:5000", "u", "hush")
    }
    assert deployment.modules["sensor"] == ModuleSpec(
        name="sensor",
        settings=ProcessSettings(("python3", "sensor.py")),
        status=DesiredStatus.RUNNING,
        restart_policy=RestartPolicy.ALWAYS,
        image_pull_policy=ImagePullPolicy.ON_CREATE,
        startup_order=1,
        env={"INTERVAL_S": "1.5"},
    )
    assert deployment.modules["sensor"].type == "process"
    assert deployment.hub.routes == {
        "up": RouteSpec("FROM /messages/* INTO $upstream", LOWEST_PRIORITY, 0),
        "hot": RouteSpec("FROM /messages/modules/sensor/* INTO $upstream", 0, 60),
    }
    assert (deployment.hub.time_to_live_s, deployment.hub.max_size_bytes) == (7200, None)
    assert deployment.twins.keys() == {"sensor", "$edgeHub"}
    assert deployment.twins["sensor"] == {"limits": {"high": 90.0}}
    assert deployment.twins["$edgeHub"]["schemaVersion"] == "1.1"
    assert list(deployment.supervised) == ["edgeHub", "sensor", "pump"]
    assert deployment.warnings == ()


def test_what_a_module_does_not_say_has_a_default() -> None:
    """Source: agent.md section 8, row 54."""
    assert parsed().modules["pump"] == ModuleSpec(
        name="pump",
        settings=DockerSettings("reg.example:5000/pump:latest", '{"Hostname":"p"}'),
        status=DesiredStatus.STOPPED,
        restart_policy=RestartPolicy.ON_UNHEALTHY,
        image_pull_policy=ImagePullPolicy.ON_CREATE,
        startup_order=LAST_STARTUP_ORDER,
        version="",
        env={},
    )


@pytest.mark.parametrize(
    "wrap",
    [lambda form: form, lambda form: {"content": form, "metrics": {}, "id": "x"}],
    ids=["modulesContent", "content"],
)
def test_both_file_forms_mean_the_same(wrap: Any) -> None:
    assert parse_deployment(json.dumps(wrap(manifest())), "d.json") == parsed()


def test_the_deprecated_spelling_is_accepted_with_a_warning() -> None:
    old = json.dumps({"content": {"moduleContent": manifest()["modulesContent"]}})

    deployment = parse_deployment(old, "d.json")

    assert deployment.modules == parsed().modules
    assert deployment.warnings == (
        "d.json: $.content.moduleContent: deprecated spelling; write 'modulesContent'",
    )


def test_bytes_with_a_byte_order_mark_are_read_like_text() -> None:
    assert parse_deployment(b"\xef\xbb\xbf" + manifest_text().encode(), "d.json") == parsed()


def test_images_of_edge_agent_and_edge_hub_are_kept_and_never_an_error() -> None:
    system = (*AGENT, "systemModules")

    deployment = parsed(
        ((*system, "edgeAgent", "settings"), REMOVED),
        ((*system, "edgeHub", "settings", "image"), "$upstream:443/a:b:c"),
    )

    assert deployment.edge_agent is not None
    assert deployment.edge_agent.settings == BuiltInSettings("")
    assert deployment.edge_hub is not None
    assert deployment.edge_hub.settings == BuiltInSettings("$upstream:443/a:b:c")


def test_status_policy_and_order_of_edge_agent_are_fixed() -> None:
    agent = {"type": "docker", "status": "stopped", "restartPolicy": "never", "startupOrder": 7}

    spec = parsed(((*AGENT, "systemModules", "edgeAgent"), agent)).edge_agent

    assert spec is not None
    assert (spec.status, spec.restart_policy, spec.startup_order) == ("running", "always", 0)


def test_edge_hub_restarts_always_unless_told_otherwise() -> None:
    hub = {"type": "docker", "status": "running"}

    spec = parsed(((*AGENT, "systemModules", "edgeHub"), hub)).edge_hub

    assert spec is not None
    assert (spec.restart_policy, spec.startup_order) == ("always", LAST_STARTUP_ORDER)


def test_a_manifest_may_leave_out_what_the_edge_has_anyway() -> None:
    deployment = parsed(
        ((*AGENT, "systemModules"), {}),
        ((*AGENT, "modules"), REMOVED),
        ((*AGENT, "runtime", "settings"), REMOVED),
        (("modulesContent", "$edgeHub"), REMOVED),
        (("modulesContent", "sensor"), REMOVED),
    )

    assert (deployment.edge_agent, deployment.edge_hub, deployment.modules) == (None, None, {})
    assert deployment.supervised == {}
    assert deployment.warnings == (
        "d.json: $.modulesContent: without '$edgeHub' there are no routes, so no message goes anywhere",
    )


# --- Names in any case (row 52) and spellings of enums ---


def test_property_names_are_found_in_any_case() -> None:
    """Source: agent.md section 8, row 52."""
    sensor = {
        "TYPE": "process",
        "Status": "running",
        "RestartPolicy": "always",
        "startuporder": 1,
        "ENV": {"INTERVAL_S": {"Value": 1.5}},
        "Settings": {"COMMAND": ["python3", "sensor.py"]},
    }

    deployment = parsed((SENSOR, sensor))

    assert deployment.modules["sensor"] == parsed().modules["sensor"]
    assert deployment.warnings == ()


@pytest.mark.parametrize(
    ("field", "written", "meaning"),
    [
        ("restartPolicy", "On-Failure", "on-failure"),
        ("restartPolicy", "OnFailure", "on-failure"),
        ("restartPolicy", "onunhealthy", "on-unhealthy"),
        ("restartPolicy", "NEVER", "never"),
        ("imagePullPolicy", "OnCreate", "on-create"),
        ("imagePullPolicy", "Never", "never"),
        ("status", "Running", "running"),
        ("status", "STOPPED", "stopped"),
        ("status", "unknown", "unknown"),  # row 55
    ],
)
def test_enum_values_are_read_in_any_case_and_by_member_name(field: str, written: str, meaning: str) -> None:
    """Source: agent.md section 8, row 55."""
    spec = parsed(((*SENSOR, field), written)).modules["sensor"]

    assert meaning in (spec.restart_policy, spec.image_pull_policy, spec.status)


# --- env, command, images, createOptions ---


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('{"value": "a b"}', "a b"),
        ('{"value": 5}', "5"),
        ('{"value": 1.50}', "1.50"),
        ('{"value": 1e3}', "1e3"),
        ('{"value": true}', "true"),
        ('{"value": false}', "false"),
        ('{"value": null}', ""),
        ("{}", ""),
    ],
)
def test_an_environment_value_keeps_the_form_it_is_written_in(written: str, text: str) -> None:
    content = manifest_text(((*SENSOR, "env"), {"RATE": "PLACE"})).replace('"PLACE"', written)

    assert parse_deployment(content, "d.json").modules["sensor"].env == {"RATE": text}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["python3", "a b.py", ""], ("python3", "a b.py", "")),
        ("python3 sensor.py", ("python3", "sensor.py")),
        ("python3 'a b.py' --x=\"1 2\" a\\ b", ("python3", "a b.py", "--x=1 2", "a b")),
        ("./run  # x", ("./run", "#", "x")),
    ],
)
def test_a_command_is_a_list_or_a_string_split_as_a_shell_would(
    command: object, words: tuple[str, ...]
) -> None:
    settings = {"command": command, "workingDirectory": "../modules"}

    spec = parsed(((*SENSOR, "settings"), settings)).modules["sensor"]

    assert spec.settings == ProcessSettings(words, "../modules")


@pytest.mark.parametrize(
    ("written", "normalized"),
    [
        ("ubuntu", "ubuntu:latest"),
        (" ubuntu ", "ubuntu:latest"),
        ("ea:t1", "ea:t1"),
        ("localhost:9000/ea", "localhost:9000/ea:latest"),
        ("reg.io/x/ea:t1", "reg.io/x/ea:t1"),
        ("img@sha256:0f", "img@sha256:0f"),  # compared by image_digest.py before it is started
    ],
)
def test_images_are_brought_into_one_form(written: str, normalized: str) -> None:
    """Source: agent.md section 8, row 61."""
    settings = parsed(((*PUMP, "settings", "image"), written)).modules["pump"].settings

    assert settings == DockerSettings(normalized, '{"Hostname":"p"}')


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({}, "{}"),
        ({"createOptions": ""}, "{}"),
        ({"createOptions": "  "}, "{}"),
        ({"createOptions": None}, "{}"),
        ({"createOptions": "null"}, "{}"),
        ({"createOptions": "{}"}, "{}"),
        ({"createOptions": {"Env": ["A=é"]}}, '{"Env":["A=é"]}'),
        ({"createOptions": ' {"a": 1.50, "DeviceRequests": [{}]} '}, '{"a":1.5,"DeviceRequests":[{}]}'),
        ({"createOptions02": "2}", "createOptions": '{"a"', "createOptions01": ": 1"}, '{"a":12}'),
        ({"CREATEOPTIONS": '{"a"', "createoptions1": ": 1}"}, '{"a":1}'),
    ],
)
def test_create_options_are_joined_and_kept(written: dict[str, Any], text: str) -> None:
    """Source: agent.md section 8, rows 56, 57 and 67."""
    deployment = parsed(((*PUMP, "settings"), {"image": "pump", **written}))

    assert deployment.modules["pump"].settings == DockerSettings("pump:latest", text)
    assert deployment.warnings == ()


def test_a_hundred_chunks_are_joined_in_the_order_of_their_numbers() -> None:
    """Source: agent.md section 8, row 60."""
    text = json.dumps(
        {"Labels": {f"label{number}": "x" * 40 for number in range(900)}}, separators=(",", ":")
    )
    pieces = [text[start : start + 512] for start in range(0, len(text), 512)]
    assert 90 < len(pieces) <= 100
    chunks = {
        f"createOptions{number:02}" if number else "createOptions": p for number, p in enumerate(pieces)
    }

    settings = parsed(((*PUMP, "settings"), {"image": "pump", **chunks})).modules["pump"].settings

    assert settings == DockerSettings("pump:latest", text)


# --- schemaVersion, routes, layers ---


@pytest.mark.parametrize("version", ["1.0", "1.0.5", "1.1", "1.1.0", " 1.1 "])
def test_schema_versions_that_are_supported(version: str) -> None:
    """Source: agent.md section 8, row 64."""
    # 1.0 with startupOrder is accepted: row 64
    assert parsed(((*AGENT, "schemaVersion"), version)).modules["sensor"].startup_order == 1


@pytest.mark.parametrize("version", ["1.0", "1.1.0", "1.2", "1.3", "1.3.9"])
def test_schema_versions_of_the_hub_that_are_supported(version: str) -> None:
    assert parsed(((*HUB, "schemaVersion"), version)).hub.schema_version == version


def test_routes_are_kept_as_text_even_when_they_do_not_parse() -> None:
    routes = {"bad": "FORM /x", "a.b": {"route": "FROM /* INTO $upstream", "priority": 2_000_000_000}}

    assert parsed(((*HUB, "routes"), routes)).hub.routes == {
        "bad": RouteSpec("FORM /x"),
        "a.b": RouteSpec("FROM /* INTO $upstream"),
    }


@pytest.mark.parametrize("route", ["", "  ", None, {"route": ""}, {"priority": 1}], ids=repr)
def test_an_empty_route_is_left_out_with_a_warning(route: object) -> None:
    deployment = parsed(((*HUB, "routes"), {"none": route}))

    assert deployment.hub.routes == {}
    assert deployment.warnings == (f"{AT_HUB}.routes.none: the route is empty and left out",)


def test_routes_may_be_missing_in_version_1_0() -> None:
    deployment = parsed(((*HUB, "schemaVersion"), "1.0"), ((*HUB, "routes"), REMOVED))

    assert deployment.hub.routes == {}


def test_store_limits_and_endless_time_to_live_are_read() -> None:
    store = {"timeToLiveSecs": -1, "storeLimits": {"maxSizeBytes": 1_000_000}}

    hub = parsed(((*HUB, "storeAndForwardConfiguration"), store)).hub

    assert (hub.time_to_live_s, hub.max_size_bytes) == (-1, 1_000_000)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, StoreFullPolicy.REJECT),
        ("reject", StoreFullPolicy.REJECT),
        ("drop-oldest", StoreFullPolicy.DROP_OLDEST),
        ("dropOldest", StoreFullPolicy.DROP_OLDEST),
    ],
)
def test_what_happens_without_space_is_read(written: str | None, expected: StoreFullPolicy) -> None:
    limits = {"maxSizeBytes": 1} if written is None else {"whenFull": written}

    hub = parsed(((*HUB, "storeAndForwardConfiguration", "storeLimits"), limits)).hub

    assert hub.when_full is expected


def test_sub_paths_are_laid_over_the_base_of_the_same_file_in_order() -> None:
    extra = {"type": "process", "status": "running", "settings": {"command": "x"}}

    deployment = parsed(
        (("modulesContent", "$edgeAgent", "properties.desired.modules.extra"), extra),
        (("modulesContent", "$edgeHub", "properties.desired.routes.r9"), "FROM /* INTO $upstream"),
        (("modulesContent", "sensor", "properties.desired.limits.low"), 5),
        (("modulesContent", "sensor", "properties.desired.a"), {"b": 1}),
        (("modulesContent", "sensor", "properties.desired.a.c"), 2),
        (("modulesContent", "sensor", "properties.desired.new.deep"), 3),
    )

    assert deployment.modules["extra"].settings == ProcessSettings(("x",))
    assert deployment.hub.routes["r9"] == RouteSpec("FROM /* INTO $upstream")
    assert deployment.twins["sensor"] == {
        "limits": {"high": 90.0, "low": 5},
        "a": {"b": 1, "c": 2},
        "new": {"deep": 3},
    }


# --- Warnings and secrets ---


@pytest.mark.parametrize(
    ("path", "value", "warning"),
    [
        (
            (*SENSOR, "imagePulPolicy"),
            "never",
            f"{AT_SENSOR}.imagePulPolicy: unknown property is ignored; did you mean 'imagePullPolicy'?",
        ),
        ((*SENSOR, "zzz"), 1, f"{AT_SENSOR}.zzz: unknown property is ignored"),
        (
            (*SENSOR, "settings", "image"),
            "x",
            f"{AT_SENSOR}.settings.image: unknown property is ignored",
        ),
        (
            (*AGENT, "module"),
            {},
            f"{AT_AGENT}.module: unknown property is ignored; did you mean 'modules'?",
        ),
        (
            (*AGENT, "integrity"),
            {},
            f"{AT_AGENT}.integrity: has no effect: manifest signatures are not checked",
        ),
        (
            (*HUB, "mqttBroker"),
            {},
            f'{AT_HUB}.mqttBroker: has no effect below schema version 1.2; write "schemaVersion": "1.2"',
        ),
        (
            ("modulesContent", "sensr"),
            {"properties.desired": {}},
            "d.json: $.modulesContent.sensr['properties.desired']: kept for the twin of 'sensr', which is no "
            "module of this deployment; did you mean 'sensor'?",
        ),
        (
            ("modulesContent", "sensor", "properties.desird"),
            {},
            "d.json: $.modulesContent.sensor['properties.desird']: unknown property is ignored; "
            "did you mean 'properties.desired'?",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_is_ignored_is_named_with_the_nearest_valid_name(
    path: tuple[str, ...], value: object, warning: str
) -> None:
    assert parsed((path, value)).warnings == (warning,)


def test_warnings_have_a_limit() -> None:
    many = {f"x{number}": 1 for number in range(20_000)}

    hub = manifest()["modulesContent"]["$edgeHub"]["properties.desired"]

    assert len(parsed((HUB, hub | many)).warnings) == 100


def test_what_iot_hub_adds_to_a_module_is_no_reason_for_a_warning() -> None:
    assert parsed(((*SENSOR, "configuration"), {"id": "fleet-7"})).warnings == ()


def test_secrets_do_not_show_when_a_deployment_is_printed() -> None:
    deployment = parsed(
        ((*SENSOR, "env"), {"KEY": {"value": "hush-env"}}),
        ((*PUMP, "settings", "createOptions"), '{"Env": ["A=hush-options"]}'),
        (("modulesContent", "sensor", "properties.desired"), {"token": "hush-twin"}),
    )

    assert "hush" not in repr(deployment)


@pytest.mark.parametrize(
    ("written", "digest"),
    [(REMOVED, ""), (None, ""), (" sha256:0f ", "sha256:0f")],
    ids=["absent", "null", "with blanks"],
)
def test_a_digest_pins_an_image_when_there_is_one(written: Any, digest: str) -> None:
    changes = [] if written is REMOVED else [((*PUMP, "settings", "digest"), written)]

    settings = parsed(*changes).modules["pump"].settings

    assert isinstance(settings, DockerSettings)
    assert settings.digest == digest
