"""Which modules of a start group the next one waits for.

As in the reference a group is waited for until each of its modules has been started or has failed to. With
`until_ready` it is waited for until each is ready: healthy by its own check, or, without one, connected to
the hub. Whoever asks sets a time limit: not every module connects, and a broken one shall not keep the
others down for ever.

Source: spec sheet agent.md section 2.4, startupOrder, which waits for nothing
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from actors.agent.module_report import ModuleReported
from actors.manifest.module_spec import DesiredStatus, ModuleStatus

# Nothing more is to be expected of these: it did its work, or somebody has to look after it.
_AT_REST = frozenset({ModuleStatus.STOPPED.value, ModuleStatus.FAILED.value, ModuleStatus.DEAD.value})


def waited_for(
    group: Iterable[str],
    reports: Mapping[str, ModuleReported],
    *,
    until_ready: bool = False,
    connected: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the modules of a group that the next group waits for; none when it can be started.

    Args:
        group: Names of modules.
        reports: The last report of each; one without has no result of its start yet.
        until_ready: Whether to wait for more than the start.
        connected: Modules that are connected to the hub; edgeHub itself when it is up.
    """
    return tuple(name for name in group if not _lets_go(name, reports.get(name), until_ready, connected))


def _lets_go(name: str, report: ModuleReported | None, until_ready: bool, connected: Collection[str]) -> bool:
    if report is None:
        return False
    if not until_ready or report.desired != DesiredStatus.RUNNING.value or report.status in _AT_REST:
        return True
    return report.ready and (report.has_check or name in connected)
