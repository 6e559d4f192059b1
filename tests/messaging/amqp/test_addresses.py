import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.amqp.addresses import (
    DeviceLink,
    LinkKind,
    LinkProperties,
    ServiceKind,
    ServiceLink,
    address_of,
    feature_of,
    is_cbs,
    is_paired,
    link_properties,
    parse_address,
    parse_link_properties,
    parse_service_address,
    replaced_by,
    settlement_of,
)
from messaging.amqp.conditions import Refusal
from messaging.amqp.link import RcvSettleMode, SndSettleMode
from messaging.identity import Identity
from messaging.topics import Feature

DEVICE = Identity("D")
MODULE = Identity("D", "M")

ids = st.text("abcXYZ019-.%_*?!(),:=@$'", min_size=1, max_size=128)
identities = st.builds(Identity, ids, st.none() | ids)


@pytest.mark.parametrize(
    ("address", "sends", "receives"),
    [
        pytest.param("/devices/D/messages/events", LinkKind.EVENTS, None, id="telemetry of a device"),
        pytest.param("/devices/D/messages/devicebound", None, LinkKind.C2D, id="messages of the cloud"),
        pytest.param(
            "/devices/D/methods/devicebound", LinkKind.METHOD_RESPONSES, LinkKind.METHOD_CALLS, id="methods"
        ),
        pytest.param("/devices/D/twin", LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS, id="twin"),
        pytest.param("devices/D/twin", LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS, id="no slash in front"),
        pytest.param("/Devices/D/Messages/Events", LinkKind.EVENTS, None, id="row 61: any case"),
        pytest.param("amqps://h/devices/D/messages/events", LinkKind.EVENTS, None, id="row 61: a URI"),
        pytest.param("AMQPS://h:5671/devices/D/messages/events", LinkKind.EVENTS, None, id="with a port"),
        pytest.param("/devices/D/messages/events?api-version=1", LinkKind.EVENTS, None, id="with a query"),
        pytest.param("/devices/%44/messages/events", LinkKind.EVENTS, None, id="id encoded"),
        pytest.param("/devices/D/unknown", None, None, id="row 61: unknown"),
        pytest.param("/devices/D/messages/events/", None, None, id="more behind it"),
        pytest.param("/x/devices/D/messages/events", None, None, id="more in front of it"),
        pytest.param("//devices/D/messages/events", None, None, id="two slashes"),
        pytest.param("/devices//messages/events", None, None, id="no id"),
        pytest.param("/devices/D/modules//twin", None, None, id="no id of a module"),
        pytest.param("/devices/a b/twin", None, None, id="not an id"),
        pytest.param("/devices/a%2Fb/twin", None, None, id="not an id once decoded"),
        pytest.param("/deviceſ/D/twin", None, None, id="a letter that only looks alike in lower case"),
        pytest.param("/messages/devicebound", None, None, id="a service's"),
        pytest.param("", None, None, id="empty"),
    ],
)
def test_an_address_says_what_a_link_of_a_device_is_for(
    address: str, sends: LinkKind | None, receives: LinkKind | None
) -> None:
    for client_sends, kind in ((True, sends), (False, receives)):
        link = parse_address(address, client_sends=client_sends)
        if kind is None:
            assert isinstance(link, Refusal)
            assert link.condition == "amqp:not-allowed"
        else:
            assert link == DeviceLink(kind, DEVICE)


@pytest.mark.parametrize(
    ("address", "sends", "receives"),
    [
        pytest.param(
            "/devices/D/modules/M/messages/events", LinkKind.EVENTS, LinkKind.INPUTS, id="outputs and inputs"
        ),
        pytest.param("/devices/D/modules/M/messages/devicebound", None, LinkKind.C2D, id="accepted"),
        pytest.param(
            "/devices/D/Modules/M/methods/devicebound",
            LinkKind.METHOD_RESPONSES,
            LinkKind.METHOD_CALLS,
            id="methods",
        ),
        pytest.param(
            "amqps://h/devices/D/modules/M/twin", LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS, id="twin"
        ),
    ],
)
def test_an_address_says_what_a_link_of_a_module_is_for(
    address: str, sends: LinkKind | None, receives: LinkKind | None
) -> None:
    for client_sends, kind in ((True, sends), (False, receives)):
        link = parse_address(address, client_sends=client_sends)
        assert isinstance(link, Refusal) if kind is None else link == DeviceLink(kind, MODULE)


