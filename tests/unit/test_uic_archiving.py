"""An archive keeps what it has: a run that cannot know what its folder holds changes nothing and says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from uic.bulk.archive import Archive, begin_archive
from uic.bulk.archiving import Archiver
from uic.bulk.errors import BadArchive
from uic.bulk.folder import Folder
from uic.core.records import BatchRecord
from uic.core.start_position import LogBounds

TOPIC = "behavior-events"
TOPIC_ID = bytes([7]) * 16
A_POLL = 7


class Log:
    """A topic of two partitions, which retention may cut."""

    def __init__(self, records: int, value: bytes = b"event") -> None:
        self.starts = [0, 0]
        self.partitions: list[list[BatchRecord]] = [[], []]
        self.send(records, value)

    def send(self, records: int, value: bytes = b"event") -> None:
        for log in self.partitions:
            log += [BatchRecord(len(log) + i, 0, b"u%d" % i, value, ()) for i in range(records)]

    def cut(self) -> None:
        self.starts = [len(log) for log in self.partitions]

    def bounds(self) -> list[LogBounds]:
        return [LogBounds(start, len(log), TOPIC_ID) for start, log in zip(self.starts, self.partitions, strict=True)]

    def read(self, partition: int, start: int, end: int) -> Iterator[tuple[list[BatchRecord], int]]:
        assert start >= self.starts[partition]
        for at in range(start, end, A_POLL):
            upto = min(at + A_POLL, end)
            yield self.partitions[partition][at:upto], upto


def archive_of(to: str) -> Archive:
    return begin_archive(Folder(to), TOPIC, TOPIC_ID, 2)


def archive(log: Log, to: str, *, records_a_file: int = 10, accept_gap: bool = False) -> Archive:
    """One run of `ctr archive`."""
    opened, bounds = archive_of(to), log.bounds()
    archiver = Archiver(opened, log, records_a_file=records_a_file, accept_gap=accept_gap)
    archiver.refuse_gaps(bounds)
    for partition, now in enumerate(bounds):
        archiver.run(partition, now)
    return opened


def held(archive: Archive) -> list[list[int]]:
    """The offsets that it holds, by partition."""
    return [
        [offset for some in archive.records(archive.checked(p)) for offset in some.column("offset").to_pylist()]
        for p in range(archive.partitions)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def below(folder: Path) -> Path:
    """The folder of the only topic."""
    [found] = folder.iterdir()
    return found


def test_a_lost_manifest_is_refused_before_anything_is_written_or_removed(tmp_path: Path) -> None:
    log = Log(25)
    archive(log, str(tmp_path))
    log.cut()
    log.send(5)
    manifest = below(tmp_path) / "1" / "manifest.json"
    kept = manifest.read_bytes()
    manifest.unlink()
    before = contents(tmp_path)
    with pytest.raises(BadArchive, match=r"/1 has 3 files and no manifest.json.*restore it from the copy"):
        archive(log, str(tmp_path))
    assert contents(tmp_path) == before
    manifest.write_bytes(kept)
    assert held(archive(log, str(tmp_path))) == [[*range(30)]] * 2


def test_partitions_without_what_says_of_which_topic_they_are_do_not_begin_an_archive(tmp_path: Path) -> None:
    log = Log(5)
    archive(log, str(tmp_path))
    (below(tmp_path) / "archive.json").unlink()
    before = contents(tmp_path)
    with pytest.raises(BadArchive, match=r"no archive.json.*restore it"):
        archive(log, str(tmp_path))
    assert contents(tmp_path) == before


def test_an_archive_whose_first_run_was_killed_before_it_wrote_a_file_is_begun(tmp_path: Path) -> None:
    log = Log(5)
    archive_of(str(tmp_path))
    assert held(archive(log, str(tmp_path))) == [[*range(5)]] * 2
    shutil.rmtree(below(tmp_path) / "1")
    assert held(archive(log, str(tmp_path))) == [[*range(5)]] * 2, "a folder that is gone as a whole is begun again"
