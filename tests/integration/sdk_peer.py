"""A device or module with an unmodified SDK in a process of its own: the test's side of the conversation."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import IO, Any, Final

LIMIT_S: Final = 60.0
END_S: Final = 5.0  # for a program to end by itself; an SDK may hang in its shutdown after a lost connection


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for a program whose input was closed; one that does not end is killed."""
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(LIMIT_S)


Event = dict[str, Any]


class SdkPeer:
    """Moved by `ask`; what happens to it comes by `event`. See tests/node/device.js for what can be asked."""

    def __init__(self, reader: IO[str], writer: IO[str]) -> None:
        self._writer = writer
        self._ids = itertools.count(1)
        self._asked: dict[int, Future[Any]] = {}
        self._events: list[Event] = []
        self.has_ended = False
        self._news = threading.Condition(threading.RLock())
        self._reader = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._reader.start()

    def begin(self, name: str, *arguments: Any) -> Future[Any]:
        """Let it do something; the result is a RuntimeError when the SDK says no."""
        future: Future[Any] = Future()
        with self._news:
            request_id = next(self._ids)
            self._asked[request_id] = future
            self._writer.write(json.dumps([request_id, name, *arguments]) + "\n")
            self._writer.flush()
        return future

    def ask(self, name: str, *arguments: Any, limit_s: float = LIMIT_S) -> Any:
        """Let it do something and return the result.

        Raises:
            RuntimeError: the SDK says no, with what it says.
        """
        return self.begin(name, *arguments).result(limit_s)

    def event(
        self, name: str, fits: Callable[[Event], bool] = lambda event: True, limit_s: float = LIMIT_S
    ) -> Event:
        """Wait for something to happen and return it; what happened before that is dropped."""
        deadline_s = time.monotonic() + limit_s
        with self._news:
            while True:
                while self._events:
                    event = self._events.pop(0)
                    if event["event"] == name and fits(event):
                        return event
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no {name} within {limit_s:g} s"
                self._news.wait(left_s)

    def events(self, name: str, count: int, limit_s: float = LIMIT_S) -> list[Event]:
        """Wait until something has happened so often, and return all of it that has not been taken yet."""
        deadline_s = time.monotonic() + limit_s
        with self._news:
            while True:
                if sum(event["event"] == name for event in self._events) >= count:
                    return self.held(name)
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"not {count} times {name} within {limit_s:g} s"
                self._news.wait(left_s)

    def forget(self) -> None:
        """Drop what has happened so far."""
        with self._news:
            self._events.clear()

    def hold_until(self, fits: Callable[[Event], bool], limit_s: float = LIMIT_S) -> None:
        """Wait until something has happened, and keep it with all that came before."""
        with self._news:
            assert self._news.wait_for(lambda: any(map(fits, self._events)), limit_s), (
                f"not within {limit_s:g} s"
            )

    def held(self, name: str) -> list[Event]:
        """Return and forget what has happened of one kind."""
        with self._news:
            found = [event for event in self._events if event["event"] == name]
            self._events = [event for event in self._events if event["event"] != name]
            return found

    def _read(self, reader: IO[str]) -> None:
        for line in reader:
            said = json.loads(line)
            with self._news:
                if "event" in said:
                    said["at_s"] = time.monotonic()
                    self._events.append(said)
                    self._news.notify_all()
                    continue
                future = self._asked.pop(said["id"])
            if "error" in said:
                future.set_exception(RuntimeError("{name}: {message}".format(**said["error"])))
            else:
                future.set_result(said["result"])
        with self._news:
            self.has_ended = True
            left = list(self._asked.values())
        for future in left:
            future.set_exception(RuntimeError("the program has ended"))
