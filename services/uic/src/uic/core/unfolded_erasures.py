"""Whose states go when a partition leaves records of the log out: the null record of an erasure may be among them, and
then only its note (docs/formats/erased.md) tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from mimn.state import CorruptProgress, Progress, decode_progress


def logs_of(stored: bytes, now: Progress) -> set[bytes]:
    """The topic ids of the logs whose erasures a partition must know that goes on as `now` says, in place of the record
    `stored`: the log that is read now, and the one that the states are of."""
    before = _decoded(stored)
    return {now.topic_id} if before is None else {now.topic_id, before.topic_id}


def users_to_forget(stored: bytes, now: Progress, notes: Mapping[bytes, Mapping[bytes, int]]) -> list[str]:
    """The users whose states go when `now` replaces the record `stored` (`ABSENT`: none), in order.

    Where reading goes on in the same log, they are those erased at or above the place where the states end: no state
    has folded any of these erasures. A new lineage takes no state over, and in a log that was broken old offsets say
    nothing; there they are all users with a note.

    Args:
        stored: the progress record that the states were written with.
        now: the progress from now on.
        notes: for each of `logs_of`, user's key → offset of the user's erasure.
    """
    before = _decoded(stored)
    goes_on = before is not None and (before.lineage, before.era) == (now.lineage, now.era)
    least = before.next_offset if before is not None and goes_on else 0
    keys = {key for of_log in notes.values() for key, offset in of_log.items() if offset >= least}
    users = []
    for key in sorted(keys):
        with suppress(UnicodeDecodeError):  # no user has such a key
            users.append(key.decode())
    return users


def below(end: int, notes: Mapping[bytes, int]) -> dict[bytes, int]:
    """The notes that a partition leaves records out by, of a log that ended at `end` when they were about to be read.

    A note at or above it is of an erasure that was appended since, which will be read, or of one in a tail that the log
    has lost: then its offsets are given to new events, which count. In either case what the log held is erased.

    Args:
        end: offset that the next record of the log would get.
        notes: user's key → offset of the user's erasure.
    """
    return {key: min(offset, end - 1) for key, offset in notes.items()}


def _decoded(record: bytes) -> Progress | None:
    try:
        return decode_progress(record)
    except CorruptProgress:
        return None
