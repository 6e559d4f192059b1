import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RouteError
from messaging.message import Message
from messaging.routing.compile import Condition, View, compile_condition
from messaging.routing.grammar import parse_route

T, F, U = True, False, None
ERROR = "error"

J = b"""{"rpm":1450,"load":0.75,"state":"RUN","ok":true,"halt":false,"gone":null,"at":"2031-05-06T07:08:09Z",
     "axes":[3,{"id":"x1"},[7,8]],"motor":{"t":{"now":61}},"serial":"0042","rpm2":2}"""
APPLICATION = {
    "level": "warn",
    "temp": "21.5",
    "count": "007",
    "Flag": "true",
    "note": "it's ok",
    "blank": "",
    "$shade": "app",
    "e9": "x",
    "$body.rpm2": "77",
    "my-key": "k",
    "big.name": "b",
}
SYSTEM = {
    "connectionDeviceId": "edge-7",
    "connectionModuleId": "press",
    "outputName": "out1",
    "contentType": "application/json",
    "contentEncoding": "utf-8",
    "messageId": "m-1",
    "shade": "sys",
}


def message(body: bytes = J, **system: str) -> Message:
    return Message("/messages/modules/press/outputs/out1/", APPLICATION, SYSTEM | system, body)


M1 = message()
M2 = Message("/messages/", {"kind": "a", "temp": "n/a"}, {"connectionDeviceId": "leaf-1"}, b"plain")
M3 = message(contentType="application/json; charset=utf-8")
M4 = message(contentEncoding="utf8")
M5 = message(b"[1, 2]")
M6 = message('{"rpm":9}'.encode("utf-16-le"), contentType="Application/JSON", contentEncoding="UTF-16")


def compiled(condition: str) -> Condition:
    syntax = parse_route(f"FROM /* WHERE {condition} INTO $upstream")
    assert syntax.condition is not None
    return compile_condition(syntax.condition)


def result(condition: str, of: Message) -> bool | str | None:
    try:
        return compiled(condition).evaluate(View(of))
    except RouteError:
        return ERROR


