"""Random conditions and messages: the compiled condition and the slow reference have to agree."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from messaging.errors import RouteError
from messaging.message import Message
from messaging.routing.compile import View, compile_condition
from messaging.routing.grammar import parse_route
from tests.messaging.routing.reference import LEVEL_OF, Refused, Tree, outcome, render

REFUSED = "refused"

NAMES = ["level", "LEVEL", "temp", "count", "absent", "my-key", "$shade", "$messageId", "$level", "$none"]
PATHS = [
    "n",
    "n2",
    "text",
    "ok",
    "off",
    "gone",
    "none",
    "list[0]",
    "list[1].id",
    "list[9]",
    "list",
    "deep.a.b",
    "N",
]
NUMBERS = ["0", "1", "-1", "2.5", "007", "1e3", "-0.5", ".5", "21.5"]
STRINGS = ["", "warn", "WARN", "a", "it's", "007", "21.5", "\\", "Z", "é"]
COMPARISONS = ["=", "!=", "<>", "<", "<=", ">", ">="]

values = st.sampled_from(["warn", "WARN", "21.5", "n/a", "007", "-3", "(5)", "1,000", "", "a", "x y", "\t7 "])
properties = st.dictionaries(st.sampled_from(["level", "temp", "count", "My-Key", "$shade"]), values)
system_properties = st.dictionaries(st.sampled_from(["messageId", "shade", "LEVEL"]), values).flatmap(
    lambda drawn: st.sampled_from(
        [
            drawn | {"contentType": "application/json", "contentEncoding": "utf-8"},
            drawn | {"contentType": "Application/JSON", "contentEncoding": "UTF-8"},
            drawn | {"contentType": "application/json"},
            drawn,
        ]
    )
)
bodies = st.sampled_from(
    [
        b'{"n":2.5,"n2":-1,"text":"warn","ok":true,"off":false,"gone":null,"list":[3,{"id":"a"},[]],'
        b'"deep":{"a":{"b":1450}}}',
        b'{"n":"21.5","text":5,"ok":"yes","off":0,"gone":true,"list":"abc","deep":{"a":[1]}}',
        b"[1]",
        b"plain",
        b"",
    ]
)


def trees(draw: st.DrawFn, want: str, depth: int) -> Tree:
    """Draw a tree, mostly of the wanted type; one in ten of any type, to meet the compiler's refusals."""
    if draw(st.integers(0, 9)) == 0:
        want = draw(st.sampled_from(["string", "number", "bool", "dynamic", "constant"]))
    if depth == 0 or want == "constant":
        return leaf(draw, want)

    def sub(kind: str) -> Tree:
        return trees(draw, kind, depth - 1)

    choice = draw(st.integers(0, 11)) // 2
    if choice == 0:
        return leaf(draw, want) if draw(st.booleans()) else ("binary", "??", sub(want), sub(want))
    if want == "string":
        if choice <= 2:
            return ("binary", "||", sub("string"), sub("string"))
        name = draw(st.sampled_from(["lower", "UPPER", "concat", "substring", "substring"]))
        if name == "substring":
            numbers = [sub("number") for _ in range(draw(st.integers(1, 2)))]
            return ("call", name, [sub("string"), *numbers])
        return (
            "call",
            name,
            [sub("string") for _ in range(draw(st.integers(1, 3)) if name == "concat" else 1)],
        )
    if want == "number":
        if choice == 1:
            return ("prefix", "-", sub("number"))
        if choice == 3:
            return ("call", draw(st.sampled_from(["length", "as_number"])), [sub("string")])
        if choice == 4:
            name = draw(
                st.sampled_from(["abs", "ceiling", "Floor", "sqrt", "square", "sign", "index_of", "power"])
            )
            if name == "index_of":
                return ("call", name, [sub("string"), sub("string")])
            if name == "power":
                return ("call", name, [leaf(draw, "number"), ("number", str(draw(st.integers(-8, 8))))])
            return ("call", name, [sub("number")])
        return ("binary", draw(st.sampled_from(["+", "-", "*", "/", "%"])), sub("number"), sub("number"))
    if want == "dynamic":
        return ("binary", draw(st.sampled_from(["+", "-", "*", "/"])), sub("dynamic"), sub("number"))
    if choice == 2:
        name = draw(st.sampled_from(["is_defined", "is_null", "is_bool", "is_number", "is_string"]))
        return (
            "call",
            name,
            [sub(draw(st.sampled_from(["string", "number", "bool", "dynamic", "constant"])))],
        )
    if choice == 3:
        both = draw(st.sampled_from(["string", "number", "bool", "dynamic", "dynamic"]))
        other = draw(st.sampled_from(["string", "number", "bool", "dynamic"])) if both == "dynamic" else both
        return ("binary", draw(st.sampled_from(COMPARISONS)), sub(both), sub(other))
    if choice == 1:
        name = draw(st.sampled_from(["NOT", "NOT", "NOT", "starts_with", "ends_with", "contains"]))
        return (
            ("prefix", "NOT", sub("bool"))
            if name == "NOT"
            else ("call", name, [sub("string"), sub("string")])
        )
    left = draw(st.sampled_from(["bool", "bool", "dynamic"]))
    return ("binary", draw(st.sampled_from(["AND", "OR"])), sub(left), sub("bool"))


