"""A disk without room ends what writes to it with one line that says what to do, and leaves nothing on it."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mimn.data import mapped
from mimn.data.mapped import new_array, save
from support.small_disk import ctr_on_disk
from uic.bulk import work_folder
from uic.bulk.errors import BulkRefused, FolderFull, FolderUnavailable
from uic.bulk.work_folder import LOCK, WorkFolder

DESCRIPTION = """name = "shop"
[events]
files = ["e.csv"]
user = "uid"
item = "sku"
category = "cat"
time = "ts"
"""
FULL = "No space left on device"


def described(folder: Path, rows: int) -> Path:
    """A description of that many events."""
    lines = (f"{n * 7 % 5000},{n % 900 + 1},{n % 50 + 1},{1_600_000_000 + n * 13 % 9_000_000}" for n in range(rows))
    (folder / "e.csv").write_text("\n".join(["uid,sku,cat,ts", *lines, ""]))
    (folder / "d.toml").write_text(DESCRIPTION)
    return folder / "d.toml"


# The rows as they arrive fit in 3 MiB, and not with the sorted ones; or they do not fit.
@pytest.mark.parametrize("rows", [40_000, pytest.param(60_000, marks=pytest.mark.full)])
def test_an_import_that_fills_the_temporary_folder_says_so_and_removes_what_it_wrote(tmp_path: Path, rows: int) -> None:
    disk = tmp_path / "disk"
    command = ("import", "--description", str(described(tmp_path, rows)))
    ended = ctr_on_disk(disk, "3m", *command, environment={"TMPDIR": str(disk)})
    assert (ended.status, ended.left) == (1, [])
    assert f"{disk} is full" in ended.err
    assert "TMPDIR" in ended.err


def test_a_cache_that_is_full_is_named_and_nothing_stays_in_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    ended = ctr_on_disk(disk, "3m", "data", "prepare", str(described(tmp_path, 40_000)), "--cache", str(disk))
    assert (ended.status, ended.left) == (1, [])
    assert f"{disk} ({FULL})" in ended.err
    assert "CTR_CACHE" in ended.err


def movielens(folder: Path) -> list[str]:
    """Arguments that convert a MovieLens 1M of noise."""
    numbers = np.random.default_rng(1).integers(1, 1 << 40, (70_000, 2)).tolist()
    (folder / "ratings.dat").write_text("".join(f"{user}::{item}::5::{user % 7}\n" for user, item in numbers))
    return ["movielens-1m", "--folder", str(folder)]


def criteo(folder: Path) -> list[str]:
    """Arguments that convert a Criteo of noise."""
    values = np.random.default_rng(1).integers(1, 1 << 40, (20_000, 39)).tolist()
    (folder / "train.txt").write_text("".join("\t".join(map(str, [1, *row])) + "\n" for row in values))
    return ["criteo", "--file", str(folder / "train.txt")]


@pytest.mark.parametrize(
    "files",
    [movielens, *(pytest.param(one, marks=pytest.mark.full) for one in (criteo, lambda _: ["synthetic"]))],
    ids=["movielens-1m", "criteo", "synthetic"],
)
def test_a_conversion_that_fills_the_disk_names_its_output_and_leaves_nothing(
    tmp_path: Path, files: Callable[[Path], list[str]]
) -> None:
    disk = tmp_path / "disk"
    ended = ctr_on_disk(disk, "64k", "data", "convert", *files(tmp_path), "--output", str(disk / "made"))
    assert (ended.status, ended.left) == (1, [])
    assert f"{disk / 'made'} cannot be written ({FULL})" in ended.err


@pytest.mark.parametrize("system", ["reserves", "cannot on this disk", "never does"])
def test_an_array_in_a_file_has_its_blocks_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(min(mapped.CANNOT_RESERVE), "refused")

    if system == "cannot on this disk":
        monkeypatch.setattr(os, "posix_fallocate", refused)
    elif system == "never does":
        monkeypatch.delattr(os, "posix_fallocate")
    array = new_array(tmp_path / "a.npy", np.int64, (300_000,))
    there = (tmp_path / "a.npy").stat()
    assert there.st_blocks * 512 >= there.st_size > array.nbytes
    assert not array.any()
    array[:] = np.arange(300_000)
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.arange(300_000))


@pytest.mark.parametrize("values", [np.arange(5), np.zeros((0,), np.int64), np.ones((3, 2), np.float32)], ids=str)
def test_an_array_is_saved_as_numpy_reads_it(tmp_path: Path, values: np.ndarray) -> None:
    save(tmp_path / "a.npy", values)
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert np.array_equal(found, values)


def test_an_import_whose_files_may_not_grow_so_large_says_why(tmp_path: Path) -> None:
    """The kernel's limit stands for each error of a disk that is not full."""
    ended = subprocess.run(
        [sys.executable, "-m", "uic", "import", "--description", str(described(tmp_path, 40_000))],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert f"{tmp_path} cannot be written (File too large)" in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"e.csv", "d.toml"}


HOLDS = """
import sys
from pathlib import Path
from uic.bulk.work_folder import WorkFolder
folder = WorkFolder("test-", Path(sys.argv[1]))
(folder.path / "rows").write_text("of a user")
print(folder.path.name, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_what_a_living_one_holds_is_not(
    tmp_path: Path,
) -> None:
    names = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        names.append(process.stdout.readline().strip())
        (tmp_path / "test-of-an-older-version").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / LOCK).touch()
        (tmp_path / "test-link").symlink_to(tmp_path / "other")
        first = WorkFolder("test-", tmp_path)
        assert (tmp_path / names[0] / "rows").exists(), "its process lives"
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / names[0] / "rows").exists()
    second = WorkFolder("test-", tmp_path)
    kept = {"test-of-an-older-version", "other", "test-link"}
    assert {path.name for path in tmp_path.iterdir()} == kept | {first.path.name, second.path.name}
    for folder in (first, second):
        folder.close()
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_new_folder_that_another_process_takes_for_one_that_was_left_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one looks between the making of the folder and its lock."""
    made = []

    def removed_at_first(folder: Path) -> object:
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()
        return locked(folder)

    locked = work_folder._lock
    monkeypatch.setattr(work_folder, "_lock", removed_at_first)
    folder = WorkFolder("test-", tmp_path)
    assert [path.exists() for path in made] == [False, True]
    folder.close()


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderUnavailable, match=r"none cannot be written \(No such file or directory\): .* set TMPDIR"):
        WorkFolder("test-", tmp_path / "none")
    folder = WorkFolder("test-", tmp_path)
    with pytest.raises(FolderFull, match="is full"), folder.writing(), Path("/dev/full").open("wb", 0) as file:
        file.write(b"1")
    folder.close()


def test_too_little_memory_is_not_told_as_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = WorkFolder("test-", tmp_path)
    with pytest.raises(BulkRefused, match="there is too little memory") as mapped_too_much, folder.writing():
        mmap.mmap(-1, 1 << 60)
    with pytest.raises(BulkRefused, match="there is too little memory"), folder.writing():
        np.empty(1 << 60, np.uint8)
    assert not isinstance(mapped_too_much.value, FolderUnavailable)
    assert str(tmp_path) not in str(mapped_too_much.value)
    folder.close()
