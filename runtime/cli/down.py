"""`edge-actors down`: stop the edge of a home and end all that is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import asdict

from runtime.cli.options import common_options
from runtime.cli.output import print_json

if TYPE_CHECKING:
    from messaging.errors import EdgeError
    from runtime.docker.leftovers import RemovedFromEngine
    from runtime.home import Home
    from runtime.modules.leftovers import EndedProcess

GRACE_S: Final = 30.0  # for the agent to end the modules, which have their own grace; then it is killed


@click.command()
@click.option("--purge", is_flag=True, help="Remove the home too: messages, keys, certificates, logs.")
@common_options
def down(purge: bool, home: Path, as_json: bool) -> None:
    """Stop the edge of this home, and end whatever is left of one that was killed.

    Asks nothing and says what it ended. Works without a running agent and without the home. Containers and
    their network are found by their labels.
    """
    from messaging.errors import EnvironmentFault
    from runtime.home import Home
    from runtime.iothub.cloud_home import CloudHome
    from runtime.modules.leftovers import end_edge
    from runtime.run_directory import RunDirectory
    from runtime.storage.store_place import database_of
    from runtime.storage.store_place import purge as purge_store

    run = RunDirectory.of(home)
    had_run_directory = run.path.exists()
    ended = end_edge(run, GRACE_S)
    cloud = CloudHome.in_home(home)
    cloud_lives = cloud.lock().holder() is not None  # one that the user runs by himself
    if not cloud_lives:
        cloud.run.remove()
    removed, problem = _remove_containers(run.path.name, Home(home))
    if purge:
        purge_store(database_of(Home(home)), Home(home))
    left = Home(home).purge(with_cloud=not cloud_lives) if purge else None
    if as_json:
        print_json(
            {
                "ended": [asdict(process) for process in ended],
                "containers_removed": [asdict(container) for container in removed.containers],
                "networks_removed": list(removed.networks),
                "run_directory_removed": had_run_directory,
                "home_removed": left == [],
                "left_in_home": left or [],
            }
        )
    else:
        _tell(home, run.path if had_run_directory else None, ended, removed, left)
    if problem is not None:
        raise EnvironmentFault(
            f"containers of this edge may be left: {problem}; then run `edge-actors down --home {home}` again"
        )


def _remove_containers(home_id: str, home: Home) -> tuple[RemovedFromEngine, EdgeError | None]:
    """Return what was removed, and why perhaps not all was."""
    from messaging.errors import EdgeError
    from runtime.docker.leftovers import RemovedFromEngine, remove_containers

    try:
        removed = remove_containers(home_id)
    except EdgeError as exc:
        # Without an engine and without a sign that there were containers, there is nothing to worry about.
        return RemovedFromEngine((), ()), exc if home.containers.exists() else None
    home.containers.unlink(missing_ok=True)
    return removed, None


def _tell(
    home: Path,
    run_directory: Path | None,
    ended: list[EndedProcess],
    removed: RemovedFromEngine,
    left: list[str] | None,
) -> None:
    for process in ended:
        how = f"killed, it did not end within {GRACE_S:.0f} s" if process.killed else "ended"
        click.echo(f"{process.name} (pid {process.pid}, {process.command}): {how}")
    for container in removed.containers:
        how = "killed and removed" if container.was_running else "removed"
        click.echo(f"{container.module} (container {container.name}): {how}")
    for network in removed.networks:
        click.echo(f"removed network {network}")
    if run_directory is not None:
        click.echo(f"removed {run_directory}")
    if left == []:
        click.echo(f"removed {home}")
    elif left:
        click.echo(f"kept {home}: it also holds what is not the edge's: {', '.join(left)}")
    if not ended and run_directory is None and left is None and not (removed.containers or removed.networks):
        click.echo(f"nothing of an edge with home {home} is left")
