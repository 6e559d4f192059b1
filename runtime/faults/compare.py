"""Compares everybody's books at the end of a run: publishers, consumers, the cloud, the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from actors.store.stored import EndpointLedger, Ledger
from runtime.cli.ledger import as_values
from runtime.faults.books import Books, told
from runtime.faults.findings import Findings
from runtime.faults.scenario import UPSTREAM, Scenario
from runtime.faults.scene import Scene
from runtime.faults.stamps import Key, output_of


def books_of(scene: Scene) -> dict[str, Books]:
    """Return the books of each route; those of a route over which nothing came are empty."""
    found: dict[str, Books] = {}
    outputs = scene.scenario.outputs
    for name, route in scene.scenario.edge.routes.items():
        if route.into == UPSTREAM:
            found[name] = scene.reader.books.get(outputs.index(route.output), Books())
        else:
            found[name] = scene.consumers[route.into].books.get(name, Books())
    return found


def owed(scene: Scene, name: str) -> list[Key]:
    """Return what publishers were told to be stored and goes over a route, in the order of sending."""
    outputs = scene.scenario.outputs
    wanted = outputs.index(scene.scenario.edge.routes[name].output)
    return [
        Key(publisher.number, wanted, sequence)
        for publisher in scene.publishers
        for sequence in sorted(publisher.acknowledged)
        if output_of(sequence, len(outputs)) == wanted
    ]


def row_of(scenario: Scenario, ledger: Ledger, name: str) -> EndpointLedger:
    """Return what the ledger says of a route; for routes to the cloud, of all of them together."""
    route = scenario.edge.routes[name]
    ending = "iothub" if route.into == UPSTREAM else f"/{route.into}/{name}"
    rows = [row for endpoint, row in ledger.endpoints.items() if endpoint.endswith(ending)]
    return rows[0] if rows else EndpointLedger()


def compare(scene: Scene, ledger: Ledger, findings: Findings) -> None:
    """Count what is lost, out of order, there twice, and which equation of the ledger does not hold."""
    scenario = scene.scenario
    sent_again: Mapping[int, Mapping[int, int]] = {
        publisher.number: publisher.times_sent_again for publisher in scene.publishers
    }
    window = scenario.expected("duplicates", 0)
    findings.imbalances += ledger.imbalances()
    findings.ledger = as_values(ledger)
    findings.expired = sum(row.expired for row in ledger.endpoints.values())
    findings.dropped = sum(row.dropped for row in ledger.endpoints.values())
    findings.salvaged = ledger.epoch.salvaged
    excuses: dict[str, int] = {}  # how many may be missing, by endpoint of the ledger
    for name, books in books_of(scene).items():
        route = scenario.edge.routes[name]
        row = row_of(scenario, ledger, name)
        endpoint = UPSTREAM if route.into == UPSTREAM else name
        excuses.setdefault(endpoint, row.expired + row.dropped + _lost_by_damage(scenario, ledger))
        excuses[endpoint] += books.damaged
        missing = books.missing(owed(scene, name))
        excused = min(len(missing), excuses[endpoint])
        excuses[endpoint] -= excused
        if len(missing) > excused:
            findings.lost += len(missing) - excused
            findings.note(
                f"route {name}: of {len(owed(scene, name))} acknowledged messages {len(missing)} never came "
                f"and the ledger excuses {excused}: number {told(missing)}"
            )
        findings.out_of_order += len(books.misordered)
        for what in books.misordered:
            findings.note(f"route {name}: {what}")
        again = books.unexplained(sent_again, window)
        findings.unexplained += len(again)
        if again:
            findings.note(f"route {name}: came again without a reason: number {told(again)}")
        findings.received += len(books.first)
        findings.received_again += books.arrived_again
        if row.expired and not route.ttl_s and route.into != UPSTREAM:
            findings.imbalances.append(f"{row.expired} messages of route {name} expired, which has no limit")
        if row.delivered > books.arrived + books.damaged and route.into != UPSTREAM:
            findings.imbalances.append(f"{name}: {row.delivered} delivered, and {books.arrived} arrived")
    findings.damaged = scene.reader.damaged + sum(books.damaged for books in books_of(scene).values())
    if scenario.expected("damaged") is None and findings.damaged:
        findings.failures.append(f"{findings.damaged} messages came with another content than was sent")
    if scenario.expected("dropped") is None and findings.dropped:
        findings.failures.append(f"{findings.dropped} messages were dropped, which nobody expected")


def add_clients(scene: Scene, findings: Findings) -> None:
    """Take over what the clients counted, however the run ended."""
    findings.acknowledged = scene.acknowledged
    for publisher in scene.publishers:
        findings.sent_again += sum(publisher.times_sent_again.values())
    for client in scene.clients:
        findings.refused += client.nobody_listened
        findings.failures += client.problems


def _lost_by_damage(scenario: Scenario, ledger: Ledger) -> int:
    """Return how many messages a damaged database has lost, as the ledger says; it may not know.

    Where no step damages one, as after a power cut, there is no excuse for a database that is damaged.
    """
    if not scenario.uses("damage database"):
        return 0
    return 1 << 62 if ledger.epoch.lost is None else ledger.epoch.lost
