"""`edge-actors cloud enrollment`: who may register itself by the provisioning service (DPS)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table

if TYPE_CHECKING:
    from runtime.iothub.owner import Cloud

Function = TypeVar("Function", bound=Callable[..., Any])

INDIVIDUAL = "/enrollments"
GROUP = "/enrollmentGroups"
REPROVISION = {
    "migrate": {"updateHubAssignment": True, "migrateDeviceData": True},
    "reset": {"updateHubAssignment": True, "migrateDeviceData": False},
    "never": {"updateHubAssignment": False, "migrateDeviceData": False},
}


def _group_option(function: Function) -> Function:
    return click.option("--group", is_flag=True, help="An enrollment group, not a single device.")(function)


@click.group()
def enrollment() -> None:
    """Keep the enrollments of the provisioning service: of single devices, and of groups."""


@enrollment.command()
@click.argument("name", metavar="ID")
@_group_option
@click.option("--device-id", metavar="DEVICE", help="What the device is called.  [default: as it registers]")
@click.option("--edge", is_flag=True, help="The device is an edge device.")
@click.option(
    "--x509",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Proof is this certificate (PEM), for a group one of this CA; a second one for a change.",
)
@click.option(
    "--initial-twin",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='What the twin begins with: JSON such as {"tags": …, "properties": {"desired": …}}.',
)
@click.option(
    "--reprovision",
    type=click.Choice(tuple(REPROVISION)),
    default="migrate",
    show_default=True,
    help="What happens to the twin of a device that registers again; with never it keeps its old key, too.",
)
@click.option("--disabled", is_flag=True, help="Nobody is let in until it is enabled.")
@common_options
def create(
    name: str,
    group: bool,
    device_id: str | None,
    edge: bool,
    x509: tuple[Path, ...],
    initial_twin: Path | None,
    reprovision: str,
    disabled: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Let in the device that registers as ID, or with --group all devices that prove to be of group ID.

    Shows what a client needs: the id scope, and the symmetric key unless certificates are the proof. A device
    of a group has a key of its own: see `enrollment key`.
    """
    from messaging.errors import ConfigError
    from runtime.cli.cloud.files import read_certificate, read_json_object
    from runtime.iothub.owner import Cloud

    if len(x509) > 2:
        raise ConfigError(f"--x509 is there {len(x509)} times; an enrollment has two certificates at most")
    attestation: dict[str, Any] = {"type": "symmetricKey"}
    if x509:
        pems = [{"certificate": read_certificate(path, "--x509")} for path in x509]
        member = "signingCertificates" if group else "clientCertificates"
        pair = dict(zip(("primary", "secondary"), pems, strict=False))
        attestation = {"type": "x509", "x509": {member: pair}}
    wanted: dict[str, Any] = {
        "attestation": attestation,
        "capabilities": {"iotEdge": edge},
        "reprovisionPolicy": REPROVISION[reprovision],
        "provisioningStatus": "disabled" if disabled else "enabled",
    }
    if device_id is not None:
        wanted["deviceId"] = device_id
    if initial_twin is not None:
        wanted["initialTwin"] = read_json_object(initial_twin, "--initial-twin")
    cloud = Cloud(home)
    path = _path(name, group)
    made = cloud.call("PUT", path, wanted)
    _show(cloud, path, made, as_json, show_secrets=True)


@enrollment.command("list")
@common_options
def list_enrollments(home: Path, as_json: bool) -> None:
    """List the enrollments and groups, without keys."""
    from runtime.iothub.owner import Cloud

    cloud = Cloud(home)
    found = []
    for path in (INDIVIDUAL, GROUP):
        found += cloud.call("POST", f"{path}/query", {"query": f"SELECT * FROM {path[1:]}"})
    if as_json:
        print_json(found)
        return
    print_table(
        ("ID", "KIND", "PROOF", "DEVICE", "STATUS"),
        (
            (
                _id_of(one),
                "group" if "enrollmentGroupId" in one else "device",
                one["attestation"]["type"],
                one.get("deviceId", ""),
                one["provisioningStatus"],
            )
            for one in found
        ),
    )


