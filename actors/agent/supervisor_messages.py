"""What is said to a supervisor (supervisor.py), and what it answers besides ModuleReported."""

from __future__ import annotations

from messaging.kinds import message


@message
class ModuleExited:
    """A run of the module ended. From the module runtime's thread."""

    started_at_s: float  # which run; seconds since 1970-01-01 UTC
    ended_at_s: float
    exit_code: int | None
    signal: int | None
    engine_away: bool = False  # see ModuleEnd
    out_of_memory: bool = False


@message
class HealthChanged:
    """The module's own check says something else of a run. From the module runtime's thread."""

    started_at_s: float  # which run; seconds since 1970-01-01 UTC
    healthy: bool


@message
class StartPossible:
    """What the start was postponed for is over: the container engine answers again, the image is there."""


@message
class RestartDue:
    """Timer: the wait before the next restart is over."""


@message
class StableDue:
    """Timer: it has run for long enough that earlier crashes no longer count."""


@message
class StartModule:
    """Start it now, whatever the deployment says. Answered with ModuleReported once that is done."""

    name: str


@message
class StopModule:
    """Stop it until StartModule or a change of its deployment. Answered with ModuleReported."""

    name: str


@message
class RestartModule:
    """Stop it if it runs, then start it. Answered with ModuleReported."""

    name: str


@message
class KillModule:
    """End it at once and without mercy: the user asked twice."""


@message
class RemoveModule:
    """End it and forget it; it is in no deployment any more. Answered with ModuleRemoved."""


@message
class ModuleRemoved:
    """Nothing of this module is left."""

    name: str


@message
class HandOver:
    """Leave the module as it is: once you have stopped, another supervisor takes it over. From the agent."""


@message
class GetModule:
    """Tell how it is doing. Answered with ModuleReported."""
