"""The archive of a topic that was given more partitions has every event, each user's in the order in which they were
sent, whatever the two counts are."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimn.state import partition_of
from uic.bulk.archive import Archive, PartitionManifest, arrow_of, begin_archive, open_archive
from uic.bulk.archived_history import ArchivedHistory
from uic.bulk.backfill_job import Target, new_job
from uic.bulk.erased_history import ErasedHistory
from uic.bulk.errors import BadArchive, BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.history import HistoryRecord
from uic.bulk.importing import Imported, Importer
from uic.core.records import BatchRecord
from uic.core.start_position import LogBounds
from uic.log.erasures import KafkaErasures
from uic.log.partition_reader import TopicBounds
from uic.tools.letter_replay import REPLAY_OF

TOPIC = "behavior-events"
TOPIC_ID = bytes([7]) * 16
Headers = tuple[tuple[str, bytes | None], ...]


class Log:
    """A topic that producers write to, each record with a value of its own."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[BatchRecord]] = [[] for _ in range(partitions)]
        self.sent: dict[bytes, list[bytes]] = defaultdict(list)

    def grow(self, partitions: int) -> None:
        self.partitions += [[] for _ in range(partitions - len(self.partitions))]

    def send(self, user: str, *, at: int | None = None, headers: Headers = (), sent: bool = True) -> int:
        """The record's offset; `sent`: it is one of the user's events."""
        key = user.encode()
        log = self.partitions[partition_of(key, len(self.partitions)) if at is None else at]
        value = f"{sum(map(len, self.partitions))}".encode()
        log.append(BatchRecord(len(log), 0, key, value, headers))
        if sent:
            self.sent[key].append(value)
        return len(log) - 1

    def archive(self, to: Path, folded: int | None = None) -> Archive:
        """Archive it up to where it ends now."""
        archive = begin_archive(Folder(str(to)), TOPIC, TOPIC_ID, len(self.partitions), folded)
        for p, records in enumerate(self.partitions):
            empty = PartitionManifest(topic_id=archive.about.topic_id, partition=p, base=0)
            manifest = archive.manifest(p) or archive.put(empty)
            if new := records[manifest.end :]:
                archive.add(manifest, [arrow_of(new)], manifest.end, len(records) - 1)
        return archive


def by_user(records: Iterable[HistoryRecord]) -> dict[bytes, list[bytes | None]]:
    found: dict[bytes, list[bytes | None]] = defaultdict(list)
    for record in records:
        found[record.key].append(record.value)
    return found


numbers = itertools.count()
users = st.lists(st.integers(0, 30).map("u{}".format), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(1, 5), more=st.integers(1, 6), old=users, new=users, begun=st.booleans(), cut=st.data())
def test_every_event_comes_once_in_its_users_order_and_a_killed_import_goes_on(
    tmp_path: Path, before: int, more: int, old: list[str], new: list[str], begun: bool, cut: st.DataObject
) -> None:
    log, to = Log(before), tmp_path / str(next(numbers))
    for user in old:
        log.send(user)
    if begun:
        log.archive(to)
    log.grow(before + more)
    for user in new:
        log.send(user)
    archive = log.archive(to, None if begun else before)
    assert open_archive(Folder(str(to))).about.grew_from == before
    history = ArchivedHistory(archive, {})
    records = list(history.read({}))
    assert by_user(records) == log.sent
    assert history.misrouted() == 0
    assert not history.left_out

    appended = cut.draw(st.integers(0, len(records)))
    done: dict[int, int] = {}
    for record in records[:appended]:
        assert record.place.number > done.get(record.place.lane, -1), "numbers rise within a lane"
        done[record.place.lane] = record.place.number
    assert list(ArchivedHistory(archive, {}).read(done)) == records[appended:]


def test_a_new_archive_goes_by_the_count_that_uic_folds_and_an_old_one_by_what_it_knows(tmp_path: Path) -> None:
    def grew_from(to: str, partitions: int, folded: int | None) -> int | None:
        return begin_archive(Folder(str(tmp_path / to)), TOPIC, TOPIC_ID, partitions, folded).about.grew_from

    assert grew_from("new", 4, 2) == 2
    assert grew_from("new", 4, 4) == 2, "settings that were corrected since change nothing"
    assert grew_from("as told", 4, 4) is None
    assert grew_from("as told", 4, 2) is None, "it was begun with four"
    assert grew_from("untold", 4, None) is None
    assert grew_from("old", 2, 2) is None
    assert grew_from("old", 3, 3) == 2
    assert grew_from("old", 6, 6) == 2, "what was folded before it grew the first time"
    with pytest.raises(BadArchive, match="another folder"):
        grew_from("old", 5, 5)
    written = json.loads(next((tmp_path / "old").glob("*/archive.json")).read_text())
    assert (written["version"], written["partitions"], written["grew_from"]) == (2, 6, 2)


def test_a_description_that_cannot_be_right_begins_no_archive(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "archive"))
    with pytest.raises(BulkRefused, match="has no partitions"):
        begin_archive(folder, TOPIC, TOPIC_ID, 0)
    with pytest.raises(BulkRefused, match="has 2 partitions, and UIC_KAFKA__PARTITIONS says 4"):
        begin_archive(folder, TOPIC, TOPIC_ID, 2, 4)
    assert folder.names() == []
    begun = begin_archive(folder, TOPIC, TOPIC_ID, 4, 4)
    with pytest.raises(BulkRefused, match="the broker tells no id"):
        begin_archive(folder, TOPIC, bytes(16), 4, 4)
    assert folder.names() == [begun.about.topic_id]
    assert begin_archive(folder, "another", bytes(16), 4, 4).about.topic == "another", "of a broker without ids"


