"""A file or a folder that is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimn.whole_file import making, writing

HOLDS = """
import sys
from pathlib import Path
from mimn.whole_file import making, writing
with making(Path(sys.argv[1], "folder")) as folder, writing(Path(sys.argv[1], "file")) as file:
    (folder / "half").touch()
    file.touch()
    print("writes", flush=True)
    sys.stdin.read()
"""


def test_what_is_written_takes_the_place_of_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with writing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space is left"), KeyboardInterrupt()], ids=repr)
def test_an_error_leaves_the_old_file_and_no_partial(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def fail() -> None:
        with writing(path) as partial:
            partial.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_with_all_that_is_in_it_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    folder = tmp_path / "a" / "made"
    with making(folder) as partial:
        (partial / "below").mkdir()
        (partial / "below" / "file").write_text("text")
        assert not folder.exists()
    assert (folder / "below" / "file").read_text() == "text"
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.stat().st_ino for path in (folder.parent, folder, *folder.rglob("*"))} <= synced


def test_a_folder_that_is_there_by_then_stays(tmp_path: Path) -> None:
    def late() -> None:
        with making(tmp_path / "made") as partial:
            (partial / "late").touch()
            (tmp_path / "made").mkdir()
            (tmp_path / "made" / "early").touch()

    with pytest.raises(OSError, match="not empty"):
        late()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["made", "made/early"]


def test_two_processes_of_one_number_write_one_file_and_one_folder_at_once(tmp_path: Path) -> None:
    """Two containers with one volume: the command is process 1 in both."""
    with writing(tmp_path / "file") as one:
        with writing(tmp_path / "file") as other:
            one.write_text("one")
            other.write_text("other")
        assert (tmp_path / "file").read_text() == "other"
    assert (tmp_path / "file").read_text() == "one"
    with making(tmp_path / "a") as first, making(tmp_path / "b") as second:
        (first / "one").touch()
        (second / "other").touch()
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "file", "a", "a/one", "b", "b/other"
    }  # fmt: skip


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_what_a_living_one_holds_is_not(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "writes\n"
        held = set(tmp_path.iterdir())
        assert len(held) == 2
        with writing(tmp_path / "beside it") as partial:
            partial.touch()
        assert set(tmp_path.iterdir()) == {*held, tmp_path / "beside it"}
        process.kill()
        process.wait()
    with writing(tmp_path / "next") as partial:
        partial.touch()
    assert set(tmp_path.iterdir()) == {tmp_path / "beside it", tmp_path / "next"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_a_file_has_the_mode_of_the_umask_whatever_the_library_that_wrote_it_gave(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with writing(tmp_path / "model") as partial:
            partial.touch(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == mode
