"""Whether the edge serves its clients, in one word and in one line, for who started it as a service.

Understood by AgentActor: AskEdgeState; the answer is made by a pure function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from actors.agent.module_report import ModuleReported
from actors.manifest.module_spec import EDGE_CLOUD, EDGE_HUB, DesiredStatus, ModuleStatus
from messaging.kinds import message


@message
class AskEdgeState:
    """Tell whether the edge serves. Answered with EdgeState."""


@message
class EdgeState:
    """Whether whoever needs the hub finds it; with one line for people."""

    serves: bool
    text: str


def edge_state(
    modules: Collection[str],
    reports: Mapping[str, ModuleReported],
    *,
    hub_is_there: bool,
) -> EdgeState:
    """Return the state of an edge.

    Without a hub to run (no deployment yet, or one in which it is stopped) there is nothing to wait for.

    Args:
        modules: Names of all that are supervised.
        reports: The last report of each; one without has no result of its start yet.
        hub_is_there: Whether the hub has said that all of it runs.
    """
    if not set(modules) - {EDGE_CLOUD}:
        return EdgeState(True, "waits for a deployment")
    wanted = [name for name in modules if _is_wanted(reports.get(name))]
    missing = sorted(name for name in wanted if not _runs(name, reports.get(name), hub_is_there))
    text = f"{len(wanted) - len(missing)} of {len(wanted)} modules run"
    if missing:
        text += f"; not: {', '.join(missing)}"
    return EdgeState(EDGE_HUB not in missing, text)


def _is_wanted(report: ModuleReported | None) -> bool:
    if report is None:
        return True  # it waits for its turn
    did_its_work = report.status == ModuleStatus.STOPPED and report.exit_code == 0
    return report.desired == DesiredStatus.RUNNING and not did_its_work


def _runs(name: str, report: ModuleReported | None, hub_is_there: bool) -> bool:
    if report is None or report.status != ModuleStatus.RUNNING:
        return False
    return hub_is_there if name == EDGE_HUB else True
