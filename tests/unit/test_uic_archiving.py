"""An archive keeps what it has: a run that cannot know what its folder holds changes nothing and says what to do."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uic.bulk.archive import Archive, begin_archive
from uic.bulk.archiving import Archiver
from uic.bulk.errors import BadArchive, BulkRefused
from uic.bulk.folder import UNFINISHED, Folder
from uic.core.records import BatchRecord
from uic.core.same_topic import Identity
from uic.core.start_position import LogBounds

TOPIC = "behavior-events"
TOPIC_ID = bytes([7]) * 16
A_POLL = 7


class Log:
    """A topic of two partitions, which retention may cut."""

    def __init__(self, records: int, value: bytes = b"event") -> None:
        self.topic_id = TOPIC_ID
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

    def identity(self) -> Identity:
        return Identity(TOPIC, self.topic_id, len(self.partitions))

    def start(self, partition: int) -> int:
        return self.starts[partition]

    def read(self, partition: int, start: int, end: int) -> Iterator[tuple[list[BatchRecord], int]]:
        assert start >= self.starts[partition]
        for at in range(start, end, A_POLL):
            upto = min(at + A_POLL, end)
            yield [record for record in self.partitions[partition] if at <= record.offset < upto], upto


def archive_of(to: str) -> Archive:
    return begin_archive(Folder(to), TOPIC, TOPIC_ID, 2)


def archive(
    log: Log,
    to: str,
    *,
    records_a_file: int = 10,
    accept_gap: bool = False,
    bytes_a_file: int = 1 << 20,
    replace_damaged: bool = False,
    after: Callable[[str], None] = lambda step: None,
) -> Archive:
    """One run of `ctr archive`."""
    opened, bounds = archive_of(to), log.bounds()
    opened.after = after
    archiver = Archiver(
        opened,
        log,
        records_a_file=records_a_file,
        bytes_a_file=bytes_a_file,
        accept_gap=accept_gap,
        replace_damaged=replace_damaged,
    )
    archiver.refuse(bounds)
    for partition, now in enumerate(bounds):
        archiver.run(partition, now.end)
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


@pytest.fixture(params=["local", "object store"])
def to(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an archive may be."""
    return str(tmp_path) if request.param == "local" else f"memory://archive-{uuid.uuid4().hex}"


def without(to: str, partition: int) -> str:
    """The archive, from which the folder of a partition is lost."""
    archive_of(to).folder.remove(str(partition))
    return to


def test_a_partition_whose_folder_is_gone_is_not_begun_again_where_the_log_no_longer_has_it_all(to: str) -> None:
    log = Log(25)
    archive(log, to)
    log.starts = [20, 20]
    lost = without(to, 0)
    for _ in range(2):
        with pytest.raises(BadArchive, match=r"partition 0 was archived, and .*/0 is gone.*copy.*--accept-gap.* 20,"):
            archive(log, lost)
        assert not archive_of(lost).folder.below("0").names()
    with pytest.raises(BadArchive, match=r"partition 0 was archived, and .*/0 is gone"):
        archive_of(lost).checked(0)
    opened = archive(log, lost, accept_gap=True)
    assert held(opened) == [[*range(20, 25)], [*range(25)]]
    assert [opened.checked(p).complete_from for p in (0, 1)] == [20, 0]


def test_a_partition_whose_folder_is_gone_is_archived_again_while_the_log_has_all_of_it(to: str) -> None:
    log = Log(25)
    archive(log, to)
    assert held(archive(log, without(to, 0))) == [[*range(25)]] * 2


def test_a_folder_that_goes_while_a_run_is_on_its_way_is_not_begun_again(to: str) -> None:
    log = Log(25)
    archive(log, to)
    log.send(5)

    def lose() -> None:
        without(to, 1)
        log.starts[1] = 20

    with pytest.raises(BadArchive, match="partition 1 was archived, and"):
        archive(log, to, after=once("file", lose))


def test_an_archive_of_an_earlier_version_is_known_by_its_locks_until_it_notes_what_it_has(tmp_path: Path) -> None:
    log = Log(25)
    archive(log, str(tmp_path))
    about = below(tmp_path) / "archive.json"
    noted = about.read_bytes()
    about.write_bytes(noted.replace(b',"begun":[0,1]', b""))
    assert archive_of(str(tmp_path)).about.begun is None
    log.starts = [20, 20]
    assert held(archive_of(str(tmp_path))) == [[*range(25)]] * 2
    shutil.copytree(tmp_path, copy := tmp_path.with_name("copy"))
    with pytest.raises(BadArchive, match="partition 0 was archived, and"):
        archive(log, without(str(copy), 0))
    archive(log, str(tmp_path))
    assert about.read_bytes() == noted