# The table of the spec sheet routing.md section 10.
CASES = [
    (1, "level = 'warn'", M1, T),
    (2, 'LEVEL = "warn"', M1, T),
    (3, "level = 'WARN'", M1, F),
    (4, "note = 'it\\'s ok'", M1, T),
    (5, "blank = ''", M1, T),
    (6, "absent = 'x'", M1, U),
    (7, "absent <> 'x'", M1, U),
    (8, "my-key = 'k' AND big.name = 'b'", M1, T),
    (9, "$connectionModuleId = 'press'", M1, T),
    (10, "NOT is_defined($connectionModuleId)", M2, T),
    (11, "NOT is_defined($connectionModuleId)", M1, F),
    (12, "$CONNECTIONDEVICEID = 'edge-7'", M1, T),
    (13, "$shade = 'app'", M1, T),
    (14, "{$shade} = 'sys'", M1, T),
    (15, "shade = 'sys'", M1, U),
    (16, "$level = 'warn'", M1, U),
    (17, "$outputName = 'out1' AND $messageId = 'm-1'", M1, T),
    (18, "$twin.tags.site = 'a'", M1, U),
    (19, "level", M1, U),
    (20, "temp > 20", M1, ERROR),
    (21, "count = 7", M1, ERROR),
    (22, "level = null", M1, ERROR),
    (23, "level = undefined", M1, ERROR),
    (24, "Flag = true", M1, ERROR),
    (25, "level AND true", M1, ERROR),
    (26, "NOT level = 'info'", M1, ERROR),
    (27, "level + 'x' = 'warnx'", M1, ERROR),
    (28, "2 < 3 < 4", M1, ERROR),
    (29, "level == 'warn'", M1, ERROR),
    (30, "level ?? 5", M1, ERROR),
    (31, "TRUE AND level = 'warn'", M1, ERROR),
    (32, "round(2.5) = 3", M1, ERROR),
    (33, "is_array($body.axes)", M1, ERROR),
    (34, "is_object($body.motor)", M1, ERROR),
    (35, "twin_change_includes(properties.reported.x)", M1, ERROR),
    (36, "level = 'warn", M1, ERROR),
    (37, "(level = 'warn'", M1, ERROR),
    (38, "level = 'warn')", M1, ERROR),
    (39, "into = 'x'", M1, ERROR),
    (40, "e9 = 'x'", M1, ERROR),
    (41, "level[0] = 'w'", M1, ERROR),
    (42, "{level} = 'warn'", M1, ERROR),
    (43, "level = 'a\\tb'", M1, ERROR),
    (44, "as_number(temp) > 20", M1, T),
    (45, "as_number(temp) > 20", M2, U),
    (46, "NOT (as_number(temp) > 20)", M2, U),
    (47, "as_number(count) = 7", M1, T),
    (48, "is_number(as_number(temp))", M2, F),
    (49, "0x2A = 42", M1, T),
    (50, "1.5e2 = 150", M1, T),
    (51, "7 - 2 = 5", M1, T),
    (52, "7 -2 = 5", M1, ERROR),
    (53, "6*7 = 42", M1, ERROR),
    (54, "9/3 = 3", M1, T),
    (55, "2 + 3 * 4 = 14", M1, T),
    (56, "20 / 4 / 5 = 1", M1, T),
    (57, "5 / 0 > 1", M1, T),
    (58, "is_number(5 / 0)", M1, F),
    (59, "is_defined(5 % 0)", M1, F),
    (60, "5 % 0 = 5 % 0", M1, U),
    (61, "level = 'warn' OR level = 'x' AND absent = 'y'", M1, T),
    (62, "absent = 'x' OR level = 'warn'", M1, T),
    (63, "absent = 'x' AND level = 'info'", M1, F),
    (64, "NOT (absent = 'x' AND level = 'info')", M1, T),
    (65, "NOT (absent = 'x')", M1, U),
    (66, "NOT (absent = 'x' OR level = 'warn')", M1, F),
    (67, "not is_defined(absent) and level <> 'info'", M1, T),
    (68, "NOT false = true", M1, T),
    (69, "null OR absent = 'x'", M1, U),
    (70, "NOT (null AND true)", M1, T),
    (71, "undefined OR 1 = 1", M1, T),
    (72, "true > false", M1, T),
    (73, "(absent ?? 'def') = 'def'", M1, T),
    (74, "(absent ?? alsoabsent ?? level) = 'warn'", M1, T),
    (75, "(as_number(temp) ?? -1) = -1", M2, T),
    (76, "absent ?? 'def' = 'def'", M1, ERROR),
    (77, "level='warn'", M1, T),
    (78, "level!='info'", M1, U),
    (79, "level||'!' = 'warn!'", M1, U),
    (80, "level || '!' = 'warn!'", M1, T),
    (81, "1+1 = 2", M1, ERROR),
    (82, "true && true", M1, ERROR),
    (83, "level = 'warn' /* note */", M1, ERROR),
    (84, "'\\u0077arn' = level", M1, T),
    (85, "UPPER(level) = 'WARN'", M1, T),
    (86, "lower($body.state) = 'run'", M1, T),
    (87, "length(note) = 7", M1, T),
    (88, "length(absent) = 0", M1, U),
    (89, "concat(level, '-', count) = 'warn-007'", M1, T),
    (90, "concat(level) = 'warn'", M1, ERROR),
    (91, "concat(level, absent) = 'warn'", M1, U),
    (92, "substring(level, 1) = 'arn'", M1, T),
    (93, "substring(level, 4) = ''", M1, T),
    (94, "substring(level, 5) = ''", M1, U),
    (95, "substring(level, 1, 2) = 'ar'", M1, T),
    (96, "substring(level, 4, 0) = ''", M1, U),
    (97, "substring(level, 2.7) = 'rn'", M1, T),
    (98, "index_of(level, 'z') = -1", M1, T),
    (99, "starts_with(level, 'WA')", M1, F),
    (100, "contains(absent, 'a')", M1, U),
    (101, "abs(temp) = 21.5", M1, ERROR),
    (102, "floor(-1.2) = -2 AND ceiling(-1.8) = -1", M1, T),
    (103, "sign(-9) = -1 AND sign(0) = 0", M1, T),
    (104, "power(2, -1) = 0.5 AND square(-4) = 16", M1, T),
    (105, "is_defined(sqrt(0 - 4))", M1, F),
    (106, "is_string(level) AND NOT is_string(absent)", M1, T),
    (107, "is_bool(level = 'warn')", M1, T),
    (108, "is_bool(Flag)", M1, F),
    (109, "is_null(absent)", M1, F),
    (110, "$body.rpm > 1400", M1, T),
    (111, "$BODY.rpm = 1450", M1, T),
    (112, "$body.RPM = 1450", M1, F),
    (113, "$body.motor.t.now >= 61", M1, T),
    (114, "$body.axes[0] + $body.axes[2][1] = 11", M1, T),
    (115, "$body.axes[1].id = 'x1'", M1, T),
    (116, "$body.axes[9] = null", M1, T),
    (117, "$body.axes = 3", M1, U),
    (118, "is_defined($body.motor)", M1, F),
    (119, "$body.at <> 'x'", M1, U),
    (120, "is_defined($body.at)", M1, F),
    (121, "$body.ok", M1, T),
    (122, "NOT $body.halt", M1, T),
    (123, "$body.ok AND level = 'warn'", M1, T),
    (124, "level = 'warn' AND $body.ok", M1, ERROR),
    (125, "level = 'warn' AND $body.ok = true", M1, T),
    (126, "$body.rpm", M1, U),
    (127, "$body.state = 5", M1, F),
    (128, "$body.state > 5", M1, T),
    (129, "$body.ok < 0", M1, T),
    (130, "$body.serial = 42", M1, F),
    (131, "as_number($body.serial) = 42", M1, T),
    (132, "$body.rpm = '1450'", M1, F),
    (133, "$body.rpm <> '1450'", M1, T),
    (134, "$body.gone = null", M1, T),
    (135, "$body.nowhere = null", M1, T),
    (136, "$body.nowhere > 1000", M1, T),
    (137, "$body.nowhere < 1000", M1, F),
    (138, "is_defined($body.nowhere)", M1, T),
    (139, "is_null($body.nowhere)", M1, F),
    (140, "is_null($body.gone)", M1, T),
    (141, "is_null($body.rpm)", M1, T),
    (142, "($body.nowhere ?? 4) = 4", M1, F),
    (143, "$body.halt OR $body.nowhere", M1, U),
    (144, "$body.ok OR $body.nowhere", M1, U),
    (145, "$body.rpm % 2 = 0", M1, ERROR),
    (146, "- $body.rpm < 0", M1, ERROR),
    (147, "$body.rpm-1 = 1449", M1, F),
    (148, "$body.rpm - 1 = 1449", M1, T),
    (149, "$body.state || '!' = 'RUN!'", M1, T),
    (150, "$body.rpm || '!' = '1450!'", M1, U),
    (151, "length($body.rpm) = 4", M1, U),
    (152, "is_number($body.rpm) AND is_string($body.serial) AND is_bool($body.ok)", M1, T),
    (153, "$body.rpm2 = 2", M1, F),
    (154, "$body.rpm2 = '77'", M1, T),
    (155, "{$body.rpm2} = 2", M1, T),
    (156, "$body.axes[-1] = 3", M1, ERROR),
    (157, "$body.motor..t = 1", M1, ERROR),
    (158, "$body['rpm'] = 1450", M1, ERROR),
    (159, "$body = 'plain'", M2, U),
    (160, "$body.rpm > 1400", M2, U),
    (161, "NOT ($body.rpm > 1400)", M2, U),
    (162, "is_defined($body.rpm)", M2, F),
    (163, "$body.rpm > 1400", M3, U),
    (164, "$body.rpm > 1400", M4, U),
    (165, "$body.rpm > 1400", M5, U),
    (166, "$body.rpm = 9", M6, T),
]


