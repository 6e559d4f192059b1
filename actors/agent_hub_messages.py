"""What agent and hub tell each other, so that neither process loads the actors of the other for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from messaging.envelope import Secret
from messaging.kinds import message

if TYPE_CHECKING:
    from actors.hub.config import RouteText
    from actors.hub.identity import Entry


@message
class GetIdentities:
    """Tell all identities of this edge. Answered by the agent with Identities.

    With `refresh` the cloud is asked first, where there is one: it may know somebody new.
    """

    refresh: bool = False


@message
class Identities:
    """All identities that may connect, the edge device first, each as `HubIdentity.entry`. Replaces all.

    When it is not whole, what the cloud said of other devices is lost: of them it replaces those it names.
    `authorities` are the CA certificates that devices of the type "certificateAuthority" may be signed by.
    """

    entries: tuple[Entry, ...]
    authorities: tuple[bytes, ...] = ()  # DER
    is_whole: bool = True


@message
class SetRoutes:
    """Use these routes from now on, as (name, text, priority, time to live in s or 0). Answered with Routes.

    What waits keeps its place, priority and time to live. Only the queue of an endpoint that no route leads
    to any more is given up, and not even that while a route is left out: it may have led there.
    """

    routes: tuple[tuple[str, str, int, int], ...]
    ttl_s: int | None  # of routes without one of their own; None: for ever


@message
class Routes:
    """The routes in force, and those left out.

    A good one is (name, text, priority, time to live in s or 0, endpoint id), a bad one (name, text, problem
    with position, line, column).
    """

    good: tuple[tuple[str, str, int, int, str], ...]
    bad: tuple[tuple[str, str, str, int, int], ...]


def set_routes(routes: Iterable[RouteText], ttl_s: int | None) -> SetRoutes:
    """Return the message that puts these routes in force."""
    return SetRoutes(tuple((r.name, r.text, r.priority, r.ttl_s) for r in routes), ttl_s)


@message
class SetDesired:
    """The desired properties that the deployment on this device has for its modules: name, JSON object."""

    desired: tuple[tuple[str, bytes], ...]


@message
class ListClients:
    """Tell who is connected. Answered with Clients."""


@message
class Clients:
    """Who is connected to any head, `device` or `device/module`, in the order in which they came."""

    connected: tuple[str, ...]


@message
class HubDesiredArrived:
    """The desired properties of `$edgeHub`: a JSON object without `$version`."""

    desired: Secret
    version: int
