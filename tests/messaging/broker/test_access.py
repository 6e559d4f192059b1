"""Whose topics are whose while the broker is on, and whose session ends with a change of the policy."""

from __future__ import annotations

import pytest

from messaging.broker.access import Place, own_name, place_of, why_cut_off
from messaging.broker.policy import ClientOfBroker, Operation, Policy, Rule
from messaging.identity import Identity

MODULE, DEVICE = Identity("d1", "m1"), Identity("d1")
OWN, FOREIGN, USER = Place.OWN, Place.FOREIGN, Place.USER

PLACES = {
    "telemetry of the module": ("devices/d1/modules/m1/messages/events/", MODULE, OWN),
    "telemetry with properties": ("devices/d1/modules/m1/messages/events/%24.on=out&a=\nb", MODULE, OWN),
    "telemetry of its device": ("devices/d1/messages/events/", MODULE, FOREIGN),
    "telemetry of the device": ("devices/d1/messages/events/", DEVICE, OWN),
    "telemetry of a module of the device": ("devices/d1/modules/m1/messages/events/", DEVICE, FOREIGN),
    "telemetry of all": ("devices/+/messages/events/#", DEVICE, FOREIGN),
    "inputs": ("devices/d1/modules/m1/inputs/#", MODULE, OWN),
    "one input": ("devices/d1/modules/m1/inputs/in1", MODULE, OWN),
    "all of the module": ("devices/d1/modules/m1/#", MODULE, OWN),
    "inputs of another": ("devices/d1/modules/m2/inputs/#", MODULE, FOREIGN),
    "all of another": ("devices/d1/modules/m2/#", MODULE, FOREIGN),
    "messages from the cloud": ("devices/d1/messages/devicebound/#", DEVICE, OWN),
    "messages from the cloud for another": ("devices/d2/messages/devicebound/#", DEVICE, FOREIGN),
    "a topic below devices": ("devices/d1/door", DEVICE, USER),
    "a topic like telemetry": ("devices/d1/messages/eventsx", DEVICE, USER),
    "twin": ("$iothub/twin/GET/?$rid=7", MODULE, OWN),
    "methods": ("$iothub/methods/POST/#", MODULE, OWN),
    "of a nested edge": ("$iothub/d2/messages/events/", MODULE, FOREIGN),
    "all of IoT Hub": ("$iothub/#", MODULE, FOREIGN),
    "45: another's twin": ("$edgehub/d1/m2/twin/desired/#", MODULE, FOREIGN),
    "46: own messages from the cloud": ("$edgehub/d1/m1/messages/c2d/post/#", MODULE, OWN),
    "own, but nothing the reference knows": ("$edgehub/d1/m1/x", MODULE, FOREIGN),
    "all of the reference's broker": ("$edgehub/#", MODULE, FOREIGN),
    "the reference's broker itself": ("$edgehub", MODULE, FOREIGN),
    "begins like it": ("$edgehubs/x", MODULE, USER),
    "another $": ("$internal/x", MODULE, USER),
    "everything": ("#", MODULE, USER),
    "plain": ("alerts/fire", MODULE, USER),
}


@pytest.mark.parametrize(("text", "identity", "expected"), PLACES.values(), ids=PLACES)
def test_a_topic_is_the_clients_own_anothers_or_free(text: str, identity: Identity, expected: Place) -> None:
    assert place_of(text, identity) is expected


NAMES = {
    "telemetry": ("messages/events/a=b", "devices/d1/modules/m1/messages/events/a=b"),
    "twin": ("twin/get/?$rid=1", "$iothub/twin/GET/?$rid=1"),
    "reported": ("twin/reported/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=1"),
    "twin results": ("twin/res/#", "$iothub/twin/res/#"),
    "desired": ("twin/desired/#", "$iothub/twin/PATCH/properties/desired/#"),
    "method calls": ("methods/post/#", "$iothub/methods/POST/#"),
    "method answers": ("methods/res/200/?$rid=1", "$iothub/methods/res/200/?$rid=1"),
    "cloud to device": ("messages/c2d/post/#", "devices/d1/modules/m1/messages/devicebound/#"),
    "inputs": ("+/inputs/#", "devices/d1/modules/m1/inputs/#"),
}


@pytest.mark.parametrize(("native", "name"), NAMES.values(), ids=NAMES)
def test_the_own_topics_of_the_reference_have_the_names_of_sdks(native: str, name: str) -> None:
    assert own_name(f"$edgehub/d1/m1/{native}", MODULE) == name
    assert own_name(f"$edgehub/d1/m2/{native}", MODULE) == f"$edgehub/d1/m2/{native}"


def test_a_device_has_names_of_its_own() -> None:
    assert own_name("$edgehub/d1/messages/events/", DEVICE) == "devices/d1/messages/events/"
    assert own_name("$edgehub/d1/messages/c2d/post/#", DEVICE) == "devices/d1/messages/devicebound/#"
    assert own_name("$edgehub/d1/+/inputs/#", DEVICE) == "$edgehub/d1/+/inputs/#"
    assert own_name("a/b", DEVICE) == "a/b"


WHO = ClientOfBroker("d1/m1", "d1/m1")
MAY_CONNECT = Rule(True, ("d1/m1",), (Operation.CONNECT,))
MAY_SUBSCRIBE = Rule(True, ("d1/m1",), (Operation.SUBSCRIBE,), ("x/#",))

CHANGES = {
    "33: subscribes to what it may not": ([MAY_CONNECT], ["x/1"], "subscribe to 'x/1'"),
    "33: one of many": ([MAY_CONNECT, MAY_SUBSCRIBE], ["x/1", "y"], "subscribe to 'y'"),
    "34: may not connect": ([MAY_SUBSCRIBE], [], "connect"),
    "its own IoT Hub topics": ([MAY_CONNECT], ["$iothub/twin/res/#", "devices/d1/modules/m1/inputs/#"], ""),
    "all is as it was": ([MAY_CONNECT, MAY_SUBSCRIBE], ["x/1", "x/#"], ""),
}


@pytest.mark.parametrize(("rules", "filters", "why"), CHANGES.values(), ids=CHANGES)
def test_a_session_ends_when_one_of_its_rights_does(rules: list[Rule], filters: list[str], why: str) -> None:
    policy = Policy(rules, iothub_hostname="h1", edge_device_id="d1")

    told = why_cut_off(policy, WHO, filters)

    assert told == (f"the deployment does not let it {why} any more" if why else "")
