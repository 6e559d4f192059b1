"""What content makes of desired properties."""

from __future__ import annotations

from typing import Any

import pytest

from messaging.errors import IotHubError
from runtime.iothub.configurations import desired_after

BEFORE = {"a": 1, "b": {"x": 1, "y": {"z": 1}}}


@pytest.mark.parametrize(
    ("changes", "after"),
    [
        pytest.param({}, BEFORE, id="nothing"),
        pytest.param({"properties.desired": {"c": 1}}, {"c": 1}, id="all replaced"),
        pytest.param({"properties.desired": {"$version": 3, "c": 1}}, {"c": 1}, id="what is the hub's own"),
        pytest.param({"properties.desired.c": 5}, {**BEFORE, "c": 5}, id="one added"),
        pytest.param({"properties.desired.b": {"n": 1}}, {"a": 1, "b": {"n": 1}}, id="a sub-tree replaced"),
        pytest.param(
            {"properties.desired.b.y.n": 2}, {"a": 1, "b": {"x": 1, "y": {"z": 1, "n": 2}}}, id="deep inside"
        ),
        pytest.param({"properties.desired.a.n": 2}, {**BEFORE, "a": {"n": 2}}, id="below a scalar"),
        pytest.param(
            {"properties.desired.c.d": 2, "properties.desired": {"c": {"e": 1}}},
            {"c": {"e": 1, "d": 2}},
            id="all, then a sub-tree",
        ),
    ],
)
def test_content_replaces_all_or_sub_trees(changes: Any, after: Any) -> None:
    assert desired_after(BEFORE, changes, "m") == after


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([], id="no object"),
        pytest.param({"properties.reported": {}}, id="reported"),
        pytest.param({"properties.desiredx": {}}, id="a longer word"),
        pytest.param({"properties.desired.": {}}, id="an empty name"),
        pytest.param({"properties.desired": 5}, id="no object for all"),
    ],
)
def test_other_content_is_refused(changes: Any) -> None:
    with pytest.raises(IotHubError) as refused:
        desired_after(BEFORE, changes, "m")

    assert refused.value.code == 400402
