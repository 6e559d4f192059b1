"""The HTTP head: who may call which method, and what the caller hears."""

from __future__ import annotations

import json

import pytest

from actors.heads.http_head import EXTRA_S, HttpAnswer, HttpCall, HttpHandler, HttpHead
from actors.hub.client_services import InvokeMethod, MethodFailed, MethodResult
from actors.hub.identities import AGENT_LIMIT_S
from actors.hub.identity_messages import ACCEPTED, NOT_AUTHORIZED, TRY_AGAIN, Authenticate, Verdict
from messaging.lifecycle import RequestFailed
from tests.actors.hub_world import World, message_in

HTTP, IDENTITIES, METHODS = "hub/http", "hub/identities", "hub/methods"
PATH = "/twins/edge1/modules/pump/methods"
TOKEN = ("authorization", "SharedAccessSignature sr=x")
CALLER = ("x-ms-edge-moduleid", "edge1/control")
BODY = b'{"methodName":"start","payload":{"rpm":5},"responseTimeoutInSeconds":10}'


class Gate:
    handler: HttpHandler | None = None

    def open(self, handler: HttpHandler) -> None:
        self.handler = handler

    def close(self) -> None:
        self.handler = None


class HttpWorld(World):
    def __init__(self) -> None:
        super().__init__(IDENTITIES, METHODS, "test")
        self.gate = Gate()
        self.start(HTTP, lambda: HttpHead(self.gate, "edge1", "proxy"))

    def ask(
        self,
        path: str = PATH,
        method: str = "POST",
        body: bytes = BODY,
        headers: tuple[tuple[str, str], ...] = (CALLER, TOKEN),
        certificates: tuple[bytes, ...] = (),
    ) -> list[HttpAnswer]:
        """Send a request; return the list that its answer comes into."""
        answers: list[HttpAnswer] = []
        assert self.gate.handler is not None
        self.gate.handler.requested(HttpCall(method, path, headers, body, certificates), answers.append)
        self.system.run()
        return answers

    def judge(self, code: int = ACCEPTED, reason: str = "") -> list[str]:
        asked = self.letters(IDENTITIES)
        for letter in asked:
            assert letter.kind == Authenticate.__name__
            self.tell(HTTP, Verdict(letter.body[0], code, reason), IDENTITIES, letter.correlation_id)
        return [letter.body[0] for letter in asked]

    def invoked(self) -> list[tuple[InvokeMethod, int]]:
        return [(message_in(letter), letter.correlation_id) for letter in self.letters(METHODS)]


@pytest.fixture
def world() -> HttpWorld:
    return HttpWorld()


@pytest.mark.parametrize(
    ("path", "target"),
    [(PATH, "edge1/pump"), ("/twins/leaf/methods", "leaf"), ("/twins/a%2Db/modules/%24x/methods", "a-b/$x")],
)
def test_a_call_of_a_module_that_proved_itself_is_made_and_answered(
    world: HttpWorld, path: str, target: str
) -> None:
    answers = world.ask(path)
    assert world.judge() == ["edge1/control"]
    [(invoke, to)] = world.invoked()
    assert invoke == InvokeMethod(target, "start", b'{"rpm":5}', 10, 0, "edge1/control")
    world.tell(HTTP, MethodResult(501, b'{"why":"no"}'), METHODS, to)

    assert answers == [HttpAnswer(200, b'{"status":501,"payload":{"why":"no"}}')]


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        pytest.param({"body": b"{}"}, 400, id="row 38: no name"),
        pytest.param({"headers": (TOKEN,)}, 400, id="row 39: no caller"),
        pytest.param({"headers": (("x-ms-edge-moduleid", "control"), TOKEN)}, 400, id="row 39: no slash"),
        pytest.param({"headers": (("x-ms-edge-moduleid", "edge1/"), TOKEN)}, 400, id="no module"),
        pytest.param({"headers": (("x-ms-edge-moduleid", "edge1/a b"), TOKEN)}, 400, id="no id"),
        pytest.param({"headers": (("x-ms-edge-moduleid", "edge2/m"), TOKEN)}, 401, id="row 39: foreign"),
        pytest.param({"headers": (CALLER,)}, 401, id="row 39: no token"),
        pytest.param({"headers": (CALLER, TOKEN, TOKEN)}, 401, id="row 39: two tokens"),
        pytest.param({"certificates": (b"der",)}, 401, id="row 40: the certificate decides"),
        pytest.param(
            {"headers": (CALLER, TOKEN, ("x-ms-edge-clientcert", "PEM"))}, 401, id="row 41: a proxied one"
        ),
        pytest.param({"path": "/twins/a b/methods"}, 400, id="no id of a target"),
        pytest.param({"path": "/twins/edge1"}, 404, id="no method"),
        pytest.param({"path": "/"}, 404, id="nothing"),
        pytest.param({"method": "GET"}, 405, id="GET"),
    ],
)
def test_a_request_that_is_wrong_is_refused_and_nobody_is_asked(
    world: HttpWorld, settings: dict[str, object], status: int
) -> None:
    """Source: hub-protocols.md section 8.4, rows 38 to 41."""
    [answer] = world.ask(**settings)  # type: ignore[arg-type]

    assert answer.status == status
    assert json.loads(answer.body)["message"]
    assert (world.letters(IDENTITIES), world.letters(METHODS)) == ([], [])


