from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from messaging.errors import EnvironmentFault
from runtime.home import Home
from runtime.modules.isolation import ProcessIsolation, closed_folder
from runtime.modules.process_module import ProcessSpec
from runtime.modules.users import ModuleUsers, choose, give, group_of
from runtime.run_directory import RunDirectory

UIDS = range(60_600, 60_610)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a module as another user")


@pytest.fixture
def base(run_dir: Path) -> Path:
    """A folder that everybody can reach, with the run directories of several edges."""
    run_dir.chmod(0o755)
    (run_dir / "run").mkdir(mode=0o700)
    return run_dir


def edge(base: Path, name: str = "home", uids: range = UIDS) -> ModuleUsers:
    run = RunDirectory(base / "run" / name, base / name)
    run.home.mkdir(mode=0o700, exist_ok=True)
    run.prepare()
    return ModuleUsers(Home(run.home), run, uids)


def spec(base: Path, *command: str, folder: Path | None = None) -> ProcessSpec:
    env = {"PATH": os.defpath, "HOME": "/root", "USER": "root", "A": "b"}
    return ProcessSpec("pump", command or ("true",), env, folder or base, base / "log")


@pytest.mark.parametrize(
    ("free", "is_found"),
    [(set(UIDS), True), ({60_605}, True), (set(), False)],
    ids=["all", "one", "none"],
)
def test_a_free_user_id_is_chosen_if_there_is_one(free: set[int], is_found: bool) -> None:
    uid = choose("/home|pump", UIDS, free.__contains__)

    assert uid in free if is_found else uid is None


def test_homes_and_modules_begin_their_search_at_different_places() -> None:
    keys = [f"/var/lib/{home}|{module}" for home in "ab" for module in ("pump", "valve", "fan")]
    chosen = {choose(key, range(60_600, 61_184), lambda uid: True) for key in keys}

    assert len(chosen) == len(keys)


@needs_root
def test_a_module_keeps_its_user_and_nobody_else_gets_it(base: Path) -> None:
    first = edge(base)
    claimed = {name: first.claim(name).uid for name in ("pump", "valve", "fan")}

    again = edge(base)

    assert {name: again.claim(name).uid for name in ("fan", "pump", "valve")} == claimed
    assert len(set(claimed.values())) == 3
    assert again.claim("pump").folder.stat().st_mode & 0o777 == 0o700


@needs_root
def test_two_edges_of_a_machine_share_no_user(base: Path) -> None:
    one, other = edge(base, "one"), edge(base, "other")

    uids = [users.claim(name).uid for name in "abcde" for users in (one, other)]

    assert sorted(uids) == list(UIDS)
    with pytest.raises(
        EnvironmentFault, match=r"none of the user ids 60600-60609 is free; set another range"
    ):
        one.claim("f")


@needs_root
def test_a_user_id_that_got_an_account_is_replaced_and_the_data_with_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = edge(base).claim("pump")
    (before.folder / "kept").write_text("x")
    os.chown(before.folder / "kept", before.uid, before.uid)
    monkeypatch.setattr("runtime.modules.users._has_account", lambda uid: uid == before.uid)

    after = edge(base).claim("pump")

    assert after.uid != before.uid
    assert after.folder.stat().st_uid == (after.folder / "kept").stat().st_uid == after.uid


@needs_root
def test_a_folder_is_given_away_without_what_others_put_into_it(base: Path) -> None:
    folder = base / "data"
    (folder / "sub").mkdir(parents=True)
    (base / "outside").write_text("")
    (folder / "sub" / "link").symlink_to(base / "outside")
    os.link(base / "outside", folder / "hard link")
    for path in (folder, folder / "sub", folder / "sub" / "link"):
        os.lchown(path, 60_600, 60_600)

    give(folder, 60_600, 60_601)

    assert [path.lstat().st_uid for path in (folder, folder / "sub", folder / "sub" / "link")] == [60_601] * 3
    assert (base / "outside").stat().st_uid == 0


@needs_root
def test_a_home_with_other_things_in_it_stays_closed(base: Path) -> None:
    users = edge(base)
    (base / "home" / "thesis.tex").write_text("")

    with pytest.raises(EnvironmentFault, match=r"also holds what is not the edge's \(thesis.tex\)"):
        users.claim("pump")

    assert (base / "home").stat().st_mode & 0o777 == 0o700
    assert group_of(users, "pump") is None