def grown(to: Path, *, told: bool = True) -> tuple[Log, Archive]:
    """A topic that grew from 2 to 3 partitions, with four events of each user."""
    log = Log(2)
    for count in (2, 3):
        log.grow(count)
        for i in range(60):
            log.send(f"u{i % 30}")
    return log, log.archive(to, 2 if told else None)


def test_the_earlier_count_can_be_told_to_the_import(tmp_path: Path) -> None:
    log, archive = grown(tmp_path, told=False)
    unknown = ArchivedHistory(archive, {})
    assert unknown.misrouted() > 0
    assert len(list(unknown.read({}))) == 120 - unknown.misrouted()
    assert unknown.counts == "N = 3"
    history = ArchivedHistory(archive, {}, grew_from=2)
    assert history.misrouted() == 0
    assert by_user(history.read({})) == log.sent
    for wrong in (0, 3, 4):
        with pytest.raises(BulkRefused, match="has not grown from"):
            ArchivedHistory(archive, {}, grew_from=wrong)


def moved_user(partition: int, home: int) -> str:
    """A user whose records lay in `partition` of 2, and lie in `home` of 3."""
    names = (f"m{i}".encode() for i in itertools.count())
    return next(u.decode() for u in names if (partition_of(u, 2), partition_of(u, 3)) == (partition, home))


def test_what_lies_in_its_place_by_neither_count_is_counted_and_left_out(tmp_path: Path) -> None:
    log, _ = grown(tmp_path / "one")
    user = moved_user(0, 0)
    for _ in range(3):
        log.send(user, at=1, sent=False)
    history = ArchivedHistory(log.archive(tmp_path / "two", 2), {})
    assert history.misrouted() == 3
    assert history.counts == "N = 2 and by N = 3"
    assert by_user(history.read({})) == log.sent


def test_dead_letters_of_a_growth_come_back_and_their_replays_do_not_double_them(tmp_path: Path) -> None:
    log, _ = grown(tmp_path / "one")
    letter, stray = moved_user(0, 1), moved_user(1, 1)

    def replay(user: str, partition: int, offset: int, *, sent: bool) -> None:
        log.send(user, headers=((REPLAY_OF, f"{TOPIC}/{partition}/{offset}".encode()),), sent=sent)

    replay(letter, 1, log.send(letter), sent=False)  # misrouted by 2, and in its place by 3
    replay(stray, 0, log.send(stray, at=0, sent=False), sent=True)  # in its place by neither: the replay is the event
    replay(letter, 1, 10**6, sent=True)  # whose original the archive lacks
    for nonsense in (b"nonsense", f"{TOPIC}/1/".encode() + b"9" * 5_000):
        log.send(letter, headers=((REPLAY_OF, nonsense),))
    history = ArchivedHistory(log.archive(tmp_path / "two", 2), {})
    assert by_user(history.read({})) == log.sent
    assert history.doubled == 1


def test_an_erasure_after_the_growth_leaves_out_the_events_from_before_it(tmp_path: Path) -> None:
    log, archive = grown(tmp_path / "one")
    user = moved_user(1, 0)
    log = Log(2)
    log.send(user)
    log.grow(3)
    log.send(user)
    log.send(user)
    archive = log.archive(tmp_path / "two", 2)
    key = user.encode()
    assert by_user(ArchivedHistory(archive, {0: {key: 0}}).read({})) == {key: log.sent[key][2:]}
    assert by_user(ArchivedHistory(archive, {1: {key: 0}}).read({})) == {key: log.sent[key][1:]}


def test_an_import_that_would_put_older_events_behind_newer_ones_is_refused(tmp_path: Path) -> None:
    log, archive = grown(tmp_path)
    bounds = TopicBounds("new", bytes(16), [LogBounds(0, 0, bytes(16))] * 5, [0] * 5)
    notes = KafkaErasures({}, "new", 5, timeout_s=1.0)
    importer = Importer({}, bounds, notes, timeout_s=1.0, max_request_bytes=1)

    def there(records: Iterable[HistoryRecord]) -> Mapping[int, Mapping[int, int]]:
        found: dict[int, dict[int, int]] = {p: {} for p in range(5)}
        for record in records:
            found[partition_of(record.key, 5)][record.place.lane] = record.place.number
        return found

    def missing(upto: Mapping[int, Mapping[int, int]]) -> list[HistoryRecord]:
        return list(importer._missing(ArchivedHistory(archive, {}), upto, ErasedHistory(), Imported()))

    everything = missing(there([]))
    assert by_user(everything) == log.sent
    for cut in range(0, len(everything), 7):
        assert missing(there(everything[:cut])) == everything[cut:]
    log.send("u1")
    archive = log.archive(tmp_path)
    assert len(missing(there(everything))) == 1, "what came since is appended"
    log.send(moved_user(0, 1), at=0)  # by a producer that has not heard of the growth
    archive = log.archive(tmp_path)
    with pytest.raises(BulkRefused, match="import the archive into another new topic"):
        missing(there(everything))


def test_the_archive_of_a_grown_topic_is_not_folded_as_it_is(tmp_path: Path) -> None:
    _, archive = grown(tmp_path)
    bundle: Any = None
    with pytest.raises(BulkRefused, match="has grown from 2 to 3"):
        new_job(Target(bundle, "namespace", "uic", TOPIC, 3), archive, {})
