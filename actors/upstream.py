"""The hub's link to the cloud: takes what routes send to `$upstream` and hands it to the link.

Understands: QueuesWaiting, Ready, SwitchLink, ActorRestarted, LinkDue, WatchLink, FetchTwin, SendReported,
             HeadStarted, ClientChanged, ClientGone
Tells:       hub/store (WatchQueues, Attach, Detach, Delivered); whoever watches the link (LinkChanged)
Started by:  HubRootActor
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

from actors.base import EdgeActor
from actors.client_services import ClientChanged, ClientGone, HeadStarted
from actors.cloud import CloudRefused, FetchTwin, LinkChanged, SendReported, WatchLink
from actors.ports import CloudLink
from actors.redelivery import wait_s
from actors.store_messages import Attach, Delivered, Detach, QueuesWaiting, Ready, Undeliverable, WatchQueues
from messaging.errors import EnvironmentFault
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, Watch
from messaging.message import decode_header
from messaging.upstream_queues import UPSTREAM_QUEUES

log = logging.getLogger(__name__)

WINDOW_MESSAGES: Final = 1000
WINDOW_BYTES: Final = 2 * 1024 * 1024
RETRY_S: Final = 0.5  # while the link is down, and first after an error of another kind …
LONGEST_RETRY_S: Final = 60.0  # … which is tried less and less often
_NO_CLOUD: Final = "no cloud is linked: messages go to a file"


@message
class SwitchLink:
    """Switch the link to the cloud on or off; it stays so over restarts. Answered with LinkState."""

    on: bool


@message
class LinkState:
    """Whether the link to the cloud is on, and how many messages it took since the hub started."""

    on: bool
    sent: int


@message
class GetLinkState:
    """Tell the state of the link. Answered with LinkState."""


@message
class LinkDue:
    """Timer: try the link again after a failure."""


class UpstreamActor(EdgeActor):
    """Sends in order; a message counts as delivered when the link says that the cloud has it."""

    def __init__(self, link: CloudLink, store: str) -> None:
        self._link = link
        self._store = store
        self._sent = 0
        self._attachment = 0
        self._attached = False
        self._queues: set[str] = set()  # attached to
        self._down_because = ""
        self._failures = 0  # in a row, with the link up
        self._clients: dict[str, tuple[str, ...]] = {}  # who is connected, and what it wants

    def on_start(self) -> None:
        # What the store sends for an attachment from before a restart must not be taken for the new one's.
        self._attachment = int(self.clock.monotonic_s() * 1e6)
        self.tell(self._store, Watch())
        self._attach_when_on()

    def on_stop(self) -> None:
        self._link.close()

    def on_ready(self, message: Ready) -> None:
        if not self._attached or message.attachment != self._attachment:
            return  # the store sends it again
        try:
            messages = [
                decode_header(headers[index], body)
                for _, headers, entries in message.runs
                for index, body in entries
            ]
            self._link.send(messages)
        except EnvironmentFault as exc:
            self._link_is_down(str(exc))
        except Exception as exc:  # noqa: BLE001 - a message nobody can send must not hold up all others
            self._send_one_by_one(message, exc)
        else:
            self._down_because = ""
            self._failures = 0
            self._sent += len(messages)
            ranges = tuple((first, first + len(entries) - 1) for first, _, entries in message.runs)
            self.tell(self._store, Delivered(message.endpoint_id, self._attachment, ranges))

    def _send_one_by_one(self, message: Ready, error: Exception) -> None:
        """Find the message that spoils a batch, and drop it.

        Poison is what fails while another message of the batch goes through. When none does, the fault is
        more likely the link's, and everything stays in the queue.
        """
        poison: list[tuple[int, int]] = []
        sent: list[tuple[int, int]] = []
        down_because = ""
        for position, header, body in _singles(message):
            try:
                self._link.send([decode_header(header, body)])
            except EnvironmentFault as exc:
                down_because = str(exc)
                break
            except Exception as exc:  # noqa: BLE001 - it concerns this message alone, or all of them
                error = exc
                poison.append((position, position))
            else:
                sent.append((position, position))
        if sent:
            self._sent += len(sent)
            self.tell(self._store, Delivered(message.endpoint_id, self._attachment, tuple(sent)))
            if poison:
                log.error("upstream: %d messages cannot be sent and are dropped", len(poison), exc_info=error)
                self.tell(self._store, Undeliverable(message.endpoint_id, self._attachment, tuple(poison)))
        if sent:
            self._failures = 0
        if down_because:
            self._link_is_down(down_because)
        elif not sent:
            self._link_is_down(
                f"{type(error).__name__}: {error}", wait_s(self._failures, RETRY_S, LONGEST_RETRY_S)
            )
            self._failures += 1

    def _link_is_down(self, reason: str, retry_s: float = RETRY_S) -> None:
        if reason != self._down_because:
            log.error("upstream: %s; trying again in %.1f s", reason, retry_s)
        self._down_because = reason
        self._detach()
        self.set_timer(retry_s, LinkDue())

    def on_link_due(self, message: LinkDue) -> None:
        self._attach_when_on()

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self._attached = False
        self._queues.clear()
        self._attach_when_on()

    def on_switch_link(self, message: SwitchLink) -> None:
        self._link.switch(message.on)
        log.info("upstream: switched %s", "on" if message.on else "off")
        if message.on:
            self._attach_when_on()
        else:
            self._detach()
        self.reply(LinkState(message.on, self._sent))

    def on_get_link_state(self, message: GetLinkState) -> None:
        self.reply(LinkState(self._link.is_on(), self._sent))

    # A file has no twins, calls no methods and sends nothing to devices.

    def on_watch_link(self, message: WatchLink) -> None:
        self.reply(LinkChanged(False))

    def on_fetch_twin(self, message: FetchTwin) -> None:
        self.reply(CloudRefused(message.identity, 0, _NO_CLOUD))

    def on_send_reported(self, message: SendReported) -> None:
        self.reply(CloudRefused(message.identity, 0, _NO_CLOUD))

    def on_head_started(self, message: HeadStarted) -> None:
        self._clients = {}

    def on_client_changed(self, message: ClientChanged) -> None:
        self._clients[message.identity] = message.features

    def on_client_gone(self, message: ClientGone) -> None:
        self._clients.pop(message.identity, None)

    def describe(self) -> dict[str, Any]:
        return {
            "on": self._link.is_on(),
            "sent": self._sent,
            "down_because": self._down_because,
            "clients": len(self._clients),
        }

    def _attach_when_on(self) -> None:
        if self._link.is_on() and not self._attached:
            self._attached = True
            self._attachment += 1
            self.tell(self._store, WatchQueues(UPSTREAM_QUEUES))

    def on_queues_waiting(self, message: QueuesWaiting) -> None:
        if self._attached:
            self._queues.update(message.endpoint_ids)
            for queue_id in message.endpoint_ids:
                self.tell(self._store, Attach(queue_id, self._attachment, WINDOW_MESSAGES, WINDOW_BYTES))

    def _detach(self) -> None:
        self._attached = False
        for queue_id in self._queues:
            self.tell(self._store, Detach(queue_id))
        self._queues.clear()


def _singles(message: Ready) -> Iterator[tuple[int, bytes, bytes]]:
    """Take the runs apart: position, header and body of each message."""
    for first, headers, entries in message.runs:
        for position, (index, body) in enumerate(entries, first):
            yield position, headers[index], body
