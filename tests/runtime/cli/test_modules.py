"""What `edge-actors list` says of the deployment."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cli.modules import deployed

WELL: dict[str, Any] = {"version": 12, "code": 200, "description": "", "local": False}


@pytest.mark.parametrize(
    ("about", "lines"),
    [
        ({}, ["deployment: version 12 of the cloud"]),
        ({"version": None}, ["deployment: none has come yet"]),
        ({"version": None, "local": True}, []),
        (
            {"version": None, "local": True, "description": "the deployment file d.json is in force"},
            ["deployment: the deployment file d.json is in force"],
        ),
        (
            {"code": 412, "description": "schema version 2.0 is not supported"},
            ["deployment: 412: schema version 2.0 is not supported. In force is version 12."],
        ),
        (
            {"code": 417, "version": None, "description": "there is nothing to deploy"},
            ["deployment: 417: there is nothing to deploy."],
        ),
    ],
)
def test_the_list_says_which_deployment_is_in_force_and_what_is_wrong_with_the_last(
    about: dict[str, Any], lines: list[str]
) -> None:
    assert deployed(WELL | about) == lines