@pytest.mark.parametrize(("code", "status"), [(NOT_AUTHORIZED, 401), (TRY_AGAIN, 503)])
def test_a_caller_that_is_refused_calls_nothing(world: HttpWorld, code: int, status: int) -> None:
    answers = world.ask()

    world.judge(code, "the token expired 360 s ago")

    assert [(answer.status, json.loads(answer.body)) for answer in answers] == [
        (status, {"message": "the token expired 360 s ago"})
    ]
    assert world.letters(METHODS) == []


@pytest.mark.parametrize("status", [404, 429, 504])
def test_a_call_that_fails_says_so_with_its_status(world: HttpWorld, status: int) -> None:
    """Source: hub-protocols.md section 8.4, row 36."""
    answers = world.ask()
    world.judge()
    [(_, to)] = world.invoked()

    world.tell(HTTP, MethodFailed(status, "'edge1/pump' is not connected"), METHODS, to)

    assert [answer.status for answer in answers] == [status]


def test_a_service_that_fails_or_is_silent_is_500(world: HttpWorld) -> None:
    failed, silent, unjudged = world.ask(), world.ask(), []
    world.judge()
    [(_, to), _] = world.invoked()
    unjudged = world.ask()

    world.tell(HTTP, RequestFailed("InvokeMethod", METHODS, "boom"), METHODS, to)
    world.system.advance(max(10 + EXTRA_S, AGENT_LIMIT_S + 2) + 1)

    assert [answers[0].status for answers in (failed, silent, unjudged)] == [500, 500, 500]
    assert world.described(HTTP) == {"requests": 0}


# certificates that a proxy passes on


def pass_on(world: HttpWorld, *headers: tuple[str, str]) -> list[HttpAnswer]:
    answers: list[HttpAnswer] = []
    assert world.gate.handler is not None
    call = HttpCall("GET", "/$iothub/websocket", (("x-ms-edge-clientcert", "PEM"), *headers), b"")
    world.gate.handler.certificate_passed_on(call, answers.append)
    world.system.run()
    return answers


@pytest.mark.parametrize(
    ("code", "status"), [(ACCEPTED, 200), (NOT_AUTHORIZED, 401), (TRY_AGAIN, 503)], ids=str
)
def test_a_certificate_is_passed_on_by_whoever_proves_to_be_the_proxy_of_this_edge(
    world: HttpWorld, code: int, status: int
) -> None:
    answers = pass_on(world, TOKEN)
    before = list(answers)

    asked = world.judge(code, "why")

    assert (before, asked) == ([], ["edge1/proxy"])
    assert [answer.status for answer in answers] == [status]


@pytest.mark.parametrize("headers", [(), (TOKEN, TOKEN)], ids=["no token", "two tokens"])
def test_row_41_without_its_token_nobody_passes_on_a_certificate(
    world: HttpWorld, headers: tuple[tuple[str, str], ...]
) -> None:
    [answer] = pass_on(world, *headers)

    assert answer.status == 401
    assert "token of 'edge1/proxy'" in json.loads(answer.body)["message"]
    assert world.letters(IDENTITIES) == []


def test_a_proxy_that_nobody_judges_hears_so(world: HttpWorld) -> None:
    answers = pass_on(world, TOKEN)

    world.system.advance(AGENT_LIMIT_S + 3)

    assert [answer.status for answer in answers] == [500]
