"""Tells systemd how the edge is: that it serves, that it is alive, that it ends.

Only for a service of `Type=notify`; anywhere else there is nobody to tell. The agent's actor is asked, and
systemd hears of it only when that has answered in time. So a process that is stopped, an agent that hangs
and one that has lost its actors all fall silent, and after WatchdogSec= systemd starts the edge anew.

Source: sd_notify(3), sd_watchdog_enabled(3) of systemd 252
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final

from actors.addresses import AGENT, AGENT_PROCESS
from actors.agent.edge_state import AskEdgeState, EdgeState
from messaging.client import Client
from messaging.errors import BusError
from messaging.zmq_bus import ZmqBus

log = logging.getLogger(__name__)

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG_USEC: Final = "WATCHDOG_USEC"
WATCHDOG_PID: Final = "WATCHDOG_PID"
ALIVE: Final = "WATCHDOG=1"
STARTING_LOOK_S: Final = 0.1  # until it serves
LOOK_S: Final = 10.0  # without a watchdog; else a third of its time, so that one late answer is forgiven
ANSWER_LIMIT_S: Final = 5.0
STARTING_LIMIT_S: Final = 60.0  # how long systemd goes on waiting after each sign of life


class ServiceManager:
    """The line to systemd. Any thread may tell."""

    def __init__(self, path: str, watchdog_s: float | None) -> None:
        """Keep what is needed.

        Args:
            path: Of the socket; a leading @ is the abstract name space.
            watchdog_s: After how long without a sign of life systemd acts; None: it never does.
        """
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServiceManager | None:
        """Return the line to whoever started us as a service, None when nobody did.

        Modules have environments of their own, so none of them speaks in our name.
        """
        path = environment.get(NOTIFY_SOCKET, "")
        if not path.startswith(("/", "@")):
            return None
        limit, pid = environment.get(WATCHDOG_USEC, ""), environment.get(WATCHDOG_PID, "")
        is_ours = limit.isascii() and limit.isdigit() and int(limit) > 0 and pid in ("", str(os.getpid()))
        return cls(path, int(limit) / 1e6 if is_ours else None)

    def tell(self, *lines: str) -> None:
        """Send some `NAME=value`; to somebody who does not listen any more it is lost."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
                line.sendto("\n".join(lines).encode(), self._address)
        except OSError as exc:
            log.debug("systemd was not told %s: %s", lines, exc)

    def may_take(self, limit_s: float) -> str:
        """Return the line that asks for more time to start or to end, counted from when it is told."""
        return f"EXTEND_TIMEOUT_USEC={int(limit_s * 1e6)}"


class SignsOfLife:
    """The thread that asks the agent and tells systemd, from the start of the actors to their end."""

    def __init__(self, manager: ServiceManager, bus: ZmqBus) -> None:
        """Begin at once."""
        self._manager = manager
        self._bus = bus
        self._ended = threading.Event()
        self._ends_by_s: float | None = None  # monotonic; None: nobody ends the edge
        self._told = ""
        self._tell_again_s = 0.0  # monotonic, while it starts
        self._serves = False
        self._thread = threading.Thread(target=self._run, name="signs of life", daemon=True)
        self._thread.start()

    def stopping(self, limit_s: float, *, for_good: bool) -> None:
        """The modules are being ended, which has its own limit: until then the agent need not answer.

        Args:
            limit_s: How long that takes at most.
            for_good: Whether the process ends then; else the edge starts anew in it.
        """
        self._ends_by_s = time.monotonic() + limit_s
        if for_good:
            self._manager.tell("STOPPING=1", "STATUS=ends its modules", self._manager.may_take(limit_s))

    def close(self) -> None:
        """End the thread, before the bus is closed."""
        self._ended.set()
        self._thread.join(2 * ANSWER_LIMIT_S)

    def _run(self) -> None:
        with Client(self._bus, f"{AGENT_PROCESS}/service") as client:
            while not self._ended.wait(self._pause_s()):
                if self._ends_by_s is None:
                    self._look(client)
                elif time.monotonic() < self._ends_by_s:
                    self._manager.tell(ALIVE)
        self._bus.close_thread()

    def _pause_s(self) -> float:
        if not self._serves:
            return STARTING_LOOK_S
        watchdog_s = self._manager.watchdog_s
        return LOOK_S if watchdog_s is None else min(LOOK_S, watchdog_s / 3)

    def _look(self, client: Client) -> None:
        state = _state(client) if self._bus.is_taken(AGENT) else None  # it is not the first to start
        if state is not None and self._ends_by_s is None:
            self._tell(state)

    def _tell(self, state: EdgeState) -> None:
        lines = [ALIVE]
        if state.text != self._told:
            lines.append(f"STATUS={state.text}")
        if not self._serves:
            now_s = time.monotonic()
            if not state.serves and len(lines) == 1 and now_s < self._tell_again_s:
                return
            self._tell_again_s = now_s + STARTING_LIMIT_S / 4
            lines.append("READY=1" if state.serves else self._manager.may_take(STARTING_LIMIT_S))
        self._told, self._serves = state.text, self._serves or state.serves
        self._manager.tell(*lines)


def _state(client: Client) -> EdgeState | None:
    """Return how the edge is; None when the agent does not say."""
    began_s = time.monotonic()
    try:
        return client.ask(AGENT, AskEdgeState(), EdgeState, ANSWER_LIMIT_S)
    except BusError as exc:
        if time.monotonic() - began_s >= ANSWER_LIMIT_S:
            log.warning("systemd gets no sign of life: %s", exc)
        return None
