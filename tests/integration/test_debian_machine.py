"""The Debian package on a clean Debian: installed, run by systemd, killed, upgraded, purged.

Minutes, and the network, to make package and machine; the machine itself has none. By hand:
`pytest -m campaign tests/integration/test_debian_machine.py`
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import blocks_of
from tests.integration.debian_machine import DebianMachine, why_not
from tests.integration.edge_program import ROOT
from tests.integration.terminal import Reader

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]

UP = {"edgeAgent", "edgeCloud", "edgeHub", "filter", "sensor"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout for this machine."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("package")
    done = subprocess.run(
        [ROOT / "scripts" / "deb", "amd64", folder], capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system to copy."""
    root = tmp_path_factory.mktemp("debian") / "clean"
    DebianMachine(root).make()
    return root


@pytest.fixture
def machine(package: Path, clean: Path, tmp_path: Path) -> Iterator[DebianMachine]:
    """A machine that runs, with the package in /root."""
    root = tmp_path / "machine"
    subprocess.run(["cp", "-a", clean, root], check=True)
    shutil.copy(package, root / "root" / "edge-actors.deb")
    made = DebianMachine(root)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(root)


def install(machine: DebianMachine) -> None:
    machine.run("dpkg -i edge-actors.deb")
    machine.wait_until("systemctl show -P StatusText edge-actors | grep -q '4 of 4 modules run'")


def pids(machine: DebianMachine) -> dict[str, int]:
    modules: list[dict[str, Any]] = json.loads(machine.run("edge-actors list --json"))
    return {module["name"]: module["pid"] for module in modules if module["status"] == "running"}


def received(machine: DebianMachine) -> int:
    return int(machine.run("edge-actors ledger").split()[1])


def test_installed_it_runs_and_purged_it_leaves_nothing(machine: DebianMachine) -> None:
    before = machine.files()

    install(machine)

    machine.run("systemd-analyze verify edge-actors.service")
    assert set(pids(machine)) == UP
    machine.wait_until("edge-actors ledger | grep -q filter/input1")
    assert received(machine) > 0
    assert machine.show("ActiveState") == "active"
    assert machine.show("User") == "edge-actors"
    assert machine.run("systemctl is-enabled edge-actors") == "enabled"
    assert "0100007F:01BB" in machine.run("cat /proc/net/tcp"), "nobody listens on port 443"
    exposure = machine.run("systemd-analyze security --threshold=25 edge-actors.service | tail -n 1")
    assert "OK" in exposure, exposure

    machine.run("dpkg -P edge-actors")

    assert machine.files() - before == set()
    assert before - machine.files() == set()
    assert machine.run("getent passwd edge-actors; getent group edge-actors", check=False) == ""
    assert machine.processes() == ""


def test_it_is_installed_as_the_readme_says(machine: DebianMachine, package: Path) -> None:
    block, override = blocks_of("debian")
    make, *commands = block.text.splitlines()
    assert make == "scripts/deb"  # is how `package` was made
    let_root_type_sudo(machine)
    # Without network nothing that is recommended can be fetched.
    (machine.root / "etc/apt/apt.conf.d/offline").write_text('APT::Install-Recommends "false";\n')
    (machine.root / "root/dist").mkdir()
    shutil.copy(package, machine.root / "root/dist" / package.name)

    machine.run("set -e\n" + "\n".join(commands))

    machine.wait_until("systemctl show -P StatusText edge-actors | grep -q '4 of 4 modules run'")
    machine.run("test -e /usr/share/doc/edge-actors/runtime/docs/FIRST-HOUR.md")
    unit = machine.root / "etc/systemd/system/edge-actors.service.d"  # where `systemctl edit` puts it
    unit.mkdir()
    (unit / override.how).write_text(override.text)
    machine.run("systemctl daemon-reload && systemctl restart edge-actors")
    machine.wait_until("systemctl show -P StatusText edge-actors | grep -q '4 of 4 modules run'")
    assert machine.show("SupplementaryGroups") == "dialout"
    assert machine.show("PrivateDevices") == "no"


def test_the_first_hour_goes_as_it_is_written_with_the_package(machine: DebianMachine) -> None:
    install(machine)
    let_root_type_sudo(machine)
    root = machine.root / "root"
    reader = Reader(root, root, root / "first-hour", (*machine.shell, "cd /root; exec sh"))
    try:
        reader.follow(blocks_of("debian-first-hour", "first-hour"))
    finally:
        reader.close()

    machine.run("systemctl start edge-actors")
    machine.wait_until("systemctl show -P StatusText edge-actors | grep -q '4 of 4 modules run'")


def let_root_type_sudo(machine: DebianMachine) -> None:
    """Root of a machine without sudo types what a user with sudo would."""
    sudo = machine.root / "usr/bin/sudo"
    sudo.write_text('#!/bin/sh\nexec "$@"\n')
    sudo.chmod(0o755)


