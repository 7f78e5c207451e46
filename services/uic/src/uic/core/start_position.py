"""Where a partition begins to be read, decided from what is stored and what the log is now, before anything is read.

Kafka never chooses a position. The position comes from the progress record and is valid only if the log is the one that
was folded: same topic id, long enough, and with the same record (the witness) at the last folded offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

from mimn.state import NO_TOPIC_ID, NOTHING_FOLDED, CorruptProgress, Progress, decode_progress, witness
from uic.core.commit import ABSENT
from uic.core.event import Record


@dataclass(frozen=True, slots=True)
class LogBounds:
    """A partition of the log as its broker describes it."""

    start: int
    """Offset of the first record that still exists."""
    end: int
    """Offset that the next visible record will get."""
    topic_id: bytes
    """16 bytes; zeros if the broker has no topic ids."""


def log_bounds(start: int, stable: int, topic_id: bytes) -> LogBounds:
    """Bounds from what a broker tells.

    Args:
        start: offset of the first record that still exists.
        stable: the last stable offset. It may lie below `start`: while a transaction is open, the broker names the
            beginning of the batch in which `kafka-delete-records` has cut the log. Nothing below `start` is visible.
        topic_id: 16 bytes; zeros if the broker has no topic ids.
    """
    return LogBounds(start, max(start, stable), topic_id)


class BrokenReason(StrEnum):
    """Why a partition waits for an operator: the log is not, or cannot be shown to be, the one that was folded; or its
    producers partition by another rule."""

    TOPIC_ID = "topic_id"
    """The topic was deleted and created again."""
    TRUNCATED = "truncated"
    """The log ends below progress."""
    WITNESS = "witness"
    """At the last folded offset lies another record, or what is no event: the log was written again from there."""
    REMOVED = "removed"
    """Nothing lies at the last folded offset, though the log begins below it: compaction has removed records."""
    UNVERIFIABLE = "unverifiable"
    """Retention removed the last folded record, and the broker has no topic id to go by."""
    UNREADABLE_BATCH = "unreadable_batch"
    """The batch of records that comes next is damaged, larger than the settings allow, or of an unknown codec."""
    UNREADABLE_PROGRESS = "unreadable_progress"
    """The stored progress record is damaged or of another version."""
    PARTITION_COUNT = "partition_count"
    """Progress was written for another number of partitions."""
    MISROUTED = "misrouted"
    """Too many records are not in their key's partition."""


WRITTEN_AGAIN: Final = (BrokenReason.TRUNCATED, BrokenReason.WITNESS)
"""What is found of a log that lost its tail: before its producers wrote on beyond progress, and afterwards."""
Kind = Literal["new", "go_on", "gap", "continued"]


@dataclass(frozen=True, slots=True)
class Begin:
    """Read on from here."""

    kind: Kind
    progress: Progress
    """The progress from now on."""
    store_first: bool
    """Whether `progress` is new and must be stored before the first record is read."""
    read_from: int
    witness: int | None
    """The witness that the record at `read_from` must have; it was folded before and is not folded again. None: fold
    it."""
    lost_from: int | None = None
    """Where a gap begins that is found now: events from here up to `progress.complete_from` are lost. Where that is not
    known, the lowest offset that it may be. None: none is."""
    others_from: int | None = None
    """The log lost its tail, or may have, before the era began: from here on it may have other records than those that
    the notes of erasures are about. None: it did not."""

    def contradicted_by(self, first: Record) -> BrokenReason | None:
        """Why `first`, the first record read, is not the one that was folded last; None if it is. What is no event is
        never read, so a log that has it at `read_from` is `WITNESS` before there is a first record."""
        if first.offset > self.read_from:
            return BrokenReason.REMOVED
        same = (first.offset, witness(first.key, first.value, first.timestamp)) == (self.read_from, self.witness)
        return None if same else BrokenReason.WITNESS


@dataclass(frozen=True, slots=True)
class Broken:
    """Stop; an operator decides."""

    reason: BrokenReason
    progress: Progress | None = None
    """What is stored; None: it cannot be read."""


