"""An IoT Hub stand-in that refuses when it is told to: `python -m runtime.faults.cloud_answers cloud run …`.

A file beside its home says what is refused; a second one has a byte for each refusal. The stand-in's own code
is as it is for everybody: what it answers with is what it raises at its own limits.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from messaging.amqp.conditions import refusal_of
from messaging.errors import AuthError, IotHubError
from runtime.faults.stamps import key_in
from runtime.iothub.records import Telemetry

FILE: Final = "answers"  # beside the home: the name of an error and how often, nothing while there is none
REFUSALS: Final = "refusals"
UNAUTHORIZED: Final = "unauthorized"
TOO_LARGE: Final = "too large"
ERRORS: Final[Mapping[str, Callable[[], IotHubError]]] = {
    "throttled": lambda: IotHubError(429001, "ThrottlingException", "a fault script throttles"),
    "busy": lambda: IotHubError(503001, "ServiceUnavailable", "a fault script keeps the hub busy"),
    TOO_LARGE: lambda: IotHubError(413001, "MessageTooLarge", "a fault script finds it too large"),
    "quota": lambda: IotHubError(403002, "IotHubQuotaExceeded", "a fault script has used up the quota"),
}


def answer_with(home: Path, error: str = "", count: int = 0, nth: int = 1) -> None:
    """Have the stand-in on this home refuse from now on; "" ends it.

    Args:
        home: Of the stand-in.
        error: One of ERRORS, or UNAUTHORIZED.
        count: How often at most.
        nth: Only messages whose number in the load this divides, and what comes together with them.
    """
    file = home.with_name(FILE)
    if not error:
        file.unlink(missing_ok=True)
        return
    new = home.with_name(f"{FILE}.new")
    new.write_text(f"{count + refusals(home)} {nth} {error}")
    new.rename(file)


def refusals(home: Path) -> int:
    """Return how often it has refused so far."""
    try:
        return home.with_name(REFUSALS).stat().st_size
    except FileNotFoundError:
        return 0


class Answers:
    """Decides about each request, in the process of the stand-in."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = home.with_name(FILE)
        self._refusals = os.open(home.with_name(REFUSALS), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def error(self, messages: Sequence[Telemetry] = ()) -> str:
        """Return what is to be refused with now, "" for nothing."""
        try:
            until, nth, error = self._file.read_text().split(" ", 2)
        except FileNotFoundError:
            return ""
        if messages and not any(_number(message) % int(nth) == 0 for message in messages):
            return ""
        return error if refusals(self._home) < int(until) else ""

    def count(self) -> None:
        os.write(self._refusals, b".")


def refuse_as_told(home: Path) -> None:
    """From now on the stand-in of this process looks into the file."""
    from runtime.iothub.amqp import telemetry as amqp_telemetry
    from runtime.iothub.hub import IotHub

    answers = Answers(home)
    take, let_in, read = IotHub.telemetry, IotHub.authenticate, amqp_telemetry._messages_of

    def messages_of(delivery: Any) -> Any:
        """Refuse one delivery, as AMQP can; MQTT can only end the connection."""
        messages = read(delivery)
        if not isinstance(messages, list) or answers.error(messages) != TOO_LARGE:
            return messages
        answers.count()
        return refusal_of(ERRORS[TOO_LARGE]())

    def telemetry(self: IotHub, grant: Any, messages: Sequence[Telemetry]) -> asyncio.Future[None]:
        error = answers.error(messages)
        if error not in ERRORS:
            return take(self, grant, messages)
        answers.count()
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(ERRORS[error]())
        return refused

    async def authenticate(self: IotHub, *arguments: Any, **options: Any) -> Any:
        if answers.error() == UNAUTHORIZED:
            answers.count()
            raise AuthError("a fault script lets nobody in")
        return await let_in(self, *arguments, **options)

    amqp_telemetry._messages_of = messages_of
    IotHub.telemetry = telemetry  # type: ignore[method-assign]
    IotHub.authenticate = authenticate  # type: ignore[method-assign]


def _number(message: Telemetry) -> int:
    try:
        return key_in(message.body).sequence
    except ValueError:  # what the edge says of itself
        return 1


if __name__ == "__main__":
    refuse_as_told(Path(sys.argv[sys.argv.index("--home") + 1]))

    from runtime.cli.main import main

    main()
