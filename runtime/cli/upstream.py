"""`edge-actors upstream`: the link to the cloud."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from messaging.time_text import iso_utc
from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.cli.words import duration, local_time

if TYPE_CHECKING:
    from actors.agent.registry import ProvisioningState
    from actors.upstream.link_state import LinkState
    from runtime.cli.running import RunningEdge

SETTLE_LIMIT_S = 5.0  # for a link that was switched on
LOOK_S = 0.05


@click.group()
def upstream() -> None:
    """Show or switch the link to the cloud, to see what happens when it is away.

    While the link is off, messages wait on disk.
    """


@upstream.command()
@common_options
def status(home: Path, as_json: bool) -> None:
    """Tell how the link is, and how each identity is doing that uses it.

    Each device and module has a connection of its own, opened when there is something to send or to receive.
    """
    from actors.upstream.link_state import GetLinkState

    _ask(GetLinkState(), home, as_json)


@upstream.command()
@common_options
def on(home: Path, as_json: bool) -> None:
    """Switch the link on; what waited is sent. Waits until it stands, for some seconds at most."""
    from actors.upstream.link_state import SwitchLink

    _ask(SwitchLink(True), home, as_json)


@upstream.command()
@common_options
def off(home: Path, as_json: bool) -> None:
    """Switch the link off, also for the next start."""
    from actors.upstream.link_state import SwitchLink

    _ask(SwitchLink(False), home, as_json)


def _ask(question: object, home: Path, as_json: bool) -> None:
    from actors.addresses import STORE, UPSTREAM
    from actors.agent.registry import REGISTRY, GetProvisioning, ProvisioningState
    from actors.store.messages import CountQueues, QueueCounts
    from actors.upstream.link_state import LinkState, SwitchLink
    from messaging.errors import EdgeError
    from messaging.upstream_queues import UPSTREAM_QUEUES, source_of
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        device = edge.ask(REGISTRY, GetProvisioning(), ProvisioningState)
        try:
            state = edge.ask(UPSTREAM, question, LinkState)
            if question == SwitchLink(True):
                state = _settled(edge, state)
            counted = edge.ask(STORE, CountQueues(UPSTREAM_QUEUES), QueueCounts)
        except EdgeError:
            if not as_json:  # a hub that does not run is no reason to be silent about the rest
                for line in _device_lines(device, time.time()):
                    click.echo(line)
            raise
    waiting = {source_of(queue): count for queue, count in counted.counts}
    if as_json:
        print_json(_as_values(state, waiting) | {"device": _device_values(device)})
        return
    now_s = time.time()
    click.echo(_summary(state, waiting, now_s))
    for line in _device_lines(device, now_s):
        click.echo(line)
    if state.sources:
        click.echo()
        columns = ("IDENTITY", "STATE", "FOR", "SENT", "WAITING", "")
        print_table(columns, _rows(state, waiting, now_s))


def _settled(edge: RunningEdge, state: LinkState) -> LinkState:
    """Return how a link is that was just switched on, as soon as it stands or it is known why it does not."""
    from actors.addresses import UPSTREAM
    from actors.upstream.link_state import GetLinkState, LinkState
    from messaging.identity import EDGE_HUB

    ends_s = time.monotonic() + SETTLE_LIMIT_S
    while not state.is_up and time.monotonic() < ends_s:
        if any(fault for identity, _, _, fault, *_ in state.sources if identity.endswith(f"/{EDGE_HUB}")):
            break
        time.sleep(LOOK_S)  # between two looks at what another process does
        state = edge.ask(UPSTREAM, GetLinkState(), LinkState)
    return state


def _summary(state: LinkState, waiting: Mapping[str, int], now_s: float) -> str:
    since = f"since {local_time(state.since_s, now_s)}"
    if not state.on:
        how = f"off, not connected {since}"
    elif state.is_up:
        how = f"on, connected to {state.host_name} {since}"
    else:
        how = f"on, not connected to {state.host_name} {since}: {state.reason}"
    count = sum(waiting.values())
    wait = f"{count} messages wait" if count != 1 else "1 message waits"
    way_out = " until `edge-actors upstream on`" if count and not state.on else ""
    return f"upstream is {how}; {wait}{way_out}; {state.sent} sent since the hub started"


def _device_lines(device: ProvisioningState, now_s: float) -> Iterator[str]:
    """Say which device this edge is, what the cloud knows of it, and what is wrong with that."""
    if not device.host_name:
        yield "this edge belongs to no IoT Hub; give it a device there with --connection-string-file"
        return
    said = f", {device.identities} identities in its scope" if device.synced_s else ""
    when = f" (as of {local_time(device.synced_s, now_s)})" if device.synced_s else ""
    yield f"device {device.device_id} of {device.host_name}: {device.state}{said}{when}"
    if device.reason:
        yield f"  {device.reason}"
    for name, reason in device.problems:
        yield f"  {name}: {reason}"


def _device_values(device: ProvisioningState) -> dict[str, Any]:
    return {
        "hostName": device.host_name,
        "deviceId": device.device_id,
        "state": device.state,
        "reason": device.reason,
        "syncedAt": iso_utc(device.synced_s) if device.synced_s else None,
        "identities": device.identities,
        "problems": [{"id": name, "reason": reason} for name, reason in device.problems],
    }


def _rows(state: LinkState, waiting: Mapping[str, int], now_s: float) -> list[tuple[object, ...]]:
    """Return a row for each identity; what is wrong with all of them is said once."""
    rows: list[tuple[object, ...]] = []
    said = set()
    for identity, phase, since_s, fault, reason, sent, _, retry_s in state.sources:
        general = reason.replace(f"'{identity}'", "it")
        trouble = "" if not fault else fault if general in said else f"{fault}: {reason}"
        said.add(general)
        how = f"{phase}, tried again in {duration(retry_s - now_s)}" if retry_s else phase
        rows.append((identity, how, duration(now_s - since_s), sent, waiting.get(identity, 0), trouble))
    return rows


def _as_values(state: LinkState, waiting: Mapping[str, int]) -> dict[str, Any]:
    return {
        "on": state.on,
        "up": state.is_up,
        "since": iso_utc(state.since_s),
        "reason": state.reason,
        "hostName": state.host_name,
        "sent": state.sent,
        "waiting": sum(waiting.values()),
        "identities": [
            {
                "identity": identity,
                "state": phase,
                "since": iso_utc(since_s),
                "fault": fault,
                "reason": reason,
                "sent": sent,
                "underWay": under_way,
                "waiting": waiting.get(identity, 0),
                "triedAgain": iso_utc(retry_s) if retry_s else None,
            }
            for identity, phase, since_s, fault, reason, sent, under_way, retry_s in state.sources
        ],
    }
