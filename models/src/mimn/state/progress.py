"""How far a partition's log has been absorbed: a fixed-size record that one script writes together with the states.

UIC writes it, and never overwrites a record that it has not read. RTP reads its as-of time. The bytes are specified in
docs/formats/progress.md.

     0  4s  magic "UIPR"      16  i64 next offset      56  u64 lineage      88  i64 as-of time, ms
     4  u16 version           24  i64 last offset      64  u64 writer       96  i64 misrouted to
     6  u16 reserved: 0       32  u64 witness          72  i64 base        104  u32 gaps
     8  u32 partitions N      40  16s topic id         80  i64 gap end     108  u32 checksum
    12  u32 era                                                            112  end

Version 1, which is still read, has gaps at 96, the checksum at 100, and ends at 104.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple
from zlib import crc32

MAGIC = b"UIPR"
VERSION = 2
NO_TOPIC_ID = bytes(16)
"""`topic_id` when the broker has no topic ids."""
NOTHING_FOLDED = -1
"""`last_offset` of a partition before its first record is absorbed."""
REMOVAL = b"being removed by "
"""How the mark begins that takes the place of a progress record while the partition's namespace is removed; the id of
the removal follows. Every commit compares what is stored with the record that it knows, so no worker writes there."""
AHEAD_WITHIN_MS = 5_000
"""How far ahead of the store's clock an as-of time may be. One that is further ahead is not believed, because that
clock was set back since, and it does not tell how old the states are."""
_BODY = Struct("<4sHHIIqqQ16sQQqqqqI")
_BODY_1 = Struct("<4sHHIIqqQ16sQQqqqI")
_CHECKSUM = Struct("<I")
PROGRESS_BYTES = _BODY.size + _CHECKSUM.size
_BODY_OF = {PROGRESS_BYTES: (VERSION, _BODY), _BODY_1.size + _CHECKSUM.size: (1, _BODY_1)}
"""Version and layout, by the length of the record."""


class CorruptProgress(ValueError):
    """The bytes are not a progress record of this version."""


class BeingRemoved(CorruptProgress):
    """The mark of a removal, which takes a record's place: there is no progress, and nothing is damaged."""


class Progress(NamedTuple):
    """What has been absorbed from one partition. A tuple, because each commit makes a new one: `_replace` takes a
    third of the time of `dataclasses.replace`. Name the fields.

    Invariant: the partition's stored states are the fold of the records of this lineage from `base` up to and including
    `last_offset`.
    """

    partitions: int
    """N, the topic's partition count."""
    next_offset: int
    """Where reading continues."""
    lineage: int
    """Random; new whenever the partition starts from nothing."""
    writer: int
    """Random id of the session that wrote this."""
    base: int
    """The offset at which this lineage began. If above 0, the events before it are missing."""
    as_of_ms: int
    """When the partition was last known to be caught up to here, by the store's clock. It decreases when that is set
    back."""
    last_offset: int = NOTHING_FOLDED
    """Offset of the last record absorbed (folded, skipped or sent to the dead letters)."""
    witness: int = 0
    """`digest.witness` of that record."""
    topic_id: bytes = NO_TOPIC_ID
    era: int = 0
    """+1 each time an operator accepts a broken log."""
    gap_end: int = 0
    """End of the latest range of offsets that retention removed before they were folded; 0 if there is none."""
    gaps: int = 0
    """Number of such ranges."""
    misrouted_to: int = 0
    """An operator has accepted misrouted records below this offset: all of them become dead letters."""

    @property
    def complete_from(self) -> int:
        """A state whose last event is below this offset may lack events: it is `partial`. The same holds for a state of
        an earlier era and for a user without a state, unless this is 0."""
        return max(self.base, self.gap_end)

    def age_ms(self, now_ms: int) -> int | None:
        """How long ago the partition was last known to be caught up, at `now_ms` by the store's clock; None if its
        as-of time is not believed."""
        ahead = self.as_of_ms - now_ms
        return None if ahead > AHEAD_WITHIN_MS else max(0, -ahead)


def encode_progress(progress: Progress) -> bytes:
    """The stored record: `PROGRESS_BYTES` bytes."""
    body = _BODY.pack(
        MAGIC,
        VERSION,
        0,
        progress.partitions,
        progress.era,
        progress.next_offset,
        progress.last_offset,
        progress.witness,
        progress.topic_id,
        progress.lineage,
        progress.writer,
        progress.base,
        progress.gap_end,
        progress.as_of_ms,
        progress.misrouted_to,
        progress.gaps,
    )
    return body + _CHECKSUM.pack(crc32(body))


def decode_progress(record: bytes) -> Progress:
    """The progress that `record`, of this version or version 1, holds.

    Raises:
        BeingRemoved: it is the mark of a removal.
        CorruptProgress: wrong length, magic, version or checksum.
    """
    if record.startswith(REMOVAL):
        raise BeingRemoved("the namespace is being removed")
    if record[:4] != MAGIC or len(record) not in _BODY_OF:
        raise CorruptProgress(f"{len(record)} bytes that are not a progress record")
    version, body = _BODY_OF[len(record)]
    if _CHECKSUM.unpack_from(record, body.size)[0] != crc32(record[: body.size]):
        raise CorruptProgress("the checksum of the progress record does not match")
    fields = body.unpack_from(record)
    if fields[1] != version:
        raise CorruptProgress(f"progress record of version {fields[1]}; this program reads versions 1 and {VERSION}")
    return Progress(
        partitions=fields[3],
        era=fields[4],
        next_offset=fields[5],
        last_offset=fields[6],
        witness=fields[7],
        topic_id=fields[8],
        lineage=fields[9],
        writer=fields[10],
        base=fields[11],
        gap_end=fields[12],
        as_of_ms=fields[13],
        misrouted_to=fields[14] if version > 1 else 0,
        gaps=fields[-1],
    )
