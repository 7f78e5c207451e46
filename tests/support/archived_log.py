"""A topic's records, what an archive says that they are, and what a user's fold would see of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from support.for_test import TopicsForTest
from uic.bulk.archive import Archive
from uic.log.erasures import decode_erasure
from uic.log.topic_reader import LogRecord, read_to_end


def records_of(topics: TopicsForTest) -> dict[int, list[LogRecord]]:
    """What the topic holds, by partition."""
    found: dict[int, list[LogRecord]] = {p: [] for p in range(topics.partitions)}
    for record in read_to_end({"bootstrap_servers": topics.bootstrap}, topics.events):
        found[record.partition].append(record)
    return found


def archived(archive: Archive, topic: str, partitions: Iterable[int] | None = None) -> dict[int, list[LogRecord]]:
    """What the archive holds, in all partitions or in some, as records of the topic."""
    return {
        p: [
            LogRecord(
                topic,
                p,
                row["offset"],
                row["timestamp"],
                row["key"],
                row["value"],
                tuple((h["name"], h["value"]) for h in row["headers"] or ()),
            )
            for some in archive.records(archive.checked(p))
            for row in some.to_pylist()
        ]
        for p in (range(archive.partitions) if partitions is None else partitions)
    }


def by_user(records: Mapping[int, list[LogRecord]]) -> dict[bytes, list[Any]]:
    """What a user's fold sees: values in order, without what an import adds."""
    users: dict[bytes, list[Any]] = defaultdict(list)
    for some in records.values():
        for r in some:
            if r.key is not None:
                headers = tuple(h for h in r.headers if h[0] != "ctr-import")
                users[r.key].append((r.value, r.timestamp_ms, headers))
    return users


def noted_erasures(topics: TopicsForTest) -> set[tuple[bytes | None, int]]:
    """User and offset of each note of an erasure."""
    notes = read_to_end({"bootstrap_servers": topics.bootstrap}, topics.erased)
    return {(r.key, decode_erasure(r.value).offset) for r in notes if r.value is not None}