def leaf(draw: st.DrawFn, want: str) -> Tree:
    match want:
        case "string":
            if draw(st.booleans()):
                return ("property", draw(st.sampled_from(NAMES)))
            return ("string", draw(st.sampled_from(STRINGS)))
        case "number":
            return ("number", draw(st.sampled_from(NUMBERS)))
        case "bool":
            return ("constant", draw(st.sampled_from(["true", "false"])))
        case "dynamic":
            return ("body", draw(st.sampled_from(PATHS)))
    return ("constant", draw(st.sampled_from(["null", "undefined"])))


conditions = st.composite(lambda draw: trees(draw, "bool", draw(st.integers(1, 3))))()


def compiled_outcome(text: str, message: Message) -> bool | str | None:
    try:
        syntax = parse_route(f"FROM /* WHERE {text} INTO $upstream")
        assert syntax.condition is not None
        return compile_condition(syntax.condition).evaluate(View(message))
    except RouteError:
        return REFUSED


@settings(max_examples=1500)
@given(conditions, properties, system_properties, bodies, st.booleans())
def test_a_compiled_condition_agrees_with_the_reference(
    tree: Tree, application: dict[str, str], system: dict[str, str], body: bytes, all_brackets: bool
) -> None:
    expected: Any
    try:
        expected = outcome(tree, application, system, body)
    except Refused:
        expected = REFUSED

    text = render(tree, all_brackets)

    assert compiled_outcome(text, Message("/messages/", application, system, body)) is expected, text


@given(st.lists(st.sampled_from(sorted(LEVEL_OF)), min_size=1, max_size=8), st.data())
def test_operators_bind_as_their_levels_say(signs: list[str], data: st.DataObject) -> None:
    """Terms and operators without brackets, split by hand at the loosest operator, the last one first."""
    terms = [
        leaf(data.draw, data.draw(st.sampled_from(["string", "number", "bool", "dynamic"])))
        for _ in range(len(signs) + 1)
    ]
    flat = " ".join(render(part) if isinstance(part, tuple) else part for part in _interleave(terms, signs))

    tree = _split(terms, signs)

    message = Message("/messages/", {}, {}, b"")
    assert compiled_outcome(flat, message) == compiled_outcome(render(tree, all_brackets=True), message)


def _interleave(terms: list[Tree], signs: list[str]) -> list[Any]:
    return [part for pair in zip(terms, signs, strict=False) for part in pair] + [terms[-1]]


def _split(terms: list[Tree], signs: list[str]) -> Tree:
    if not signs:
        return terms[0]
    loosest = min(LEVEL_OF[sign] for sign in signs)
    at = max(number for number, sign in enumerate(signs) if LEVEL_OF[sign] == loosest)
    return (
        "binary",
        signs[at],
        _split(terms[: at + 1], signs[:at]),
        _split(terms[at + 1 :], signs[at + 1 :]),
    )