@pytest.mark.parametrize(
    ("number", "condition", "of", "expected"), CASES, ids=[str(case[0]) for case in CASES]
)
def test_a_condition_gives_what_the_reference_hub_gives(
    number: int, condition: str, of: Message, expected: bool | str | None
) -> None:
    assert result(condition, of) == expected


def with_properties(**properties: str | None) -> Message:
    return Message("/messages/", properties, {}, b"")


JSON = {"contentType": "application/json", "contentEncoding": "utf-8"}
NULL = Message("/messages/", {"none": None, "level": "warn"}, JSON | {"messageId": None}, b'{"gone":null}')
BRACKETS = Message("/messages/", {"$body.list[0]": "x"}, JSON, b'{"list":[3]}')
WIDE = with_properties(smile="\U0001f600ab", high="\uffff", level="\u00dfa\u0131")

# What the text of sections 2.1 to 2.8 says and the table of section 10 does not show.
MORE_CASES = [
    # tokens
    ("a+b = 'plus'", Message("/messages/", {"a+b": "plus"}, {}, b""), T),
    ("$body.rpm-1 = null", M1, T),
    ("level = 'warn'AND true", M1, ERROR),
    ("(level = 'warn')AND(true)", M1, T),
    ("(level = 'warn')INTO", M1, ERROR),
    ("TRUE = 'x'", with_properties(true="x"), T),
    ("from = 'x'", M1, ERROR),
    ("level != 'info'", M1, T),
    ("level = 'warn' And Not level = 'x'", M1, ERROR),
    ("0xFFFFFFFFFFFFFFFF = -1", M1, T),
    ("0x7FFFFFFFFFFFFFFF > 9.2e18", M1, T),
    ("0x00000000000000000001 = 1", M1, T),
    ("0x10000000000000000 = 1", M1, ERROR),
    ("10e1000 > 1", M1, T),
    ("10e1000 = 10e1000", M1, T),
    ("9" * 5000 + " > 1", M1, T),
    ("-.5 = 0 - 0.5", M1, T),
    ("e5 = e5", M1, U),
    ("'\\\\' = \"\\\\\"", M1, T),
    (r"'\ud83d\ude00ab' = smile", WIDE, T),
    (r"'\u005c\u0022' = '" + '"' + "'", M1, T),
    (r"'\n' = level", M1, ERROR),
    # precedence
    ("1 = 1 ?? 2 = 2", M1, T),
    ("undefined ?? undefined", M1, U),
    ("2 - 3 - 4 = -5", M1, T),
    ("- 2 * 3 = -6", M1, T),
    ("NOT NOT true", M1, T),
    ("- - 5 = 5", M1, T),
    ("1 + 2 < 4 = true", M1, T),
    ("is_defined('x' || $body.rpm * 2)", M1, F),
    # types
    ("true = (1 = 1)", M1, T),
    ("true = 1", M1, ERROR),
    ("null = null AND null <= null AND null >= null", M1, T),
    ("null != null OR null < null OR null > null", M1, F),
    ("null", M1, F),
    ("undefined", M1, U),
    ("NOT null", M1, T),
    ("NOT undefined", M1, ERROR),
    ("NOT level", M1, ERROR),
    ("null OR null", M1, F),
    ("NOT (null OR null)", M1, T),
    ("NOT (null AND level = 'x')", M1, T),
    ("level = 'warn' AND null", M1, F),
    ("level = 'warn' OR null", M1, T),
    ("null AND undefined", M1, ERROR),
    ("null OR undefined", M1, ERROR),
    ("undefined AND undefined", M1, U),
    ("undefined AND false", M1, F),
    ("null ?? null", M1, F),
    ("null ?? undefined", M1, ERROR),
    ("undefined ?? 1", M1, ERROR),
    ("$body.rpm = undefined", M1, ERROR),
    ("undefined = undefined", M1, U),
    ("-level = '5'", M1, U),
    ("- level = 5", M1, ERROR),
    ("5 % $body.rpm = 0", M1, ERROR),
    ("level || 5 = 'warn5'", M1, ERROR),
    ("NOT $body.halt AND $body.ok = true", M1, T),
    ("level = 'warn' AND NOT $body.halt", M1, T),
    ("level = 'warn' AND ($body.ok AND $body.ok)", M1, T),
    ("$body.ok AND level", M1, U),
    ("null AND $body.ok", M1, ERROR),
    ("($body.state ?? 'x') || '!' = 'RUN!'", M1, T),
    ("(absent ?? $body.state) = 'RUN'", M1, T),
    ("$body.rpm + 1 = 1451", M1, T),
    ("1 + $body.state = 2", M1, U),
    ("5", M1, U),
    ("0 / 0 = 0 / 0", M1, U),
    ("is_defined(0 / 0)", M1, F),
    ("-5 / 0 < 0 AND 5 / -0 < 0", M1, T),
    ("1 / (5 / 0) = 0", M1, T),
    ("-7 % 3 = -1", M1, T),
    ("5 / 0 % 3 = 0", M1, U),
    ("5 % (5 / 0) = 5", M1, T),
    # comparison
    ("'Z' < 'a' AND '10' < '5'", M1, T),
    ("smile < high", WIDE, T),
    ("$body.halt < $body.rpm AND $body.rpm < $body.state AND $body.state < $body.gone", M1, T),
    ("$body.gone = $body.nowhere", M1, T),
    ("$body.gone < $body.nowhere", M1, F),
    ("$body.motor = $body.motor", M1, U),
    ("level = $body.state", M1, F),
    ("absent != $body.state", M1, U),
    # properties
    ("LEVEL = 'warn' AND $LEVEL = 'warn'", M1, U),
    ("{ $messageId } = 'm-1'", M1, T),
    ("{$level} = 'x'", M1, U),
    ("$ = 'dollar'", Message("/messages/", {"$": "dollar"}, {}, b""), T),
    ("$body = 'x'", Message("/messages/", {"$body": "x"}, {}, b""), T),
    ("$x[0] = 'x'", M1, ERROR),
    ("{$x[0]} = 'x'", M1, ERROR),
    ("is_defined($x[0])", M1, F),
    ("$body[0] = 1", M1, ERROR),
    ("$body.list[0] = 3", BRACKETS, T),
    ("$body.", M1, ERROR),
    ("$body.a[ = 1", M1, ERROR),
    ("$body.7 = 1", M1, ERROR),
    ("Level = '1'", Message("/messages/", {"level": "1", "LEVEL": "2"}, {}, b""), T),
    # a property without a value
    ("is_defined(none) AND is_null(none) AND NOT is_string(none)", NULL, T),
    ("concat(none, level) = 'warn' AND none || level = 'warn'", NULL, T),
    ("none = ''", NULL, U),
    ("concat(level, $body.gone) = 'warn'", NULL, U),
    ("level || $body.gone = 'warn'", NULL, U),
    ("is_defined(none ?? level)", NULL, T),
    ("none ?? level = 'warn'", NULL, ERROR),
    ("(none ?? level) = 'warn'", NULL, U),
    ("$body.p > 0 OR $body.p < 0", Message("/messages/", {"$body.p": None}, JSON, b'{"p":1}'), U),
    ("none < 'a'", NULL, U),
    ("length(none) = 0", NULL, U),
    ("$body.gone = none", NULL, U),
    ("none = $body.gone", NULL, U),
    ("is_null($messageId)", NULL, T),
    # functions
    ("ABS(-2) = 2 AND Exp(0) = 1", M1, T),
    ("exp(1000) > 1", M1, T),
    ("power(10, 400) > 1 AND power(-10, 401) < 1", M1, T),
    ("is_defined(power(-8, 0.5))", M1, F),
    ("power(0, -1) > 1", M1, T),
    ("floor(5 / 0) > 1", M1, T),
    ("abs() = 1", M1, ERROR),
    ("abs(1, 2) = 1", M1, ERROR),
    ("abs($body.load) = 0.75", M1, T),
    ("abs($body.state) = 1", M1, U),
    ("length(level, level) = 1", M1, ERROR),
    ("length(smile) = 4", WIDE, T),
    ("index_of(smile, 'a') = 2", WIDE, T),
    ("index_of(level, '') = 0", M1, T),
    (r"index_of('\u6100\u0061', '\u6161') = -1", M1, T),
    ("substring(smile, 2) = 'ab'", WIDE, T),
    ("substring(smile, 2, 1) = 'a'", WIDE, T),
    ("length(substring(smile, 1, 1)) = 1", WIDE, T),
    ("upper(level) = '\u00dfA\u0131'", WIDE, T),
    ("substring(level, -0.5) = ''", M1, U),
    ("substring(level, 1.5, 2.5) = 'ar'", M1, T),
    ("substring($body.state, $body.motor.t.now) = ''", M1, U),
    ("starts_with(level, '') AND ends_with(level, 'rn') AND contains(level, 'ar')", M1, T),
    ("as_number(' 7 ') = 7 AND as_number('7-') = -7 AND as_number('+7') = 7", M1, T),
    ("as_number('(5)') = -5 AND as_number('1,2,3.5e1') = 1235", M1, T),
    ("as_number('5.') = 5 AND as_number('.5') = 0.5", M1, T),
    ("as_number('Infinity') > 1 AND as_number('-Infinity') < 1 AND as_number('1e999') > 1", M1, T),
    ("is_defined(as_number('NaN'))", M1, F),
    ("is_defined(as_number('0x1F')) OR is_defined(as_number(blank)) OR is_defined(as_number('.'))", M1, F),
    ("is_defined(as_number('-5-')) OR is_defined(as_number('(5')) OR is_defined(as_number('(-5)'))", M1, F),
    ("is_defined(as_number(',5')) OR is_defined(as_number('5e')) OR is_defined(as_number('1.0,0'))", M1, F),
    ("as_number($body.rpm) = 1450 AND as_number(5) = 5", M1, T),
    ("as_number(true) = 1", M1, ERROR),
    ("is_null(null) AND NOT is_null(5) AND NOT is_null(undefined)", M1, T),
    ("is_null($body.motor)", M1, U),
    ("is_bool(absent = 'x')", M1, U),
    ("is_bool($body.rpm)", M1, F),
    ("is_bool($body.motor)", M1, U),
    ("is_bool(null)", M1, F),
    ("is_string($body.motor) OR is_number($body.motor) OR is_number(level)", M1, F),
    ("is_defined(null) AND is_defined(false)", M1, T),
    ("is_defined(undefined) OR is_defined(absent = 'x')", M1, F),
    ("is_defined()", M1, ERROR),
    ("concat(level, 5) = 'warn5'", M1, ERROR),
    ("concat(level, $body.rpm) = 'x'", M1, U),
    ("trim(level) = 'warn'", M1, ERROR),
    ("length(level,) = 4", M1, ERROR),
    ("length(,level) = 4", M1, ERROR),
    ("length (level) = 4", M1, T),
]


