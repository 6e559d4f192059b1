import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.run_directory import LONGEST_BASE_BYTES, Lock, RunDirectory, base_folder, prepare_home

ROOT = Path(__file__).parents[2]

PREPARE_HOME_AS_NOBODY = """
import os, sys
from pathlib import Path
from messaging.errors import EnvironmentFault
from runtime.run_directory import prepare_home
os.setuid(65534)
try:
    prepare_home(Path(sys.argv[1]))
except EnvironmentFault as fault:
    print(fault)
"""

LOCK_AND_WAIT = """
import sys
from pathlib import Path
from runtime.run_directory import Lock, RunDirectory
lock = Lock(RunDirectory.of(Path(sys.argv[1])), sys.argv[2])
lock.acquire()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.of(tmp_path / "home")
    yield directory
    if directory.path.is_symlink() or directory.path.is_file():
        directory.path.unlink()
    shutil.rmtree(directory.path, ignore_errors=True)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ea-") as folder:
        yield Path(folder)


def locked_elsewhere(run: RunDirectory, process: str) -> subprocess.Popen[bytes]:
    other = subprocess.Popen(
        [sys.executable, "-c", LOCK_AND_WAIT, str(run.home), process],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    return other


def test_a_home_has_one_run_directory_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")

    assert RunDirectory.of(tmp_path / "link") == RunDirectory.of(tmp_path / "home")
    assert RunDirectory.of(tmp_path / "other").path != RunDirectory.of(tmp_path / "home").path


def test_a_prepared_run_directory_is_private_and_can_be_prepared_again(run: RunDirectory) -> None:
    run.prepare()
    run.prepare()

    assert run.path.stat().st_mode & 0o777 == 0o700
    assert run.path.parent.stat().st_mode & 0o066 == 0  # modules of another edge may pass through


def test_a_socket_can_be_bound_in_the_run_directory_of_a_home_longer_than_a_socket_path(
    tmp_path: Path,
) -> None:
    home = tmp_path / ("x" * 120) / ("y" * 120)
    prepare_home(home)
    run = RunDirectory.of(home)
    run.prepare()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run.path / ("m" * 49)))
    run.remove()

    assert not run.path.exists()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.mkdir(mode=0o755) or path.chmod(0o755), r"mode 0755.*chmod 700"),
        (lambda path: path.symlink_to("/tmp"), "is a symbolic link; remove it"),
        (lambda path: path.write_text(""), "is not a folder; remove it"),
    ],
    ids=["open to others", "link", "file"],
)
def test_a_run_directory_that_others_could_replace_is_refused(run, spoil, complaint) -> None:
    run.path.parent.mkdir(mode=0o700, exist_ok=True)
    spoil(run.path)

    with pytest.raises(EnvironmentFault, match=complaint):
        run.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_run_directory_of_another_user_is_refused_and_not_removed(run: RunDirectory) -> None:
    run.prepare()
    os.chown(run.path, 12345, 12345)

    with pytest.raises(EnvironmentFault, match="belongs to user id 12345"):
        run.prepare()
    with pytest.raises(EnvironmentFault, match="belongs to user id 12345"):
        run.remove()
    assert run.path.exists()


def test_two_homes_with_the_same_checksum_do_not_share_a_run_directory(run: RunDirectory) -> None:
    run.prepare()
    namesake = RunDirectory(run.path, Path("/somewhere/else"))

    with pytest.raises(EnvironmentFault, match=f"taken by home {run.home}"):
        namesake.prepare()


def test_the_base_is_the_users_runtime_folder_when_it_is_short_and_his(short_folder: Path) -> None:
    uid = os.geteuid() or 12345
    os.chown(short_folder, uid, -1)

    assert base_folder(uid, str(short_folder)) == short_folder / "edge-actors"


@pytest.mark.parametrize(
    "xdg_runtime_dir",
    [None, "", "relative/folder", "/does/not/exist", "/" + "d" * LONGEST_BASE_BYTES, "/tmp"],
    ids=["unset", "empty", "relative", "missing", "long", "of another user"],
)
def test_without_a_usable_runtime_folder_the_base_is_a_folder_of_the_user_in_tmp(xdg_runtime_dir) -> None:
    uid = 54321  # without a /run/user/54321

    assert base_folder(uid, xdg_runtime_dir) == Path("/tmp/edge-actors-54321")


def test_a_missing_home_is_created_for_its_user_alone(tmp_path: Path) -> None:
    prepare_home(tmp_path / "a" / "home")

    assert (tmp_path / "a" / "home").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("below", ["", "/home"], ids=["is a file", "is below a file"])
def test_a_home_that_cannot_be_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(EnvironmentFault, match=f"home {tmp_path}/file{below} is not a folder.*--home"):
        prepare_home(Path(f"{tmp_path}/file{below}"))


def test_a_home_that_is_not_writable_is_named(tmp_path: Path) -> None:
    # /proc refuses new folders to root as well.
    with pytest.raises(EnvironmentFault, match=r"home /proc/home cannot be created.*--home"):
        prepare_home(Path("/proc/home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")
def test_an_existing_home_without_write_permission_is_named(short_folder: Path) -> None:
    short_folder.chmod(0o755)
    program = [sys.executable, "-c", PREPARE_HOME_AS_NOBODY, str(short_folder)]

    shown = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert shown.startswith(f"home {short_folder} is not writable; choose another folder with --home")


def test_a_lock_held_by_another_process_names_it_and_the_way_out(run: RunDirectory) -> None:
    run.prepare()
    other = locked_elsewhere(run, "agent")

    with pytest.raises(EnvironmentFault) as raised:
        Lock(run, "agent").acquire()

    other.communicate()
    assert str(raised.value).startswith(f"another edge (pid {other.pid}, started ")
    assert str(raised.value).endswith(
        f"runs on home {run.home}; stop it with `edge-actors down --home {run.home}`"
    )


def test_each_process_of_an_edge_and_each_home_has_a_lock_of_its_own(
    run: RunDirectory, tmp_path: Path
) -> None:
    second = RunDirectory.of(tmp_path / "second")
    locks = [Lock(run, "agent"), Lock(run, "hub"), Lock(second, "agent")]
    run.prepare()
    second.prepare()

    for lock in locks:
        lock.acquire()

    assert all(lock.holder() is not None for lock in locks)
    for lock in locks:
        lock.release()
    second.remove()


def test_the_lock_of_a_killed_process_is_free_even_before_its_parent_waited_for_it(run: RunDirectory) -> None:
    run.prepare()
    other = locked_elsewhere(run, "hub")
    lock = Lock(run, "hub")
    holder = lock.holder()
    assert holder is not None
    assert holder.pid == other.pid
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie now, and it stays one

    assert lock.holder() is None
    lock.acquire()

    other.communicate()
    assert lock.holder() is not None
    lock.release()
    assert not lock.path.exists()


def test_a_child_process_does_not_keep_the_lock_of_its_dead_parent(run: RunDirectory) -> None:
    run.prepare()
    lock = Lock(run, "agent")
    lock.acquire()
    child = subprocess.Popen(["sleep", "60"])

    lock.release()

    Lock(run, "agent").acquire()
    child.kill()
    child.wait()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"garbage", b'{"pid": 1}', b"[]"],
    ids=["empty", "no fields", "text", "few", "list"],
)
def test_a_lock_file_without_a_readable_holder_is_nobodys(run: RunDirectory, content: bytes) -> None:
    run.prepare()
    lock = Lock(run, "agent")
    lock.path.write_bytes(content)

    assert lock.holder() is None
    lock.acquire()
    lock.release()
