"""The provisioning service: how it is asked, and asked again when the IoT Hub refuses the device."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from actors.upstream.connection import CloudFault, Fault
from messaging.clock import ManualClock
from messaging.envelope import Secret
from messaging.errors import ConfigError, EdgeError, EnvironmentFault
from messaging.sas import parse_token
from runtime.config.device_credentials import Enrollment
from runtime.home import Home
from runtime.net.https_client import Answer, CloudError, Service
from runtime.upstream import dps_client
from runtime.upstream.provisioning import Provisioned, load, remember
from runtime.upstream.reprovisioning import SPACING_S, Reprovisioning

KEY = base64.b64encode(b"k" * 32).decode()
ENROLLMENT = Enrollment("dps.test", 443, "0ne1", "reg 7", KEY)
REFUSED = CloudFault(Fault.UNAUTHORIZED, "hub7 answers 401", 401)


class ScriptedService:
    """A provisioning service that answers by script, and what it was asked."""

    def __init__(self, *script: tuple[int, dict[str, str], Any] | CloudFault) -> None:
        self.script = list(script)
        self.asked: list[tuple[str, str, Any, str]] = []
        self.clock = ManualClock()
        self.waits: list[float] = []

    def __call__(self, service: Service) -> ScriptedService:
        assert (service.host, service.port) == ("dps.test", 443)
        return self

    def __enter__(self) -> ScriptedService:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, target: str, body: object, headers: dict[str, str]) -> Answer:
        self.asked.append((method, target, body, headers["Authorization"]))
        step = self.script.pop(0)
        if isinstance(step, CloudFault):
            raise CloudError(step)
        return Answer(*step)

    def register(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
        monkeypatch.setattr("runtime.upstream.dps_client.HttpsClient", self)
        return dps_client.register(
            ENROLLMENT, "", sleep=self.sleep, monotonic_s=self.clock.monotonic_s, now_s=self.clock.now_s
        )

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)


ASSIGNING = {"operationId": "o/1", "status": "assigning"}
ASSIGNED = {"status": "assigned", "registrationState": {"assignedHub": "hub7", "deviceId": "d7"}}


def test_a_registration_is_polled_until_it_is_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScriptedService(
        (202, {"retry-after": "3"}, ASSIGNING), (202, {}, ASSIGNING), (200, {}, ASSIGNED)
    )

    assert service.register(monkeypatch) == ("hub7", "d7")

    first, *polls = service.asked
    assert first[:3] == (
        "PUT",
        "/0ne1/registrations/reg%207/register?api-version=2021-06-01",
        {"registrationId": "reg 7"},
    )
    assert {poll[:2] for poll in polls} == {
        ("GET", "/0ne1/registrations/reg%207/operations/o%2F1?api-version=2021-06-01")
    }
    assert parse_token(first[3]).key_name == "registration"
    assert [int(wait) for wait in service.waits] == [3, 5]


def test_a_registration_that_is_never_assigned_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScriptedService(*[(202, {"retry-after": "1000"}, ASSIGNING)] * 100)

    with pytest.raises(EnvironmentFault, match="did not assign 'reg 7' within 120 s"):
        service.register(monkeypatch)

    assert sum(service.waits) <= dps_client.LIMIT_S


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (
            CloudFault(Fault.UNREACHABLE, "it is away"),
            EnvironmentFault,
            "later ones work off",
        ),
        (CloudFault(Fault.THROTTLED, "429", 429), EnvironmentFault, "cannot be asked"),
        (CloudFault(Fault.UNAUTHORIZED, "401", 401), ConfigError, "compare provisioning.id_scope"),
        (CloudFault(Fault.REFUSED, "404", 404), ConfigError, "refuses registration 'reg 7'"),
        (
            (200, {}, {"status": "failed", "registrationState": {"errorMessage": "no hub\nleft"}}),
            ConfigError,
            r"does not assign 'reg 7': no hub\\nleft",
        ),
        ((200, {}, {"status": "disabled"}), ConfigError, "the registration is 'disabled'"),
        ((200, {}, {"status": "assigned", "registrationState": {}}), ConfigError, "look at its enrollment"),
        ((200, {}, ["nonsense"]), ConfigError, "does not assign"),
        ((200, {}, None), ConfigError, "does not assign"),
    ],
    ids=str,
)
def test_what_it_refuses_is_told_without_the_key(
    monkeypatch: pytest.MonkeyPatch, answer: Any, error: type[EdgeError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        ScriptedService(answer).register(monkeypatch)

    assert KEY not in str(caught.value)


class Moving:
    """An edge that was assigned by the service, and what the service says when it is asked again."""

    def __init__(self, home: Path, *answers: tuple[str, str] | EdgeError) -> None:
        self.home = Home(home)
        self.found = Provisioned("hub7", "d7", Secret(KEY.encode()), enrollment="mark")
        remember(self.home, self.found)
        self.answers = list(answers)
        self.clock = ManualClock()
        self.moved = 0
        self.again = Reprovisioning(
            ENROLLMENT, self.found, self.home, self._on_moved, self._register, self.clock.monotonic_s
        )

    def _register(self, enrollment: Enrollment, ca_pem: str) -> tuple[str, str]:
        answer = self.answers.pop(0)
        if isinstance(answer, EdgeError):
            raise answer
        return answer

    def _on_moved(self) -> None:
        self.moved += 1


def test_a_device_that_was_moved_to_another_hub_goes_there(tmp_path: Path) -> None:
    """Source: agent.md section 8, row 101."""
    edge = Moving(tmp_path, ("hub8", "d7"))

    fault = edge.again.after(REFUSED)

    assert edge.moved == 1
    assert "this device was moved to hub8; the edge starts anew there" in fault.reason
    kept = load(edge.home)
    assert kept is not None
    assert (kept.host_name, kept.enrollment) == ("hub8", "mark")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("HUB7", "d7"), "hub7 answers 401"),
        (("hub8", "d8"), "says now that this is device 'd8' of 'hub8': start it with an empty --home"),
        (EnvironmentFault("the service is away"), "hub7 answers 401; the service is away"),
    ],
    ids=["the same", "another device", "away"],
)
def test_otherwise_it_stays_what_it_is(
    tmp_path: Path, answer: tuple[str, str] | EdgeError, said: str
) -> None:
    edge = Moving(tmp_path, answer)

    fault = edge.again.after(REFUSED)

    assert said in fault.reason
    assert (edge.moved, load(edge.home)) == (0, edge.found)


def test_the_service_is_asked_once_an_hour_at_most(tmp_path: Path) -> None:
    edge = Moving(tmp_path, *[("hub7", "d7")] * 5)
    for _ in range(10):
        edge.again.after(REFUSED)
        edge.clock.advance(SPACING_S / 5)

    assert len(edge.answers) == 3


@pytest.mark.parametrize(
    "fault",
    [
        CloudFault(Fault.UNREACHABLE, ""),
        CloudFault(Fault.THROTTLED, "", 429),
        CloudFault(Fault.CLOCK, "", 401),
    ],
    ids=lambda fault: fault.kind.name,
)
def test_what_is_no_refusal_of_the_device_is_no_reason_to_ask(tmp_path: Path, fault: CloudFault) -> None:
    """Source: agent.md section 8, row 101."""
    edge = Moving(tmp_path)

    assert edge.again.after(fault) == fault
