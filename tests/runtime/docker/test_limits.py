from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from messaging.errors import ConfigError
from runtime.docker.limits import refuse_home


def bind(source: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": "/x"}


def volume_of(folder: str) -> dict[str, Any]:
    made = {"DriverConfig": {"Name": "local", "Options": {"type": "none", "o": "bind", "device": folder}}}
    return {"Type": "volume", "Source": "data", "Target": "/x", "VolumeOptions": made}


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [
        ({"Binds": ["{home}:/x"]}, True),
        ({"binds": ["{home}/logs:/x:ro"]}, True),
        ({"Binds": ["{above}:/x"]}, True),
        ({"Binds": ["/:/host:ro"]}, True),
        ({"Binds": ["{home}/../home:/x"]}, True),
        ({"Binds": ["{link}:/x"]}, True),
        ({"Mounts": [bind("{home}")]}, True),
        ({"Mounts": [volume_of("{home}")]}, True),
        ({"Binds": ["{home}-of-another:/x"]}, False),
        ({"Binds": ["home:/x", "/etc/hosts:/x"]}, False),
        ({"Mounts": [{"Type": "tmpfs", "Target": "/x"}, volume_of("/srv"), 7]}, False),
        ({"Binds": None, "Mounts": None}, False),
        ({}, False),
    ],
    ids=[
        "the home",
        "a part of it, in other case",
        "the folder that it is in",
        "everything",
        "by a detour",
        "by a link",
        "as a mount",
        "as a volume made on the spot",
        "a folder with a like name",
        "a volume and another file",
        "mounts of other kinds",
        "null",
        "nothing",
    ],
)
def test_the_home_of_the_edge_is_bound_into_no_container(
    tmp_path: Path, host: dict[str, Any], is_refused: bool
) -> None:
    home, link = tmp_path / "home", tmp_path.parent / f"{tmp_path.name}-link"
    home.mkdir()
    link.symlink_to(home)

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return (
                value.replace("{home}", str(home))
                .replace("{above}", str(tmp_path))
                .replace("{link}", str(link))
            )
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        return [filled(one) for one in value] if isinstance(value, list) else value

    if not is_refused:
        refuse_home("pump", filled(host), home)
        return
    with pytest.raises(ConfigError, match=r"^module 'pump': .*HostConfig.Binds or Mounts$"):
        refuse_home("pump", filled(host), home)
