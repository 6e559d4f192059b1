"""What services alone ask of the hub: lists, scopes of edges, queries, statistics, deployments.

Made by `IotHub`, as its attribute `service`; runs in the same loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from messaging.clock import Clock
from messaging.identity import Identity
from messaging.query import Query, parse_query
from messaging.twin import Json
from runtime.iothub import c2d, configurations, identities, refusals, shown, twins
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.records import Registered
from runtime.iothub.sessions import Sessions
from runtime.iothub.twins import DesiredChange


class ServiceSide:
    """Reads the registry, and deploys to it."""

    def __init__(
        self,
        db: CloudDb,
        sessions: Sessions,
        clock: Clock,
        tell_desired: Callable[[Identity, DesiredChange], None],
    ) -> None:
        self._db = db
        self._sessions = sessions
        self._clock = clock
        self._tell_desired = tell_desired

    async def describe(self, identity: Identity) -> Json:
        """Return a device or module as REST shows it.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        return await self._db.run(
            lambda connection: self._described(connection, identities.get(connection, identity))
        )

    async def devices(self, top: int) -> list[Json]:
        """Return the first `top` devices by id, as REST shows them."""
        return await self._db.run(
            lambda connection: [
                self._described(connection, each) for each in identities.devices(connection, limit=top)
            ]
        )

    async def modules(self, device_id: str) -> list[Json]:
        """Return the modules of a device as REST shows them.

        Raises:
            IotHubError: 404001 unknown.
        """

        def job(connection: sqlite3.Connection) -> list[Json]:
            identities.get(connection, Identity(device_id))
            return [
                self._described(connection, each) for each in identities.modules_of(connection, device_id)
            ]

        return await self._db.run(job)

    async def statistics(self) -> Json:
        """Return how many devices there are, by status, and how many are connected."""
        devices = await self._db.run(identities.devices)
        enabled = sum(device.status == "enabled" for device in devices)
        connected = sum(self._is_connected(device.identity) for device in devices)
        return {
            "totalDeviceCount": len(devices),
            "enabledDeviceCount": enabled,
            "disabledDeviceCount": len(devices) - enabled,
            "connectedDeviceCount": connected,
        }

    def _described(self, connection: sqlite3.Connection, registered: Registered) -> Json:
        identity = registered.identity
        connected, seen = self._is_connected(identity), self._sessions.seen(identity)
        if identity.module_id is not None:
            return shown.module_json(registered, connected, seen)
        count = c2d.count_waiting(connection, identity.device_id)
        return shown.device_json(registered, connected, seen, count)

    def shown_twin(self, connection: sqlite3.Connection, identity: Identity) -> Json:
        """Return a twin as REST shows it; for jobs of the database."""
        registered = identities.get(connection, identity)
        return shown.twin_json(
            registered,
            identities.device_of(connection, identity),
            twins.get(connection, identity),
            self._is_connected(identity),
            self._sessions.seen(identity),
            c2d.count_waiting(connection, identity.device_id) if identity.module_id is None else 0,
        )

    # ---- scopes of edge devices

    async def in_scope(self, edge_id: str, chain: Sequence[str]) -> tuple[list[Registered], list[Registered]]:
        """Return the devices below the first edge of `chain`, itself included, and its modules.

        Args:
            edge_id: Who asks: the edge itself, or one above it.
            chain: Device ids from the target up to who asks.

        Raises:
            IotHubError: 401002 the target is not below who asks; 404001 unknown.
        """

        def job(connection: sqlite3.Connection) -> tuple[list[Registered], list[Registered]]:
            self._check_chain(connection, edge_id, chain)
            edge = identities.get(connection, Identity(chain[0]))
            children = identities.children_of(connection, edge) if edge.is_edge else []
            return [edge, *children], identities.modules_of(connection, chain[0])

        return await self._db.run(job)

    async def one_in_scope(
        self, edge_id: str, chain: Sequence[str], identity: Identity
    ) -> tuple[list[Registered], list[Registered]]:
        """Return one device, or one module with its device. Arguments and errors as `in_scope`."""

        def job(connection: sqlite3.Connection) -> tuple[list[Registered], list[Registered]]:
            self._check_chain(connection, edge_id, chain)
            found = identities.get(connection, identity)
            device = identities.device_of(connection, identity)
            return [device], [found] if identity.module_id is not None else []

        return await self._db.run(job)

    @staticmethod
    def _check_chain(connection: sqlite3.Connection, edge_id: str, chain: Sequence[str]) -> None:
        if chain[-1] != edge_id or not identities.chain_holds(connection, chain):
            raise refusals.not_permitted(f"'{chain[0]}' is not in the scope of '{edge_id}'")

    # ---- queries and deployments

    async def query(self, text: str, after: str, max_count: int) -> tuple[list[Json], str | None, Query]:
        """Return a page of a query over twins, and where the next one begins, None at the end.

        Raises:
            IotHubError: 400004 the query cannot be understood.
        """
        query = parse_query(text)
        wanted = max_count if query.top is None else min(max_count, query.top)
        found = await self._db.run(lambda connection: self._matching(connection, query, after, wanted))
        if query.count_as is not None:
            return [{query.count_as: len(found)}], None, query
        page = found[:wanted]
        token = None
        if len(found) > wanted and query.top is None:
            token = f"{page[-1]['deviceId']}/{page[-1].get('moduleId', '')}"
        return [dict(query.row(twin)) for twin in page], token, query

    def _matching(self, connection: sqlite3.Connection, query: Query, after: str, wanted: int) -> list[Json]:
        """Return the twins of a page and one more, of a COUNT() all."""
        found: list[Json] = []
        for identity in identities.ids(connection, query.collection == "devices.modules", after):
            twin = self.shown_twin(connection, identity)
            if query.matches(twin):
                found.append(twin)
                if len(found) > wanted and query.count_as is None:
                    break
        return found

    async def configuration(self, configuration_id: str) -> Json:
        """Return a configuration.

        Raises:
            IotHubError: 404301 unknown.
        """
        return await self._db.run(lambda connection: configurations.get(connection, configuration_id))

    async def configurations(self, top: int) -> list[Json]:
        """Return at most `top` configurations, those of highest priority first."""
        return await self._db.run(lambda connection: configurations.listed(connection, top))

    async def put_configuration(
        self, configuration_id: str, wanted: Mapping[str, Any], if_match: str | None
    ) -> tuple[Json, bool]:
        """Create or update a configuration; return it, and whether it is new.

        Raises:
            IotHubError: 400004, 400402, 400403 a member; 404301 unknown; 409401 exists; 412001 another etag;
                413101 too many.
        """
        now_s = self._clock.now_s()
        return await self._db.run(
            lambda connection: configurations.put(connection, configuration_id, wanted, if_match, now_s)
        )

    async def delete_configuration(self, configuration_id: str, if_match: str | None) -> None:
        """Delete a configuration.

        Raises:
            IotHubError: 404301 unknown; 412001 another etag.
        """
        await self._db.run(lambda connection: configurations.delete(connection, configuration_id, if_match))

    async def apply_configuration(self, device_id: str, content: Mapping[str, Any]) -> None:
        """Put a deployment's content into the twins of one device and its modules.

        Raises:
            IotHubError: 400004 not an edge device, or a rule of twins; 400402 the content; 404001 unknown;
                413003 too many modules.
        """
        now_s = self._clock.now_s()

        def tell(changes: Sequence[tuple[Identity, DesiredChange]]) -> None:
            for identity, change in changes:
                self._tell_desired(identity, change)

        await self._db.run(
            lambda connection: configurations.apply(connection, device_id, content, now_s), tell
        )

    def _is_connected(self, identity: Identity) -> bool:
        return self._sessions.find(identity) is not None
