"""Looks at every gate of a rollout, for one revision of the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mimn.release import (
    Checked,
    Finding,
    Gate,
    Record,
    Release,
    Rollout,
    behind,
    foreign,
    not_built,
    not_loaded,
    not_ready,
    other_topic,
    out_of_memory,
)
from uic.errors import UicError
from uic.log.erasures import KafkaErasures
from uic.redis_client import clock_ms, info
from uic.rollout.comparison import Extent, Seen, compare_users, look_for_users
from uic.rollout.log_policy import LogPolicy
from uic.rollout.namespaces import Namespace, Reading, always
from uic.settings import ClientSettings
from uic.store import RedisStore
from uic.tools.partitions import NotNow, Refused
from uic.tools.scorers import Scorers, asked

LOG_TIMEOUT_S: Final = 10.0
FOLLOWED_WITHIN_S: Final = 8.0
"""A process has followed the record by then, and a bundle is loaded, most often."""
PAUSE_S: Final = 0.25
FOLDED_WITHIN_S: Final = 10.0
"""A worker that is caught up says so every five seconds, by its defaults (UIC_FOLD__AS_OF_INTERVAL_S)."""
OF_EVENTS: Final = frozenset({Gate.COVERAGE, Gate.DIGEST})
"""What states of different events cannot agree on."""
NOT_COMPARED: Final = Finding(Gate.DIGEST, "users were not compared yet", passes=True)


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What is asked of a rollout."""

    allowed_lag_ms: int = 30_000
    steady_ms: int = 300_000
    extent: Extent = field(default_factory=Extent)
    other_events: bool = False
    """The new states are rightly made of other events than those in service, so that coverage and digests cannot
    agree."""
    accept_partial: bool = False
    """More states may lack events than in service: memories that were folded from a shorter log, beside ledgers that
    were kept."""
    rtp: Sequence[str] = ()
    """Admin addresses of scoring processes that must have the release loaded; empty: all that announce themselves."""

    @property
    def waived(self) -> frozenset[Gate]:
        """Gates of the comparison that are not asked."""
        waived = OF_EVENTS if self.other_events else frozenset()
        return waived | {Gate.PARTIAL} if self.accept_partial else waived

    @property
    def options(self) -> tuple[str, ...]:
        """What was said on the command line to ask less."""
        said = {"--other-events": self.other_events, "--accept-partial": self.accept_partial}
        return tuple(option for option, given in said.items() if given)


@dataclass(frozen=True)
class Look:
    """What a look at a rollout found."""

    checked: Checked
    seen: Seen | None
    """None if users were not compared."""


