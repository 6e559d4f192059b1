import uuid
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import sas
from messaging.amqp import cbs
from messaging.amqp.cbs import CbsAnswer, PlainUser, PutToken, Tokens, parse_plain_user, parse_put_token
from messaging.amqp.codec import AmqpMessage, Int, MessageId
from messaging.amqp.conditions import Refusal
from messaging.identity import Identity

NOW_S = 1_700_000_000.0
KEY = b"0123456789abcdef"
SAS_TYPE = "servicebus.windows.net:sastoken"
DEVICE = Identity("D")
MODULE = Identity("D", "M")

ids = st.text("abcXYZ019-.%_*?!(),:=@$'", min_size=1, max_size=40)
identities = st.builds(Identity, ids, st.none() | ids)


def token_for(audience: str, expires_s: float = NOW_S + 3600, key_name: str = "") -> str:
    return sas.make_token(audience, KEY, int(expires_s), key_name)


def request(token: object, **changes: object) -> AmqpMessage:
    asked: dict[str, object] = {"operation": "put-token", "type": SAS_TYPE, "name": "h/devices/D"} | changes
    return AmqpMessage(
        message_id="1",
        application_properties={name: value for name, value in asked.items() if value is not None},
        value=token,
        is_value=True,
    )


GOOD = token_for("h/devices/D")


@pytest.mark.parametrize(
    ("message", "holder"),
    [
        pytest.param(request(GOOD), "d", id="row 57: a device"),
        pytest.param(request(token_for("h/devices/D/modules/M")), "d/m", id="a module"),
        pytest.param(
            request(token_for("h/devices/E/modules/$edgeHub")), "e/$edgehub", id="the hub of an edge"
        ),
        pytest.param(request(GOOD, operation="PUT-Token"), "d", id="operation in any case"),
        pytest.param(request(GOOD, type="ServiceBus.Windows.Net:SasToken"), "d", id="type in any case"),
        pytest.param(request(GOOD, type="azure-devices.net:sastoken"), "d", id="the other type"),
        pytest.param(
            request(GOOD, name="h/devices/other"), "d", id="the name does not count, the audience does"
        ),
        pytest.param(request(GOOD.replace("%2F", "%2f")), "d", id="audience as C sends it for an edge"),
        pytest.param(request(GOOD.replace("%2F", "/")), "d", id="audience as C sends it for a key"),
        pytest.param(request(token_for("h/devices/a%24b")), "a$b", id="id encoded twice"),
        pytest.param(request(token_for("h/devices/D", NOW_S - 240)), "d", id="row 48: 4 minutes late"),
    ],
)
def test_a_token_is_taken_for_whom_its_audience_names(message: AmqpMessage, holder: str) -> None:
    taken = parse_put_token(message, NOW_S)

    assert isinstance(taken, PutToken)
    assert taken.holder == holder
    assert taken.token.reveal().decode() == message.value


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(request(GOOD, type="jwt"), "type is 'jwt'", id="row 57: type jwt"),
        pytest.param(request(GOOD, type=None), "type is missing", id="no type"),
        pytest.param(
            request(GOOD, operation="get-token"), "operation is 'get-token'", id="row 57: get-token"
        ),
        pytest.param(request(GOOD, operation=None), "operation is missing", id="no operation"),
        pytest.param(request(GOOD, operation=1), "operation is not a text", id="operation of another type"),
        pytest.param(request(GOOD, name=""), "name is missing", id="row 57: empty name"),
        pytest.param(request(GOOD, name=None), "name is missing", id="no name"),
        pytest.param(request(GOOD.encode()), "not a value of type string", id="row 57: body is binary"),
        pytest.param(request(None), "not a value of type string", id="body is null"),
        pytest.param(
            AmqpMessage(GOOD.encode(), application_properties=request(GOOD).application_properties),
            "not a value of type string",
            id="row 57: body is Data",
        ),
        pytest.param(
            request(token_for("h/devices/D", NOW_S - 360)), "expired 360 s ago", id="row 57: expired"
        ),
        pytest.param(request("Bearer x"), "form", id="not such a token"),
        pytest.param(request(GOOD + "&sig=x=y"), "name=value", id="row 48: raw = in the token"),
        pytest.param(request(token_for("h/devices")), "audience 'h/devices'", id="two segments"),
        pytest.param(request(token_for("h/devices/D/modules")), "audience", id="row 49: four segments"),
        pytest.param(request(token_for("h/devices//modules/M")), "audience", id="an empty id"),
        pytest.param(request(token_for("sb://h")), "audience", id="a scheme is no segment"),
        pytest.param(request(token_for("h", key_name="service")), "audience", id="a service's"),
        pytest.param(request(token_for("h/devices/" + "%25" * 1000)), "audience", id="longer than any id"),
    ],
)
def test_a_bad_request_for_a_token_is_refused_with_the_reason(message: AmqpMessage, reason: str) -> None:
    refusal = parse_put_token(message, NOW_S)

    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    assert not isinstance(message.value, str) or message.value not in refusal.description


