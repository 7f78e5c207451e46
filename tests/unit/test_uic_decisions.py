"""The pure decisions: what a stored progress record means, and how a partition is taken up."""

from __future__ import annotations

import pytest

from mimn.state import NO_TOPIC_ID, Progress, decode_progress, encode_progress, witness
from support.fake_topics import FakeRecord
from uic.core.advance import CaughtUp, advance, as_of
from uic.core.commit import ABSENT, Verdict, judge
from uic.core.start_position import (
    WRITTEN_AGAIN,
    Begin,
    Broken,
    BrokenReason,
    CannotContinue,
    LogBounds,
    Mint,
    accept_misrouted,
    continue_broken,
    contradiction,
    log_bounds,
    start_position,
    still_broken,
)

TRUNCATED, WITNESS = BrokenReason.TRUNCATED, BrokenReason.WITNESS
ID, OTHER_ID = bytes([1]) * 16, bytes([2]) * 16
KNOWN = Progress(
    partitions=4,
    next_offset=100,
    last_offset=98,
    witness=77,
    topic_id=ID,
    lineage=5,
    era=2,
    writer=9,
    base=0,
    as_of_ms=1000,
)
MINT = Mint(4, "earliest", lineage=6, writer=10)
known = encode_progress(KNOWN)


def record(**changes: int) -> bytes:
    return encode_progress(KNOWN._replace(**changes))  # type: ignore[arg-type]  # all the changed fields are int


tried = record(next_offset=120, last_offset=119)


@pytest.mark.parametrize(
    ("stored", "verdict"),
    [
        (tried, Verdict.OURS),
        (known, Verdict.UNCHANGED),
        (ABSENT, Verdict.STORE_BEHIND),
        (record(next_offset=90), Verdict.STORE_BEHIND),
        (record(next_offset=90, writer=1), Verdict.STORE_BEHIND),
        (record(as_of_ms=900), Verdict.STORE_BEHIND),
        (record(as_of_ms=900, writer=1), Verdict.OWNERSHIP_LOST),  # an honest writer after one with a fast clock
        (record(era=1, next_offset=500), Verdict.STORE_BEHIND),
        (record(next_offset=120, last_offset=119, writer=1), Verdict.OWNERSHIP_LOST),
        (record(next_offset=110), Verdict.OWNERSHIP_LOST),
        (record(writer=1), Verdict.OWNERSHIP_LOST),
        (record(era=3, next_offset=0), Verdict.OWNERSHIP_LOST),
        (record(lineage=1, next_offset=0), Verdict.OWNERSHIP_LOST),
        (b"junk", Verdict.UNREADABLE),
    ],
)
def test_what_a_stored_record_means(stored: bytes, verdict: Verdict) -> None:
    assert judge(stored, known, tried) is verdict


def test_without_a_record_of_ours_any_other_is_of_another_writer() -> None:
    assert judge(known, ABSENT, tried) is Verdict.OWNERSHIP_LOST
    assert judge(tried, ABSENT, tried) is Verdict.OURS
    assert judge(ABSENT, ABSENT, tried) is Verdict.UNCHANGED
    assert judge(known, b"junk", tried) is Verdict.OWNERSHIP_LOST


def bounds(start: int = 0, end: int = 200, topic_id: bytes = ID) -> LogBounds:
    return LogBounds(start, end, topic_id)


def test_a_log_whose_beginning_was_cut_above_the_last_stable_offset_is_not_truncated() -> None:
    """The broker names the beginning of the batch that was cut, while a transaction before it is open."""
    assert log_bounds(140, 127, ID) == LogBounds(140, 140, ID)
    assert log_bounds(100, 127, ID) == LogBounds(100, 127, ID)
    folded = KNOWN._replace(next_offset=60, last_offset=59)
    begun = start_position(encode_progress(folded), log_bounds(140, 127, ID), MINT)
    assert isinstance(begun, Begin)
    assert (begun.kind, begun.lost_from, begun.read_from) == ("gap", 60, 140)
    assert contradiction(begun.progress, log_bounds(140, 127, ID)) is None


