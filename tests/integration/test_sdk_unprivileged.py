"""The features of both SDKs with an edge that an unprivileged user runs: port 443 granted and refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration import test_port_443, test_sdk_features
from tests.integration.edge_process import ROOT
from tests.integration.test_port_443 import NOBODY, WITH_CAPABILITY, WITHOUT_RIGHTS, nobody_can_run_python

LIMIT_S = 300.0

pytestmark = [
    *test_port_443.pytestmark,
    pytest.mark.skipif(
        os.geteuid() == 0 and not nobody_can_run_python(), reason="other users cannot run this Python"
    ),
    pytest.mark.campaign,
    pytest.mark.timeout(LIMIT_S),
]


@pytest.fixture
def home() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ea-", dir="/tmp"))
    os.chown(made, NOBODY, NOBODY)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    ("as_user", "has_443"), [(WITH_CAPABILITY, True), (WITHOUT_RIGHTS, False)], ids=["granted", "refused"]
)
def test_everything_works_for_an_unprivileged_user_and_without_443_all_that_needs_no_443(
    home: Path, as_user: Sequence[str], has_443: bool
) -> None:
    suite = Path(test_sdk_features.__file__)
    # Through a shell: setpriv itself still has root's rights when it looks the program up.
    command = f"'{sys.executable}' -m pytest -q -rs -p no:cacheprovider '{suite}'"

    done = subprocess.run(
        [*as_user, "sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert done.returncode == 0, done.stdout[-4000:]
    skipped = re.findall(r"SKIPPED \[\d+\] .*: (.*)", done.stdout)
    assert ("port 443 is not permitted to this user" in skipped) is not has_443
