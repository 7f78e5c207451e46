"""Whether stored states are the fold of the log: some users' records, folded again, against what is stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from mimn.state import Progress, StateError, StateHeader, UserState, decode_state, user_hash
from uic.bulk.kept_ledgers import SharedBlocks
from uic.core.event import Record
from uic.core.held_states import HeldStates
from uic.core.model import Model
from uic.core.ordering import Waiting

CLOSE: Final = 1e-5
FOLDED_AT_ONCE: Final = 5_000
"""Records."""


@dataclass(slots=True)
class Verified:
    """The comparison."""

    users: int = 0
    """Compared."""
    same_bits: int = 0
    """Of those, how many have the very same tensors."""
    moved_on: int = 0
    """Not compared: a worker has folded more events since."""
    missing: int = 0
    """Without a state, or with an unreadable one."""
    too_many: int = 0
    """With a state although no event of theirs is left."""
    count: int = 0
    """With another number of events."""
    digest: int = 0
    """With the right number, but not these events in this order."""
    tensors: int = 0
    """With other numbers in the state."""

    @property
    def wrong(self) -> int:
        """Users whose state is not the fold of the log."""
        return self.missing + self.too_many + self.count + self.digest + self.tensors


def fold_users(
    records: Iterable[Record],
    users: Collection[bytes],
    erased: Mapping[bytes, int],
    model: Model,
    *,
    partition: int,
    begin: Progress,
) -> dict[bytes, bytes]:
    """The states that a partition's records give some users, as stored; those without an event left have none."""
    held = HeldStates(model)
    theirs: Iterator[Record] = (record for record in records if record.key in users)
    while some := list(islice(theirs, FOLDED_AT_ONCE)):
        held.fold([Waiting(partition, some, begin.next_offset, erased)], [begin])
    return held.of(partition)


def compare(
    stored: Mapping[bytes, bytes | None],
    folded: Mapping[bytes, bytes],
    model: Model,
    *,
    lineage: int,
    end: int,
    verified: Verified,
    kept: Mapping[bytes, SharedBlocks],
) -> None:
    """Compare users' stored values with what the log gives, and count into `verified`.

    Args:
        stored: by record key of every user to compare.
        folded: see `fold_users`.
        model: what folded them.
        lineage: the partition's; states of another one are as if absent.
        end: what lies at or above this offset was not read: states that reach further are not compared, unless they
            are as far as the kept ones, which may be ahead of progress or of an earlier era.
        verified: counted into.
        kept: what states have of earlier ones, with a backfill that keeps ledgers.
    """
    for user, value in stored.items():
        due = _due(folded.get(user), kept.get(user), model)
        try:
            state = value and decode_state(value, model.fingerprint, model.layout, user_hash(user.decode()))
        except StateError:
            state = None
        if not state or state.header.lineage != lineage:
            if due is not None:
                verified.users += 1
                verified.missing += 1
            continue
        header = state.header
        if header.last_offset >= end and not (user in kept and _is_as_kept(header, kept[user].header)):
            verified.moved_on += 1
            continue
        verified.users += 1
        if due is None:
            verified.too_many += 1
        elif header.event_count != due.header.event_count:
            verified.count += 1
        elif (header.digest, header.last_offset) != (due.header.digest, due.header.last_offset):
            verified.digest += 1
        elif not model.layout.close(state.tensors, due.tensors, CLOSE):
            verified.tensors += 1
        else:
            verified.same_bits += int(state.tensors.tobytes() == due.tensors.tobytes())


def _due(folded: bytes | None, kept: SharedBlocks | None, model: Model) -> UserState | None:
    """What a user's state should be; None: there should be none."""
    due = None if folded is None else decode_state(folded, model.fingerprint, model.layout)
    if kept is None:
        return due
    tensors = np.array(model.initial_state if due is None else due.tensors)
    for place, block in kept.blocks:
        tensors[place] = block
    return UserState(kept.header, tensors)


def _is_as_kept(header: StateHeader, kept: StateHeader) -> bool:
    """Whether no event was folded into a state since its ledger was copied."""
    return (header.era, header.last_offset) == (kept.era, kept.last_offset)