def test_until_anything_is_folded_an_era_goes_on_where_the_log_may_have_lost_its_tail() -> None:
    """The session that began it knew, and may have ended at once."""
    begun = continue_broken(known, bounds(end=95), MINT, 80, about=TRUNCATED)
    for log in (bounds(), bounds(start=90)):
        again = start_position(encode_progress(begun.progress), log, MINT)
        assert isinstance(again, Begin)
        assert (again.read_from, again.others_from) == (max(80, log.start), max(80, log.start))
    folded = begun.progress._replace(next_offset=90, last_offset=89)
    later = start_position(encode_progress(folded), bounds(start=90), MINT)
    assert isinstance(later, Begin)
    assert later.others_from is None
    first = KNOWN._replace(era=0, last_offset=-1, witness=0, next_offset=0)
    assert start_position(encode_progress(first), bounds(), MINT) == Begin("go_on", first, False, 0, None)


@pytest.mark.parametrize(
    ("stored", "start"), [(record(last_offset=-1, witness=0), 0), (known, 99), (known, 100), (known, 150)]
)
def test_what_may_have_lost_its_tail_stays_stopped_without_a_witness(stored: bytes, start: int) -> None:
    """It has grown beyond progress since it was seen to end below."""
    log = bounds(start=start)
    assert isinstance(start_position(stored, log, MINT), Begin)
    for about in WRITTEN_AGAIN:
        assert still_broken(stored, log, MINT, about) == Broken(about, decode_progress(stored))
    assert still_broken(stored, log, MINT, BrokenReason.UNREADABLE_BATCH) == start_position(stored, log, MINT)


def test_a_witness_tells_whether_a_log_that_was_stopped_is_the_one_that_was_folded_after_all() -> None:
    assert still_broken(known, bounds(), MINT, TRUNCATED) == start_position(known, bounds(), MINT)
    assert still_broken(known, bounds(topic_id=OTHER_ID), MINT, TRUNCATED) == Broken(BrokenReason.TOPIC_ID, KNOWN)
    anew = still_broken(ABSENT, bounds(), MINT, TRUNCATED)
    assert isinstance(anew, Begin)
    assert anew.kind == "new"


@pytest.mark.parametrize("start", [99, 100])
def test_a_witness_that_retention_removed_is_replaced_by_the_topic_id(start: int) -> None:
    assert start_position(known, bounds(start=start), MINT) == Begin("go_on", KNOWN, False, 100, None)
    nameless = bounds(start=start, topic_id=NO_TOPIC_ID)
    assert start_position(known, nameless, MINT) == Broken(BrokenReason.UNVERIFIABLE, KNOWN)


@pytest.mark.parametrize(
    ("stored", "log", "reason"),
    [
        (known, bounds(topic_id=OTHER_ID), BrokenReason.TOPIC_ID),
        (known, bounds(end=99), BrokenReason.TRUNCATED),
        (known, bounds(start=300, end=400, topic_id=OTHER_ID), BrokenReason.TOPIC_ID),
        (known, bounds(start=300, end=400, topic_id=NO_TOPIC_ID), BrokenReason.UNVERIFIABLE),
        (b"junk", bounds(), BrokenReason.UNREADABLE_PROGRESS),
        (record(partitions=8), bounds(), BrokenReason.PARTITION_COUNT),
    ],
)
def test_a_log_that_is_not_the_one_that_was_folded(stored: bytes, log: LogBounds, reason: BrokenReason) -> None:
    shown = None if reason is BrokenReason.UNREADABLE_PROGRESS else decode_progress(stored)
    assert start_position(stored, log, MINT) == Broken(reason, shown)


def test_a_broker_that_learned_topic_ids_is_believed_by_its_witness() -> None:
    nameless = KNOWN._replace(topic_id=NO_TOPIC_ID)
    begun = start_position(encode_progress(nameless), bounds(), MINT)
    assert begun == Begin("go_on", nameless, False, 98, 77)


@pytest.mark.parametrize(
    ("about", "log", "at", "gap"),
    [
        (TRUNCATED, bounds(end=0), 0, False),  # all is lost, and nothing was written since
        (BrokenReason.REMOVED, bounds(end=200), 100, False),
        (BrokenReason.UNVERIFIABLE, bounds(start=150), 150, True),
        (BrokenReason.TOPIC_ID, bounds(end=40, topic_id=OTHER_ID), 0, False),  # created again
        (BrokenReason.TOPIC_ID, bounds(start=20, end=40, topic_id=OTHER_ID), 20, True),
    ],
)
def test_where_continue_goes_on(about: BrokenReason, log: LogBounds, at: int, gap: bool) -> None:
    begun = continue_broken(known, log, MINT, about=about)
    assert (begun.kind, begun.read_from, begun.witness, begun.store_first) == ("continued", at, None, True)
    p = begun.progress
    assert (p.lineage, p.era, p.next_offset, p.last_offset, p.writer) == (5, 3, at, -1, 10)
    assert p.topic_id == log.topic_id
    assert (p.gaps, p.gap_end, begun.lost_from is None) == ((1, at, False) if gap else (0, 0, True))
    assert isinstance(start_position(encode_progress(p), log, MINT), Begin), "what was accepted is not broken"
    assert begun.others_from == (None if log.end else at)


