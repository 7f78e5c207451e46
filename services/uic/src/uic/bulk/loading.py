"""Loads saved states into the store: states first, then one progress record a partition, and UIC goes on from there.

A partition is loaded only while it has no progress record. Until the record is there its states are of a lineage that
has no progress, so UIC and RTP count them as absent: a load that was killed leaves nothing that counts, and the next
one removes what it left and writes its own. A claim in the store keeps two loads apart. It names what is loaded: all
snapshots of a namespace may be of one lineage, and under the record of one the states of another would count.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from redis.exceptions import ResponseError

from mimn.state import REMOVAL, CorruptProgress, Keys, decode_progress, header_of
from uic.bulk.errors import BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.politeness import Politeness
from uic.bulk.saved_states import SavedPartition, SavedStates, states_of
from uic.core.commit import ABSENT
from uic.errors import StoreUnavailable
from uic.redis_client import FAILURES
from uic.store import RedisStore
from uic.store_failures import describe
from uic.transaction import Sent, commands

STATES_A_CALL: Final = 128
"""The store answers no other client while it writes them."""
ENTRY_BYTES: Final = 250
"""Of a state in the store besides its value: key, entry, and the user in the set of users."""
FORK_INTERVAL_S: Final = 1.0
ATTEMPTS: Final = 5
"""At a write, if the keys that it depends on keep changing."""


@dataclass(slots=True)
class Loaded:
    """What a load did, so far: of partitions that it handed over, but for those that it found there."""

    partitions: int = 0
    states: int = 0
    bytes: int = 0
    erased: int = 0
    """States that were left out because their user was erased since."""
    already_there: int = 0
    """Partitions that another run of this load, or a load of the same lineage, had handed over."""


class _HandedOver(Exception):
    """Another run has handed the partition over meanwhile."""


class Loader:
    """Loads partitions of one namespace."""

    def __init__(
        self,
        store: RedisStore,
        keys: Keys,
        politeness: Politeness,
        *,
        take_over: bool = False,
        after: Callable[[str], None] = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            store: the namespace's.
            keys: of the namespace.
            politeness: the budget.
            take_over: take a claim that another load left.
            after: called after each step: "claim", "states", "hand_over".
            clock, sleep: seconds.
        """
        self._store = store
        self._keys = keys
        self._politeness = politeness
        self._take_over = take_over
        self._after = after
        self._clock = clock
        self._sleep = sleep
        self._fork_due = 0.0
        self.done = Loaded()

    def refuse(self, manifest: SavedStates, *, memory_share: float) -> list[SavedPartition]:
        """Look at the whole deployment before a byte is written; the partitions that are still to be loaded.

        Raises:
            BulkRefused: a partition is folded already, another load is on its way,
                or there is too little memory.
            NamespaceConflict: the namespace is of another topic or partition count.
            EvictingStore: the store may evict states.
            StoreUnavailable: no answer.
        """
        self._store.check()
        client = self._store.client
        try:
            self._store.refuse_another_topic(manifest.n, manifest.topic)
            missing = self._missing(manifest)
            if not self._take_over:
                for saved in missing:
                    claim = client.get(self._keys.loading(saved.partition))
                    if claim is not None and claim != claim_of(saved):
                        raise BulkRefused(
                            f"partition {saved.partition} is being loaded by another job, or one that died: wait for "
                            "it, run that job again, or take over with --take-over when it is certain that it is gone"
                        )
        except FAILURES as error:
            raise StoreUnavailable(f"cannot look at the namespace: {describe(error)}") from error
        self._refuse_too_little_memory(missing, memory_share)
        return missing

    def load(self, folder: Folder, saved: SavedPartition, erased: Mapping[bytes, int]) -> None:
        """Load one partition and hand it over, unless another run of this load does so first.

        Args:
            folder: where its states are; their hash was checked.
            saved: the partition.
            erased: key → offset up to which the user's events are erased; such states are left out.

        Raises:
            BulkRefused: a worker began to fold the partition, another load took it, or the store lost what was loaded.
            StoreUnavailable: no answer.
        """
        partition, claim = saved.partition, claim_of(saved)
        states = size = left_out = 0
        try:
            self._claim(saved, claim)
            self._clear(saved, claim)
            for keys, values in states_of(folder, saved, STATES_A_CALL):
                kept = [(k, v) for k, v in zip(keys, values, strict=True) if not _is_erased(saved, erased.get(k), v)]
                states += len(kept)
                left_out += len(keys) - len(kept)
                if kept:
                    size += self._write(saved, claim, kept)
            self._hand_over(saved, claim, states)
        except _HandedOver:  # with what that run wrote, so nothing of this one counts
            self.done.already_there += 1
            return
        except FAILURES as error:
            raise StoreUnavailable(f"cannot load partition {partition}: {describe(error)}") from error
        except StoreUnavailable as error:
            raise StoreUnavailable(f"cannot load partition {partition}: {error}", answered=error.answered) from error
        self.done.partitions += 1
        self.done.states += states
        self.done.bytes += size
        self.done.erased += left_out

    def confirm(self, manifest: SavedStates) -> None:
        """Look again once all partitions are loaded: a store that was emptied in between has lost the first ones.

        Raises:
            BulkRefused: a partition does not go on from these states.
            StoreUnavailable: no answer.
        """
        stored = self._store.progress_of(range(manifest.n))
        lost = [p.partition for p in manifest.partitions if _lineage(stored[p.partition]) != p.decoded.lineage]
        if lost:
            raise BulkRefused(
                f"the store has lost partitions {', '.join(map(str, lost))} since they were loaded: run it again, with "
                "the workers stopped"
            )

    def _missing(self, manifest: SavedStates) -> list[SavedPartition]:
        stored = self._store.progress_of(range(manifest.n))
        missing = []
        for saved in manifest.partitions:
            record = stored[saved.partition]
            if record == ABSENT:
                missing.append(saved)
            elif _lineage(record) == saved.decoded.lineage:
                self.done.already_there += 1
            elif record.startswith(REMOVAL):
                raise self._removed()
            else:
                raise BulkRefused(
                    f"partition {saved.partition} of namespace {self._keys.namespace} has progress already: a worker "
                    "folds it, or folded it. Stop the workers and drop the namespace (ctr namespaces drop), or raise "
                    "UIC_BUNDLE__GENERATION"
                )
        return missing

    def _refuse_too_little_memory(self, missing: Sequence[SavedPartition], share: float) -> None:
        needed = sum(p.value_bytes + p.users * ENTRY_BYTES for p in missing)
        used = limit = 0
        for node in self._store.info("memory"):
            used += int(node["used_memory"])
            limit += int(node.get("maxmemory") or 0) or int(node.get("total_system_memory") or 0)
        if limit and used + needed > share * limit:
            raise BulkRefused(
                f"too little memory: the store uses {used:,} bytes and these states need about {needed:,} more, above "
                f"{share:.0%} of {limit:,} (the rest is for a fork's copies). Drop a namespace that nothing reads "
                "(ctr namespaces), add memory or nodes, or allow more by --memory-share"
            )

    def _claim(self, saved: SavedPartition, claim: bytes) -> None:
        """From here on this load may write the partition, and no other one."""
        progress, loading = self._keys.progress(saved.partition), self._keys.loading(saved.partition)
        look = commands(("WATCH", progress, loading), ("MGET", progress, loading))

        def then(replies: list[Any]) -> Sent:
            _, (record, holder) = _answered(replies)
            self._refuse_folded(saved, record)
            if holder not in (None, claim) and not self._take_over:
                raise BulkRefused(f"partition {saved.partition} is being loaded by another job")
            return commands(("SET", loading, claim))

        self._execute(saved.partition, look, then)
        self._after("claim")

    def _clear(self, saved: SavedPartition, claim: bytes) -> None:
        """Remove the states that an earlier load left here. They are of the same lineage if it loaded another snapshot
        of this namespace: with our record they would count, and bring back users who were erased in between."""
        keys, partition = self._keys, saved.partition
        while left := self._store.client.srandmember(keys.staged(partition), STATES_A_CALL):
            self._wait(0, partition)
            states = (keys.state(partition, user.decode()) for user in left)
            self._change(saved, claim, [("UNLINK", *states), ("SREM", keys.staged(partition), *left)])

    def _write(self, saved: SavedPartition, claim: bytes, states: Sequence[tuple[bytes, bytes | None]]) -> int:
        """Write states of a partition; returns their bytes."""
        keys, partition = self._keys, saved.partition
        size = sum(len(v or b"") for _, v in states)
        self._wait(size, partition)
        strings = [(keys.state(partition, user.decode()), value) for user, value in states if value]
        listed = ("SADD", keys.staged(partition), *(user for user, _ in states))
        self._change(saved, claim, [listed, *([("MSET", *chain(*strings))] if strings else [])])
        self._after("states")
        return size

    def _hand_over(self, saved: SavedPartition, claim: bytes, users: int) -> None:
        """The users of this load become the partition's users, and a worker goes on from the progress record."""
        keys, partition = self._keys, saved.partition
        listed = [("RENAME", keys.staged(partition), keys.users(partition))] if users else []
        record = ("SET", keys.progress(partition), bytes.fromhex(saved.progress))
        said = [("UNLINK", keys.users(partition)), *listed, record, ("DEL", keys.loading(partition))]
        self._change(saved, claim, said, users)
        self._after("hand_over")

    def _change(
        self, saved: SavedPartition, claim: bytes, said: Sequence[tuple[Any, ...]], users: int | None = None
    ) -> None:
        """Execute commands together, only while the partition has no progress record, so that no worker folds it, and
        this load holds the claim, so that no other load writes it; with `users` also only if the store still has that
        many of this load.

        Raises:
            BulkRefused, _HandedOver: one of these does not hold; nothing is written.
            FAILURES: no answer.
        """
        keys, partition = self._keys, saved.partition
        progress, loading, staged = keys.progress(partition), keys.loading(partition), keys.staged(partition)
        look = commands(("WATCH", progress, loading, staged), ("MGET", progress, loading), ("SCARD", staged))

        def then(replies: list[Any]) -> Sent:
            _, (record, holder), loaded = _answered(replies)
            self._refuse_folded(saved, record)
            if holder != claim:
                raise BulkRefused(
                    f"another load took partition {partition} over, or the store was emptied: run it again"
                )
            if users is not None and loaded != users:
                raise BulkRefused(
                    f"the store no longer has exactly the states of partition {partition} that were loaded: run it "
                    "again"
                )
            return commands(*said)

        self._execute(partition, look, then)

    def _execute(self, partition: int, look: Sent, then: Callable[[list[Any]], Sent]) -> None:
        for _ in range(ATTEMPTS):
            *queued, executed = self._store.transact(partition, look, then)
            if executed is not None:  # else one of the keys was changed after the look, and nothing is written
                _answered([*queued, executed, *(executed if isinstance(executed, list) else [])])
                return
        raise StoreUnavailable("what the load depends on keeps changing")

    def _refuse_folded(self, saved: SavedPartition, record: bytes | None) -> None:
        """Raises BulkRefused or _HandedOver if the partition has a progress record."""
        if record is None:
            return
        if _lineage(record) == saved.decoded.lineage:
            raise _HandedOver
        if record.startswith(REMOVAL):
            raise self._removed()
        raise BulkRefused(
            f"a worker began to fold partition {saved.partition} while it was being loaded: its states count, and "
            "this load's do not. Stop the workers, drop the namespace (ctr namespaces drop) and run this again"
        )

    def _removed(self) -> BulkRefused:
        return BulkRefused(
            f"namespace {self._keys.namespace} is being removed, or its removal was killed: wait for it, or finish it "
            "(ctr namespaces drop), and run this again"
        )

    def _wait(self, size: int, partition: int) -> None:
        """Wait as politeness demands, and while the store forks: what is written then is copied."""
        began = self._clock()
        self._store.client.get(self._keys.loading(partition))
        self._politeness.probed(self._clock() - began)
        if (pause := self._politeness.wait_s(size, self._clock())) > 0:
            self._sleep(pause)
        while self._clock() >= self._fork_due:
            forks = any(
                int(node.get("rdb_bgsave_in_progress", 0)) or int(node.get("aof_rewrite_in_progress", 0))
                for node in self._store.info("persistence")
            )
            self._fork_due = self._clock() + FORK_INTERVAL_S
            if not forks:
                break
            self._sleep(FORK_INTERVAL_S)


def _answered(replies: list[Any]) -> list[Any]:
    """Replies without an error among them.

    Raises:
        ResponseError: the first one.
    """
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


def _is_erased(saved: SavedPartition, upto: int | None, value: bytes | None) -> bool:
    """Whether a state ends at or below its user's erasure; what came after an erasure is not erased. Offsets of a log
    before, of an earlier era, say nothing about it: such a state is older."""
    if upto is None or value is None:
        return upto is not None
    header = header_of(value)
    return header.era != saved.decoded.era or header.last_offset <= upto


def claim_of(saved: SavedPartition) -> bytes:
    """What a load writes into the claim: the lineage, and a hash of what is loaded. So a load that is run again goes
    on, and one of another snapshot is another load."""
    loaded = hashlib.sha256(f"{saved.progress} {saved.sha256}".encode()).hexdigest()
    return f"{saved.decoded.lineage:016x}-{loaded[:16]}".encode()


def _lineage(record: bytes) -> int | None:
    try:
        return decode_progress(record).lineage
    except CorruptProgress:
        return None