class Gates:
    """Looks at rollouts."""

    def __init__(
        self, client: Any, settings: ClientSettings, demands: Demands, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._sleep = sleep
        self._scorers = Scorers(client, settings.redis.prefix, sleep)
        self._settings = settings
        self._demands = demands
        self._policy = LogPolicy(settings.kafka)
        self._clustered = settings.redis.mode == "cluster"

    def namespace(self, release: Release, proceed: Callable[[], None] = always) -> Namespace:
        """The namespace of a release; `proceed` as in `Namespace`."""
        return Namespace(self._client, self._settings.redis.prefix, release, clustered=self._clustered, proceed=proceed)

    def look(
        self,
        record: Record,
        rollout: Rollout,
        *,
        users: bool = True,
        waits: bool = False,
        patient: bool = False,
        proceed: Callable[[], None] = always,
    ) -> Look:
        """Every gate of `rollout`.

        Args:
            record: that has the rollout.
            rollout: one of its rollouts.
            users: whether to compare users. Without, the gates are those that a moment answers, and users count as not
                compared.
            waits: the look may make the rollout ready. Otherwise what is not ready is loaded by no scoring process, and
                that closes a gate.
            patient: give scoring processes the time that it takes to follow the record.
            proceed: called again and again while users are compared, and raises to end that.
        """
        unready = () if waits or (early := not_ready(record, rollout)) is None else (early,)
        unloaded = unready or tuple(self._loaded(record, rollout.release, FOLLOWED_WITHIN_S if patient else 0.0))
        if rollout.head_only:
            return Look(Checked(record.revision, unloaded), None)
        old, new = self.namespace(rollout.replaces, proceed), self.namespace(rollout.release, proceed)
        before, after = old.read(), new.read()
        lineages = "0" * 16 if after is None else after.lineages
        topic = other_topic(rollout.origin)
        findings = (*self._quick(before, after, topic), *unready)
        seen = None
        if findings == unready and before is not None and after is not None:
            if users:
                if topic is None:
                    seen, more = self._compare(old, new, before, rollout.id)
                else:
                    seen, more = self._look(old, new, before, after)
                if Gate.COVERAGE not in self._demands.waived:
                    more += self._unlisted(rollout.replaces, proceed)
                found = (one for one in seen.findings() if one.gate not in self._demands.waived)
                findings = (*more, *found, *self._memory(), *unloaded)
            else:
                findings = (NOT_COMPARED, *unready)
        return Look(Checked(record.revision, findings, lineages, self._demands.steady_ms), seen)

    def lost(self, release: Release) -> str | None:
        """Why users of a release would be answered without the states that they had there, as after its namespace was
        removed and the store came back with an older rollout record; None if they would not. Stale is not lost."""
        return _lost(self.namespace(release).read())

    def unfolded(self, release: Release, *, watched: bool) -> str | None:
        """Why no worker seems to fold a release's namespace now, and how many users were erased in the part of the log
        that it lacks; None if workers do.

        `watched`: take up to `FOLDED_WITHIN_S` to see them write. That it was caught up a moment ago proves little:
        workers that have just been stopped look so, too.
        """
        namespace = self.namespace(release)
        reading = namespace.read()
        why = _lost(reading)
        if reading is None:
            return why
        if why is None:
            late = behind(reading.progress, self.now_ms(), self._demands.allowed_lag_ms)
            why = None if late is None else late.reason
        resting = list(range(reading.partitions))
        if not why and not watched:
            return None
        if not why:
            resting = self._resting(namespace, reading)
            why = f"{len(resting)} of {reading.partitions} partitions were not written within {FOLDED_WITHIN_S:g} s"
        return f"{why}{self._erased_since(reading, resting)}" if resting else None

    def _resting(self, namespace: Namespace, reading: Reading) -> list[int]:
        """The partitions whose progress stays as it was read: a worker writes it with every batch, and where there is
        nothing to fold, every few seconds."""
        resting, left_s = list(range(reading.partitions)), FOLDED_WITHIN_S
        while resting and left_s > 0:
            self._sleep(PAUSE_S)
            left_s -= PAUSE_S
            now = zip(resting, namespace.progress(resting), strict=True)
            resting = [p for p, progress in now if progress == reading.progress[p]]
        return resting

    def _erased_since(self, reading: Reading, partitions: Sequence[int]) -> str:
        """That users were erased in a part of the log that these partitions have not folded."""
        noted, unknown = self._erased(reading)
        if unknown:
            return f"; {unknown[0].reason}, so it is unknown whether users were erased since"
        reached = {p: one.next_offset for p in partitions if (one := reading.progress[p]) is not None}
        users = sum(at >= end for p, end in reached.items() for at in noted.get(p, {}).values())
        return f"; users who were erased since, and whom it may still have: {users}" if users else ""

    def now_ms(self) -> int:
        """The store's clock: all commands and all workers have the same."""
        return clock_ms(self._client)

    def memory(self) -> list[tuple[int, int]]:
        """Used and whole memory of each master, in bytes; the whole is 0 if the server does not say."""
        return [
            (int(one["used_memory"]), int(one.get("maxmemory") or one.get("total_system_memory") or 0))
            for one in info(self._client, "memory")
        ]

    def _quick(self, before: Reading | None, after: Reading | None, topic: str | None) -> Iterator[Finding]:
        """`topic`: that of which the new namespace shall be made; None for that of the one in service."""
        if before is None:
            yield Finding(Gate.LOG, "the store has lost the namespace in service")
        elif (refused := self._policy.closed(topic or before.topic)) is not None:
            yield refused
        if after is None:
            yield Finding(
                Gate.BUILT, "the store does not have the new namespace: no UIC has started on it", passes=True
            )
        if before is None or after is None:
            return
        if (other := made_of(before, after, topic)) is not None:
            yield other
            return
        if (unbuilt := not_built(after.progress)) is not None:
            yield unbuilt
        if (late := behind(after.progress, self.now_ms(), self._demands.allowed_lag_ms)) is not None:
            yield late

    def _compare(self, old: Namespace, new: Namespace, log: Reading, seed: str) -> tuple[Seen, list[Finding]]:
        noted, findings = self._erased(log)
        same = not self._demands.other_events
        return compare_users(
            old, new, log.partitions, self._demands.extent, noted, seed=seed, same_events=same
        ), findings

    def _look(self, old: Namespace, new: Namespace, before: Reading, after: Reading) -> tuple[Seen, list[Finding]]:
        noted, findings = self._erased(after)
        erased = {user for users in noted.values() for user in users}
        return look_for_users(old, new, (before.partitions, after.partitions), erased), findings

    def _unlisted(self, serving: Release, proceed: Callable[[], None]) -> Iterator[Finding]:
        """Users in service whom the store does not list: those whom it lists are looked for in the new namespace."""
        store = RedisStore(self._settings.redis, self.namespace(serving).keys)
        try:
            unlisted = store.unlisted(bytes.fromhex(serving.fingerprint), proceed)
        finally:
            store.close()
        if unlisted:
            yield Finding(
                Gate.COVERAGE,
                f"{sum(map(len, unlisted.values()))} users with a state in service are missing from the list of users, "
                "and were not looked for: `ctr verify --repair` in that namespace lists them again",
            )

    def _erased(self, log: Reading) -> tuple[dict[int, dict[str, int]], list[Finding]]:
        """By partition, the users that the topic of erasures names, and up to which offset each is erased; and whether
        it cannot be read."""
        kafka = self._settings.kafka
        ids = [one for one in log.topic_ids if any(one)]
        erasures = KafkaErasures(kafka.client_options(), log.topic, log.partitions, timeout_s=LOG_TIMEOUT_S)
        try:
            notes = erasures.read(range(log.partitions), ids[0] if ids else bytes(16))
        except UicError as error:
            text = f"the notes of erasures cannot be read ({error.detail})"
            return {}, [Finding(Gate.ERASURES, text, passes=True)]
        return {p: {key.decode(): at for key, at in of.items() if _is_text(key)} for p, of in notes.items()}, []

    def _memory(self) -> Iterator[Finding]:
        for used, whole in self.memory():
            if (full := out_of_memory(used, 0, whole)) is not None:
                yield full

    def _loaded(self, record: Record, release: Release, within_s: float) -> list[Finding]:
        """What scoring processes lack, once nothing is lacking that time may bring, or after `within_s` seconds."""
        while True:
            found = list(self._lacking(record, release))
            if not any(one.passes for one in found) or within_s <= 0:
                return found
            self._sleep(PAUSE_S)
            within_s -= PAUSE_S

    def _lacking(self, record: Record, release: Release) -> Iterator[Finding]:
        refusal = None if self._demands.rtp else self._scorers.settle()
        told = [] if self._demands.rtp else self._scorers.announced()
        if refusal is not None:
            yield Finding(
                Gate.LOADED,
                f"{refusal}, so no RTP can announce what it has loaded: make the store write again, or name every RTP "
                "(--rtp URL)",
                passes=True,
            )
        for url in self._demands.rtp:
            try:
                told.append(asked(url, self._settings.access))
            except Refused as error:
                yield Finding(Gate.LOADED, f"{url}: {error}", passes=isinstance(error, NotNow))
        for one in told:
            if (finding := not_loaded(one, release, record.revision)) is not None:
                yield finding


def _lost(reading: Reading | None) -> str | None:
    if reading is None:
        return "the store does not have its namespace"
    found = not_built(reading.progress)
    return None if found is None else found.reason


def made_of(before: Reading, after: Reading, topic: str | None) -> Finding | None:
    """Whether a new namespace is made of another log than that in service, or, with a `topic`, than of that one."""
    if topic is None:
        return foreign(before.log, after.log, before.topic_ids, after.topic_ids)
    if after.topic != topic:
        return Finding(Gate.LOG, f"it is made of topic {after.topic}, and the rollout is from topic:{topic}")
    return None


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