@pytest.mark.parametrize(
    ("about", "log", "gap"),
    [
        (TRUNCATED, bounds(end=90), False),
        (TRUNCATED, bounds(end=300), False),  # it has grown beyond progress since
        (WITNESS, bounds(), False),
        (BrokenReason.UNREADABLE_BATCH, bounds(end=95), False),  # lost after it was stopped
        (TRUNCATED, bounds(start=85, end=300), True),  # retention may have removed some of what was written since
    ],
)
def test_an_operator_says_where_a_log_without_its_tail_goes_on(about: BrokenReason, log: LogBounds, gap: bool) -> None:
    with pytest.raises(CannotContinue, match="rebuild, or give the offset"):
        continue_broken(known, log, MINT, about=about)
    begun = continue_broken(known, log, MINT, 85, about=about)
    assert (begun.read_from, begun.others_from, begun.progress.gaps) == (85, 85, int(gap))
    assert begun.lost_from == (0 if gap else None)


def test_a_log_that_an_open_transaction_keeps_unread_from_its_beginning_is_not_empty() -> None:
    with pytest.raises(CannotContinue, match="rebuild, or give the offset"):
        continue_broken(known, bounds(end=0), MINT, about=TRUNCATED, log_end=60)
    assert continue_broken(known, bounds(end=0), MINT, about=TRUNCATED, log_end=0).read_from == 0


def test_accepted_misrouted_records_are_those_in_the_log_now_and_the_witness_is_verified_as_ever() -> None:
    begun = accept_misrouted(known, bounds(end=300), MINT)
    accepted = KNOWN._replace(misrouted_to=300, writer=10)
    assert begun == Begin("continued", accepted, True, 98, 77)
    assert accept_misrouted(known, bounds(end=99), MINT) == Broken(BrokenReason.TRUNCATED, KNOWN)
    another = continue_broken(encode_progress(accepted), bounds(end=400, topic_id=OTHER_ID), MINT)
    assert another.progress.misrouted_to == 0, "the offset is of the old log"


def test_continue_refuses_what_it_cannot_do() -> None:
    with pytest.raises(CannotContinue, match="10 to 20"):
        continue_broken(known, bounds(10, 20), MINT, 21)
    with pytest.raises(CannotContinue, match="rebuild"):
        continue_broken(b"junk", bounds(), MINT)
    with pytest.raises(CannotContinue, match="rebuild"):
        continue_broken(ABSENT, bounds(), MINT)
    with pytest.raises(CannotContinue, match="8 partitions"):
        continue_broken(record(partitions=8), bounds(), MINT)


LAST = FakeRecord(119, b"ann", b"value", 5)


def test_a_batch_moves_progress_behind_its_last_record() -> None:
    after = advance(KNOWN, writer=10, last=LAST, position=None, caught_up=CaughtUp(121, 2000))
    said = {
        "next_offset": 120,
        "last_offset": 119,
        "witness": witness(b"ann", b"value", 5),
        "writer": 10,
    }
    assert after == KNOWN._replace(**said)  # type: ignore[arg-type]  # each by its own type
    past_markers = advance(KNOWN, writer=10, last=LAST, position=121, caught_up=CaughtUp(121, 2000))
    assert past_markers == after._replace(next_offset=121, as_of_ms=2000)


def test_an_idle_partition_changes_nothing_but_its_time_and_its_place_behind_markers() -> None:
    behind_a_fast_clock = advance(KNOWN, writer=10, last=None, position=None, caught_up=CaughtUp(100, 700))
    assert behind_a_fast_clock.as_of_ms == 700
    assert advance(KNOWN, writer=10, last=None, position=102, caught_up=CaughtUp(102, 2000)) == KNOWN._replace(
        next_offset=102, writer=10, as_of_ms=2000
    )


@pytest.mark.parametrize(("ahead_ms", "expected"), [(3_600_000, 6_400_000), (0, 10_000_000), (-3_600_000, 13_600_000)])
def test_a_question_was_asked_at_the_time_of_the_stores_clock(ahead_ms: int, expected: int) -> None:
    assert as_of(10_000_000, ahead_ms) == expected