@pytest.mark.parametrize(
    ("condition", "of", "expected"), MORE_CASES, ids=[case[0][:40] for case in MORE_CASES]
)
def test_a_condition_gives_what_the_sheet_says(
    condition: str, of: Message, expected: bool | str | None
) -> None:
    assert result(condition, of) == expected


START = len("FROM /* WHERE ") + 1


@pytest.mark.parametrize(
    ("condition", "reason", "column"),
    [
        (
            "temp > 20",
            "Invalid operands to binary operator '>': have 'string' and 'number', "
            "expected 'string' and 'string'",
            6,
        ),
        ("level == 'warn'", "Syntax error.", 8),
        ("level && true", "Syntax error.", 7),
        ("true junk", "Syntax error.", 6),
        ("", "Syntax error.", 2),
        ("= 'x'", "Syntax error.", 1),
        ("level =", "Syntax error.", 9),
        ("level = 'warn')", "Syntax error.", 15),
        ("(level = 'warn'))", "Syntax error: unmatched closing ')'", 17),
        ("true AND is_defined(level))", "Syntax error: unmatched closing ')'", 27),
        ("true AND (level = 'warn'", "Syntax error: missing closing ')'", 10),
        ("((true)", "Syntax error: missing closing ')'", 1),
        ("(true junk)", "Syntax error.", 7),
        ("abs(5 = 5", "Syntax error.", 11),
        ("level = 'warn", "Syntax error: unterminated string", 9),
        (r"level = 'a\tb'", "Syntax error: unterminated string", 9),
        ("level @ 'x'", "Syntax error: invalid symbol '@'", 7),
        ("level = ;", "Syntax error: invalid symbol ';'", 9),
        ("level[0] = 'w'", "Syntax error.", 1),
        ("{level} = 'w'", "Syntax error.", 2),
        ("7 -2 = 5", "Syntax error.", 3),
        ("NOT level = 'x'", "Invalid operands to unary operator 'NOT': have 'string', expected 'bool'", 1),
        ("true AND\n not 5", "Invalid operands to unary operator 'not': have 'number', expected 'bool'", 2),
        ("- $body.n < 0", "Invalid operands to unary operator '-': have 'unknown', expected 'number'", 1),
        (
            "5 % $body.n = 0",
            "Invalid operands to binary operator '%': have 'number' and 'unknown', "
            "expected 'number' and 'number'",
            3,
        ),
        (
            "level + 'x' = 'y'",
            "Invalid operands to binary operator '+': have 'string' and 'string', "
            "expected 'number' and 'number'",
            7,
        ),
        (
            "level || 5 = 'y'",
            "Invalid operands to binary operator '||': have 'string' and 'number', "
            "expected 'string' and 'string'",
            7,
        ),
        (
            "level and true",
            "Invalid operands to binary operator 'and': have 'string' and 'bool', expected 'bool' and 'bool'",
            7,
        ),
        (
            "true OR $body.ok",
            "Invalid operands to binary operator 'OR': have 'bool' and 'unknown', expected 'bool' and 'bool'",
            6,
        ),
        (
            "level ?? 5",
            "Invalid operands to binary operator '??': have 'string' and 'number', "
            "expected 'string' and 'string'",
            7,
        ),
        (
            "$body.n = undefined",
            "Invalid operands to binary operator '=': have 'unknown' and 'undefined', "
            "expected 'unknown' and 'unknown'",
            9,
        ),
        (
            "level = null",
            "Invalid operands to binary operator '=': have 'string' and 'null', "
            "expected 'string' and 'string'",
            7,
        ),
        ("abs('x') = 1", "Invalid arguments to built-in function 'abs': abs(string)", 1),
        ("1 = Power(true, null)", "Invalid arguments to built-in function 'Power': Power(bool, null)", 5),
        ("abs() = 1", "Invalid arguments to built-in function 'abs': abs()", 1),
        ("round(2.5) = 3", "Invalid built-in function 'round'", 1),
        (
            "twin_change_includes(properties.reported.x)",
            "Invalid built-in function 'twin_change_includes'",
            1,
        ),
        (
            "$body.a..b = 1",
            "Invalid arguments to built-in function '$body.a..b': $body.a..b(string). "
            "Error: Error in $body query. a segment of the path is empty",
            1,
        ),
    ],
)
def test_a_mistake_is_said_in_the_words_of_the_reference_hub_with_its_position(
    condition: str, reason: str, column: int
) -> None:
    with pytest.raises(RouteError) as caught:
        compiled(condition)

    expected = (1, START + column - 1) if "\n" not in condition else (2, column)
    assert (caught.value.reason, (caught.value.line, caught.value.column)) == (reason, expected)


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ("temp > 20", "as_number"),
        ("level = 'warn", "ends with the quote it began with"),
        ("true junk", "found 'junk', expected an operator or INTO"),
        ("{level} = 'x'", "$name"),
        ("(" * 100 + "true" + ")" * 100, "at most 32 levels"),
    ],
)
def test_the_way_out_is_said_too(condition: str, hint: str) -> None:
    with pytest.raises(RouteError) as caught:
        compiled(condition)

    assert hint in caught.value.hint
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("(" * 10_000 + "true" + ")" * 10_000, id="brackets"),
        pytest.param("(" * 10_000, id="open brackets"),
        pytest.param("NOT " * 5_000 + "true", id="NOT"),
        pytest.param("- " * 10_000 + "5 = 5", id="signs"),
        pytest.param("abs(" * 5_000 + "5" + ")" * 5_000 + " = 5", id="calls"),
        pytest.param("true AND " * 200_000 + "true", id="a megabyte"),
        pytest.param("'" + "x" * 1_000_000 + "' = level", id="a string of a megabyte"),
    ],
)
def test_what_is_too_deep_or_too_long_is_refused(condition: str) -> None:
    with pytest.raises(RouteError):
        compiled(condition)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param("level = 'x' OR " * 2_000 + "level = 'warn'", T, id="OR"),
        pytest.param("level = 'warn' AND " * 1_500 + "level = 'x'", F, id="AND"),
        pytest.param("1 + " * 8_000 + "1 = 8001", T, id="plus"),
        pytest.param("absent ?? " * 3_000 + "level", U, id="coalesce"),
        pytest.param("contains(concat(" + "level, " * 3_000 + "'!'), '!')", T, id="arguments"),
        pytest.param("(" * 30 + "true" + ")" * 30, T, id="thirty brackets"),
        pytest.param("NOT " * 30 + "true", T, id="thirty NOTs"),
    ],
)
def test_a_long_condition_works(condition: str, expected: bool | None) -> None:
    assert compiled(condition).evaluate(View(M1)) is expected