def test_modules_outlive_an_agent_that_is_killed_and_systemd_starts_the_next(machine: DebianMachine) -> None:
    install(machine)
    before = pids(machine)

    machine.run(f"kill -9 {before['edgeAgent']}")

    machine.wait_until("test $(systemctl show -P NRestarts edge-actors) = 1")
    machine.wait_until("systemctl is-active edge-actors")
    after = pids(machine)
    assert after.pop("edgeAgent") != before.pop("edgeAgent")
    assert after == before


def test_the_watchdog_starts_an_agent_that_hangs_anew_and_leaves_one_that_works(
    machine: DebianMachine,
) -> None:
    install(machine)
    unit = "/run/systemd/system/edge-actors.service.d"
    machine.run(f"mkdir {unit} && printf '[Service]\\nWatchdogSec=6\\n' >{unit}/soon.conf")
    machine.run("systemctl daemon-reload && systemctl restart edge-actors")
    before = pids(machine)

    machine.run("sleep 15")  # what is shown here is that nothing happens
    lived = machine.show("MainPID") == str(before["edgeAgent"])
    machine.run(f"kill -STOP {before['edgeAgent']}")

    assert lived
    machine.wait_until("test $(systemctl show -P NRestarts edge-actors) = 1")
    machine.wait_until("systemctl is-active edge-actors")
    assert "Watchdog timeout" in machine.run("journalctl -u edge-actors --no-pager")
    assert pids(machine)["edgeHub"] == before["edgeHub"]


def test_a_stop_ends_all_modules_and_a_start_goes_on_with_what_is_stored(machine: DebianMachine) -> None:
    install(machine)
    machine.wait_until("edge-actors ledger | grep -q filter/input1")

    machine.run("systemctl stop edge-actors")

    assert machine.processes() == ""
    counted = received(machine)
    assert counted > 0
    assert machine.show("Result") == "success"
    machine.run("systemctl start edge-actors")
    assert received(machine) >= counted


def test_removed_it_keeps_what_is_stored_and_installed_again_it_goes_on(machine: DebianMachine) -> None:
    install(machine)
    machine.run("printf 'EDGE_ACTORS_LOG_LEVEL=debug\\n' >>/etc/default/edge-actors")
    machine.run("install -m 640 /dev/null /etc/edge-actors/secrets/key")
    device = machine.run("cat /var/lib/edge-actors/device.json")

    machine.run("dpkg -r edge-actors")

    assert machine.processes() == ""
    machine.run("test ! -e /usr/lib/edge-actors && test ! -e /run/edge-actors-service")
    install(machine)
    assert machine.run("cat /var/lib/edge-actors/device.json") == device
    assert "EDGE_ACTORS_LOG_LEVEL=debug" in machine.run("cat /etc/default/edge-actors")
    assert machine.run("stat -c %U:%G:%a /etc/edge-actors/secrets") == "edge-actors:edge-actors:2750"


def test_an_upgrade_goes_on_with_home_settings_and_user(machine: DebianMachine) -> None:
    install(machine)
    machine.run("id edge-actors >before")
    before = pids(machine)

    machine.run("dpkg -i edge-actors.deb")

    machine.wait_until("systemctl show -P StatusText edge-actors | grep -q '4 of 4 modules run'")
    assert pids(machine)["edgeHub"] != before["edgeHub"], "the hub is of the version before"
    machine.run("id edge-actors | cmp - before")
    assert machine.run("systemctl is-enabled edge-actors") == "enabled"


def test_the_service_joins_the_group_of_docker_when_there_is_one(machine: DebianMachine) -> None:
    machine.run("groupadd --system docker")

    install(machine)

    agent = machine.show("MainPID")
    docker = machine.run("getent group docker | cut -d: -f3")
    assert docker in machine.run(f"grep ^Groups: /proc/{agent}/status").split()


def test_settings_that_are_applied_are_taken_without_a_restart_of_the_service(machine: DebianMachine) -> None:
    install(machine)
    agent = machine.show("MainPID")
    machine.run("printf 'log_level = \"debug\"\n' >/etc/edge-actors/config.toml")

    machine.run("edge-actors config apply")

    machine.wait_until("journalctl -u edge-actors --no-pager | grep -q 'starting anew with other settings'")
    machine.wait_until("systemctl show -P StatusText edge-actors | grep -q '4 of 4 modules run'")
    assert (machine.show("MainPID"), machine.show("NRestarts")) == (agent, "0")
    assert machine.run("stat -c %U:%G:%a /var/lib/edge-actors/config.toml") == "edge-actors:edge-actors:600"


def test_a_setting_that_is_wrong_is_told_and_not_tried_for_ever(machine: DebianMachine) -> None:
    install(machine)
    machine.run("printf 'EDGE_ACTORS_LISTEN=nowhere\\n' >>/etc/default/edge-actors")

    machine.run("systemctl restart edge-actors", check=False)

    assert machine.show("ExecMainStatus") == "2"
    assert machine.show("ActiveState") == "failed"
    assert "EDGE_ACTORS_LISTEN: 'nowhere' is not allowed" in machine.run(
        "journalctl -u edge-actors --no-pager"
    )