@pytest.mark.parametrize(
    ("address", "device_id"),
    [
        pytest.param("/devices/dEvIcE/twin", "dEvIcE", id="case is kept"),
        pytest.param("/devices/%24edge/twin", "$edge", id="decoded"),
        pytest.param("/devices/a%2541/twin", "a%41", id="decoded once"),
        pytest.param("/devices/a+b/twin", None, id="plus is no space"),
        pytest.param("/devices/100%/twin", "100%", id="a per cent that encodes nothing"),
        pytest.param("/devices/a?b/twin", "a?b", id="a question mark, which an id may have"),
        pytest.param("/devices/a:b@c/twin", "a:b@c", id="signs of a URI"),
        pytest.param("/devices/http:/twin", "http:", id="like a scheme"),
    ],
)
def test_ids_in_addresses_are_decoded_once_and_keep_their_case(address: str, device_id: str | None) -> None:
    link = parse_address(address, client_sends=True)

    if device_id is None:
        assert isinstance(link, Refusal)
    else:
        assert link == DeviceLink(LinkKind.TWIN_REQUESTS, Identity(device_id))


@given(identities, st.sampled_from(LinkKind))
def test_an_address_is_read_as_it_was_made(identity: Identity, kind: LinkKind) -> None:
    sent_by_client = (LinkKind.EVENTS, LinkKind.METHOD_RESPONSES, LinkKind.TWIN_REQUESTS)
    if kind is LinkKind.INPUTS and identity.module_id is None:
        return  # a device has none

    link = parse_address(address_of(kind, identity), client_sends=kind in sent_by_client)

    assert link == DeviceLink(kind, identity)


@given(st.text(), st.booleans())
def test_no_address_whatever_is_an_error(address: str, client_sends: bool) -> None:
    assert isinstance(parse_address(address, client_sends=client_sends), DeviceLink | Refusal)
    assert isinstance(parse_service_address(address, client_sends=client_sends), ServiceLink | Refusal)
    assert isinstance(is_cbs(address), bool)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("$cbs", True, id="as all write it"),
        pytest.param("/$CBS", True, id="with a slash, any case"),
        pytest.param("amqps://h:5671/$cbs", True, id="as a URI"),
        pytest.param("$cbs-sender", False, id="the name of a link"),
        pytest.param("", False, id="empty"),
    ],
)
def test_the_node_for_tokens_is_known(address: str, expected: bool) -> None:
    assert is_cbs(address) is expected


