"""The base of all actors. A subclass is a *behaviour*: plain Python that knows no thread, socket or Pykka.

A restart replaces the behaviour object while address, mailbox and thread stay (DESIGN.md). So `__init__`
only stores arguments; `on_start` opens what must be opened and `on_stop` closes it, also before a restart.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from messaging.clock import Clock
from messaging.envelope import Envelope
from messaging.kinds import kind_of

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class ChildSpec(Struct, frozen=True):
    """How to start, and start again, one child."""

    name: str
    build: Callable[[], EdgeActor]
    loop: str = ""  # the event loop to run on, shared by all actors that name it; "": a thread of its own
    exported: bool = False  # other processes may send to it


class Context(Protocol):
    """What an actor may do in the world of actors. All calls but `tell_self` belong to its own thread."""

    address: str
    epoch: int  # the incarnation of this process
    clock: Clock

    def send(
        self,
        to: str,
        message: object,
        *,
        sender: str | None = None,
        correlation_id: int = 0,
        deadline_s: float = 0.0,
    ) -> int: ...

    def request(self, to: str, message: object, timeout_s: float) -> int: ...

    def set_timer(self, after_s: float, message: object) -> int: ...

    def cancel_timer(self, timer_id: int) -> None: ...

    def tell_self(self, message: object) -> None: ...

    def start_child(self, spec: ChildSpec) -> str: ...

    def stop_child(self, name: str) -> None: ...

    def ready_to_stop(self) -> None: ...

    def give_up(self, reason: str) -> None: ...

    def watch_peer(self, process: str) -> None: ...

    def peer_seen(self, process: str, epoch: int) -> None: ...

    def peer_lost(self, process: str) -> None: ...

    def dead_letters(self) -> tuple[int, tuple[dict[str, Any], ...]]: ...

    def dead_letter(self, envelope: Envelope, error: BaseException) -> None: ...


class EdgeActor:
    """A behaviour. One handler per message type, named `on_<message>` and annotated with it."""

    handlers: ClassVar[dict[str, str]] = {}  # kind → name of the method

    context: Context
    envelope: Envelope  # the one being handled; sender and correlation id are read from it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.handlers = dict(cls.handlers) | _handlers_in(cls)

    # life

    def on_start(self) -> None:
        """Open what the actor needs. In the actor's thread; also after each restart."""

    def on_stop(self) -> None:
        """Close what `on_start` opened. Also before a restart; must not raise for what was never opened."""

    def on_turn_end(self) -> None:
        """Run after all messages that waited were handled; for work that is done once per batch."""

    def on_turn_over(self) -> None:
        """Run behind `on_turn_end`, which has to be there; no message is handled in between.

        On an event loop a pass lies in between, in which what was told at the end of the turn is written.
        """

    def on_stopping(self) -> None:
        """Run when a stop was asked for and all children are gone; `on_stop` follows `ready_to_stop()`.

        Override to finish something that takes time; the system's time limit still holds.
        """
        self.context.ready_to_stop()

    def describe(self) -> dict[str, Any]:
        """Return plain values that explain this actor to the inspector. No secrets."""
        return {}

    # speaking

    @property
    def clock(self) -> Clock:
        return self.context.clock

    @property
    def address(self) -> str:
        return self.context.address

    def tell(self, to: str, message: object) -> None:
        """Send one way."""
        self.context.send(to, message)

    def request(self, to: str, message: object, timeout_s: float) -> int:
        """Send and expect an answer; returns the correlation id that the answer will carry.

        The answer is a message like any other. Without one in time comes `DeadlinePassed`.
        """
        return self.context.request(to, message, timeout_s)

    def reply(self, message: object, to: Envelope | None = None) -> None:
        """Answer the message being handled, or `to`, an envelope kept from earlier."""
        asked = self.envelope if to is None else to
        if asked.sender:
            self.context.send(asked.sender, message, correlation_id=asked.correlation_id)

    def forward(self, to: str, message: object) -> None:
        """Send on, in the name of the sender: answers go straight back to it."""
        asked = self.envelope
        self.context.send(
            to,
            message,
            sender=asked.sender,
            correlation_id=asked.correlation_id,
            deadline_s=asked.deadline_s,
        )

    def set_timer(self, after_s: float, message: object) -> int:
        """Send `message` to this actor after a while. A restart cancels all timers."""
        return self.context.set_timer(after_s, message)

    def start_children(self, specs: Sequence[ChildSpec]) -> None:
        """Start several children; each tells `ActorStarted` when it is up."""
        for spec in specs:
            self.context.start_child(spec)


def _handlers_in(cls: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, function in vars(cls).items():
        if not name.startswith("on_") or not callable(function):
            continue
        if name in ("on_start", "on_stop", "on_turn_end", "on_turn_over", "on_stopping"):
            continue
        parameters = [hint for key, hint in typing.get_type_hints(function).items() if key != "return"]
        if len(parameters) != 1:
            raise TypeError(f"{cls.__name__}.{name} must take exactly one annotated message")
        kind = kind_of(parameters[0])
        expected = "on_" + _CAPITAL.sub("_", kind.name).lower()
        if name != expected:
            raise TypeError(f"{cls.__name__}.{name} handles {kind.name}: call it {expected}")
        found[kind.name] = name
    return found