def test_a_first_run_that_was_killed_before_it_wrote_a_manifest_is_repeated(to: str) -> None:
    log = Log(25)
    log.starts = [20, 20]
    with archive_of(to).locked(0):
        pass
    assert held(archive(log, to)) == [[*range(20, 25)]] * 2


def once(step: str, do: Callable[[], object]) -> Callable[[str], None]:
    """Does something the first time that a step is done."""
    left = [do]

    def after(done: str) -> None:
        if done == step and left:
            left.pop()()

    return after


def test_a_second_run_is_refused_while_one_writes_and_both_may_go_on_afterwards(tmp_path: Path) -> None:
    log = Log(25)

    def second() -> None:
        with pytest.raises(BulkRefused, match=r"another run writes .*/0: wait until it has ended"):
            archive(log, str(tmp_path))

    archive(log, str(tmp_path), after=once("file", second))
    assert held(archive(log, str(tmp_path))) == [[*range(25)]] * 2


def test_two_runs_at_once_where_there_are_no_locks_lose_nothing_and_one_of_them_says_so() -> None:
    log, to = Log(25), f"memory://archive-{uuid.uuid4().hex}"

    def second() -> None:
        log.send(5)
        archive(log, to)

    with pytest.raises(BadArchive, match=r"another run has written .*/0 at the same time: run one at a time"):
        archive(log, to, after=once("file", second))
    log.send(5)
    assert held(archive(log, to)) == [[*range(35)]] * 2


def damaged(tmp_path: Path, log: Log) -> tuple[Path, list[str]]:
    """An archive with a file that is missing in partition 0, and one that is cut short in partition 1."""
    archive(log, str(tmp_path))
    gone, short = (sorted((below(tmp_path) / p).glob("*.parquet"))[1] for p in ("0", "1"))
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-7])
    return below(tmp_path), [f"0/{gone.name}", f"1/{short.name}"]


def test_files_that_are_missing_or_cut_short_are_named_by_the_next_run_which_writes_nothing(tmp_path: Path) -> None:
    log = Log(25)
    _, names = damaged(tmp_path, log)
    log.send(5)
    before = contents(tmp_path)
    with pytest.raises(BadArchive, match=f"2 files of .* {names[0]}, {names[1]}. Take them from a copy"):
        archive(log, str(tmp_path))
    assert contents(tmp_path) == before


def test_damaged_files_are_archived_again_while_the_log_has_their_records(tmp_path: Path) -> None:
    log = Log(25)
    damaged(tmp_path, log)
    log.send(5)
    assert held(archive(log, str(tmp_path), replace_damaged=True)) == [[*range(30)]] * 2

    _, names = damaged(tmp_path, log)
    log.starts[1] = 15
    before = contents(tmp_path)
    with pytest.raises(BadArchive, match=f"1 files of .*: {names[1]}. Take"):
        archive(log, str(tmp_path), replace_damaged=True)
    assert contents(tmp_path) == before, "nothing is replaced by halves"


def test_a_damaged_file_whose_records_the_log_no_longer_has_all_is_not_replaced(tmp_path: Path) -> None:
    log = Log(25)
    damaged(tmp_path, log)
    log.partitions[0][12:14] = []
    log.partitions[0] += [BatchRecord(25 + i, 0, b"u", b"event", ()) for i in range(2)]
    with pytest.raises(BadArchive, match="had 10 records, and the log has 8 there"):
        archive(log, str(tmp_path), replace_damaged=True)


def test_what_a_killed_run_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    log = Log(25)
    archive(log, str(tmp_path))
    partition = below(tmp_path) / "1"
    (partition / f"00000000000000000025-00000000000000000027.parquet{UNFINISHED}").write_bytes(b"half")
    (partition / "00000000000000000025-00000000000000000026.parquet").write_bytes(b"not named")
    log.send(5)
    assert held(archive(log, str(tmp_path))) == [[*range(30)]] * 2
    assert not list(tmp_path.rglob(f"*{UNFINISHED}"))


