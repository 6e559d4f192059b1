"""Each way to get a manifest wrong, with the exact words that the user reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.manifest.deployment import parse_deployment
from actors.manifest.json_reader import MAX_MANIFEST_BYTES
from messaging.errors import ConfigError, DeploymentError
from tests.actors.manifests import (
    AGENT,
    AT_AGENT,
    AT_HUB,
    AT_PUMP,
    AT_SENSOR,
    HUB,
    REMOVED,
    SENSOR,
    manifest,
    manifest_text,
)

PUMP = (*AGENT, "modules", "pump")
RUNTIME = (*AGENT, "runtime")
SYSTEM = (*AGENT, "systemModules")
CREDENTIAL = (*RUNTIME, "settings", "registryCredentials", "acr")
AT_CREDENTIAL = f"{AT_AGENT}.runtime.settings.registryCredentials.acr"
AT_SENSOR_TWIN = "d.json: $.modulesContent.sensor['properties.desired']"
TWIN = ("modulesContent", "sensor", "properties.desired")
STORE = (*HUB, "storeAndForwardConfiguration")
POLICIES = '"never", "on-failure", "on-unhealthy", "always"'
SURROGATE = "holds half of a surrogate pair, which is not a character"


def refusal(content: bytes | str) -> DeploymentError:
    with pytest.raises(DeploymentError) as caught:
        parse_deployment(content, "d.json")
    return caught.value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", 'd.json: the file is empty; it has to hold {"modulesContent": {…}}'),
        (" \n\t", 'd.json: the file is empty; it has to hold {"modulesContent": {…}}'),
        ("hello", "d.json: not JSON at line 1, column 1: Expecting value"),
        ('{\n  "a": 1\n  "b": 2\n}', "d.json: not JSON at line 3, column 3: Expecting ',' delimiter"),
        ('{"a": 1', "d.json: not JSON at line 1, column 8: Expecting ',' delimiter"),
        ("{} {}", "d.json: not JSON at line 1, column 4: Extra data"),
        ("[NaN]", "d.json: not JSON: NaN is not a number in JSON"),
        (b'{"a": "\xff"}', "d.json: not UTF-8: byte 0xff at offset 7; save it as UTF-8"),
        ("[]", 'd.json: expected an object {"modulesContent": {…}}, got an array'),
        ('{"content": 5}', 'd.json: $.content: expected an object {"modulesContent": {…}}, got a number'),
        ("{}", 'd.json: "modulesContent" is missing; a deployment manifest is {"modulesContent": {…}}'),
        (
            '{"modulesContents": {}}',
            "d.json: \"modulesContent\" is missing; is 'modulesContents' a misspelling of it?",
        ),
        ('{"modulesContent": 5}', "d.json: $.modulesContent: expected an object, got a number"),
        (
            '{"modulesContent": {}}',
            'd.json: $.modulesContent: "$edgeAgent" is missing; it says which modules to run',
        ),
        (
            '{"modulesContent": {"$edgeAgent": {"properties.desired": {}}}}',
            f"{AT_AGENT}: the desired properties are empty; there is nothing to deploy",
        ),
        ('{"a": {"b": 1, "b": 2}}', "d.json: $.a: the key 'b' is given twice; only one of them can count"),
        ('{"b": 1, "c": 3, "b": 2}', "d.json: the key 'b' is given twice; only one of them can count"),
        ("[" * 100_000, "d.json: nested deeper than 64 levels"),
        ('{"a":' * 80 + "1" + "}" * 80, f"d.json: ${'.a' * 16}…: nested deeper than 64 levels"),
        ('{"a": 1e999}', "d.json: $.a: the number 1e999 is too large"),
        ('{"a": 18446744073709551616}', "d.json: $.a: the number 18446744073709551616 is too large"),
        ('{"a": ' + "9" * 5000 + "}", f"d.json: $.a: the number {'9' * 59}… is too large"),
        ('{"a": "\\ud800"}', f"d.json: $.a: the text {SURROGATE}"),
        ('{"a": {"\\udc00": 1}}', f"d.json: $.a: a key {SURROGATE}"),
        (
            " " * (MAX_MANIFEST_BYTES + 1),
            "d.json: 4194305 bytes; a manifest may have at most 4194304",
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str | bytes) else None,
)
def test_a_file_that_is_no_manifest_is_refused(content: bytes | str, message: str) -> None:
    assert str(refusal(content)) == message


@pytest.mark.parametrize(
    ("version", "problem", "code"),
    [
        *(
            (version, f'schema version "{version}" is not supported; supported: 1.0 and 1.1', 412)
            for version in ["0.1", "1", "1.1.1", "1.1.0.0", "1.2", "2.0", "2.0.1", "", "abc", "1.0-beta"]
        ),
        (REMOVED, None, 400),
        (None, 'null is not allowed; write "schemaVersion": "1.1"', 400),
        (1.1, 'expected a string, got a number; put it in quotes: "1.1"', 400),
        (1, "expected a string, got a number", 400),
    ],
    ids=lambda value: "left out" if value is REMOVED else repr(value),
)
def test_schema_versions_that_are_refused(version: Any, problem: str | None, code: int) -> None:
    """Source: agent.md section 8, row 64."""
    # section 1.4, the decision table, and row 64
    error = refusal(manifest_text(((*AGENT, "schemaVersion"), version)))

    if problem is None:
        assert str(error) == f'{AT_AGENT}: "schemaVersion" is missing; write "schemaVersion": "1.1"'
    else:
        assert str(error) == f"{AT_AGENT}.schemaVersion: {problem}"
    assert error.code == code


@pytest.mark.parametrize("version", ["0.9", "1", "1.4", "2.0", ""])
def test_schema_versions_of_the_hub_that_are_refused(version: str) -> None:
    assert str(refusal(manifest_text(((*HUB, "schemaVersion"), version)))) == (
        f'{AT_HUB}.schemaVersion: schema version "{version}" is not supported; supported: 1.0 to 1.3'
    )


def test_empty_desired_properties_have_their_own_code() -> None:
    """Source: agent.md section 8, row 65."""
    assert refusal(manifest_text((AGENT, {}))).code == 417


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # $edgeAgent: missing, null and mistyped, level by level
        (AGENT, [], f"{AT_AGENT}: expected an object, got an array"),
        (
            AGENT,
            REMOVED,
            'd.json: $.modulesContent.$edgeAgent: "properties.desired" is missing; '
            'write "properties.desired": {…}',
        ),
        (
            RUNTIME,
            REMOVED,
            f'{AT_AGENT}: "runtime" is missing; write "runtime": {{"type": "docker", "settings": {{}}}}',
        ),
        (RUNTIME, 5, f"{AT_AGENT}.runtime: expected an object, got a number"),
        (
            (*RUNTIME, "type"),
            "Docker",
            f'{AT_AGENT}.runtime.type: "Docker" is not allowed; allowed: "docker"; did you mean "docker"?',
        ),
        ((*RUNTIME, "settings"), [], f"{AT_AGENT}.runtime.settings: expected an object, got an array"),
        (
            (*RUNTIME, "settings", "minDockerVersion"),
            1.25,
            f"{AT_AGENT}.runtime.settings.minDockerVersion: expected a string, got a number",
        ),
        ((*CREDENTIAL, "password"), 5, f"{AT_CREDENTIAL}.password: expected a string, got a number"),
        ((*CREDENTIAL, "password"), "  ", f"{AT_CREDENTIAL}.password: must not be blank"),
        (
            (*CREDENTIAL, "password"),
            None,
            f'{AT_CREDENTIAL}.password: null is not allowed; write "password": "…"',
        ),
        (
            (*CREDENTIAL, "username"),
            REMOVED,
            f'{AT_CREDENTIAL}: "username" is missing; write "username": "…"',
        ),
        (
            SYSTEM,
            REMOVED,
            f'{AT_AGENT}: "systemModules" is missing; '
            'write "systemModules": {"edgeAgent": {…}, "edgeHub": {…}}',
        ),
        (
            (*SYSTEM, "edgeHub", "status"),
            REMOVED,
            f'{AT_AGENT}.systemModules.edgeHub: "status" is missing; write "status": "running" or "stopped"',
        ),
        (
            (*SYSTEM, "edgeHub", "type"),
            "process",
            f'{AT_AGENT}.systemModules.edgeHub.type: "process" is not allowed; allowed: "docker"',
        ),
        (
            (*SYSTEM, "edgeAgent", "type"),
            REMOVED,
            f'{AT_AGENT}.systemModules.edgeAgent: "type" is missing; write "type": "docker"',
        ),
        ((*AGENT, "modules"), "x", f"{AT_AGENT}.modules: expected an object, got a string"),
        # one module
        (SENSOR, None, f"{AT_SENSOR}: expected an object, got null"),
        ((*SENSOR, "type"), REMOVED, f'{AT_SENSOR}: "type" is missing; write "type": "docker" or "process"'),
        (
            (*SENSOR, "type"),
            "proces",
            f'{AT_SENSOR}.type: "proces" is not allowed; allowed: "docker", "process"; '
            'did you mean "process"?',
        ),
        ((*SENSOR, "type"), 5, f'{AT_SENSOR}.type: 5 is not allowed; allowed: "docker", "process"'),
        ((*SENSOR, "settings"), REMOVED, f'{AT_SENSOR}: "settings" is missing; write "settings": {{…}}'),
        ((*SENSOR, "settings"), "x", f"{AT_SENSOR}.settings: expected an object, got a string"),
        (
            (*SENSOR, "status"),
            REMOVED,
            f'{AT_SENSOR}: "status" is missing; write "status": "running" or "stopped"',
        ),
        (
            (*SENSOR, "status"),
            "runing",
            f'{AT_SENSOR}.status: "runing" is not allowed; allowed: "running", "stopped", "unknown"; '
            'did you mean "running"?',
        ),
        (
            (*SENSOR, "restartPolicy"),
            "allways",
            f'{AT_SENSOR}.restartPolicy: "allways" is not allowed; allowed: {POLICIES}; '
            'did you mean "always"?',
        ),
        (
            (*SENSOR, "restartPolicy"),
            "on_failure",
            f'{AT_SENSOR}.restartPolicy: "on_failure" is not allowed; allowed: {POLICIES}; '
            'did you mean "on-failure"?',
        ),
        (
            (*SENSOR, "restartPolicy"),
            None,
            f"{AT_SENSOR}.restartPolicy: null is not allowed; allowed: {POLICIES}",
        ),
        ((*SENSOR, "restartPolicy"), 2, f"{AT_SENSOR}.restartPolicy: 2 is not allowed; allowed: {POLICIES}"),
        (
            (*SENSOR, "restartPolicy"),
            "x" * 5000,
            f'{AT_SENSOR}.restartPolicy: "{"x" * 59}…" is not allowed; allowed: {POLICIES}',
        ),
        (
            (*SENSOR, "imagePullPolicy"),
            "always",
            f'{AT_SENSOR}.imagePullPolicy: "always" is not allowed; allowed: "on-create", "never"',
        ),
        *(
            (
                (*SENSOR, "startupOrder"),
                value,
                f"{AT_SENSOR}.startupOrder: expected a whole number from 0 to 4294967295, got {shown}",
            )
            for value, shown in [
                (-1, "-1"),
                (4_294_967_296, "4294967296"),
                (1.0, "1.0"),
                ("first", '"first"'),
                (True, "true"),
                (None, "null"),
                ([], "an array"),
            ]
        ),
        ((*SENSOR, "version"), 2, f"{AT_SENSOR}.version: expected a string, got a number"),
        (
            (*SENSOR, "Status"),
            "stopped",
            f"{AT_SENSOR}.Status: the same property is already given as 'status'",
        ),
        # env: values may be secrets and are not shown
        ((*SENSOR, "env"), ["A=1"], f"{AT_SENSOR}.env: expected an object, got an array"),
        (
            (*SENSOR, "env", "KEY"),
            "hush",
            f'{AT_SENSOR}.env.KEY: expected an object {{"value": …}}, got a string',
        ),
        (
            (*SENSOR, "env", "KEY"),
            {"value": ["hush"]},
            f"{AT_SENSOR}.env.KEY.value: expected a string, a number, true or false, got an array",
        ),
        (
            (*SENSOR, "env", "KEY"),
            {"value": "hu\0sh"},
            f"{AT_SENSOR}.env.KEY.value: a NUL character cannot stand in an environment variable",
        ),
        (
            (*SENSOR, "env", "A B"),
            {"value": 1},
            f"{AT_SENSOR}.env['A B']: not a name for a variable; blanks and + # $ . = are not allowed",
        ),
        (
            (*SENSOR, "env", "IOTEDGE_DEVICEID"),
            {"value": 1},
            f"{AT_SENSOR}.env.IOTEDGE_DEVICEID: the edge itself sets this variable; "
            "remove it or choose another name",
        ),
        # processes
        (
            (*SENSOR, "settings"),
            {},
            f'{AT_SENSOR}.settings: "command" is missing; write "command": ["python3", "module.py"]',
        ),
        (
            (*SENSOR, "settings"),
            {"comand": "x"},
            f"{AT_SENSOR}.settings: \"command\" is missing; is 'comand' a misspelling of it?",
        ),
        *(
            (
                (*SENSOR, "settings", "command"),
                value,
                f"{AT_SENSOR}.settings.command: the command is empty; its first word is the program to run",
            )
            for value in ["", "  ", [], [""], [" ", "x"]]
        ),
        (
            (*SENSOR, "settings", "command"),
            5,
            f"{AT_SENSOR}.settings.command: expected an array of strings or one string, got a number",
        ),
        (
            (*SENSOR, "settings", "command"),
            ["python3", 5],
            f"{AT_SENSOR}.settings.command[1]: expected a string, got a number",
        ),
        (
            (*SENSOR, "settings", "command"),
            "python3 'sensor.py",
            f"{AT_SENSOR}.settings.command: cannot be split into words as a shell would: "
            "No closing quotation",
        ),
        (
            (*SENSOR, "settings", "command"),
            ["a\0b"],
            f"{AT_SENSOR}.settings: a NUL character cannot stand in a command or a path",
        ),
        (
            (*SENSOR, "settings", "workingDirectory"),
            " ",
            f"{AT_SENSOR}.settings.workingDirectory: must not be blank; "
            "leave it out to run in the folder of the deployment file",
        ),
        # containers: rows 53, 58, 59, 61, 63
        (
            (*PUMP, "settings", "image"),
            REMOVED,
            f'{AT_PUMP}.settings: "image" is missing; write "image": "registry/name:tag"',
        ),
        ((*PUMP, "settings", "image"), " ", f'{AT_PUMP}.settings.image: " ": the image name is blank'),
        *(
            (
                (*PUMP, "settings", "image"),
                image,
                f'{AT_PUMP}.settings.image: "{image}": not an image name of the form [registry/]name[:tag]',
            )
            for image in ["ea:t1:t2", "reg.io/ea:t1:t2", "img:tag@sha256:0f", "reg.io/", ":tag"]
        ),
        (
            (*PUMP, "settings", "image"),
            "$upstream:443/a:1",
            f"{AT_PUMP}.settings.image: \"$upstream:443/a:1\": '$upstream' stands for a parent edge, "
            "and this edge has none; name the registry",
        ),
        (
            (*PUMP, "settings", "image"),
            "$dummy:9000/a",
            f"{AT_PUMP}.settings.image: \"$dummy:9000/a\": an image name cannot start with '$'",
        ),
        (
            (*PUMP, "settings", "createOptions"),
            "{",
            f"{AT_PUMP}.settings.createOptions: not JSON at line 1, column 2: "
            "Expecting property name enclosed in double quotes",
        ),
        (
            (*PUMP, "settings", "createOptions"),
            "[]",
            f"{AT_PUMP}.settings.createOptions: expected the JSON text of an object, got an array",
        ),
        (
            (*PUMP, "settings", "createOptions"),
            '{"a": 1, "a": 2}',
            f"{AT_PUMP}.settings.createOptions: the key 'a' is given twice; only one of them can count",
        ),
        *(
            (
                (*PUMP, "settings", "createOptions"),
                {"env": value},
                f"{AT_PUMP}.settings.createOptions.env: expected an array, got {kind}",
            )
            for value, kind in [(10, "a number"), ("boo", "a string")]
        ),
        *(
            (
                (*PUMP, "settings", "createOptions"),
                {"HostConfig": {name: value}},
                f"{AT_PUMP}.settings.createOptions.HostConfig.{name}: expected {wanted}",
            )
            for name, value, wanted in [
                ("Binds", "/a:/b", "an array, got a string"),
                ("mounts", {}, "an array, got an object"),
                ("PortBindings", [], "an object, got an array"),
                ("NetworkMode", 1, "a string, got a number"),
            ]
        ),
        (
            (*PUMP, "settings", "createOptions"),
            5,
            f"{AT_PUMP}.settings.createOptions: expected a string of JSON text, got a number",
        ),
        (
            (*PUMP, "settings", "createOptions02"),
            "{}",
            f"{AT_PUMP}.settings.createOptions02: 'createOptions01' is missing before it; "
            "chunks are joined in order without a gap",
        ),
        (
            (*PUMP, "settings"),
            {"image": "p", "createOptions01": "{}"},
            f"{AT_PUMP}.settings.createOptions01: 'createOptions' is missing before it; "
            "chunks are joined in order without a gap",
        ),
        (
            (*PUMP, "settings", "createOptions00"),
            "{}",
            f"{AT_PUMP}.settings.createOptions00: chunks are numbered 01, 02, 03 …; the first has no number",
        ),
        (
            (*PUMP, "settings"),
            {"image": "p", "createOptions": "{", "createOptions1": "}", "createOptions01": "}"},
            f"{AT_PUMP}.settings.createOptions01: the same chunk is already given as 'createOptions1'",
        ),
        (
            (*PUMP, "settings"),
            {"image": "p", "createOptions": "{", **{f"createOptions{n:02}": " " for n in range(1, 101)}},
            f"{AT_PUMP}.settings.createOptions100: 101 chunks; at most 100 are allowed",
        ),
        # names
        *(
            (
                (*AGENT, "modules", name),
                {},
                f"{AT_AGENT}.modules{place}: not a module name; "
                "allowed: 1 to 128 letters, digits, '-' and '_'",
            )
            for name, place in [
                ("a b", "['a b']"),
                ("", "['']"),
                ("../x", "['../x']"),
                ("it's", "['it\\'s']"),
                ("é", "['é']"),
                ("a\x1b[2J\u202e", "['a\\x1b[2J\\u202e']"),
                ("x" * 129, f"['{'x' * 59}…']"),
            ]
        ),
        (
            (*AGENT, "modules", "edgeHub"),
            {},
            f"{AT_AGENT}.modules.edgeHub: 'edgeHub' belongs under systemModules; "
            "a module of your own needs another name",
        ),
        (
            ("modulesContent", "edgeagent"),
            {},
            "d.json: $.modulesContent.edgeagent: write the name as '$edgeAgent'",
        ),
        (
            ("modulesContent", "$edgeHubs"),
            {},
            "d.json: $.modulesContent.$edgeHubs: not a module name; allowed: $edgeAgent, $edgeHub, "
            "or 1 to 128 letters, digits, '-' and '_'; did you mean '$edgeHub'?",
        ),
        # $edgeHub
        ((*HUB, "routes"), REMOVED, f'{AT_HUB}: "routes" is missing; write "routes": {{}}'),
        ((*HUB, "routes"), [], f"{AT_HUB}.routes: expected an object, got an array"),
        ((*HUB, "routes", " "), "FROM /* INTO $upstream", f"{AT_HUB}.routes[' ']: a route needs a name"),
        (
            (*HUB, "routes", "up"),
            5,
            f'{AT_HUB}.routes.up: expected a string such as "FROM /messages/* INTO $upstream", '
            "or an object, got a number",
        ),
        (
            (*HUB, "routes", "hot", "priority"),
            10,
            f"{AT_HUB}.routes.hot.priority: expected a whole number from 0 to 9, got 10",
        ),
        (
            (*HUB, "routes", "hot", "timeToLiveSecs"),
            -1,
            f"{AT_HUB}.routes.hot.timeToLiveSecs: expected a whole number from 0 to 4294967295, got -1",
        ),
        (
            STORE,
            REMOVED,
            f'{AT_HUB}: "storeAndForwardConfiguration" is missing; '
            'write "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}',
        ),
        (
            STORE,
            {},
            f'{AT_HUB}.storeAndForwardConfiguration: "timeToLiveSecs" is missing; '
            'write "timeToLiveSecs": 7200',
        ),
        (
            (*STORE, "storeLimits"),
            {"maxSizeBytes": 0},
            f"{AT_HUB}.storeAndForwardConfiguration.storeLimits.maxSizeBytes: "
            "expected a whole number from 1 to 9223372036854775807, got 0",
        ),
        (
            (*STORE, "storeLimits"),
            {"whenFull": "drop-newest"},
            f"{AT_HUB}.storeAndForwardConfiguration.storeLimits.whenFull: "
            '"drop-newest" is not allowed; allowed: "reject", "drop-oldest"; did you mean "drop-oldest"?',
        ),
        # twins and layers
        (TWIN, "x", f"{AT_SENSOR_TWIN}: expected an object, got a string"),
        (
            ("modulesContent", "extra"),
            {"properties.desired.a": 1},
            "d.json: $.modulesContent.extra['properties.desired.a']: sets a part of the desired properties, "
            "and the file has no 'properties.desired' to lay it over; "
            "merge the layered deployment with its base first",
        ),
        (
            ("modulesContent", "sensor", "properties.desired.limits.high.x"),
            1,
            "d.json: $.modulesContent.sensor['properties.desired.limits.high.x']: "
            "'limits.high' in 'properties.desired' is not an object",
        ),
        (
            ("modulesContent", "sensor", "properties.desired.a..b"),
            1,
            "d.json: $.modulesContent.sensor['properties.desired.a..b']: a part of the path is empty",
        ),
        (
            ("modulesContent", "$edgeAgent", "properties.desired.modules.sensor.restartPolicy"),
            "allways",
            "d.json: $.modulesContent.$edgeAgent['properties.desired.modules.sensor.restartPolicy']: "
            f'"allways" is not allowed; allowed: {POLICIES}; did you mean "always"?',
        ),
    ],
    ids=lambda value: ".".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_one_wrong_place_is_named_with_its_value_and_what_is_allowed(
    path: tuple[str, ...], value: Any, message: str
) -> None:
    """Source: agent.md section 8, rows 53, 58, 59 and 61 to 63; there is no parent."""
    error = refusal(manifest_text((path, value)))

    assert str(error) == message
    assert error.code == 400
    assert "hush" not in str(error)


def test_a_module_that_is_given_twice_is_not_lost_silently() -> None:
    module = '"sensor": {"type": "process", "status": "running", "settings": {"command": "x"}}'
    content = manifest_text(((*AGENT, "modules"), {"PLACE": 0})).replace('"PLACE": 0', f"{module}, {module}")

    assert str(refusal(content)) == (
        f"{AT_AGENT}.modules: the key 'sensor' is given twice; only one of them can count"
    )


def test_a_deployment_error_is_a_configuration_error() -> None:
    assert isinstance(refusal(b""), ConfigError)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_value_in_any_place_gives_a_deployment_or_a_named_error(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(_paths(AGENT) | _paths(HUB) | {TWIN})))
    content = manifest_text((path, data.draw(_ANYTHING)))

    try:
        outcome = parse_deployment(content, "d.json").schema_version
    except DeploymentError as exc:
        outcome = str(exc)

    assert outcome.startswith(("1.", "d.json: $.modulesContent"))


@given(st.binary(max_size=64))
def test_random_bytes_are_refused(content: bytes) -> None:
    assert str(refusal(content)).startswith("d.json: ")


def _paths(root: tuple[str, ...]) -> set[tuple[str, ...]]:
    value: Any = manifest()
    for key in root:
        value = value[key]
    waiting, found = [(root, value)], set()
    while waiting:
        path, item = waiting.pop()
        found.add(path)
        if isinstance(item, dict):
            waiting += [((*path, key), below) for key, below in item.items()]
    return found