@dataclass(frozen=True, slots=True)
class Mint:
    """The inputs for new progress records."""

    partitions: int
    """N."""
    start: Literal["earliest", "latest"]
    lineage: int
    """Random; used for a new lineage."""
    writer: int
    """Random, the session's."""


def start_position(stored: bytes, bounds: LogBounds, mint: Mint) -> Begin | Broken:
    """Where a partition with this stored progress record (`ABSENT` if there is none) goes on, or why it must not."""
    if stored == ABSENT:
        return new_lineage(bounds, mint)
    try:
        progress = decode_progress(stored)
    except CorruptProgress:
        return Broken(BrokenReason.UNREADABLE_PROGRESS)
    if progress.partitions != mint.partitions:
        return Broken(BrokenReason.PARTITION_COUNT, progress)
    reason = contradiction(progress, bounds)
    if reason is not None:
        return Broken(reason, progress)
    nothing_folded = progress.last_offset == NOTHING_FOLDED
    read_from = max(bounds.start, progress.next_offset)
    # The era began here, perhaps in a log that had lost its tail: the session that began it may have ended at once.
    others_from = read_from if nothing_folded and progress.era > 0 else None
    if not nothing_folded and progress.last_offset >= bounds.start:
        return Begin("go_on", progress, False, progress.last_offset, progress.witness)
    if not nothing_folded and _same_topic(progress.topic_id, bounds.topic_id) is None:
        return Broken(BrokenReason.UNVERIFIABLE, progress)
    if bounds.start > progress.next_offset:
        after_gap = progress._replace(
            next_offset=bounds.start,
            gap_end=max(bounds.start, progress.gap_end),
            gaps=progress.gaps + 1,
            writer=mint.writer,
            topic_id=bounds.topic_id,
        )
        return Begin("gap", after_gap, True, read_from, None, progress.next_offset, others_from)
    return Begin("go_on", progress, False, read_from, None, others_from=others_from)


def still_broken(stored: bytes, bounds: LogBounds, mint: Mint, about: BrokenReason | None) -> Begin | Broken:
    """`start_position` for a partition that had stopped because of `about`, if nothing came of what an operator wanted.

    A log that lost its tail may have grown beyond progress meanwhile. Then only the witness tells it from the one that
    was folded; without one the partition stays stopped.
    """
    decision = start_position(stored, bounds, mint)
    unproven = isinstance(decision, Begin) and decision.kind != "new" and decision.witness is None
    return Broken(about, decode_progress(stored)) if about in WRITTEN_AGAIN and unproven else decision


def contradiction(progress: Progress, bounds: LogBounds) -> BrokenReason | None:
    """Why the log, as its broker describes it, cannot be the one that was folded; None if it can be."""
    if _same_topic(progress.topic_id, bounds.topic_id) is False:
        return BrokenReason.TOPIC_ID
    if bounds.end < progress.next_offset:
        return BrokenReason.TRUNCATED
    return None


def new_lineage(bounds: LogBounds, mint: Mint) -> Begin:
    """Start a new lineage: states of other lineages count as absent, and states of this one are `partial` if the log,
    or the part of it that the settings select, does not begin at 0."""
    base = bounds.start if mint.start == "earliest" else bounds.end
    progress = Progress(
        partitions=mint.partitions,
        next_offset=base,
        topic_id=bounds.topic_id,
        lineage=mint.lineage,
        writer=mint.writer,
        base=base,
        as_of_ms=0,
    )
    lost_from = 0 if base > 0 and mint.start == "earliest" else None
    return Begin("new", progress, True, base, None, lost_from)


def among_removed(begin: Begin, bounds: LogBounds) -> Begin:
    """Begin as an operator has decided, in a log from which records were removed. Which ones cannot be told, so all of
    the log as it is now counts as a gap: a state is `partial` unless all of its events are later."""
    progress = begin.progress._replace(gap_end=bounds.end, gaps=begin.progress.gaps + 1)
    return replace(begin, progress=progress, lost_from=begin.read_from)


class CannotContinue(Exception):
    """The operator's request is not possible; the message says why, and what is possible."""


