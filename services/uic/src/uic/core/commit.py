"""What a commit asks the store to write, what the store may answer, and what follows from an answer.

A partition's states and its progress are written if, and only if, the whole stored progress record is the one that the
session read or wrote last. So a refusal has that record, and comparing it with ours tells what happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

from mimn.state import CorruptProgress, Progress, decode_progress
from uic.errors import StoreUnavailable

T = TypeVar("T")

ABSENT = b""
"""Represents a progress record that the store does not have."""


class Commit(NamedTuple):
    """One partition's states and progress, to be written together."""

    partition: int
    expected: bytes
    """The progress record that must be stored now; `ABSENT` if there must be none."""
    progress: bytes
    """The record that replaces it."""
    values: Sequence[tuple[str, bytes | None]] = ()
    """User id and state value; None deletes it. The users that `created` and `listed` count come first."""
    created: int = 0
    """How many belong to users who had no state. If the store's list says that one had a state, nothing is written."""
    listed: int = 0
    """How many of the next ones belong to users who may be missing from the store's list of users with a state."""
    begins_lineage: bool = False
    """Whether the currently stored states count as absent from now on."""
    erases: bool = False
    """Whether a user or an item was erased: everything in the partition that was set aside as unreadable goes, because
    it may hold a copy of what was erased."""


@dataclass(frozen=True, slots=True)
class Written:
    """Everything was written."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was written: another record is stored."""

    stored: bytes
    """That record, `ABSENT` if there is none."""


@dataclass(frozen=True, slots=True)
class StatesLost:
    """Nothing was written: some users whose state was not found had one before."""

    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Unknown: no reply, or an error that does not say."""

    detail: str


def answered(reply: T | NoAnswer) -> T:
    """What a server replied.

    Raises:
        StoreUnavailable: it did not.
    """
    if isinstance(reply, NoAnswer):
        raise StoreUnavailable(reply.detail)
    return reply


Answer = Written | Refused | StatesLost | NoAnswer


class Verdict(StrEnum):
    """What a stored progress record means for the session that holds another one."""

    OURS = "ours"
    """The record that we tried to write: an earlier try had arrived."""
    UNCHANGED = "unchanged"
    """The record that we knew: nothing was written since."""
    OWNERSHIP_LOST = "ownership_lost"
    """Ahead of ours, or from another writer: another process has the partition."""
    STORE_BEHIND = "store_behind"
    """Absent, or older than what the store had acknowledged: the store lost writes."""
    UNREADABLE = "unreadable"
    """No progress record."""


def judge(stored: bytes, known: bytes, tried: bytes | None) -> Verdict:
    """What the record `stored` means.

    Args:
        stored: as read from the store, `ABSENT` if there is none.
        known: the last record that the session read, or that the store acknowledged to it.
        tried: the record that the session tried to write over `known`, if it did.

    Total: every combination has a verdict. Within one lineage records are compared as (era, next offset), and records
    of one writer also by their as-of time: another writer's may be lower, as after the store's clock was set back. A
    record of another lineage can only come from another process.
    """
    if tried is not None and stored == tried:
        return Verdict.OURS
    if stored == known:
        return Verdict.UNCHANGED
    if stored == ABSENT:
        return Verdict.STORE_BEHIND
    try:
        theirs = decode_progress(stored)
    except CorruptProgress:
        return Verdict.UNREADABLE
    try:
        ours = decode_progress(known)
    except CorruptProgress:
        return Verdict.OWNERSHIP_LOST
    if theirs.lineage == ours.lineage and _is_older(theirs, ours):
        return Verdict.STORE_BEHIND
    return Verdict.OWNERSHIP_LOST


def _is_older(one: Progress, other: Progress) -> bool:
    ages = [(p.era, p.next_offset) for p in (one, other)]
    if ages[0] != ages[1]:
        return ages[0] < ages[1]
    return one.writer == other.writer and one.as_of_ms < other.as_of_ms