@pytest.mark.parametrize(
    ("audience", "key_name", "taken"),
    [
        pytest.param("h", "service", True, id="Python service SDK"),
        pytest.param("sb://h/hub", "iothubowner", True, id="Event Hubs SDK"),
        pytest.param("h", "", False, id="of no policy"),
        pytest.param("h/devices/D", "", True, id="a device may come, too"),
    ],
)
def test_where_services_come_tokens_of_policies_are_taken(audience: str, key_name: str, taken: bool) -> None:
    token = parse_put_token(request(token_for(audience, key_name=key_name)), NOW_S, services=True)

    assert isinstance(token, PutToken) is taken
    assert not taken or token.key_name == key_name  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message_id",
    [
        pytest.param("8f7c", id="row 59: string, as Node sends"),
        pytest.param(7, id="row 59: ulong, as C sends"),
        pytest.param(uuid.UUID(int=5), id="row 59: uuid"),
        pytest.param(b"\1\2", id="binary"),
    ],
)
def test_an_answer_carries_the_id_of_the_request_unchanged_and_an_int_status(message_id: MessageId) -> None:
    made = cbs.answer(AmqpMessage(message_id=message_id), cbs.BAD_REQUEST, "no")

    assert made.correlation_id is message_id
    status = made.application_properties["status-code"]
    assert (type(status), status) == (Int, 400)
    assert made.application_properties["status-description"] == "no"
    assert (made.body, made.is_value) == (b"", False)
    assert cbs.parse_answer(made) == CbsAnswer(message_id, 400, "no")


def test_a_token_that_we_show_is_taken_by_a_hub() -> None:
    made = cbs.put_token("h/devices/D", GOOD, 7)

    assert (made.to, made.reply_to) == ("$cbs", "cbs")
    assert isinstance(parse_put_token(made, NOW_S), PutToken)
    assert cbs.parse_answer(cbs.answer(made)) == CbsAnswer(7, 200, "OK")


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"status-code": "200", "status-description": 5}, id="wrong types"),
        pytest.param({"status-code": True}, id="a truth value"),
    ],
)
def test_an_answer_without_a_status_is_a_failure(properties: dict[str, object]) -> None:
    assert cbs.parse_answer(AmqpMessage(application_properties=properties)) == CbsAnswer(None, 500, "")


def put(tokens: Tokens, audience: str, expires_s: float = NOW_S + 3600, key_name: str = "") -> PutToken:
    token = parse_put_token(request(token_for(audience, expires_s, key_name)), NOW_S, services=True)
    assert isinstance(token, PutToken)
    assert tokens.put(token) is None
    return token


def test_row_60_a_connection_keeps_the_tokens_of_several_identities() -> None:
    tokens = Tokens()

    first, second = put(tokens, "h/devices/D"), put(tokens, "h/devices/E")

    assert tokens.find(Identity("D")) == first
    assert tokens.find(Identity("E")) == second
    assert tokens.find(Identity("F")) is None


def test_the_token_of_a_device_is_found_for_its_modules_and_not_the_other_way_round() -> None:
    tokens = Tokens()
    of_device = put(tokens, "h/devices/D")

    assert tokens.find(MODULE) == of_device
    of_module = put(tokens, "h/devices/D/modules/M")
    assert tokens.find(MODULE) == of_module
    assert tokens.find(DEVICE) == of_device
    assert tokens.find(Identity("D", "other")) == of_device


