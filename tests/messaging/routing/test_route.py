import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RouteError
from messaging.message import Message
from messaging.routing.route import (
    DEFAULT_PRIORITY,
    CompiledRoute,
    CompiledRoutes,
    Endpoint,
    EndpointMatch,
    compile_route,
)

UPSTREAM = Endpoint("iothub")


def compiled(text: str, name: str = "r", priority: int = DEFAULT_PRIORITY, ttl_s: int = 0) -> CompiledRoute:
    return compile_route(name, text, edge_device_id="edge", priority=priority, ttl_s=ttl_s)


def message(source: str) -> Message:
    return Message(source, {}, {}, b"")


def matches(source: str, path: str) -> bool:
    routes = CompiledRoutes([compiled(f"FROM {source} INTO $upstream")])
    return bool(routes.endpoints_of(message(path)))


DEVICE_MESSAGE = "/messages/"
MODULE_MESSAGE = "/messages/modules/M/"
OUTPUT_MESSAGE = "/messages/modules/M/outputs/O/"
TWIN_CHANGE = "/twinChangeNotifications/"


@pytest.mark.parametrize(
    ("source", "matched"),
    [
        ("/*", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE, TWIN_CHANGE}),
        ("/**", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE, TWIN_CHANGE}),
        ("/messages", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages/*", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages*", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/MESSAGES/*", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE}),
        (" / messages / * ", {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages/modules", {MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages/modules/*", {MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages/modules/M", {MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages/modules/m/*", {MODULE_MESSAGE, OUTPUT_MESSAGE}),
        ("/messages/modules/M/outputs/*", {OUTPUT_MESSAGE}),
        ("/messages/modules/M/outputs/O", {OUTPUT_MESSAGE}),
        ("/messages/modules/M/outputs/o/*", {OUTPUT_MESSAGE}),
        ("/messages/modules/M/outputs/other", set()),
        ("/twinChangeNotifications", {TWIN_CHANGE}),
        ("/twinchangenotifications/*", {TWIN_CHANGE}),
        ("/messages/modules/*/outputs/O", set()),
        ("/messages/modules/MM*", set()),
        ("/messages/events", set()),
        ("/message", set()),
        ("/deviceLifecycleEvents", set()),
        # a comment opens where a */ follows: what is left is /messages/modules
        ("/messages/modules/*/outputs/*/", {MODULE_MESSAGE, OUTPUT_MESSAGE}),
    ],
)
def test_a_source_is_a_prefix_of_paths(source: str, matched: set[str]) -> None:
    paths = {DEVICE_MESSAGE, MODULE_MESSAGE, OUTPUT_MESSAGE, TWIN_CHANGE}

    assert {path for path in paths if matches(source, path)} == matched


def test_a_partial_module_name_matches_nothing_but_itself() -> None:
    assert matches("/messages/modules/temp*", "/messages/modules/temp/")
    assert not matches("/messages/modules/temp*", "/messages/modules/temperature/")


@pytest.mark.parametrize(
    ("sink", "endpoint"),
    [
        ("$upstream", UPSTREAM),
        ("$UpStream", UPSTREAM),
        ('BrokeredEndpoint("/modules/M/inputs/I")', Endpoint("edge/M/I", "edge/M", "I")),
        ("BROKEREDENDPOINT ( '/modules/M/inputs/I' )", Endpoint("edge/M/I", "edge/M", "I")),
        ('BrokeredEndpoint(" modules/M/inputs/I/ ")', Endpoint("edge/M/I", "edge/M", "I")),
        ('BrokeredEndpoint("/a/m/b/i")', Endpoint("edge/m/i", "edge/m", "i")),
        ("BrokeredEndpoint('/modules/\"M/inputs/I')", Endpoint('edge/"M/I', 'edge/"M', "I")),
        (r'BrokeredEndpoint("/modules/M\"/inputs/I")', Endpoint('edge/M\\"/I', 'edge/M\\"', "I")),
    ],
)
def test_a_sink_is_an_endpoint(sink: str, endpoint: Endpoint) -> None:
    assert compiled(f"FROM /* INTO {sink}").endpoint == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "FROM /* INTO $upstream",
        "select * from /* into $UPSTREAM",
        "SELECT * FROM/messages/modules/M INTO $upstream",
        "\n\tFROM\r\n/messages INTO\t$upstream\n",
        "FROM /messages/modules/a.b/outputs/a-b_c INTO $upstream",
        "FROM /messages/modules/1mod/outputs/AND1 INTO $upstream",
        "FROM /messages/o* INTO $upstream",
        "FROM /messages /* everything */ INTO $upstream",
        "FROM /modüle INTO $upstream",
        "FROM /messages/modules/o'brien INTO $upstream",
    ],
)
def test_a_route_is_read(text: str) -> None:
    assert compiled(text).endpoint == UPSTREAM