@needs_root
def test_a_module_runs_as_a_user_of_its_own_with_a_home_of_its_own(base: Path) -> None:
    users = edge(base)

    made = ProcessIsolation("auto", users).apply(spec(base))

    assert made.uid == users.claim("pump").uid
    assert made.env == {"PATH": os.defpath, "HOME": str(base / "home/module-data/pump"), "A": "b"}
    assert made.not_isolated == ""


@needs_root
def test_a_program_in_an_argument_is_no_path_however_long_it_is(base: Path) -> None:
    made = ProcessIsolation("auto", edge(base)).apply(spec(base, "/bin/sh", "-c", "true; " * 1000))

    assert made.not_isolated == ""


@needs_root
def test_what_the_manifest_sets_stays(base: Path) -> None:
    made = ProcessIsolation("auto", edge(base)).apply(spec(base), {"HOME", "USER"})

    assert (made.env["HOME"], made.env["USER"]) == ("/root", "root")


def closed(base: Path) -> Path:
    folder = base / "closed"
    folder.mkdir(mode=0o700)
    return folder


def program_in_closed(base: Path) -> ProcessSpec:
    shutil.copy("/bin/true", closed(base) / "pump")
    return spec(base, str(base / "closed/pump"))


def link_into_closed(base: Path) -> ProcessSpec:
    program_in_closed(base)
    (base / "pump").symlink_to("closed/pump")
    return spec(base, "./pump")


def interpreter_in_closed(base: Path) -> ProcessSpec:
    program_in_closed(base)
    (base / "script").write_text(f"#!{base}/closed/pump -x\n")
    (base / "script").chmod(0o755)
    return spec(base, "./script")


def argument_in_closed(base: Path) -> ProcessSpec:
    (closed(base) / "pump.py").write_text("")
    return spec(base, "sh", "-c", "closed/pump.py")


def socket_in_closed(base: Path) -> ProcessSpec:
    made = spec(base)
    return replace(made, env={**made.env, "IOTEDGE_WORKLOADURI": f"unix://{closed(base)}/w"})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda base: spec(base, folder=closed(base)), "cannot use {base}/closed"),
        (program_in_closed, "cannot use {base}/closed/pump ({base}/closed is closed to other users)"),
        (link_into_closed, "cannot use {base}/pump ({base}/closed is closed to other users)"),
        (interpreter_in_closed, "cannot use {base}/closed/pump ({base}/closed is closed"),
        (argument_in_closed, "cannot read {base}/closed/pump.py ({base}/closed is closed"),
        (socket_in_closed, "cannot write to {base}/closed/w ({base}/closed is closed"),
    ],
    ids=["working directory", "program", "link", "interpreter", "argument", "socket"],
)
@needs_root
def test_what_the_user_cannot_reach_is_named_and_the_module_runs_as_root(
    base: Path, make: Callable[[Path], ProcessSpec], reason: str
) -> None:
    wanted = make(base)
    users = edge(base)

    made = ProcessIsolation("auto", users).apply(wanted)

    uid = users.claim("pump").uid
    assert made == replace(wanted, not_isolated=made.not_isolated)
    assert made.not_isolated.startswith(f"user id {uid} " + reason.format(base=base))
    with pytest.raises(EnvironmentFault, match=f"'pump' cannot be isolated, .*require.*user id {uid} cannot"):
        ProcessIsolation("require", users).apply(wanted)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("auto", "the edge does not run as root"), ("off", "process_modules.isolation is off")],
)
def test_without_root_or_when_it_is_off_modules_have_our_rights(base: Path, mode: str, reason: str) -> None:
    made = ProcessIsolation(mode, None).apply(spec(base))

    assert (made.uid, made.not_isolated) == (None, reason)


def test_isolation_that_is_required_needs_root(base: Path) -> None:
    with pytest.raises(EnvironmentFault, match="asks for: the edge does not run as root"):
        ProcessIsolation("require", None).apply(spec(base))


def test_the_first_closed_folder_on_the_way_is_named(base: Path) -> None:
    (base / "closed" / "open").mkdir(parents=True)
    (base / "closed").chmod(0o700)

    assert closed_folder(base / "closed" / "open" / "x", 60_600) == base / "closed"
    assert closed_folder(base / "closed" / "open" / "x", os.geteuid()) is None
    assert closed_folder(base / "nothing" / "x", 60_600) is None
