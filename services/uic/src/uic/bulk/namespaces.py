"""The namespaces of a store as a whole: how large each is, who folds and reads it, and how one goes.

`drop` decides whether one may go; `uic.bulk.removal` takes it away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from mimn.release import (
    OPEN,
    CorruptRecord,
    Record,
    State,
    decode_record,
    other_topic,
    record_key,
    spoiled,
    was_aborted,
)
from mimn.release.announcement import LASTS_S, STANDBY
from mimn.state import CorruptProgress, Keys, Progress, decode_progress
from mimn.state.codec import FLAGS_AT
from uic.bulk.errors import BulkRefused
from uic.bulk.removal import Removal, another_removes
from uic.bulk.watch import WATCHED_S, Watch, is_mark
from uic.core.start_position import LogBounds, contradiction
from uic.errors import StoreUnavailable
from uic.redis_client import FAILURES, clock_ms
from uic.store import RedisStore, read_meta
from uic.store_failures import describe
from uic.tools.scorers import Scorers

SAMPLE: Final = 64
"""States of a partition that are looked at."""
FOLDED_WITHIN_MS: Final = 30_000
"""By the store's clock. A partition that is caught up says so every five seconds."""
SERVING: Final = "serving"

Logs = Mapping[str, Mapping[int, LogBounds]]
"""Topic → partition → the log as its broker describes it, as far as known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """One namespace."""

    namespace: str
    topic: str | None
    partitions: int | None
    users: int
    bytes: int
    """Estimated from a sample of states."""
    lag: int | None
    """Records of the log that are not folded; None if the log was not asked, or nothing will fold them."""
    broken_log: str | None
    """Why the topic is not the log that was folded, as `/readyz` names it; None if it can be, or was not asked."""
    partial_share: float | None
    """Of a sample of users."""
    last_read_s: float | None
    """Seconds since a sampled state was last read or written; None if the store does not say."""
    folded_ms: int | None
    """When the furthest partition was last known to be caught up."""
    served_by: tuple[str, ...]
    """Roles in the rollout record, and how many RTP processes read it."""
    folded: bool
    """Whether a worker has caught up with the log within the last half minute."""
    removed: bool
    """Whether a removal has begun."""


@dataclass(frozen=True, slots=True)
class _Folded:
    """How far a namespace is folded."""

    keys: Keys
    partitions: int | None
    topic: str | None
    records: Mapping[int, bytes | None]
    """By partition, its progress record or what is in its place."""


class Namespaces:
    """All namespaces under one prefix."""

    def __init__(self, client: Any, prefix: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._prefix = prefix
        self._scorers = Scorers(client, prefix, sleep)
        self._watch = Watch(client, sleep)

    def names(self) -> list[str]:
        """The names of all namespaces, sorted."""
        with _asking():
            return sorted(name.decode() for name in self._client.smembers(Keys("", self._prefix).namespaces))

    def topic(self, name: str) -> str | None:
        """What a namespace is made of; None if it does not say."""
        return self._meta(Keys(name, self._prefix)).get("topic")

    def usable(self, topic: str | None) -> list[str]:
        """As `names`, without those whose removal has begun, and those that are made of another topic than `topic`."""
        of_it = [name for name in self.names() if topic is None or self.topic(name) in (None, topic)]
        with _asking():  # partition 0 has the first mark, and loses it last
            return [name for name in of_it if not is_mark(self._client.get(Keys(name, self._prefix).progress(0)))]

    def survey(self, logs: Callable[[], Logs]) -> list[Sized]:
        """How all namespaces stand.

        Args:
            logs: asks the brokers. It is called once the progress of every namespace is read: beside an end that was
                asked before, what a worker has folded since would lie beyond the log, as if that had been truncated.

        Raises:
            StoreUnavailable: no answer.
        """
        folded = [self._folded(name) for name in self.names()]
        asked = logs()
        return [self._sized(one, asked) for one in folded]

    def look(self, name: str) -> Sized:
        """How one namespace stands, without a lag.

        Raises:
            StoreUnavailable: no answer.
        """
        return self._sized(self._folded(name), {})

    def _meta(self, keys: Keys) -> dict[str, Any]:
        with _asking():
            meta = read_meta(self._client.get(keys.meta))
        return meta if isinstance(meta, dict) else {}

    def _folded(self, name: str) -> _Folded:
        keys = Keys(name, self._prefix)
        said = self._meta(keys)
        with _asking():
            return _Folded(
                keys,
                said.get("partitions"),
                said.get("topic"),
                self._records(keys, range(said.get("partitions") or 0)),
            )

    def _sized(self, folded: _Folded, logs: Logs) -> Sized:
        keys, name, topic = folded.keys, folded.keys.namespace, folded.topic
        progress = {p: _progress(record) for p, record in folded.records.items()}
        removed = any(map(is_mark, folded.records.values()))
        users = sampled = size = partial = 0
        idle: list[float] = []
        with _asking():
            for p in progress:
                users += int(self._client.scard(keys.users(p)))
                for user in self._client.srandmember(keys.users(p), SAMPLE) or ():
                    state = keys.state(p, user.decode())
                    seconds = self._watch.idle_s(state)
                    if seconds is not None:
                        idle.append(seconds)
                    size += int(self._client.memory_usage(state) or 0)
                    flags = self._client.getrange(state, FLAGS_AT, FLAGS_AT)
                    partial += bool(flags and flags[0] & 1)
                    sampled += 1
            served = *self.recorded().get(name, ()), *self.read_by(name)
            now_ms = clock_ms(self._client)
        known = [one for one in progress.values() if one is not None]
        log = logs.get(topic or "")
        broken = None if log is None or removed else _broken(progress, log)
        ages = [age for one in known if (age := one.age_ms(now_ms)) is not None]
        return Sized(
            namespace=name,
            topic=topic,
            partitions=folded.partitions,
            users=users,
            bytes=size * users // sampled if sampled else 0,
            lag=None
            if log is None or removed or broken
            else sum(max(0, log[p].end - (one.next_offset if one else 0)) for p, one in progress.items() if p in log),
            broken_log=broken,
            partial_share=partial / sampled if sampled else None,
            last_read_s=min(idle, default=None),
            folded_ms=max((one.as_of_ms for one in known), default=None),
            served_by=served,
            folded=min(ages, default=FOLDED_WITHIN_MS) < FOLDED_WITHIN_MS,
            removed=removed,
        )

    def recorded(self) -> dict[str, list[str]]:
        """By namespace, what the rollout record (docs/formats/rollout.md) has it do; nothing without a record."""
        record = self._client.get(record_key(self._prefix))
        return roles(record) if record else {}

    def read_by(self, name: str) -> list[str]:
        """How many of the RTP processes that announce themselves score by a namespace; nothing if none does. Those on
        standby do not count: they answer no request, and the record lists them."""
        told = self._scorers.announced()
        n = sum(any(one.namespace == name and one.role != STANDBY for one in process.loaded) for process in told)
        return [f"read by {n} RTP process{'es' if n > 1 else ''}"] if n else []

    def drop(self, name: str, *, force: bool, after: Callable[[str], None], serving: bool = False) -> int:
        """Remove a namespace; how many keys went.

        Args:
            name: the namespace.
            force: although a worker or a load seems to write it, or an RTP reads it.
            serving: although it serves by the rollout record.
            after: called after each step: "progress", "slice", "keys", "name".

        Raises:
            BulkRefused: it is served or still written, there is none of this name, or another command removes it.
            StoreUnavailable: no answer; run it again.
        """
        keys = Keys(name, self._prefix)
        if not self.exists(name):
            raise BulkRefused(f"there is no namespace {name} under prefix {self._prefix}: ctr namespaces list")
        with _asking():
            removal = Removal(self._client, keys)
            partitions = removal.partitions()
            # What a removal left that was killed serves nothing and is read by nothing: it is finished whatever the
            # record says by now.
            begun = any(map(is_mark, self._records(keys, partitions).values()))
        if not begun:
            self._refuse_needed(name, force=force, serving=serving)
        if not force:
            self._refuse_busy(self.look(name), keys, partitions)
        with _asking():
            seen = self._records(keys, partitions)
            try:
                gone = removal.close(seen, force=force)
                after("progress")
                if not begun:  # a rollout may have begun while the namespace was watched
                    self._refuse_needed(name, force=force, serving=serving)
            except BulkRefused:
                removal.open_again()
                raise
            return gone + removal.remove(after)

    def exists(self, name: str) -> bool:
        """Whether the store has anything of a namespace, or a removal of it is to be finished.

        Raises:
            StoreUnavailable: no answer.
        """
        with _asking():
            return name in self.names() or bool(self._client.exists(Keys(name, self._prefix).progress(0)))

    def _refuse_needed(self, name: str, *, force: bool, serving: bool) -> None:
        """Refuse what the rollout record names, but with `serving` not what serves, and without `force` what an RTP
        reads.

        Raises:
            BulkRefused: as said.
            StoreUnavailable: no answer.
        """
        with _asking():
            recorded, read_by = self.recorded().get(name), self.read_by(name)
        if recorded and not (serving and SERVING in recorded):
            refill = ", or say --serving if a snapshot is to fill it again" if SERVING in recorded else ""
            raise BulkRefused(
                f"namespace {name} is {', '.join(recorded)} in the rollout record: end or roll back that "
                f"rollout first (ctr rollout list){refill}"
            )
        if read_by and not force:
            raise BulkRefused(
                f"namespace {name} is {', '.join(read_by)}, whose users would be answered without states: stop "
                f"RTP or have it serve another release, and wait {LASTS_S:g} s; or: ctr namespaces drop {name} --force"
            )

    def _refuse_busy(self, found: Sized, keys: Keys, partitions: Sequence[int]) -> None:
        """Refuse while the namespace is written, caught up or not, or read. Takes `WATCHED_S`, and where the store does
        not tell reads, until the announcements are complete (`Scorers.settle`): these decide then, and are asked next.

        Raises:
            BulkRefused: as said.
            StoreUnavailable: no answer.
        """
        by_force = f"ctr namespaces drop {found.namespace} --force"
        way_out = f"stop the workers that have it, and wait half a minute; or if they are gone: {by_force}"
        if found.folded:
            raise BulkRefused(f"a worker has folded namespace {found.namespace} within the last half minute: {way_out}")
        with _asking():
            seen = self._watch.watch(keys, partitions)
            refusal = None if seen.read is not None else self._scorers.settle()
        if seen.removed:
            raise another_removes(found.namespace)
        if seen.written:
            raise BulkRefused(
                f"{seen.written} partitions of namespace {found.namespace} were written within {WATCHED_S:g} s: a "
                f"worker folds it, or a load is on its way; {way_out}"
            )
        if seen.read:
            raise BulkRefused(
                f"the progress of namespace {found.namespace} was read within {WATCHED_S:g} s: an RTP that does not "
                "announce itself answers by its states, or a worker waits for the store (another ctr command reads it, "
                f"too: run this again). Stop them; or if they are to lose it: {by_force}"
            )
        if refusal is not None:
            raise BulkRefused(
                f"whether an RTP reads namespace {found.namespace} is unknown: {refusal}, and it does not say when "
                "the progress was last read (while a snapshot of the store is written, it does not: run this again). "
                f"Look at /releases of every RTP; if none names it: {by_force}"
            )

    def silenced(self) -> str | None:
        """Why `read_by` may lack processes; None if each can announce itself.

        Raises:
            StoreUnavailable: no answer.
        """
        with _asking():
            return self._scorers.refusal()

    def _records(self, keys: Keys, partitions: Sequence[int]) -> dict[int, bytes | None]:
        """What is stored as progress of partitions."""
        return {p: self._client.get(keys.progress(p)) for p in partitions}


def _progress(record: bytes | None) -> Progress | None:
    try:
        return decode_progress(record) if record else None
    except CorruptProgress:
        return None


def _record(store: RedisStore, keys: Keys) -> Record | None:
    """The rollout record; None if there is none, or none that can be read: `ctr rollout` says what to do about that."""
    with _asking():
        stored = store.client.get(record_key(keys.prefix))
    try:
        return decode_record(stored) if stored else None
    except CorruptRecord:
        return None


def refuse_another_topic(store: RedisStore, keys: Keys, topic: str) -> None:
    """Refuse states of another topic than the one that a rollout on its way makes a namespace of.

    Raises:
        BulkRefused: as said.
        StoreUnavailable: no answer.
    """
    record = _record(store, keys)
    going = None if record is None else record.open
    if going is None or going.release.namespace != keys.namespace:
        return
    if (named := other_topic(going.origin)) not in (None, topic):
        raise BulkRefused(
            f"rollout {going.id} makes namespace {keys.namespace} of topic {named}, and UIC_KAFKA__TOPIC is {topic}: "
            "correct that and UIC_KAFKA__PARTITIONS"
        )


def refuse_aborted(store: RedisStore, keys: Keys) -> None:
    """Refuse states of a rollout that was aborted, unless another one has its namespace for a way back: nothing uses it
    any more.

    Raises:
        BulkRefused: as said.
        StoreUnavailable: no answer.
    """
    record = _record(store, keys)
    if record is None or keys.namespace not in spoiled(record) - {held.namespace for held in record.held}:
        return
    ended = next(
        one for one in reversed(record.rollouts) if was_aborted(one) and one.release.namespace == keys.namespace
    )
    raise BulkRefused(
        f"rollout {ended.id} was aborted, and no rollout uses its namespace {keys.namespace} again: nothing more is "
        "loaded, and what was is of no use and goes by `ctr rollout gc` alone (`ctr rollout start` begins another)"
    )


def roles(record: bytes) -> dict[str, list[str]]:
    """What a rollout record has each namespace do: serve, answer an arm, shadow, or be on its way or kept.

    Raises:
        BulkRefused: it cannot be read, so nothing may be dropped.
    """
    try:
        said = decode_record(record)
    except CorruptRecord as error:
        raise BulkRefused(f"the rollout record cannot be read ({error}), so nothing is dropped") from error
    found: dict[str, list[str]] = {}
    for role, releases in (
        (SERVING, [said.serving]),
        ("an arm", [arm.release for arm in said.arms]),
        ("a shadow", [arm.release for arm in said.shadows]),
        ("in a rollout", [one.release for one in said.rollouts if one.state in OPEN]),
        ("kept for a way back", [one.replaces for one in said.rollouts if one.state is State.SERVING]),
    ):
        for release in releases:
            found.setdefault(release.namespace, []).append(role)
    return found


def _broken(progress: Mapping[int, Progress | None], log: Mapping[int, LogBounds]) -> str | None:
    """Why partitions cannot be the log that was folded; None if all can be."""
    known = ((one, log[p]) for p, one in progress.items() if one is not None and p in log)
    return next((reason.value for one, now in known if (reason := contradiction(one, now)) is not None), None)


@contextmanager
def _asking() -> Iterator[None]:
    """Turns redis-py's errors into `StoreUnavailable`."""
    try:
        yield
    except FAILURES as error:
        raise StoreUnavailable(f"the store did not answer: {describe(error)}") from error
