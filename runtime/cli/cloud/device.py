"""`edge-actors cloud device`: the devices in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table

if TYPE_CHECKING:
    from runtime.iothub.owner import Cloud

SCOPE = "ms-azure-iot-edge://"
NEVER = "0001-01-01T00:00:00Z"  # as IoT Hub shows a time that has not come about


@click.group()
def device() -> None:
    """Make, list, show, disable, enable and delete devices."""


@device.command()
@click.argument("device_id", metavar="DEVICE")
@click.option("--edge", is_flag=True, help="An edge device: modules can be deployed to it.")
@click.option("--parent", metavar="EDGE", help="The edge device behind which it stands.")
@click.option(
    "--x509",
    multiple=True,
    metavar="THUMBPRINT|FILE",
    help="It proves itself with this certificate: thumbprint (SHA-256 or SHA-1) or PEM file; "
    "a second one for a change.",
)
@click.option("--x509-ca", is_flag=True, help="It shows a certificate of a CA, see `cloud certificate`.")
@click.option("--disabled", is_flag=True, help="It may not connect until it is enabled.")
@common_options
def create(
    device_id: str,
    edge: bool,
    parent: str | None,
    x509: tuple[str, ...],
    x509_ca: bool,
    disabled: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Make DEVICE and print its connection string."""
    from messaging.errors import ConfigError
    from runtime.cli.running import refresh_scope
    from runtime.iothub.owner import Cloud, device_path

    if len(x509) > 2:
        raise ConfigError(f"--x509 is there {len(x509)} times; a device has two certificates at most")
    if x509 and x509_ca:
        raise ConfigError("--x509 and --x509-ca are two proofs; a device has one of them")
    wanted: dict[str, Any] = {
        "deviceId": device_id,
        "status": "disabled" if disabled else "enabled",
        "capabilities": {"iotEdge": edge},
        "authentication": {"type": "certificateAuthority" if x509_ca else "sas"},
    }
    if x509:
        prints = dict(zip(("primaryThumbprint", "secondaryThumbprint"), map(thumbprint, x509), strict=False))
        wanted["authentication"] = {"type": "selfSigned", "x509Thumbprint": prints}
    cloud = Cloud(home)
    if parent is not None:
        wanted["parentScopes"] = [_scope_of(cloud, parent)]
    made = cloud.call("PUT", device_path(device_id), wanted)
    refresh_scope(home)
    text = connection_string(cloud, made)
    if as_json:
        print_json({**made, "connectionString": text})
    else:
        click.echo(text)


@device.command("list")
@click.option("--edge", is_flag=True, help="Edge devices alone.")
@common_options
def list_devices(edge: bool, home: Path, as_json: bool) -> None:
    """List the devices, without keys."""
    from runtime.iothub.owner import Cloud

    query = "SELECT * FROM devices" + (" WHERE capabilities.iotEdge = true" if edge else "")
    twins = [twin for rows, _ in Cloud(home).pages(query) for twin in rows]
    if as_json:
        print_json(twins)
        return
    print_table(
        ("DEVICE", "KIND", "STATUS", "CONNECTION", "AUTHENTICATION", "PARENT"),
        (
            (
                twin["deviceId"],
                _kind(twin),
                twin["status"],
                twin["connectionState"],
                twin["authenticationType"],
                _parent(twin),
            )
            for twin in twins
        ),
    )


@device.command()
@click.argument("device_id", metavar="DEVICE")
@click.option("--show-secrets", is_flag=True, help="With its keys and its connection string.")
@common_options
def show(device_id: str, show_secrets: bool, home: Path, as_json: bool) -> None:
    """Show DEVICE and its modules."""
    from runtime.iothub.owner import Cloud, device_path

    cloud = Cloud(home)
    found = cloud.get(device_path(device_id))
    modules = cloud.get(device_path(device_id) + "/modules")
    auth = found["authentication"]
    if not show_secrets:
        auth.pop("symmetricKey", None)
    text = connection_string(cloud, found) if show_secrets else None
    if as_json:
        shown = {**found, "modules": [module["moduleId"] for module in modules]}
        print_json(shown if text is None else {**shown, "connectionString": text})
        return
    rows = [
        ("device", found["deviceId"]),
        ("kind", _kind(found)),
        ("status", found["status"] + (f" ({found['statusReason']})" if found.get("statusReason") else "")),
        ("connection", _connection(found)),
        ("authentication", auth["type"]),
        ("parent", _parent(found)),
        ("messages waiting", found["cloudToDeviceMessageCount"]),
        ("modules", ", ".join(module["moduleId"] for module in modules)),
    ]
    prints = auth.get("x509Thumbprint") or {}
    rows += [("thumbprint", value) for value in prints.values() if value]
    if text is not None:
        rows += [(f"{which} key", auth["symmetricKey"][f"{which}Key"]) for which in _keys_of(auth)]
        rows.append(("connection string", text))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name.ljust(width)}  {value}".rstrip())