def test_retention_that_moves_before_a_partition_is_begun_is_no_gap_and_behind_its_archive_it_is_one(
    tmp_path: Path,
) -> None:
    log = Log(25)

    def retention() -> None:
        log.starts[1] = 15

    opened = archive(log, str(tmp_path), after=once("file", retention))
    assert held(opened) == [[*range(25)], [*range(15, 25)]]
    assert [opened.checked(p).base for p in (0, 1)] == [0, 15]
    log.send(25)

    def retention_again() -> None:
        log.starts[1] = 30

    with pytest.raises(BulkRefused, match="partition 1 is archived up to 25, and the log begins at 30"):
        archive(log, str(tmp_path), after=once("file", retention_again))
    assert held(opened) == [[*range(50)], [*range(15, 25)]], "what came before the partition stays"


def test_a_partition_of_which_nothing_is_archived_begins_where_the_log_begins_now(tmp_path: Path) -> None:
    log = Log(0)
    archive(log, str(tmp_path))
    log.send(25)
    log.starts = [0, 10]
    opened = archive(log, str(tmp_path))
    assert held(opened) == [[*range(25)], [*range(10, 25)]]
    assert not opened.checked(1).gap_ends


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    records_a_file=st.integers(1, 20),
    bytes_a_file=st.integers(1, 120),
)
def test_a_file_has_at_most_so_many_records_and_bytes_and_none_is_lost(
    sizes: list[int], records_a_file: int, bytes_a_file: int
) -> None:
    log = Log(0)
    log.partitions[0] = [BatchRecord(i, 0, b"", bytes(size), ()) for i, size in enumerate(sizes)]
    to = f"memory://archive-{uuid.uuid4().hex}"
    opened = archive(log, to, records_a_file=records_a_file, bytes_a_file=bytes_a_file)
    assert held(opened)[0] == [*range(len(sizes))]
    for file in opened.checked(0).files:
        assert file.records <= records_a_file
        assert file.records == 1 or sum(sizes[file.first : file.last + 1]) <= bytes_a_file


def test_a_manifest_of_a_version_to_come_is_refused(tmp_path: Path) -> None:
    log = Log(5)
    archive(log, str(tmp_path))
    manifest = below(tmp_path) / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 7'))
    with pytest.raises(BadArchive, match="is of version 7, and this program knows 1"):
        archive(log, str(tmp_path))


class MadeAgain(Log):
    """A topic that is deleted and created again, with other records, once so many polls were answered."""

    def __init__(self, records: int, polls: int, value: bytes = b"event") -> None:
        super().__init__(records, value)
        self.polls = polls

    def read(self, partition: int, start: int, end: int) -> Iterator[tuple[list[BatchRecord], int]]:
        for some, reached in super().read(partition, start, end):
            if not self.polls:
                self.topic_id, self.partitions = bytes([8]) * 16, [[], []]
                self.send(30, b"of another topic")
            self.polls -= 1
            yield [record._replace(value=self.partitions[partition][record.offset].value) for record in some], reached


@pytest.mark.parametrize("polls", range(8))
def test_no_file_has_records_of_a_topic_that_was_created_again_whenever_that_was(tmp_path: Path, polls: int) -> None:
    with pytest.raises(BulkRefused, match=r"was deleted and created again while it was archived\. .* Run this again"):
        archive(MadeAgain(25, polls), str(tmp_path))
    opened = archive_of(str(tmp_path))
    found = [one for p in range(2) if (m := opened.manifest(p)) for some in opened.records(m) for one in some["value"]]
    assert {value.as_py() for value in found} <= {b"event"}


def test_damaged_files_are_not_archived_again_from_a_topic_that_was_created_again(tmp_path: Path) -> None:
    archive(Log(25), str(tmp_path))
    for file in (below(tmp_path) / "1").glob("*.parquet"):
        file.write_bytes(b"")
    before = contents(tmp_path)
    with pytest.raises(BulkRefused, match="was deleted and created again"):
        archive(MadeAgain(25, 0), str(tmp_path), replace_damaged=True)
    assert contents(tmp_path) == before


def test_runs_of_other_partitions_keep_what_each_has_begun(tmp_path: Path) -> None:
    log = Log(25)
    runs = [Archiver(archive_of(str(tmp_path)), log) for _ in range(2)]
    for partition, run in enumerate(runs):
        run.run(partition, 25)
    assert archive_of(str(tmp_path)).about.begun == (0, 1)
    assert begin_archive(Folder(str(tmp_path)), TOPIC, TOPIC_ID, 3).about.begun == (0, 1), "the topic has grown"