def test_whoever_speaks_for_an_identity_is_asked_last() -> None:
    tokens = Tokens()
    of_hub = put(tokens, "h/devices/E/modules/$edgeHub")
    hub = Identity.edge_hub("E")

    assert tokens.find(DEVICE) is None
    assert tokens.find(DEVICE, [hub]) == of_hub
    own = put(tokens, "h/devices/D")
    assert tokens.find(DEVICE, [hub]) == own


def test_a_renewed_token_takes_the_place_of_the_old_one() -> None:
    tokens = Tokens()
    put(tokens, "h/devices/D", NOW_S + 10)

    renewed = put(tokens, "h/DEVICES/d", NOW_S + 3600)

    assert tokens.find(DEVICE) == renewed


def test_tokens_of_services_are_kept_apart() -> None:
    tokens = Tokens()
    put(tokens, "h/devices/D")

    service = put(tokens, "h", key_name="service")

    assert tokens.of_services() == (service,)


def test_a_connection_cannot_fill_the_memory_with_tokens() -> None:
    tokens = Tokens()
    for number in range(cbs.MOST_TOKENS):
        put(tokens, f"h/devices/{number}")
    more = parse_put_token(request(token_for("h/devices/more")), NOW_S)
    renewed = parse_put_token(request(token_for("h/devices/7")), NOW_S)
    assert isinstance(more, PutToken)
    assert isinstance(renewed, PutToken)

    refusal = tokens.put(more)

    assert refusal is not None
    assert refusal.condition == "amqp:resource-limit-exceeded"
    assert tokens.put(renewed) is None


@given(identities, st.booleans(), st.booleans())
def test_a_token_is_found_however_often_its_audience_is_encoded(
    identity: Identity, twice: bool, other_case: bool
) -> None:
    shown = Identity(quote(identity.device_id, safe=""), identity.module_id) if twice else identity
    audience = sas.audience_of("h", shown)
    tokens = Tokens()

    token = put(tokens, audience.upper() if other_case and "%" not in audience else audience)

    assert tokens.find(identity) == token


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        pytest.param("D@sas.hub", PlainUser(DEVICE), id="a device"),
        pytest.param("D/modules/M@sas.hub", PlainUser(MODULE), id="a module"),
        pytest.param("D@hub", PlainUser(DEVICE), id="a device, short"),
        pytest.param("D/modules/M@hub", PlainUser(MODULE), id="a module, short"),
        pytest.param("a@b@sas.hub", PlainUser(Identity("a@b")), id="an id with an at sign"),
        pytest.param("service@sas.root.hub", PlainUser(None, "service"), id="a service"),
        pytest.param("D", None, id="no hub"),
        pytest.param("D@", None, id="empty hub"),
        pytest.param("@sas.hub", None, id="no id"),
        pytest.param("D/M@sas.hub", None, id="as MQTT has it"),
        pytest.param("D/modules/@sas.hub", None, id="empty id of a module"),
    ],
)
def test_the_user_name_of_sasl_plain_says_who_it_is(user: str, expected: PlainUser | None) -> None:
    read = parse_plain_user(user)

    assert isinstance(read, Refusal) if expected is None else read == expected


@given(
    st.dictionaries(st.sampled_from(["operation", "type", "name"]), st.none() | st.text() | st.integers()),
    st.none() | st.text() | st.binary() | st.integers(),
)
def test_no_request_for_a_token_whatever_is_an_error(properties: dict[str, object], value: object) -> None:
    message = AmqpMessage(application_properties=properties, value=value, is_value=True)

    assert isinstance(parse_put_token(message, NOW_S), PutToken | Refusal)


@given(st.text())
def test_no_audience_whatever_is_an_error(audience: str) -> None:
    token = f"SharedAccessSignature sr={quote(audience)}&sig=eA%3D%3D&se=1700000100"

    assert isinstance(parse_put_token(request(token), NOW_S), PutToken | Refusal)
