"""The parts of bulk work that need no server: the byte budget, and folders in which files appear whole."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support.bulk_running import run_main
from support.bundles import TINY
from uic.bulk.commands import snapshot
from uic.bulk.errors import DamagedFile, FolderUnavailable
from uic.bulk.folder import UNFINISHED, Folder
from uic.bulk.politeness import LEAST_SHARE, WINDOW, Politeness
from uic.bulk.saved_states import SavedStates, read_manifest, seal
from uic.bulk.snapshots import VERIFIED, listed


@given(
    sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=50),
    steps=st.lists(st.floats(0, 2), min_size=50, max_size=50),
)
def test_the_byte_budget_holds_over_any_stretch_of_time(sizes: list[int], steps: list[float]) -> None:
    polite, now = Politeness(1000.0, 0.005), 0.0
    sent: list[tuple[float, int]] = []
    for size, idle in zip(sizes, steps, strict=False):
        now += idle
        now += polite.wait_s(size, now)
        sent.append((now, size))
    for first in range(len(sent)):
        total = 0
        for at, size in sent[first:]:
            assert total <= (at - sent[first][0]) * 1000.0 + 1e-6 * len(sent), "all that was sent before was paid for"
            total += size


def test_the_rate_halves_when_the_store_is_slow_and_recovers_when_it_is_not() -> None:
    polite = Politeness(1000.0, 0.005)
    polite.probed(0.02)
    assert polite.share == 0.5
    for _ in range(WINDOW):
        polite.probed(0.001)
    assert polite.share == pytest.approx(0.55)
    for _ in range(40):
        polite.probed(1.0)
    assert polite.share == LEAST_SHARE
    for _ in range(60 * WINDOW):
        polite.probed(0.001)
    assert polite.share == 1.0


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """On a disk, and behind another driver of fsspec."""
    url = str(tmp_path / "made") if request.param == "local" else f"memory://bulk-{uuid.uuid4().hex}"
    return Folder(url)


def test_a_file_appears_whole_with_its_size_and_hash(folder: Folder) -> None:
    assert folder.names() == []
    with folder.writing("a.bin") as (file, written):
        file.write(b"first ")
        assert folder.names() == []
        file.write(b"second")
    data = b"first second"
    assert (written.bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert folder.read("a.bin", written.sha256) == data
    folder.check("a.bin", written.sha256)
    assert folder.names() == ["a.bin"]


def test_a_file_whose_writing_failed_does_not_appear_and_replaces_nothing(folder: Folder) -> None:
    folder.write("a.bin", b"before")

    def fail() -> None:
        with folder.writing("a.bin") as (file, _):
            file.write(b"after")
            raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        fail()
    assert folder.read("a.bin") == b"before"
    assert not list(Path(folder.url).glob(f"*{UNFINISHED}"))


def test_another_hash_and_a_missing_file_are_damage(folder: Folder) -> None:
    written = folder.write("a.bin", b"12345")
    folder.write("a.bin", b"12346")
    for look in (folder.read, folder.check):
        with pytest.raises(DamagedFile, match="sha256"):
            look("a.bin", written.sha256)
        with pytest.raises(DamagedFile, match="does not exist"):
            look("b.bin", written.sha256)


def test_a_copy_is_whole_and_what_is_damaged_is_not_copied(folder: Folder, tmp_path: Path) -> None:
    written, to = folder.write("a.bin", b"12345"), Folder(str(tmp_path / "copy"))
    folder.copy("a.bin", written.sha256, to)
    assert to.read("a.bin") == b"12345"
    folder.write("a.bin", b"12346")
    to.remove("a.bin")
    with pytest.raises(DamagedFile, match="sha256"):
        folder.copy("a.bin", written.sha256, to)
    with pytest.raises(DamagedFile, match="does not exist"):
        folder.copy("b.bin", written.sha256, to)
    assert to.names() == []


def test_a_path_is_absolute_from_the_start_and_a_url_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Folder("made").write("a.bin", b"1")
    (tmp_path / "link").symlink_to("made")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    for path in ("../made", "../link/", "./../made", f"{tmp_path}/made"):
        assert Folder(path).url == f"{tmp_path}/made"
        assert Folder(path).names() == ["a.bin"]
    assert Folder("..").below("made").url == f"{tmp_path}/made"
    for url in (f"file://{tmp_path}/made", "memory://made"):
        assert Folder(url).url == url


def test_a_lock_is_held_by_one_and_is_no_file_of_the_folders_below(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "made"))
    with folder.locked("1.lock") as first, folder.locked("1.lock") as second, folder.locked("2.lock") as other:
        assert (first, second, other) == (True, False, True)
    with folder.locked("1.lock") as again:
        assert again


def test_a_disk_without_locks_locks_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", without)
    with Folder(str(tmp_path)).locked("lock") as held:
        assert held


def test_two_writers_of_one_file_at_once_leave_a_whole_one(tmp_path: Path) -> None:
    """As two processes do where there are no locks, whichever ends first."""
    folder = Folder(str(tmp_path))
    with folder.writing("a.bin") as (first, of_first):
        first.write(b"first ")
        with suppress(RuntimeError), folder.writing("a.bin") as (killed, _):
            killed.write(b"killed")
            raise RuntimeError
        with folder.writing("a.bin") as (second, of_second):
            second.write(b"second")
        assert folder.read("a.bin", of_second.sha256) == b"second"
        first.write(b"and last")
    assert folder.read("a.bin", of_first.sha256) == b"first and last"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_unfinished_files_are_removed_and_others_stay(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.remove_unfinished()
    folder.write("a.bin", b"whole")
    folder.below("deep").write("b.bin", b"whole")
    (tmp_path / f"a.bin.0a{UNFINISHED}").write_bytes(b"half")
    folder.remove_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "deep"]


def test_what_another_writer_finishes_while_unfinished_files_are_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a.bin", b"whole")
    listed = Folder._listed

    def then_another_one_ends(self: Folder) -> dict[str, int]:
        found = listed(self)
        self.write("b.bin", b"whole")
        return found

    monkeypatch.setattr(Folder, "_listed", then_another_one_ends)
    folder.remove_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin"]


def test_without_locks_unfinished_files_of_the_last_day_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    for name in ("now", "left"):
        (tmp_path / f"{name}.0a{UNFINISHED}").write_bytes(b"half")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(tmp_path / f"left.0a{UNFINISHED}", (two_days_ago, two_days_ago))
    Folder(str(tmp_path)).remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == [f"now.0a{UNFINISHED}"]


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a.bin", b"before")
    monkeypatch.setattr("secrets.token_hex", lambda size: "0a")
    (tmp_path / f"a.bin.0a{UNFINISHED}").symlink_to("/dev/full")
    with pytest.raises(FolderUnavailable, match="No space left on device"):
        folder.write("a.bin", b"after")
    assert folder.read("a.bin") == b"before"


@pytest.mark.parametrize("url", ["nowhere://x/y", "{file}/below"])
def test_what_is_no_folder_is_refused_by_name(url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FolderUnavailable, match=url.format(file=file)):
        Folder(url.format(file=file)).write("a.bin", b"1")


def test_a_snapshot_that_cannot_be_read_now_is_not_taken_for_an_incomplete_one_that_expires(tmp_path: Path) -> None:
    (tmp_path / "n/20261128T030000Z/manifest.json").mkdir(parents=True)  # reading it is an error, whoever reads
    with pytest.raises(FolderUnavailable):
        listed(Folder(str(tmp_path)), "n")


ANY = SavedStates(
    namespace="n",
    fingerprint="00",
    prefix="p",
    topic="t",
    topic_id=str(uuid.UUID(int=0)),
    n=0,
    created_ms=0,
    partitions=(),
)


@pytest.mark.parametrize("note", [b"", b'{"at": 5}', b'{"at": "20261128T040000Z", "users": "\xff"}'])
def test_a_note_that_cannot_be_read_is_none_and_the_other_snapshots_are_listed(note: bytes, tmp_path: Path) -> None:
    root = Folder(str(tmp_path))
    for name in ("20261128T030000Z", "20261129T030000Z"):
        seal(root.below("n").below(name), ANY)
        root.below("n").below(name).write(VERIFIED, b'{"at": "20261129T040000Z", "users": 0}')
    root.below("n").below("20261128T030000Z").write(VERIFIED, note)
    assert [(one.manifest, one.verified) for one in listed(root, "n")] == [(ANY, None), (ANY, "20261129T040000Z")]


def test_a_list_without_snapshots_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list may be that of a wrong folder, or of another namespace."""
    environment = {"UIC_BUNDLE__PATH": str(TINY)}
    wrong = tmp_path / "wrong"
    looked = ("list", "--of-namespace", "n", "--from", str(wrong))
    assert run_main(snapshot.main, environment, *looked, "--json") == (1, "[]\n")
    assert capsys.readouterr().err == f"ctr snapshot: {wrong}/n holds no snapshot\n"
    assert run_main(snapshot.main, environment, *looked)[0] == 1
    seal(Folder(str(wrong)).below("n").below("20261128T030000Z"), ANY)
    assert run_main(snapshot.main, environment, *looked)[0] == 0


def test_a_manifest_with_a_topic_id_that_is_none_is_damaged(tmp_path: Path) -> None:
    root = Folder(str(tmp_path))
    folder = root.below("n").below("20261128T030000Z")
    seal(folder, replace(ANY, topic_id="zz"))
    with pytest.raises(DamagedFile, match="'zz' is no topic id"):
        read_manifest(folder)
    [one] = listed(root, "n")
    assert (one.manifest, "'zz' is no topic id" in one.problem) == (None, True)
