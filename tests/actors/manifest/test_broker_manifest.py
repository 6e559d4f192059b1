"""`mqttBroker` of a deployment: what is taken, and the exact words for what is not.

The numbers are rows of the spec sheet broker.md, section 14.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.broker.settings import SetBroker, set_broker, spec_in
from actors.manifest.hub_manifest import HubSettings, parse_hub_desired
from messaging.broker.bridges import Bridge, BridgeRule, Direction
from messaging.broker.config import BrokerSpec
from messaging.broker.policy import Operation, Rule
from messaging.errors import DeploymentError

CONNECT, PUBLISH, SUBSCRIBE = Operation.CONNECT, Operation.PUBLISH, Operation.SUBSCRIBE
ANYBODY = ["{{iot:identity}}"]
AUTHORIZATIONS = "$edgeHub, version 5: $.mqttBroker.authorizations: Error validating authorization policy: "
BRIDGES = "$edgeHub, version 5: $.mqttBroker.bridges: Error validating bridge configuration: "
AT = "$.mqttBroker.authorizations"


def hub(broker: object, version: str = "1.2") -> HubSettings:
    desired = {
        "schemaVersion": version,
        "routes": {},
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
        "mqttBroker": broker,
    }
    return parse_hub_desired(json.dumps(desired).encode(), 5)


def spec(broker: object) -> BrokerSpec:
    found = hub(broker).broker
    assert found is not None
    return found


def refusal(broker: object) -> str:
    with pytest.raises(DeploymentError) as caught:
        hub(broker)
    assert caught.value.code == 400
    return str(caught.value)


def statement(**rule: object) -> dict[str, Any]:
    return {"authorizations": [{"identities": ANYBODY, "allow": [rule]}]}


def test_rules_are_in_the_order_in_which_they_count() -> None:
    found = spec(
        {
            "authorizations": [
                {"identities": ANYBODY, "allow": [{"operations": ["mqtt:connect"]}]},
                {
                    "identities": ["h1.azure-devices.net/dev1/sensor", "dev1/pump"],
                    "allow": [{"operations": ["mqtt:publish"], "resources": ["alerts/{{iot:device_id}}/#"]}],
                    "deny": [
                        {
                            "operations": ["mqtt:subscribe", "mqtt:publish"],
                            "resources": ["alerts/+/test", "x"],
                        }
                    ],
                },
            ]
        }
    )

    two = ("h1.azure-devices.net/dev1/sensor", "dev1/pump")
    assert found == BrokerSpec(
        (
            Rule(True, ("{{iot:identity}}",), (CONNECT,)),
            Rule(False, two, (PUBLISH, SUBSCRIBE), ("alerts/+/test", "x")),
            Rule(True, two, (PUBLISH,), ("alerts/{{iot:device_id}}/#",)),
        )
    )


@pytest.mark.parametrize("broker", [{}, {"authorizations": []}, {"authorizations": None, "bridges": None}])
def test_a_section_without_rules_is_a_broker_at_which_nobody_may_do_anything(broker: object) -> None:
    assert spec(broker) == BrokerSpec()


def test_without_a_section_there_is_no_broker() -> None:
    assert hub(None).broker is None


@pytest.mark.parametrize("version", ["1.2", "1.2.0", "1.3"])
def test_the_section_is_read_from_schema_version_1_2_on(version: str) -> None:
    assert hub({}, version).broker == BrokerSpec()


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.1.0"])
def test_24_an_earlier_schema_version_does_not_read_a_section_however_bad(version: str) -> None:
    assert hub({"authorizations": 5}, version).broker is None


def test_23_to_connect_needs_no_resources() -> None:
    assert spec(statement(operations=["mqtt:connect"])).rules == (Rule(True, tuple(ANYBODY), (CONNECT,)),)


SUPPORTED = "List of supported operations: mqtt:publish, mqtt:subscribe, mqtt:connect"
OPERATIONS, RESOURCES = f"{AT}[0].allow[0].operations", f"{AT}[0].allow[0].resources"
BAD_RULES: dict[str, tuple[object, str]] = {
    "no identities": (
        {"authorizations": [{"allow": []}]},
        f"Statement 0: Identities list must not be empty (at {AT}[0])",
    ),
    "empty identities": (
        {"authorizations": [{"identities": []}]},
        f"Statement 0: Identities list must not be empty (at {AT}[0].identities)",
    ),
    "empty identity": (
        {"authorizations": [{"identities": [""]}]},
        f"Statement 0: Identity name is invalid:  (at {AT}[0].identities[0])",
    ),
    "an identity that none can have": (
        {"authorizations": [{"identities": ANYBODY}, {"identities": ["ok", "h/d/+"]}]},
        f"Statement 1: Identity name is invalid: h/d/+ (at {AT}[1].identities[1])",
    ),
    "an identity of four parts": (
        {"authorizations": [{"identities": ["a/b/c/d"]}]},
        f"Statement 0: Identity name is invalid: a/b/c/d (at {AT}[0].identities[0])",
    ),
    "unknown variable of an identity": (
        {"authorizations": [{"identities": ["{{iot:identiy}}"]}]},
        "Statement 0: Invalid variable name: {{iot:identiy}}, did you mean {{iot:identity}}? "
        f"(at {AT}[0].identities[0])",
    ),
    "21: unknown variable of a resource": (
        statement(operations=["mqtt:publish"], resources=["a/{{x:yz}}/b"]),
        f"Statement 0: Invalid variable name: {{{{x:yz}}}} (at {RESOURCES}[0])",
    ),
    "unknown variable of an operation": (
        statement(operations=["{{zzz}}"], resources=["a"]),
        f"Statement 0: Invalid variable name: {{{{zzz}}}} (at {OPERATIONS}[0])",
    ),
    "no operations": (
        statement(resources=["a"]),
        f"Statement 0: Allow: Operations list must not be empty (at {AT}[0].allow[0])",
    ),
    "no operations to deny": (
        {"authorizations": [{"identities": ANYBODY, "deny": [{"operations": [], "resources": ["a"]}]}]},
        f"Statement 0: Deny: Operations list must not be empty (at {AT}[0].deny[0].operations)",
    ),
    "19: unknown operation": (
        statement(operations=["mqtt:pub"], resources=["a"]),
        f"Statement 0: Unknown mqtt operation: mqtt:pub. {SUPPORTED} (at {OPERATIONS}[0])",
    ),
    "operations in capitals": (
        statement(operations=["MQTT:Publish"], resources=["a"]),
        f"Statement 0: Unknown mqtt operation: MQTT:Publish. {SUPPORTED} (at {OPERATIONS}[0])",
    ),
    "23: to publish nothing": (
        statement(operations=["mqtt:publish"]),
        f"Statement 0: Allow: Resources list must not be empty (at {AT}[0].allow[0])",
    ),
    "to connect and to publish nothing": (
        statement(operations=["mqtt:connect", "mqtt:publish"], resources=[]),
        f"Statement 0: Allow: Resources list must not be empty (at {RESOURCES})",
    ),
    "20: # inside": (
        statement(operations=["mqtt:publish"], resources=["a/#/b"]),
        "Statement 0: Allow: Resource (topic filter) is invalid: a/#/b: topic filter 'a/#/b': "
        f"'#' must be the last level (at {RESOURCES}[0])",
    ),
    "# behind a name": (
        statement(operations=["mqtt:publish"], resources=["b", "a#"]),
        "Statement 0: Allow: Resource (topic filter) is invalid: a#: topic filter 'a#': "
        f"a wildcard must be a level of its own (at {RESOURCES}[1])",
    ),
    "+ beside a variable": (
        statement(operations=["mqtt:publish"], resources=["+{{iot:device_id}}"]),
        "Statement 0: Allow: Resource (topic filter) is invalid: +{{iot:device_id}}: topic filter '+x': "
        f"a wildcard must be a level of its own (at {RESOURCES}[0])",
    ),
    "22: two mistakes": (
        {
            "authorizations": [
                {"identities": []},
                {"identities": ANYBODY, "allow": [{"operations": ["mqtt:pub"], "resources": ["a"]}]},
            ]
        },
        f"Statement 0: Identities list must not be empty (at {AT}[0].identities); "
        f"Statement 1: Unknown mqtt operation: mqtt:pub. {SUPPORTED} (at {AT}[1].allow[0].operations[0])",
    ),
}


@pytest.mark.parametrize(("broker", "told"), BAD_RULES.values(), ids=BAD_RULES)
def test_a_bad_rule_is_refused_with_the_words_of_the_reference_and_its_path(
    broker: object, told: str
) -> None:
    assert refusal(broker) == AUTHORIZATIONS + told


def test_of_very_many_mistakes_the_first_ones_are_told() -> None:
    told = refusal({"authorizations": [{"identities": []}] * 1000})

    assert told.count("Identities list must not be empty") == 20
    assert told.endswith("; and 980 more")


WRONG_TYPES: dict[str, tuple[object, str]] = {
    "section": ([], "$.mqttBroker: expected an object, got an array"),
    "authorizations": (
        {"authorizations": {}},
        f"{AT}: expected an array of statements, got an object",
    ),
    "statement": ({"authorizations": ["x"]}, f"{AT}[0]: expected an object, got a string"),
    "identity": (
        {"authorizations": [{"identities": [5]}]},
        f"{AT}[0].identities[0]: expected a string, got a number",
    ),
    "operations": (
        statement(operations="mqtt:publish", resources=["a"]),
        f"{OPERATIONS}: expected an array of operations, got a string",
    ),
    "resource": (
        statement(operations=["mqtt:publish"], resources=[None]),
        f"{RESOURCES}[0]: expected a string, got null",
    ),
    "bridges": (
        {"bridges": "$upstream"},
        "$.mqttBroker.bridges: expected an array of bridges, got a string",
    ),
    "prefix": (
        {
            "bridges": [
                {"endpoint": "$upstream", "settings": [{"direction": "in", "topic": "a", "inPrefix": 1}]}
            ]
        },
        "$.mqttBroker.bridges[0].settings[0].inPrefix: expected a string, got a number",
    ),
}


@pytest.mark.parametrize(("broker", "told"), WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_a_value_of_another_type_is_named_with_its_path(broker: object, told: str) -> None:
    assert refusal(broker) == f"$edgeHub, version 5: {told}"


def bridge(endpoint: str = "$upstream", **rule: str) -> dict[str, Any]:
    return {"bridges": [{"endpoint": endpoint, "settings": [rule]}]}


def test_bridges_have_their_rules_in_order_and_one_for_each_direction() -> None:
    found = spec(
        {
            "bridges": [
                {
                    "endpoint": "$UpStream",
                    "settings": [
                        {"direction": "both", "topic": "t/#", "inPrefix": "a/", "outPrefix": "b/"},
                        {"direction": "In", "topic": "", "inPrefix": "c"},
                    ],
                },
                {"endpoint": "other.example:8883", "settings": [{"direction": "out", "topic": "#"}]},
                {"endpoint": "$upstream", "settings": [{"direction": "out", "topic": "x"}]},
            ]
        }
    )

    assert found.bridges == (
        Bridge(
            "$upstream",
            (
                BridgeRule(Direction.IN, "t/#", "a/", "b/"),
                BridgeRule(Direction.OUT, "t/#", "a/", "b/"),
                BridgeRule(Direction.IN, "", "c"),
                BridgeRule(Direction.OUT, "x"),
            ),
        ),
        Bridge("other.example:8883", (BridgeRule(Direction.OUT, "#"),)),
    )


def test_a_topic_may_be_carried_both_ways_under_one_name() -> None:
    [found] = spec(bridge(direction="both", topic="t/#", inPrefix="a/", outPrefix="a/")).bridges

    assert {rule.direction for rule in found.rules} == {Direction.IN, Direction.OUT}


def test_a_bridge_to_the_parent_may_have_no_rules() -> None:
    assert spec({"bridges": [{"endpoint": "$upstream", "settings": []}]}).bridges == (Bridge("$upstream"),)


RULE = "$.mqttBroker.bridges[0].settings[0]"
BAD_BRIDGES: dict[str, tuple[object, str]] = {
    "no endpoint": (
        {"bridges": [{"settings": [{"direction": "in", "topic": "a"}]}]},
        "Bridge endpoint must not be empty (at $.mqttBroker.bridges[0])",
    ),
    "no rules for another endpoint": (
        {"bridges": [{"endpoint": "other", "settings": []}]},
        "Bridge other: Settings must not be empty (at $.mqttBroker.bridges[0].settings)",
    ),
    "bad topic": (
        bridge(direction="in", topic="a#"),
        "Bridge $upstream: Rule 0: Topic is invalid: a#: topic filter 'a#': "
        f"a wildcard must be a level of its own (at {RULE}.topic)",
    ),
    "26: wildcard in inPrefix": (
        bridge(direction="in", topic="a", inPrefix="a+/"),
        f"Bridge $upstream: Rule 0: InPrefix must not contain wildcards (+, #): a+/ (at {RULE}.inPrefix)",
    ),
    "wildcard in outPrefix": (
        bridge(direction="out", topic="a", outPrefix="#"),
        f"Bridge $upstream: Rule 0: OutPrefix must not contain wildcards (+, #): # (at {RULE}.outPrefix)",
    ),
    "no filter with its prefix": (
        bridge(direction="out", topic="+/a", inPrefix="floor"),
        "Bridge $upstream: Rule 0: Topic is invalid: +/a: topic filter 'floor+/a': "
        f"a wildcard must be a level of its own (at {RULE}.topic)",
    ),
    "no topic at all": (
        bridge(direction="out", topic=""),
        f"Bridge $upstream: Rule 0: Topic is invalid: : topic filter is empty (at {RULE}.topic)",
    ),
}


@pytest.mark.parametrize(("broker", "told"), BAD_BRIDGES.values(), ids=BAD_BRIDGES)
def test_a_bad_bridge_is_refused_with_the_words_of_the_reference_and_its_path(
    broker: object, told: str
) -> None:
    assert refusal(broker) == BRIDGES + told


MISSING: dict[str, tuple[object, str]] = {
    "25: settings": (
        {"bridges": [{"endpoint": "$upstream"}]},
        '$.mqttBroker.bridges[0]: "settings" is missing; '
        'write "settings": [{"direction": "out", "topic": "alerts/#"}]',
    ),
    "direction": (bridge(topic="a"), f'{RULE}: "direction" is missing; write "direction": "out"'),
    "topic": (bridge(direction="in"), f'{RULE}: "topic" is missing; write "topic": "alerts/#"'),
    "unknown direction": (
        bridge(direction="inn", topic="a"),
        f'{RULE}.direction: "inn" is not allowed; allowed: "in", "out", "both"; did you mean "in"?',
    ),
}


@pytest.mark.parametrize(("broker", "told"), MISSING.values(), ids=MISSING)
def test_what_a_bridge_needs_is_named(broker: object, told: str) -> None:
    assert refusal(broker) == f"$edgeHub, version 5: {told}"


def test_mistakes_of_bridges_hide_those_of_authorizations() -> None:
    told = refusal({"authorizations": [{"identities": []}], "bridges": [{"endpoint": " ", "settings": []}]})

    assert told.startswith(BRIDGES)
    assert "Statement" not in told


def test_rules_and_bridges_reach_a_living_hub_as_they_are() -> None:
    found = BrokerSpec(
        (Rule(False, ("a", "b"), (PUBLISH, CONNECT), ("x/#",)), Rule(True, ("c",), (SUBSCRIBE,))),
        (Bridge("$upstream", (BridgeRule(Direction.OUT, "t", "a/"),)), Bridge("x")),
    )

    told = set_broker(found)

    assert isinstance(told, SetBroker)
    assert spec_in(told) == found


BRIDGE_NAMES = ("endpoint", "settings", "direction", "topic", "inPrefix", "outPrefix")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "a", "{{x}}", "mqtt:connect", "$upstream"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("identities", "allow", "deny", "operations", "resources", *BRIDGE_NAMES)),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(authorizations=json_values, bridges=json_values)
def test_whatever_the_section_holds_it_is_taken_or_refused_with_a_path(
    authorizations: Any, bridges: Any
) -> None:
    try:
        told = str(hub({"authorizations": authorizations, "bridges": bridges}).broker)
    except DeploymentError as exc:
        told = str(exc)

    assert "$.mqttBroker" in told or told.startswith("BrokerSpec(")