def continue_broken(
    stored: bytes,
    bounds: LogBounds,
    mint: Mint,
    from_offset: int | None = None,
    *,
    about: BrokenReason | None = None,
    log_end: int | None = None,
) -> Begin:
    """Accept the log as it is now, keep the states, and begin a new era.

    Continues at `from_offset` if given; else at the log's start if it is another topic; else at progress. A log that
    lost its tail has other records below progress, because its producers have written on, and only an operator can find
    out from where on. What is left out before the offset counts as a gap.

    Args:
        stored: the progress record.
        bounds: the log now.
        mint: for the new progress record.
        from_offset: where the operator wants to go on.
        about: why the partition had stopped.
        log_end: where the log ends, records that cannot be read yet included (the high watermark); None: at
            `bounds.end`.

    Raises:
        CannotContinue: the progress record is absent, unreadable or for another partition count; or `from_offset` is
            outside the log; or there is none, and the log lost its tail.
    """
    try:
        progress = decode_progress(stored)
    except CorruptProgress as error:
        raise CannotContinue(
            "the progress record cannot be read, so there is nothing to go on from: rebuild"
        ) from error
    if progress.partitions != mint.partitions:
        raise CannotContinue(
            f"the states were folded from a topic of {progress.partitions} partitions, and now there are "
            f"{mint.partitions}, so users lie elsewhere: raise the generation, or rebuild"
        )
    if from_offset is not None and not bounds.start <= from_offset <= bounds.end:
        raise CannotContinue(f"from_offset must lie within the log, {bounds.start} to {bounds.end}")
    another = _same_topic(progress.topic_id, bounds.topic_id) is False
    lost_tail = not another and (about in WRITTEN_AGAIN or bounds.end < progress.next_offset)
    emptied = lost_tail and (bounds.end if log_end is None else log_end) == 0  # nothing is left out, or folded twice
    if lost_tail and from_offset is None and not emptied:
        raise CannotContinue(
            "from which offset on the log has other records than those that were folded is not known, and all that was "
            "written from there on would be left out or folded twice: rebuild, or give the offset"
        )
    unread_from = 0 if another or emptied else progress.next_offset
    at = max(bounds.start, unread_from) if from_offset is None else from_offset
    # Retention may have removed records since the log lost its tail: a flag too many, against events lost in silence.
    cut_off = lost_tail and at == bounds.start > 0
    gap = at > unread_from or cut_off
    removed = bounds.start > unread_from or cut_off  # by retention, and not only left out by the operator
    lost_from = None if not removed else 0 if cut_off else unread_from
    accepted = progress._replace(
        era=progress.era + 1,
        next_offset=at,
        last_offset=NOTHING_FOLDED,
        witness=0,
        topic_id=bounds.topic_id,
        writer=mint.writer,
        misrouted_to=0,
        gap_end=max(at, 0 if another else progress.gap_end) if gap else progress.gap_end,
        gaps=progress.gaps + gap,
    )
    return Begin("continued", accepted, True, at, None, lost_from, at if lost_tail else None)


def where_it_parts(progress: Progress) -> str:
    """What an operator reads of a log that lost its tail."""
    return (
        f"the states end at offset {progress.next_offset}, and the log has other records from an offset at or below "
        "that on: rebuild, or continue with that offset"
    )


def accept_misrouted(stored: bytes, bounds: LogBounds, mint: Mint) -> Begin | Broken:
    """Continue as `start_position` would, but all misrouted records that are in the log now become dead letters. The
    limit still applies to later ones."""
    decision = start_position(stored, bounds, mint)
    if isinstance(decision, Broken):
        return decision
    accepted = decision.progress._replace(misrouted_to=bounds.end, writer=mint.writer)
    kind: Kind = "gap" if decision.kind == "gap" else "continued"
    return replace(decision, kind=kind, progress=accepted, store_first=True)


def _same_topic(stored: bytes, now: bytes) -> bool | None:
    """None: at least one of the two has no topic id."""
    if NO_TOPIC_ID in (stored, now):
        return None
    return stored == now
