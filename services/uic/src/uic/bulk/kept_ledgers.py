"""A migration can copy the ledgers of the states in service and fold only the memories again.

A retrained memory must be folded from events, as many as the log or its archive still has. A ledger contains no
weights, so it is valid under both bundles, and it may cover events that the log has lost. A user's new state is
therefore a copy of the old header and ledger, with a memory that is folded from the events that remain. The fold
computes its own digest. If that differs from the header's, the memory lacks events, and the state is `partial`.

The states in service are those of a snapshot (`snapshots`). Its files are copied when the job begins, because the
snapshot may expire before the job ends. A state may be ahead of its partition's progress. UIC goes on from that
progress and skips what a state says it has, so the memory is folded up to where each state is: of the records behind
the progress, only those that are in their user's state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.arrow import pa
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.manifest import shared_blocks
from mimn.state import (
    EMPTY_DIGEST,
    Progress,
    StateError,
    StateHeader,
    UserState,
    decode_state,
    encode_states,
    header_rows,
    user_hash,
)
from uic.bulk.errors import BulkRefused, DamagedFile
from uic.bulk.folder import Folder
from uic.bulk.partition_fold import FoldedPartition
from uic.bulk.saved_states import ROWS_A_GROUP, SavedPartition, copy_files, read_manifest, refuse_others, states_of

LEDGER: Final = "ledger"
NOT_FOLDED: Final = -1


class KeptLedgers(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's `job.json` says of the states whose ledgers it keeps."""

    snapshot: str
    """Folder of the snapshot, which may be gone: the job reads its copy."""
    bundle: str
    """Path of the bundle that the snapshot was made with."""
    partitions: tuple[SavedPartition, ...]
    """Of the snapshot."""

    @property
    def users(self) -> int:
        """Users of all partitions."""
        return sum(saved.users for saved in self.partitions)

    def copy(self, to: Folder) -> None:
        """Copy the snapshot's states, and compare their hashes.

        Raises:
            DamagedFile: the snapshot is gone, or not what was written.
        """
        with _taking_another():
            copy_files(Folder(self.snapshot), self.partitions, to)

    def value_bytes(self, new: Bundle) -> int:
        """About how many bytes a state of `new` takes with a kept ledger: what the kept states take on average, and
        by how much a whole state of one bundle is larger than that of the other."""
        mean = sum(saved.value_bytes for saved in self.partitions) // max(self.users, 1)
        return mean + new.layout.stored_bytes - load_bundle(Path(self.bundle)).layout.stored_bytes


def keep(snapshot: Folder, bundle: Path, new: Bundle, *, topic: str, topic_id: str, n: int) -> KeptLedgers:
    """The ledgers of a snapshot, for a fold with `new` of the topic that its states were folded from.

    Raises:
        BulkRefused: the snapshot is of another bundle or topic, or the two bundles' ledgers mean different things.
        DamagedFile: there is no complete snapshot.
        BundleError: the bundle cannot be loaded.
    """
    with _taking_another():
        manifest = read_manifest(snapshot)
    old = load_bundle(bundle)
    wanted = {"fingerprint": old.manifest.fingerprint, "topic": topic, "topic id": topic_id, "partitions": n}
    there = {
        "fingerprint": manifest.fingerprint,
        "topic": manifest.topic,
        "topic id": manifest.topic_id,
        "partitions": manifest.n,
    }
    fixes = {
        "fingerprint": "give the bundle that the snapshot was made with (--of-bundle)",
        "topic": "correct UIC_KAFKA__TOPIC",
        "topic id": "the topic was created again: take a snapshot of states that are folded from it",
        "partitions": "correct UIC_KAFKA__PARTITIONS",
    }
    refuse_others(there, wanted, fixes)
    if old.manifest.fingerprint == new.manifest.fingerprint:
        raise BulkRefused(
            f"{old.name} and {new.name} read the same states: there is nothing to fold (ctr rollout start {new.path})"
        )
    if LEDGER not in shared_blocks(new.manifest, old.manifest):
        raise BulkRefused(
            f"the ledgers of {old.name} and {new.name} do not hold the same: both bundles need one, of the same size, "
            "rule and folded actions. Fold the whole log or its archive instead, without --keep-ledgers"
        )
    return KeptLedgers(
        snapshot=snapshot.url,
        bundle=str(old.path.resolve()),
        partitions=manifest.partitions,
    )


@contextmanager
def _taking_another() -> Iterator[None]:
    """Say what to do about a snapshot that is gone or damaged."""
    try:
        yield
    except DamagedFile as error:
        raise DamagedFile(f"{error}. The snapshot is gone or damaged: take another (ctr snapshot create)") from error


class SharedBlocks(NamedTuple):
    """What a joined state has of the kept one."""

    header: StateHeader
    blocks: list[tuple[slice, NDArray[np.float32]]]
    """Places in the new flat vector, and what is there."""


@dataclass(slots=True)
class Joined:
    """What became of a partition's kept ledgers, so far."""

    complete: int = 0
    """States whose memory is the fold of all their events."""
    partial: int = 0
    """States whose memory lacks events that their ledger has."""