@pytest.mark.parametrize(
    ("address", "sends", "receives"),
    [
        pytest.param("/messages/devicebound", ServiceLink(ServiceKind.C2D), None, id="messages to devices"),
        pytest.param(
            "amqps://h/messages/deviceBound", ServiceLink(ServiceKind.C2D), None, id="as the Python SDK does"
        ),
        pytest.param(
            "/messages/serviceBound/feedback", None, ServiceLink(ServiceKind.FEEDBACK), id="feedback"
        ),
        pytest.param(
            "/messages/serviceBound/filenotifications",
            None,
            ServiceLink(ServiceKind.FILE_NOTIFICATIONS),
            id="file notifications",
        ),
        pytest.param(
            "amqps://h/hub/ConsumerGroups/$Default/Partitions/3",
            None,
            ServiceLink(ServiceKind.EVENTS, "hub", "$Default", "3"),
            id="a partition",
        ),
        pytest.param(
            "/messages/events/ConsumerGroups/%24Default/Partitions/0",
            None,
            ServiceLink(ServiceKind.EVENTS, "messages/events", "$Default", "0"),
            id="a partition of the built-in endpoint",
        ),
        pytest.param("/messages/events/", None, ServiceLink(ServiceKind.ENDPOINT), id="where the stream is"),
        pytest.param(
            "$management",
            ServiceLink(ServiceKind.MANAGEMENT_REQUESTS),
            ServiceLink(ServiceKind.MANAGEMENT_ANSWERS),
            id="management",
        ),
        pytest.param(
            "/messages/events/$management",
            ServiceLink(ServiceKind.MANAGEMENT_REQUESTS, "messages/events"),
            ServiceLink(ServiceKind.MANAGEMENT_ANSWERS, "messages/events"),
            id="management of a stream",
        ),
        pytest.param("/messages/elsewhere", None, None, id="unknown"),
        pytest.param("/devices/D/messages/events", None, None, id="a device's"),
    ],
)
def test_an_address_says_what_a_link_of_a_service_is_for(
    address: str, sends: ServiceLink | None, receives: ServiceLink | None
) -> None:
    for client_sends, expected in ((True, sends), (False, receives)):
        link = parse_service_address(address, client_sends=client_sends)
        if expected is None:
            assert isinstance(link, Refusal)
            assert link.condition == "amqp:not-allowed"
        else:
            assert link == expected


@pytest.mark.parametrize(
    ("link", "feature"),
    [
        pytest.param(DeviceLink(LinkKind.EVENTS, DEVICE), None, id="sending asks for nothing"),
        pytest.param(DeviceLink(LinkKind.INPUTS, MODULE), Feature.MODULE_MESSAGES, id="inputs"),
        pytest.param(DeviceLink(LinkKind.C2D, DEVICE), Feature.C2D, id="messages of the cloud"),
        pytest.param(DeviceLink(LinkKind.C2D, MODULE), None, id="a module gets none"),
        pytest.param(DeviceLink(LinkKind.METHOD_CALLS, MODULE), Feature.METHODS, id="method calls"),
        pytest.param(DeviceLink(LinkKind.METHOD_RESPONSES, MODULE), None, id="answers alone"),
        pytest.param(
            DeviceLink(LinkKind.TWIN_ANSWERS, DEVICE),
            Feature.DESIRED_PROPERTIES,
            id="receiving end of the twin",
        ),
        pytest.param(DeviceLink(LinkKind.TWIN_REQUESTS, DEVICE), None, id="sending end of the twin"),
    ],
)
def test_attaching_a_link_asks_for_a_feature(link: DeviceLink, feature: Feature | None) -> None:
    assert feature_of(link) is feature


@pytest.mark.parametrize(
    ("kind", "sender", "receiver"),
    [
        pytest.param(LinkKind.EVENTS, None, None, id="telemetry: as asked"),
        pytest.param(LinkKind.INPUTS, SndSettleMode.UNSETTLED, RcvSettleMode.FIRST, id="inputs"),
        pytest.param(LinkKind.C2D, SndSettleMode.UNSETTLED, RcvSettleMode.SECOND, id="messages of the cloud"),
        pytest.param(LinkKind.METHOD_CALLS, SndSettleMode.SETTLED, RcvSettleMode.FIRST, id="method calls"),
        pytest.param(LinkKind.METHOD_RESPONSES, SndSettleMode.SETTLED, RcvSettleMode.FIRST, id="answers"),
        pytest.param(LinkKind.TWIN_REQUESTS, SndSettleMode.SETTLED, RcvSettleMode.FIRST, id="twin requests"),
        pytest.param(LinkKind.TWIN_ANSWERS, SndSettleMode.SETTLED, RcvSettleMode.FIRST, id="twin answers"),
    ],
)
def test_links_settle_as_the_sheet_says(
    kind: LinkKind, sender: SndSettleMode | None, receiver: RcvSettleMode | None
) -> None:
    settlement = settlement_of(kind)

    assert (settlement.sender, settlement.receiver) == (sender, receiver)


