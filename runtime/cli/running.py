"""Questions to a running edge: `with running_edge(home) as edge: edge.ask(…)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from actors.addresses import SECURITY
from actors.agent.registry import REGISTRY, RefreshScope
from actors.agent.security import CreateDevice, DeleteDevice, DeviceChanged, DeviceIdentity, EnableDevice
from actors.hub.identity import AuthType
from messaging.client import Client, NobodyThere, RequestRefused
from messaging.errors import AskTimeout, ConfigError, EnvironmentFault
from runtime.home import Home
from runtime.run_directory import AGENT, Lock, RunDirectory
from runtime.security.key_content import Identity
from runtime.security.key_store import KeyStore
from runtime.security.leaf_rules import adopt, check_change, check_create, has_own_cloud

T = TypeVar("T")

ANSWER_LIMIT_S = 5.0
ASK_AGAIN_S = 0.1
TOLD_LIMIT_S = 3.0  # for the stand-in of the edge to have heard of a change of a device


class RunningEdge:
    """Asks the actors of the edge that runs on one home."""

    def __init__(self, home: Path, client: Client) -> None:
        self._home = home
        self._client = client

    def ask(self, to: str, question: object, answer: type[T], timeout_s: float = ANSWER_LIMIT_S) -> T:
        """Ask one actor and return its answer; one that is not there may be restarting and is waited for.

        Raises:
            EnvironmentFault: nobody answered.
            ConfigError: it was refused; says why.
        """
        ends_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._client.ask(to, question, answer, timeout_s)
            except NobodyThere as exc:
                if time.monotonic() >= ends_s:
                    raise self._no_answer(to, timeout_s) from exc
                time.sleep(ASK_AGAIN_S)  # it was not told, so telling it again does nothing twice
            except AskTimeout as exc:
                raise self._no_answer(to, timeout_s) from exc
            except RequestRefused as exc:
                raise ConfigError(exc.reason) from exc

    def _no_answer(self, to: str, timeout_s: float) -> EnvironmentFault:
        part = "hub" if to.startswith("hub") else "agent"
        why = " or not be deployed yet, which `edge-actors list` shows" if part == "hub" else ""
        return EnvironmentFault(
            f"the {part} of the edge on home {self._home} did not answer within {timeout_s:g} s; "
            f"it may be starting{why}: try again, or see `edge-actors logs edge{part.capitalize()}`"
        )


@contextmanager
def running_edge(home: Path) -> Iterator[RunningEdge]:
    """Open a line to the edge that runs on `home`.

    Raises:
        EnvironmentFault: none runs.
    """
    run = RunDirectory.of(home)
    run.check()
    if Lock(run, AGENT).holder() is None:
        raise EnvironmentFault(f"no edge runs on home {home}; start one with `edge-actors run --home {home}`")
    with Client.outside(run.path) as client:
        yield RunningEdge(home, client)


def is_running(home: Path) -> bool:
    """Return whether an edge runs on `home`."""
    return Lock(RunDirectory.of(home), AGENT).holder() is not None


def refresh_scope(home: Path) -> None:
    """Have the edge that runs on `home`, if there is one, ask its IoT Hub at once who is in its scope."""
    if is_running(home):
        with Client.outside(RunDirectory.of(home).path) as client:
            client.tell(REGISTRY, RefreshScope())


def create_device(
    home: Home, device_id: str, auth_type: AuthType = "sas", thumbprints: tuple[str, ...] = ()
) -> Identity:
    """Make the identity of a leaf device; `auth_type` and `thumbprints` as in `Security.create_device`.

    Raises:
        EdgeError: it exists, what is given does not suit, or nothing can be written; says which.
    """

    check_create(home, device_id)

    def locally(keys: KeyStore) -> None:
        keys.create_device(device_id, time.time(), auth_type, thumbprints)

    _change(home, locally, CreateDevice(device_id, auth_type, thumbprints), DeviceIdentity)
    identities = KeyStore.open(home.keys).identities()
    return next(found for found in identities if found.device_id == device_id and found.module_id is None)


def enable_device(home: Home, device_id: str, enabled: bool) -> None:
    """Let a leaf device connect, or not any more.

    Raises:
        EdgeError: there is none of that id, or nothing can be written; says which.
    """

    status, verb = ("enabled", "enable") if enabled else ("disabled", "disable")
    other = f"edge-actors cloud device {verb} {device_id}"
    check_change(home, device_id, f"update --status {status}", other)

    def locally(keys: KeyStore) -> None:
        adopt(home, keys, device_id)
        keys.enable_device(device_id, enabled)

    _change(home, locally, EnableDevice(device_id, enabled), DeviceChanged)


def delete_device(home: Home, device_id: str) -> None:
    """Forget a leaf device.

    Raises:
        EdgeError: there is none of that id, or nothing can be written; says which.
    """
    check_change(home, device_id, "delete", f"edge-actors cloud device delete {device_id}")

    def locally(keys: KeyStore) -> None:
        adopt(home, keys, device_id)
        keys.delete_device(device_id)

    _change(home, locally, DeleteDevice(device_id), DeviceChanged)


def wait_until_told(home: Home, device_id: str) -> None:
    """Give a running edge the time to tell its stand-in of a change; then commands to that one know it."""
    ends_s = time.monotonic() + TOLD_LIMIT_S
    while (
        has_own_cloud(home)
        and is_running(home.path)
        and device_id in KeyStore.open(home.keys).leaf_changes()
        and time.monotonic() < ends_s
    ):
        time.sleep(ASK_AGAIN_S)  # between two looks at what another process does


def _change(home: Home, locally: Callable[[KeyStore], None], request: object, answer: type[object]) -> None:
    """Have the keys changed by the running agent, which owns them; without one in the key store."""
    run = RunDirectory.of(home.path)
    run.prepare()
    lock = Lock(run, AGENT)
    if lock.holder() is None:
        lock.acquire()
        try:
            locally(KeyStore.open(home.keys))
        finally:
            lock.release()
        return
    with running_edge(home.path) as edge:
        edge.ask(SECURITY, request, answer)