@enrollment.command()
@click.argument("name", metavar="ID")
@_group_option
@click.option("--show-secrets", is_flag=True, help="With its keys.")
@common_options
def show(name: str, group: bool, show_secrets: bool, home: Path, as_json: bool) -> None:
    """Show enrollment ID, and how its last registration went."""
    from runtime.iothub.owner import Cloud

    cloud = Cloud(home)
    path = _path(name, group)
    _show(cloud, path, cloud.get(path), as_json, show_secrets)


@enrollment.command()
@click.argument("name", metavar="ID")
@_group_option
@common_options
def delete(name: str, group: bool, home: Path, as_json: bool) -> None:
    """Delete enrollment ID. Devices that registered by it stay."""
    from runtime.iothub.owner import Cloud

    Cloud(home).call("DELETE", _path(name, group), headers={"If-Match": "*"})
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"enrollment {'group ' if group else ''}{name} deleted")


@enrollment.command()
@click.argument("name", metavar="GROUP")
@click.argument("registration_id", metavar="DEVICE")
@common_options
def key(name: str, registration_id: str, home: Path, as_json: bool) -> None:
    """Show the key with which DEVICE registers by enrollment group GROUP; it derives from the group's."""
    from messaging.errors import ConfigError
    from runtime.iothub.enrollments import derived_key
    from runtime.iothub.owner import Cloud

    cloud = Cloud(home)
    keys = cloud.call("POST", _path(name, group=True) + "/attestationmechanism").get("symmetricKey")
    if keys is None:
        raise ConfigError(f"enrollment group '{name}' has certificates, no key from which one could derive")
    derived = derived_key(keys["primaryKey"], registration_id)
    if as_json:
        values = {
            "registrationId": registration_id,
            "symmetricKey": derived,
            "idScope": cloud.serving.id_scope,
        }
        print_json(values)
    else:
        click.echo(derived)


def _path(name: str, group: bool) -> str:
    return f"{GROUP if group else INDIVIDUAL}/{quote(name, safe='')}"


def _id_of(one: dict[str, Any]) -> str:
    return str(one.get("enrollmentGroupId") or one["registrationId"])


def _show(cloud: Cloud, path: str, one: dict[str, Any], as_json: bool, show_secrets: bool) -> None:
    is_group = "enrollmentGroupId" in one
    if show_secrets:
        one = {**one, "attestation": cloud.call("POST", path + "/attestationmechanism")}
    state = None if is_group else _registration(cloud, _id_of(one))
    if as_json:
        extra = {"idScope": cloud.serving.id_scope} | ({"registrationState": state} if state else {})
        print_json({**one, **extra})
        return
    keys = one["attestation"].get("symmetricKey")
    rows = [
        ("id scope", cloud.serving.id_scope),
        ("enrollment group" if is_group else "registration id", _id_of(one)),
        ("proof", one["attestation"]["type"]),
        ("status", one["provisioningStatus"]),
    ]
    if one.get("deviceId"):
        rows.append(("device", one["deviceId"]))
    if state is not None:
        told = state.get("errorMessage") or state.get("deviceId", "")
        rows.append(("registered", f"{state['status']}: {told}, {state['lastUpdatedDateTimeUtc']}"))
    if keys:
        rows += [("primary key", keys["primaryKey"]), ("secondary key", keys["secondaryKey"])]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name.ljust(width)}  {value}")


def _registration(cloud: Cloud, name: str) -> dict[str, Any] | None:
    from runtime.iothub.owner import Refused

    try:
        state: dict[str, Any] = cloud.get(f"/registrations/{quote(name, safe='')}")
    except Refused:
        return None  # it has not registered yet
    return state
