"""Hub, or hub and agent, killed while Python, Node and uamqp clients are in the middle of each feature."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.integration.sdk_clients import once
from tests.integration.sdk_site import LEAVES, MODULES, SdkSite, installed_sdks
from tests.integration.test_sdk_features import in_order, invoke, is_from
from tests.integration.test_web_socket import may_bind_443, needs_443

HUB_LIMIT_S = 5.0  # within which everybody is served again …
BOTH_LIMIT_S = 12.0  # … and after an agent that was killed, too: the Python SDK waits 10 s after a refusal
GIVE_UP_S = 30.0
TRIES_S = 0.3
ANSWER_S = 2.0  # what an application waits for a twin before it asks again
SEED = 6

Do = Callable[[int], object]


# One site for each test: a hub that crashes twice within 10 s is started again later.


@pytest.fixture
def site() -> Iterator[SdkSite]:
    yield from site_with(installed_sdks())


@pytest.fixture
def smaller_site() -> Iterator[SdkSite]:
    """Without a second one of Node over AMQP."""
    yield from site_with([sdk for sdk in installed_sdks() if sdk != "node-amqp-ws"])


def site_with(sdks: Sequence[str]) -> Iterator[SdkSite]:
    made = SdkSite(sdks, web=may_bind_443())
    try:
        made.start()
        yield made
    finally:
        made.close()


class Repeating:
    """Does one thing after the other, in a thread, and writes down which succeeded, and when."""

    def __init__(self, name: str, do: Do, has_ended: Callable[[], bool]) -> None:
        """Repeat `do`; `has_ended` says that a client which that takes has ended for good."""
        self.name = name
        self.has_ended = has_ended
        self.done: list[tuple[int, float, float]] = []  # number, when it began and ended (monotonic)
        self.errors: list[str] = []
        self._do = do
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2 * GIVE_UP_S)
        assert not self._thread.is_alive(), f"{self.name} hangs; {self.errors}"

    def wait_for(self, count: int) -> None:
        """Wait until so many have succeeded, or none can any more."""
        with self._news:
            came = self._news.wait_for(lambda: len(self.done) >= count or self.has_ended(), GIVE_UP_S)
        assert came, f"{self.name}: {len(self.done)} of {count}; {self.errors[-3:]}"

    def served_after(self, moment_s: float) -> float | None:
        """Wait for the first that began after a moment; return how long after it that succeeded.

        None when a client that it takes has ended first.
        """

        def is_served() -> bool:
            return bool(self.done) and self.done[-1][1] >= moment_s

        with self._news:
            came = self._news.wait_for(lambda: is_served() or self.has_ended(), GIVE_UP_S)
            assert came, f"{self.name} is not served: {self.errors[-3:]}"
            if not is_served():
                return None
            return next(ended_s for _, began_s, ended_s in self.done if began_s >= moment_s) - moment_s

    def _run(self) -> None:
        for number in itertools.count():
            while True:
                if self._stop.is_set():
                    return
                began_s = time.monotonic()
                try:
                    self._do(number)
                    break
                except Exception as exc:  # noqa: BLE001 - the SDK may say no; then it is tried again
                    self.errors.append(repr(exc))
                    with self._news:
                        self._news.notify_all()  # it may be the end of its client
                    self._stop.wait(0.02)
            with self._news:
                self.done.append((number, began_s, time.monotonic()))
                self._news.notify_all()


# What is repeated. Each fails or returns; what it proves when it returns is said there.


def telemetry(site: SdkSite, identity: str) -> Do:
    """Send a number, which is acknowledged."""
    client = site.clients[identity]
    if "/" in identity:
        return lambda number: client.ask("sendOutput", "out", {"body": str(number)})
    return lambda number: client.ask("send", {"body": str(number)})


def twin(site: SdkSite, identity: str) -> Do:
    """Report a number, and find it in the twin."""
    client = site.clients[identity]
    client.ask("twin")  # the Node SDK has no other way to report

    def do(number: int) -> None:
        # What was asked of a hub that died is never answered, and the Node SDK waits for minutes.
        client.ask("report", {"number": number}, limit_s=ANSWER_S)
        assert client.ask("twin", limit_s=ANSWER_S)["reported"]["number"] == number

    return do


def desired(site: SdkSite, identity: str) -> Do:
    """Have a number desired by the cloud, and hear of it."""
    client = site.clients[identity]
    client.ask("twin")
    client.ask("desired")

    def do(number: int) -> None:
        deadline_s = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline_s:
            try:
                site.desire(identity, {"number": number})  # the cloud says it until it is heard
                client.event("desired", lambda event: event["patch"].get("number") == number, TRIES_S)
                return
            except AssertionError:
                pass
        raise TimeoutError(f"desired number {number} did not come")

    return do


def method(site: SdkSite, identity: str) -> Do:
    """Have the client called by another module, over HTTPS."""
    called = site.clients[identity]
    caller = site.clients[MODULES["python"]]
    called.ask("method", "echo", 200)

    def do(number: int) -> None:
        answer = invoke(caller, identity, "echo", number, response_s=5, connect_s=10)
        assert answer["payload"]["payload"] == number

    return do


def c2d(site: SdkSite, identity: str) -> Do:
    """Have a message from the cloud arrive."""
    client = site.clients[identity]

    def do(number: int) -> None:
        site.send_c2d(identity, b"%d" % number, {})
        client.event("message", lambda event: event["body"] == str(number), GIVE_UP_S)

    return do


FEATURES: dict[str, Callable[[SdkSite, str], Do]] = {
    "telemetry": telemetry,
    "twin": twin,
    "desired": desired,
    "method": method,
    "c2d": c2d,
}


def who_has(site: SdkSite, feature: str) -> list[str]:
    leaves = [LEAVES[sdk] for sdk in site.sdks]
    return leaves if feature == "c2d" else [*leaves, *(MODULES[sdk] for sdk in site.sdks)]


@contextmanager
def repeating(site: SdkSite, *features: str) -> Iterator[list[Repeating]]:
    running: list[Repeating] = []
    try:
        for feature in features:
            for identity in who_has(site, feature):
                takes = [site.clients[identity]]
                if feature == "method":
                    takes.append(site.clients[MODULES["python"]])
                running.append(
                    Repeating(
                        f"{feature} {identity}",
                        FEATURES[feature](site, identity),
                        lambda takes=takes: any(client.has_ended for client in takes),  # type: ignore[misc]
                    )
                )
        yield running
    finally:
        for one in running:
            one.stop()


def kill_and_measure(
    kill: Callable[[], float], running: list[Repeating], limit_s: float, *, resets: bool
) -> None:
    """Kill, and see that everybody is served again.

    What resets connections may end a program with the Python SDK (runtime/docs/COMPATIBILITY.md).
    """
    for one in running:
        one.wait_for(3)
    time.sleep(random.Random(SEED + len(running)).uniform(0, 0.1))  # somewhere in the middle
    killed_s = kill()
    found = {one.name: one.served_after(killed_s) for one in running}
    for one, count in [(one, len(one.done)) for one in running]:
        one.wait_for(count + 3)

    served = {name: after_s for name, after_s in found.items() if after_s is not None}
    print("served again after " + ", ".join(f"{name} {after_s:.2f} s" for name, after_s in served.items()))
    ended = found.keys() - served.keys()
    if ended:
        print(f"ended by a reset connection: {ended}")
    assert not ended or resets, ended
    assert all("python" in name or name.startswith("method ") for name in ended), ended
    assert max(served.values()) <= limit_s, served


@needs_443
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.slow
def test_a_hub_killed_in_the_middle_serves_everybody_within_5_seconds(
    smaller_site: SdkSite, feature: str
) -> None:
    with repeating(smaller_site, feature) as running:
        kill_and_measure(smaller_site.kill_hub, running, HUB_LIMIT_S, resets=False)


@needs_443
def test_hub_and_agent_killed_in_the_middle_of_everything_serve_everybody_within_12_seconds(
    site: SdkSite,
) -> None:
    with repeating(site, "telemetry", "twin", "method", "c2d") as running:
        kill_and_measure(site.kill_hub_and_agent, running, BOTH_LIMIT_S, resets=True)


def send_through_kills(site: SdkSite, total: int, kills: int) -> None:
    """Everybody sends numbers while the hub is killed; each has to arrive at each module, in its order."""
    receivers = {sdk: site.clients[MODULES[sdk]] for sdk in site.sdks}
    for receiver in receivers.values():
        receiver.forget()
    count = total // len(site.clients)
    under_way = {
        identity: client.begin("sendMany", "out" if "/" in identity else "", 0, count)
        for identity, client in site.clients.items()
    }
    chance = random.Random(SEED)
    for _ in range(kills):
        time.sleep(chance.uniform(0.1, 0.5))  # somewhere in the middle
        site.kill_hub()
    for sent in under_way.values():
        sent.result(400)

    for sdk, receiver in receivers.items():
        for identity in site.clients:
            receiver.hold_until(
                lambda event, who=identity: (  # type: ignore[misc]
                    event.get("body") == str(count - 1) and is_from(event, *who.partition("/")[::2])
                ),
                60,
            )
        events = receiver.held("message")
        twice = 0
        for identity in site.clients:
            device, _, module = identity.partition("/")
            numbers = [int(event["body"]) for event in events if is_from(event, device, module)]
            assert in_order(sdk, once(numbers)) == list(range(count)), f"{identity} at {sdk}"
            twice += len(numbers) - count
        print(f"{sdk} got {count * len(site.clients)} messages, {twice} of them twice, {kills} kills")


def test_every_number_of_everybody_arrives_though_the_hub_is_killed(site: SdkSite) -> None:
    send_through_kills(site, total=1_000, kills=1)


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_ten_thousand_numbers_arrive_though_the_hub_is_killed(site: SdkSite) -> None:
    send_through_kills(site, total=10_000, kills=2)