@pytest.mark.parametrize(
    ("value", "channel"),
    [
        pytest.param("twin:4f", "4f", id="Node and C, twin"),
        pytest.param("methods:4f", "4f", id="Node, methods"),
        pytest.param("D/M", "", id="C, methods: no prefix"),
        pytest.param("a:b:c", "b:c", id="at the first colon"),
        pytest.param(7, "", id="no text"),
        pytest.param(None, "", id="nothing"),
    ],
)
def test_two_links_are_a_pair_by_the_text_behind_the_colon(value: object, channel: str) -> None:
    read = parse_link_properties({"com.microsoft:channel-correlation-id": value})

    assert read == LinkProperties(channel=channel)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (LinkKind.METHOD_CALLS, "methods:"),
        (LinkKind.METHOD_RESPONSES, "methods:"),
        (LinkKind.TWIN_REQUESTS, "twin:"),
        (LinkKind.TWIN_ANSWERS, "twin:"),
        (LinkKind.EVENTS, None),
        (LinkKind.INPUTS, None),
        (LinkKind.C2D, None),
    ],
)
def test_a_client_names_the_channel_on_links_of_a_pair_alone(kind: LinkKind, prefix: str | None) -> None:
    properties = link_properties(kind, "edge-actors/1", channel="4f")

    assert is_paired(kind) is (prefix is not None)
    assert properties.get("com.microsoft:channel-correlation-id") == (prefix and f"{prefix}4f")


TWIN = {LinkKind.TWIN_REQUESTS: "4f", LinkKind.TWIN_ANSWERS: "4f"}


@pytest.mark.parametrize(
    ("kind", "channel", "attached", "ended"),
    [
        pytest.param(LinkKind.EVENTS, "", {}, set(), id="the first link"),
        pytest.param(
            LinkKind.EVENTS, "", {LinkKind.EVENTS: ""}, {LinkKind.EVENTS}, id="row 62: a second of its kind"
        ),
        pytest.param(LinkKind.INPUTS, "", {LinkKind.EVENTS: "", LinkKind.C2D: ""}, set(), id="others stay"),
        pytest.param(
            LinkKind.TWIN_ANSWERS, "4f", {LinkKind.TWIN_REQUESTS: "4f"}, set(), id="second of a pair"
        ),
        pytest.param(
            LinkKind.TWIN_ANSWERS,
            "5a",
            {LinkKind.TWIN_REQUESTS: "4f"},
            {LinkKind.TWIN_REQUESTS},
            id="row 62: another channel than its other half",
        ),
        pytest.param(
            LinkKind.TWIN_REQUESTS, "5a", TWIN, set(TWIN), id="row 62: another channel ends the older pair"
        ),
        pytest.param(
            LinkKind.TWIN_REQUESTS, "4f", TWIN, {LinkKind.TWIN_REQUESTS}, id="half of a pair attached anew"
        ),
        pytest.param(LinkKind.METHOD_CALLS, "5a", TWIN, set(), id="methods and twins do not meet"),
        pytest.param(
            LinkKind.METHOD_CALLS, "", {LinkKind.METHOD_RESPONSES: ""}, set(), id="C, whose channel is empty"
        ),
    ],
)
def test_a_new_link_ends_those_that_it_takes_the_place_of(
    kind: LinkKind, channel: str, attached: dict[LinkKind, str], ended: set[LinkKind]
) -> None:
    assert set(replaced_by(kind, channel, attached)) == ended


def test_link_properties_are_read_as_they_were_made() -> None:
    made = link_properties(
        LinkKind.TWIN_ANSWERS, "sdk/1.2 (x)", channel="4f", model_id="dtmi:a;1", auth_chain=("leaf", "edge")
    )

    assert made["com.microsoft:api-version"] == "2021-04-12"
    assert parse_link_properties(made) == LinkProperties("4f", "sdk/1.2 (x)", "dtmi:a;1", ("leaf", "edge"))