@dataclass
class KeptPartition:
    """One partition's states in service, and how they join what is folded."""

    states_in: Folder
    """Where the snapshot's states are."""
    saved: SavedPartition
    old: Bundle
    """Of the states in service."""
    new: Bundle
    lineage: int
    """Of the new states."""
    writer: int
    erased: Mapping[bytes, int]
    """Key → offset up to which the user's events are left out."""
    joined: Joined = field(default_factory=Joined)

    @cached_property
    def reached(self) -> Progress:
        """From where UIC goes on with the joined states."""
        return self.saved.decoded._replace(lineage=self.lineage, writer=self.writer)

    @cached_property
    def ahead(self) -> dict[bytes, int]:
        """Key → last offset of the states that are ahead of the partition's progress."""
        found = {}
        for user, state in self.states():
            if (last := self._last(state.header)) >= self.reached.next_offset:
                found[user] = last
        return found

    def refuse_older_log(self, end: int) -> None:
        """Raises BulkRefused if the records that are folded end below a kept state, at `end`."""
        last = max([self.reached.next_offset - 1, *self.ahead.values()])
        if end <= last:
            raise BulkRefused(
                f"partition {self.saved.partition}: the archive ends at {end}, and the snapshot's states at "
                f"{last + 1}: archive again (ctr archive)"
            )

    def cut(self, records: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The records that are in the kept states: all below the partition's progress, and behind it those of users
        whose state is as far."""
        end = self.reached.next_offset
        for some in records:
            offsets = some.column("offset").to_numpy()
            below = int(np.searchsorted(offsets, end))
            if below == len(some):
                yield some
                continue
            keys = some.column("key").slice(below).to_pylist()
            behind = [self.holds(key, at) for key, at in zip(keys, offsets[below:].tolist(), strict=True)]
            yield some.filter(pa.array([True] * below + behind))

    def holds(self, user: bytes | None, offset: int) -> bool:
        """Whether a record is in the kept states."""
        return offset < self.reached.next_offset or (user is not None and offset <= self.ahead.get(user, NOT_FOLDED))

    def shared(self, users: Collection[bytes]) -> dict[bytes, SharedBlocks]:
        """Of some users what a joined state has of the kept one.

        Raises:
            DamagedFile: the snapshot holds a state that cannot be read.
        """
        return {
            user: SharedBlocks(state.header, [(ours, state.tensors[theirs]) for ours, theirs in self._places])
            for user, state in self.states()
            if user in users
        }

    def join(self, folded: FoldedPartition) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Users and states as they are stored, of the fold of what `cut` lets pass: kept ledgers with folded memories,
        and the states of users who had none.

        Raises:
            DamagedFile: the snapshot holds a state that cannot be read.
        """
        new, users_folded = self.new, folded.states.users
        row_of = {user: row for row, user in enumerate(users_folded)}
        headers, tensors = folded.states.headers, folded.states.tensors
        digests = headers["digest"].tolist()
        alone = np.ones(len(row_of), np.bool_)
        for users, states in self._groups(folded.shard):
            rows = np.array([row_of.get(user, NOT_FOLDED) for user in users])
            there = rows != NOT_FOLDED
            joined = np.tile(new.initial_state, (len(users), 1))
            joined[there] = tensors[rows[there]]
            before = np.stack([state.tensors for state in states])
            for ours, theirs in self._places:
                joined[:, ours] = before[:, theirs]
            read = [digests[row] if row != NOT_FOLDED else EMPTY_DIGEST for row in rows.tolist()]
            complete = np.array([one == state.header.digest for one, state in zip(read, states, strict=True)])
            self.joined.complete += int(complete.sum())
            self.joined.partial += int((~complete).sum())
            kept = header_rows([state.header for state in states])
            kept["lineage"] = self.lineage
            kept["partial"] |= ~complete
            alone[rows[there]] = False
            yield users, encode_states(kept, joined, new.fingerprint, new.layout)
        headers["era"] = self.reached.era
        left = np.flatnonzero(alone)
        for at in range(0, len(left), ROWS_A_GROUP):
            some = left[at : at + ROWS_A_GROUP]
            values = encode_states(headers[some], tensors[some], new.fingerprint, new.layout)
            yield [users_folded[row] for row in some.tolist()], values

    def states(self) -> Iterator[tuple[bytes, UserState]]:
        """Users and states in service that are not erased.

        Raises:
            DamagedFile: a state cannot be read.
        """
        folder, old = self.states_in, self.old
        for users, values in states_of(folder, self.saved):
            for user, value in zip(users, values, strict=True):
                if value is None:
                    continue
                try:
                    state = decode_state(value, old.fingerprint, old.layout, user_hash(user.decode()))
                except StateError as error:
                    raise DamagedFile(
                        f"{folder.url}: partition {self.saved.partition} holds a bad state: {error}. Take another "
                        "snapshot, and choose another --work"
                    ) from error
                if (upto := self.erased.get(user)) is None or self._last(state.header) > upto:
                    yield user, state

    @cached_property
    def _places(self) -> list[tuple[slice, slice]]:
        """Where the shared blocks are, in the new state and in the old one."""
        shared = shared_blocks(self.new.manifest, self.old.manifest)
        old = {block.name: place for block, place in self.old.layout.slices()}
        return [(place, old[block.name]) for block, place in self.new.layout.slices() if block.name in shared]

    def _groups(self, shard: tuple[int, int]) -> Iterator[tuple[list[bytes], list[UserState]]]:
        mine, shards = shard
        group: list[tuple[bytes, UserState]] = []
        for user, state in self.states():
            if shards > 1 and crc32(user) % shards != mine:
                continue
            group.append((user, state))
            if len(group) == ROWS_A_GROUP:
                yield [user for user, _ in group], [state for _, state in group]
                group = []
        if group:
            yield [user for user, _ in group], [state for _, state in group]

    def _last(self, header: StateHeader) -> int:
        """The state's last offset, in the log that is folded now."""
        return header.last_offset if header.era == self.reached.era else NOT_FOLDED
