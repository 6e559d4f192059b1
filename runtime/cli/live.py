"""Shows the live picture while `edge-actors run` runs on a terminal.

It asks the agent and the hub as any other client would, in a thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.live import Live

from actors.addresses import AGENT, UPSTREAM
from actors.agent.module_list import ListModules, ModuleList
from actors.upstream.link_state import GetLinkState, LinkState
from messaging.client import Client
from messaging.errors import BusError, EdgeError
from runtime.cli.log_setup import LastWarnings
from runtime.cli.picture import Snapshot, Warning, draw
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.run_directory import AGENT as AGENT_LOCK
from runtime.run_directory import Lock, RunDirectory
from runtime.storage.message_ledger import read_ledger
from runtime.storage.store_place import database_of

log = logging.getLogger(__name__)

PERIOD_S: Final = 0.5
ANSWER_LIMIT_S: Final = 1.0
LEDGER_SHARE: Final = 20  # one part in so many of the time may go into counting: long queues take long


class LivePicture:
    """Draws on the alternate screen of the terminal while it is entered, from the agent's first answer on.

    Afterwards the last counts stay on the normal screen.
    """

    def __init__(self, settings: Settings, console: Console | None = None) -> None:
        self._run = RunDirectory.of(settings.home)
        self._home = Home(settings.home)
        self._console = console if console is not None else Console()
        self._warnings = LastWarnings()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run_thread, name="picture", daemon=True)
        self._ledger_due_s = 0.0
        self._seen = False
        now_s = time.time()
        self._known = Snapshot(
            state="starting",
            device_id=settings.device_id,
            home=str(settings.home),
            listen=tuple(map(str, settings.listen)),
            since_s=now_s,
            now_s=now_s,
        )

    def __enter__(self) -> LivePicture:
        logging.getLogger().addHandler(self._warnings)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        logging.getLogger().removeHandler(self._warnings)
        if self._seen:
            self._read_ledger()
            last = replace(self._known, state="stopped", now_s=time.time(), modules=(), hint="")
            self._console.print(draw(last))

    def _run_thread(self) -> None:
        try:
            self._draw_until_ended()
        except Exception:
            log.exception("the live picture ended; the edge runs on")

    def _draw_until_ended(self) -> None:
        while not self._is_ours():
            if self._ended.wait(PERIOD_S):
                return
        with Client.outside(self._run.path) as client:
            while not self._ask_agent(client):
                if self._ended.wait(PERIOD_S):
                    return
            self._seen = True
            with Live(console=self._console, screen=True, auto_refresh=False) as live:
                while True:
                    self._look(client)
                    live.update(draw(self._known), refresh=True)
                    if self._ended.wait(PERIOD_S):
                        return

    def _is_ours(self) -> bool:
        """Tell whether the edge on this home is this process, and not one that refuses us the home."""
        holder = Lock(self._run, AGENT_LOCK).holder()
        return holder is not None and holder.pid == os.getpid()

    def _look(self, client: Client) -> None:
        state = "stopping, or too busy to answer"
        if self._ask_agent(client):
            state = "running"
            self._ask_hub(client)
        if time.monotonic() >= self._ledger_due_s:
            self._read_ledger()
        warnings = tuple(
            Warning(record.created, record.levelname, record.getMessage())
            for record in tuple(self._warnings.records)
        )
        self._known = replace(self._known, state=state, now_s=time.time(), warnings=warnings)

    def _ask_agent(self, client: Client) -> bool:
        try:
            found = client.ask(AGENT, ListModules(), ModuleList, ANSWER_LIMIT_S)
        except BusError:
            return False
        bad_routes = tuple((name, problem) for name, _, problem in found.routes)
        self._known = replace(self._known, modules=found.modules, bad_routes=bad_routes)
        return True

    def _ask_hub(self, client: Client) -> None:
        try:
            link = client.ask(UPSTREAM, GetLinkState(), LinkState, ANSWER_LIMIT_S)
        except BusError:
            return  # it restarts; the table of modules says so
        self._known = replace(self._known, link=link)

    def _read_ledger(self) -> None:
        began_s = time.monotonic()
        try:
            self._known = replace(self._known, ledger=read_ledger(database_of(self._home)))
        except EdgeError:
            return  # the hub is making it
        now_s = time.monotonic()
        self._ledger_due_s = now_s + (now_s - began_s) * LEDGER_SHARE
