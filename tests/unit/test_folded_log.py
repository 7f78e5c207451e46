"""The log is read to fold again only where UIC itself would go on from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.state import NO_TOPIC_ID, Progress, decode_progress, encode_progress, witness
from support.hand_model import MODEL
from uic.core.records import BatchRecord
from uic.core.start_position import BrokenReason, LogBounds
from uic.errors import UnsuitableTopic
from uic.log.partition_reader import TopicBounds
from uic.tools.folded_log import AnotherLog, FoldedLog, Span
from uic.tools.verify import LeftAsItIs, Refold

N = 2
ID = b"a topic of 16 by"
LAST = 7
"""Offset of the record that was folded last."""


def record(offset: int) -> BatchRecord:
    return BatchRecord(offset, offset, b"u", b"%d" % offset, ())


def progress(**changed: Any) -> bytes:
    last = record(LAST)
    folded = Progress(
        partitions=N,
        next_offset=LAST + 1,
        lineage=1,
        writer=1,
        base=0,
        as_of_ms=0,
        last_offset=LAST,
        witness=witness(last.key, last.value, last.timestamp),
        topic_id=ID,
    )
    return encode_progress(folded._replace(**changed))


class Log:
    """A `PartitionReader` of records in memory."""

    def __init__(self, *offsets: int, start: int = 0, end: int = 12, topic_id: bytes = ID, partitions: int = N) -> None:
        self.there = [record(offset) for offset in offsets]
        self.told = [
            TopicBounds("events", topic_id, [LogBounds(start, end, topic_id)] * partitions, [end] * partitions)
        ]

    def bounds(self) -> TopicBounds:
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]

    def read(self, partition: int, start: int, end: int) -> Iterator[tuple[list[BatchRecord], int]]:
        for one in self.there:
            if start <= one.offset < end:
                yield [one], one.offset + 1


def folded(log: Log) -> FoldedLog:
    reader: Any = log
    return FoldedLog(reader, N)


def offsets(log: Log, stored: bytes, since: int = 0) -> list[int]:
    return [one.offset for one in folded(log).folded(0, stored, since).records]


def test_a_log_begins_where_its_broker_says_though_the_first_offsets_are_handed_to_nobody() -> None:
    span = folded(Log(*range(3, 12))).folded(0, progress(), 0)
    assert (span.first, span.end, next(iter(span.records)).offset) == (0, LAST + 1, 3)
    assert folded(Log(*range(3, 12), start=2)).folded(0, progress(), 0).first == 2
    assert folded(Log(*range(3, 12))).folded(0, progress(), 5).first == 5


def test_what_is_gone_between_two_looks_at_the_log_ends_a_repair() -> None:
    for first, end, gone in ((5, 9, False), (6, 9, True), (9, 5, False)):
        again = Refold(MODEL, 0, decode_progress(progress()), ())
        again.fold(Span(0, 5, ()))
        assert again.next_offset == 5
        if gone:
            with pytest.raises(LeftAsItIs, match="retention removed records that were not read yet: run this again"):
                again.fold(Span(first, end, ()))
        else:
            again.fold(Span(first, end, ()))
            assert again.next_offset == end


@given(start=st.integers(0, 12), since=st.integers(0, 12), gone=st.sets(st.integers(0, 11)))
def test_what_was_folded_is_read_and_the_last_of_it_must_be_there_unless_retention_removed_it_or_it_was_read_before(
    start: int, since: int, gone: set[int]
) -> None:
    there = [offset for offset in range(start, 12) if offset not in gone]
    log = Log(*there, start=start)
    if LAST in gone and max(start, since) <= LAST:
        with pytest.raises(AnotherLog, match="broken_log: removed"):
            offsets(log, progress(), since)
    else:
        assert offsets(log, progress(), since) == [offset for offset in there if since <= offset <= LAST]


@pytest.mark.parametrize(
    ("log", "changed", "reason"),
    [
        (Log(*range(12), topic_id=b"another of 16 by"), {}, BrokenReason.TOPIC_ID),
        (Log(*range(5), end=5), {}, BrokenReason.TRUNCATED),
        (Log(*range(12)), {"witness": 5}, BrokenReason.WITNESS),
        (Log(*range(9, 12), start=9, topic_id=NO_TOPIC_ID), {}, BrokenReason.UNVERIFIABLE),
        (Log(*range(12)), {"partitions": 3}, BrokenReason.PARTITION_COUNT),
    ],
)
def test_what_is_not_shown_to_be_the_log_that_was_folded_is_named_as_uic_names_it(
    log: Log, changed: dict[str, Any], reason: BrokenReason
) -> None:
    with pytest.raises(AnotherLog, match=f"broken_log: {reason.value}:"):
        offsets(log, progress(**changed))


def test_a_log_that_has_grown_since_it_was_asked_is_asked_again() -> None:
    log = Log(*range(12))
    before = TopicBounds("events", ID, [LogBounds(0, 3, ID)] * N, [3] * N)
    log.told.insert(0, before)
    assert folded(log).check(0, progress()).kind == "go_on"


def test_a_topic_of_another_partition_count_is_refused() -> None:
    with pytest.raises(UnsuitableTopic, match="has 3 partitions, the settings say 2"):
        folded(Log(partitions=3))