@device.command()
@click.argument("device_id", metavar="DEVICE")
@click.option("--reason", metavar="TEXT", help="Shown by `device show`; 128 characters at most.")
@common_options
def disable(device_id: str, reason: str | None, home: Path, as_json: bool) -> None:
    """Let DEVICE and its modules not connect any more; connections that they have end.

    Twins stay, and so do messages that wait for it.
    """
    _switch(home, device_id, "disabled", reason or "", as_json)


@device.command()
@click.argument("device_id", metavar="DEVICE")
@common_options
def enable(device_id: str, home: Path, as_json: bool) -> None:
    """Let DEVICE connect again."""
    _switch(home, device_id, "enabled", "", as_json)


@device.command()
@click.argument("device_id", metavar="DEVICE")
@click.option("--module", metavar="MODULE", help="This module of it alone.")
@common_options
def delete(device_id: str, module: str | None, home: Path, as_json: bool) -> None:
    """Delete DEVICE with its modules, twins and waiting messages. A connected one is cut off."""
    from runtime.cli.running import refresh_scope
    from runtime.iothub.owner import Cloud, device_path

    Cloud(home).call("DELETE", device_path(device_id, module), headers={"If-Match": "*"})
    refresh_scope(home)
    name = device_id if module is None else f"{device_id}/{module}"
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"{'device' if module is None else 'module'} {name} deleted")


def _switch(home: Path, device_id: str, status: str, reason: str, as_json: bool) -> None:
    from runtime.cli.running import refresh_scope
    from runtime.iothub.owner import Cloud, device_path

    wanted = {"deviceId": device_id, "status": status, "statusReason": reason}
    Cloud(home).call("PUT", device_path(device_id), wanted, {"If-Match": "*"})
    refresh_scope(home)
    if as_json:
        print_json({"deviceId": device_id, "status": status})
    else:
        click.echo(f"device {device_id} {status}")


def connection_string(cloud: Cloud, identity: dict[str, Any]) -> str:
    """Return with what a device or module connects; it holds the key when there is one."""
    fields = [("HostName", cloud.serving.host_name), ("DeviceId", identity["deviceId"])]
    if identity.get("moduleId"):
        fields.append(("ModuleId", identity["moduleId"]))
    auth = identity["authentication"]
    if auth["type"] == "sas":
        fields.append(("SharedAccessKey", auth["symmetricKey"]["primaryKey"]))
    elif auth["type"] in ("selfSigned", "certificateAuthority"):
        fields.append(("x509", "true"))
    return ";".join(f"{name}={value}" for name, value in fields)


def thumbprint(text: str) -> str:
    """Return the thumbprint that was written, or that of the certificate in a file.

    Raises:
        ConfigError: it is neither.
    """
    import hashlib
    import re

    from messaging.errors import ConfigError
    from runtime.cli.cloud.files import read_certificate

    bare = text.replace(":", "")
    if re.fullmatch(r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}", bare):
        return bare.upper()
    if not Path(text).exists():
        raise ConfigError(
            f"--x509: {text!r} is neither a thumbprint of 40 or 64 hexadecimal digits nor a file"
        )
    import ssl

    return (
        hashlib.sha256(ssl.PEM_cert_to_DER_cert(read_certificate(Path(text), "--x509"))).hexdigest().upper()
    )


def _scope_of(cloud: Cloud, parent: str) -> str:
    from messaging.errors import ConfigError
    from runtime.iothub.owner import device_path

    found = cloud.get(device_path(parent))
    if not found["capabilities"]["iotEdge"]:
        raise ConfigError(f"--parent: device '{parent}' is not an edge device; those are made with --edge")
    return str(found["deviceScope"])


def _kind(shown: dict[str, Any]) -> str:
    return "edge device" if shown["capabilities"]["iotEdge"] else "device"


def _connection(shown: dict[str, Any]) -> str:
    since = shown["connectionStateUpdatedTime"]
    return f"{shown['connectionState']}, {'has never connected' if since == NEVER else 'since ' + since}"


def _parent(shown: dict[str, Any]) -> str:
    scopes = shown.get("parentScopes") or []
    return scopes[0].removeprefix(SCOPE).rpartition("-")[0] if scopes else ""


def _keys_of(auth: dict[str, Any]) -> tuple[str, ...]:
    return ("primary", "secondary") if auth["type"] == "sas" else ()