def test_the_deepest_condition_of_all_operators_needs_no_deep_stack() -> None:
    opening = "$body.a ?? $body.a OR $body.a AND $body.a = $body.a < $body.a + $body.a * as_number("
    deepest = compiled(opening * 32 + "$body.rpm" + ")" * 32)

    assert result("as_number($body.rpm + 0 * " * 32 + "0" + ")" * 32 + " = 1450", M1) is T
    assert deepest.evaluate(View(M1)) is U


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ("level = 'warn'", False),
        ("$body = 'x'", False),
        ("$body.a = 1", True),
        ("{$BODY.a} = 1", True),
        ("level = 'warn' AND is_defined($body.a)", True),
        ("NOT (concat(level, $body.a) = 'x')", True),
        ("- as_number($body.a) = 1", True),
    ],
)
def test_a_condition_knows_whether_it_reads_the_body(condition: str, reads: bool) -> None:
    assert compiled(condition).reads_body is reads


def test_the_body_is_parsed_once_and_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import messaging.routing.compile as module

    parsed: list[Message] = []
    parse_body = module.parse_body

    def counting(of: Message) -> object:
        parsed.append(of)
        return parse_body(of)

    monkeypatch.setattr(module, "parse_body", counting)
    view = View(M1)

    assert compiled("level = 'info' AND is_defined($body.a)").evaluate(view) is False
    assert parsed == []
    assert compiled("$body.rpm = 1450 AND $body.state = 'RUN'").evaluate(view) is True
    assert compiled("$body.ok").evaluate(view) is True
    assert parsed == [M1]


PIECES = [
    "level",
    "'warn'",
    "5",
    "0x1F",
    "e5",
    "null",
    "undefined",
    "true",
    "$body.a",
    "$messageId",
    "$body.a[0]",
]
PIECES += ["AND", "OR", "NOT", "=", "!=", "<>", "<", "<=", ">", ">=", "??", "||", "+", "-", "*", "/", "%"]
PIECES += [
    "(",
    ")",
    "{",
    "}",
    ",",
    "abs",
    "concat",
    "is_null",
    "'open",
    '"',
    "@",
    "/*",
    "*/",
    "INTO",
    "WHERE",
    "\\",
]


@given(
    st.text()
    | st.lists(st.sampled_from(PIECES)).map(" ".join)
    | st.lists(st.sampled_from(PIECES)).map("".join)
)
def test_any_condition_is_compiled_or_refused_and_any_compiled_one_can_be_asked(text: str) -> None:
    try:
        syntax = parse_route(f"FROM /* WHERE {text} INTO $upstream")
        condition = compile_condition(syntax.condition) if syntax.condition else None
    except RouteError:
        return
    if condition is not None:
        for of in (M1, M2, NULL):
            assert condition.evaluate(View(of)) in (True, False, None)