SYNTAX = "Syntax error."
AT_14 = (1, 14)


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "The route is empty; a source is required", (1, 1)),
        (" /* nothing */ ", "The route is empty; a source is required", (1, 1)),
        ("INTO $upstream", SYNTAX, (1, 1)),
        ("FROM INTO $upstream", SYNTAX, (1, 6)),
        ("FROM / INTO $upstream", SYNTAX, (1, 8)),
        ("FROM //x INTO $upstream", SYNTAX, (1, 7)),
        ("FROM messages/* INTO $upstream", SYNTAX, (1, 6)),
        ("FROM /messages/ INTO $upstream", SYNTAX, (1, 17)),
        ("SELECT FROM /* INTO $upstream", SYNTAX, (1, 8)),
        ("SELECT x FROM /* INTO $upstream", SYNTAX, (1, 8)),
        ("SELECT *FROM /* INTO $upstream", SYNTAX, (1, 8)),
        ("FROM /*", SYNTAX, (1, 8)),
        ("FROM /* INTO", SYNTAX, (1, 13)),
        ("FROM /*\n\n  TO $upstream", SYNTAX, (3, 3)),
        ("FROM /* INTO upstream", SYNTAX, (1, 22)),
        ("FROM /* INTO BrokeredEndpoint()", SYNTAX, (1, 31)),
        ("FROM /* INTO BrokeredEndpoint('a/b/c/d'", SYNTAX, (1, 40)),
        ("FROM /* INTO BrokeredEndpoint(x)", SYNTAX, (1, 31)),
        ("FROM /messages/from INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/Into INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/and INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/true INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/null INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/123 INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/-5 INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/0x1f INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/12e3 INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/e5 INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/a[0] INTO $upstream", SYNTAX, (1, 16)),
        ("FROM /messages/modules/$edgeHub/* INTO $upstream", SYNTAX, (1, 24)),
        ("FROM /messages/a b INTO $upstream", SYNTAX, (1, 18)),
        ("FROM /messages/a@b INTO $upstream", "Syntax error: invalid symbol '@'", (1, 17)),
        ("FROM /messages/a;b INTO $upstream", "Syntax error: invalid symbol ';'", (1, 17)),
        ('FROM /* INTO BrokeredEndpoint("a/b', "Syntax error: unterminated string", (1, 31)),
        # the reference hub ignores what follows the sink; here it is an error
        ("FROM /* INTO $upstream junk", SYNTAX, (1, 24)),
        ("FROM /* INTO $upstream;", "Syntax error: invalid symbol ';'", (1, 23)),
        ("FROM /* INTO $upstream WHERE a = 'b'", SYNTAX, (1, 24)),
        ("FROM /* INTO $upstream INTO $upstream", SYNTAX, (1, 24)),
        ("FROM /* INTO $other", "System endpoint type '$other' not supported.", (1, 14)),
        (
            "FROM /* INTO Other('/modules/m/inputs/i')",
            "Function endpoint type 'Other' not supported.",
            (1, 14),
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_position(text: str, reason: str, position: tuple[int, int]) -> None:
    with pytest.raises(RouteError) as caught:
        compiled(text)

    assert (caught.value.reason, (caught.value.line, caught.value.column)) == (reason, position)
    assert str(caught.value).startswith(f"line {position[0]}, column {position[1]}: {reason}")


def test_an_error_says_what_was_expected() -> None:
    with pytest.raises(RouteError) as caught:
        compiled("FROM /* TO $upstream")

    assert str(caught.value) == "line 1, column 9: Syntax error. (found 'TO', expected WHERE or INTO)"


@pytest.mark.parametrize(
    "address",
    [
        "/modules/m",
        "mod1, in1",
        "//modules/m/inputs/i",
        "/modules/m/inputs/i//",
        "/modules///m/inputs/i",
        "",
        "///",
    ],
)
def test_an_address_that_is_not_an_input_is_refused(address: str) -> None:
    with pytest.raises(RouteError, match=r"use /modules/\{module}/inputs/\{input}") as caught:
        compiled(f'FROM /* INTO BrokeredEndpoint("{address}")')

    assert caught.value.column == 31


def test_a_message_goes_to_an_endpoint_once_by_the_route_with_the_lowest_priority_number() -> None:
    to_m = 'BrokeredEndpoint("/modules/M/inputs/I")'
    routes = CompiledRoutes(
        [
            compiled("FROM /* INTO $upstream", "a", ttl_s=1),
            compiled(f"FROM /messages/* INTO {to_m}", "b", priority=3, ttl_s=2),
            compiled("FROM /messages/modules/M INTO $upstream", "c", priority=9, ttl_s=3),
            compiled("FROM /messages INTO $upstream", "d", priority=9, ttl_s=4),
            compiled(f"FROM /messages/modules/other INTO {to_m}", "e", priority=0),
        ]
    )

    assert routes.endpoints_of(message(OUTPUT_MESSAGE)) == (
        EndpointMatch(UPSTREAM, 9, 3, "c"),
        EndpointMatch(Endpoint("edge/M/I", "edge/M", "I"), 3, 2, "b"),
    )
    assert routes.endpoints_of(message(TWIN_CHANGE)) == (EndpointMatch(UPSTREAM, DEFAULT_PRIORITY, 1, "a"),)
    assert [endpoint.id for endpoint in routes.endpoints] == ["iothub", "edge/M/I"]


def test_two_inputs_of_one_module_are_two_endpoints() -> None:
    routes = CompiledRoutes(
        compiled(f'FROM /* INTO BrokeredEndpoint("/modules/M/inputs/{name}")') for name in ("i", "I")
    )

    ids = [match.endpoint.id for match in routes.endpoints_of(message(DEVICE_MESSAGE))]

    assert ids == ["edge/M/i", "edge/M/I"]


def test_no_route_no_endpoint() -> None:
    assert CompiledRoutes([]).endpoints_of(message(DEVICE_MESSAGE)) == ()


def test_many_sources_do_not_fill_the_memory_and_match_as_before() -> None:
    routes = CompiledRoutes([compiled("FROM /messages/modules/M/outputs/o7 INTO $upstream")])

    found = [bool(routes.endpoints_of(message(f"/messages/modules/M/outputs/o{n}/"))) for n in range(5000)]

    assert [n for n, hit in enumerate(found) if hit] == [7]
    assert len(routes._by_source) <= 1024


PIECES = ["FROM", "INTO", "SELECT", "*", "/", "/*", "*/", "$upstream", "BrokeredEndpoint", "(", ")", '"', "'"]
PIECES += [" ", "\n", "a", "$", "\\", "[", "1", "é"]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_is_a_route_or_refused(text: str) -> None:
    for candidate in (text, f"FROM /{text} INTO $upstream", f"FROM /* INTO {text}"):
        try:
            compiled(candidate)
        except RouteError as refused:
            error = refused
        else:
            continue
        lines = candidate.split("\n")
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1


def test_a_route_of_a_megabyte_is_refused() -> None:
    with pytest.raises(RouteError, match="at most 32768"):
        compiled("FROM /" + "a" * 1_000_000 + " INTO $upstream")


def test_a_message_passes_only_where_the_condition_is_true() -> None:
    to_m = 'BrokeredEndpoint("/modules/M/inputs/I")'
    routes = CompiledRoutes(
        [
            compiled("FROM /messages/* WHERE level = 'warn' INTO $upstream", "true", priority=5),
            compiled("FROM /messages/* WHERE level = 'info' INTO $upstream", "false", priority=0),
            compiled("FROM /messages/* WHERE absent != 'info' INTO $upstream", "undefined", priority=1),
            compiled(f"FROM /messages/modules/other WHERE level = 'warn' INTO {to_m}", "elsewhere"),
            compiled(f"FROM /messages/* WHERE $body.t > 20 INTO {to_m}", "body"),
        ]
    )
    json = {"contentType": "application/json", "contentEncoding": "utf-8"}

    hot = Message(DEVICE_MESSAGE, {"Level": "warn"}, json, b'{"t":21}')
    cold = Message(DEVICE_MESSAGE, {"Level": "warn"}, json, b'{"t":19}')

    assert [match.route_name for match in routes.endpoints_of(hot)] == ["true", "body"]
    assert [match.route_name for match in routes.endpoints_of(cold)] == ["true"]
    assert routes.endpoints_of(message(DEVICE_MESSAGE)) == ()


def test_only_sources_with_a_condition_on_the_body_need_it() -> None:
    routes = CompiledRoutes(
        [
            compiled("FROM /* WHERE level = 'warn' INTO $upstream"),
            compiled("FROM /messages/modules/M/* WHERE $body.t > 20 INTO $upstream"),
        ]
    )

    assert {path: routes.needs_body(path) for path in (DEVICE_MESSAGE, OUTPUT_MESSAGE, TWIN_CHANGE)} == {
        DEVICE_MESSAGE: False,
        OUTPUT_MESSAGE: True,
        TWIN_CHANGE: False,
    }


JSON_TYPE = {"contentType": "application/json", "contentEncoding": "utf-8"}
BY_BODY = [
    "FROM /* WHERE $body.level = 'high' INTO $upstream",
    "FROM /* WHERE $body.level = 'low' OR kind = 'a' INTO BrokeredEndpoint(\"/modules/m/inputs/low\")",
    "FROM /* WHERE kind = 'a' INTO BrokeredEndpoint(\"/modules/m/inputs/a\")",
    "FROM /* WHERE kind = 'b' INTO BrokeredEndpoint(\"/modules/m/inputs/b\")",
    'FROM /messages/* INTO BrokeredEndpoint("/modules/m/inputs/all")',
    'FROM /twinChangeNotifications INTO BrokeredEndpoint("/modules/m/inputs/twins")',
]
BODIES = [b'{"level": "high"}', b'{"level": "low"}', b'{"level": 1}', b"{}", b"no JSON"]


@pytest.mark.parametrize("properties", [{}, {"kind": "a"}, {"Kind": "b"}], ids=["none", "a", "b"])
@pytest.mark.parametrize("source", [DEVICE_MESSAGE, TWIN_CHANGE])
def test_by_the_body_alone_messages_go_where_they_go_as_a_whole(
    source: str, properties: dict[str, str | None]
) -> None:
    routes = CompiledRoutes([compiled(text, f"r{number}") for number, text in enumerate(BY_BODY)])
    answer = routes.by_body(Message(source, properties, JSON_TYPE, b""), lambda found: found)

    for body in BODIES * 2:
        assert answer(body) == routes.endpoints_of(Message(source, properties, JSON_TYPE, body))


def test_bodies_that_go_the_same_ways_have_one_answer() -> None:
    routes = CompiledRoutes([compiled(text, f"r{number}") for number, text in enumerate(BY_BODY)])
    made: list[tuple[EndpointMatch, ...]] = []

    def note(found: tuple[EndpointMatch, ...]) -> int:
        made.append(found)
        return len(made)

    answer = routes.by_body(Message(DEVICE_MESSAGE, {}, JSON_TYPE, b""), note)

    assert [answer(body) for body in BODIES * 2] == [1, 2, 3, 3, 3] * 2
    assert len(set(made)) == 3


def test_a_comment_swallows_what_the_reference_hub_lets_it_swallow() -> None:
    route = compiled("FROM /messages/* WHERE a = 'b' /* c */ INTO $upstream")

    assert (route.prefix, route.condition) == ("/messages/", None)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("FROM /* WHERE a = 'x' /* c */ INTO $upstream", (1, 31)),
        ("FROM /messages/* WHERE a = 'x*/y' INTO $upstream", (1, 32)),
        ("FROM /messages WHERE a = 'x'INTO $upstream", (1, 34)),
        ("FROM /messages WHERE\na = 'x' AND\n  b > 5 INTO $upstream", (3, 5)),
    ],
)
def test_a_mistake_in_a_condition_is_placed_in_the_route(text: str, position: tuple[int, int]) -> None:
    with pytest.raises(RouteError) as caught:
        compiled(text)

    assert (caught.value.line, caught.value.column) == position
