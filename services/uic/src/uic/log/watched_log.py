"""Whether what is published reaches the log: an `EventLog` that remembers what failed, and looks if it works again.

Only calls tell that appending fails, because a deployment that publishes nothing needs no right to. That it works again
is told by the next call, or, while there is none, by a thread that asks the brokers now and then. The thread lives no
longer than the trouble.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from uic.core.trouble import Cause, Trouble
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, UnsuitableTopic, WrongClock
from uic.log.event_log import EventLog
from uic.log.on_demand_thread import OnDemandThread
from uic.log.producer import NewRecord, Position

PATIENCE_S: Final = 1.0
"""For how long no record must get through before it is told: a caller without patience says nothing of the brokers."""
QUIET_S: Final = 15.0
"""How long nothing must fail before the brokers' word is taken for the success of a call: longer than calls take to
fail, so that one trouble is told once."""
UNPROVEN_S: Final = 120.0
"""The same after records whose time was refused, and after records that were not acknowledged, if the brokers do not
tell whether enough replicas are in sync: longer than an alert waits, for they take connections and answer questions all
the while."""
LOOK_S: Final = 1.0
"""Between looks of the thread."""
ALL: Final = -1
"""Stands for a partition where something is about the whole topic."""


class Failure(NamedTuple):
    """Why records were not appended."""

    detail: str
    refused: bool
    """Whether the brokers said no, and will again until something is set right."""
    unanswered: bool = False
    """Whether they did not acknowledge records, or did not take them. Later failures do not end that, for they prove
    nothing."""
    untimely: bool = False
    """Whether they refused the time of the records, of which they say nothing when they are asked."""


@dataclass(slots=True)
class _Failing:
    since: float
    """When the first call that failed began. Times are monotonic, in seconds."""
    last: float
    """When the last one ended."""
    failure: Failure


class Appends:
    """What became of appends, by topic and partition. Pure, with no clock of its own; not safe for several threads."""

    def __init__(self) -> None:
        self._failing: dict[tuple[str, int], _Failing] = {}
        self._worked: dict[tuple[str, int], float] = {}

    def worked(self, topic: str, partitions: Collection[int], now: float) -> None:
        """Records were appended."""
        for key in [(topic, p) for p in partitions]:
            self._failing.pop(key, None)
            self._worked[key] = now

    def failed(self, topic: str, partitions: Collection[int], failure: Failure, began: float, now: float) -> None:
        """Records were not appended, or that is unknown; the call began at `began`."""
        for key in [(topic, p) for p in partitions]:
            before = self._failing.get(key)
            since = before.since if before else max(began, self._worked.get(key, began))
            unanswered = failure.unanswered or (before is not None and before.failure.unanswered)
            self._failing[key] = _Failing(since, now, failure._replace(unanswered=unanswered))

    def answered(self, topic: str) -> None:
        """The brokers say that they take records of the topic."""
        for key in [key for key in self._failing if key[0] == topic]:
            del self._failing[key]

    @property
    def trouble(self) -> str:
        """What does not work; empty if nothing is known to."""
        told: dict[str, str] = {}
        for (topic, _), failing in sorted(self._failing.items()):
            if failing.failure.refused or failing.last - failing.since >= PATIENCE_S:
                told.setdefault(topic, failing.failure.detail)
        return "; ".join(told.values())

    def unanswered(self, topic: str) -> bool:
        """Whether records of the topic were not acknowledged, so that only what is written, or can be, ends it."""
        return any(of == topic and one.failure.unanswered for (of, _), one in self._failing.items())

    def untimely(self, topic: str) -> bool:
        """Whether the time of records of the topic was refused, so that only what is written ends it."""
        return any(of == topic and one.failure.untimely for (of, _), one in self._failing.items())

    def doubtful(self) -> dict[str, float]:
        """Topic → when a call failed last, of those that were not appended to since."""
        last: dict[str, float] = {}
        for (topic, _), failing in self._failing.items():
            last[topic] = max(failing.last, last.get(topic, failing.last))
        return last


class WatchedLog:
    """The `EventLog` of a service, and what there is to say about it."""

    def __init__(self, log: EventLog, partitions: int, timeout_s: float) -> None:
        """
        Args:
            log: what is watched.
            partitions: of all topics that are appended to.
            timeout_s: how long the thread waits for an answer.
        """
        self._log = log
        self._partitions = partitions
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._appends = Appends()
        self._told = ""
        self._thread = OnDemandThread("publishing", self._look)
        self._asked: dict[str, float] = {}
        """When the brokers were last asked about a topic. Owned by that thread."""

    def messages(self) -> list[Trouble]:
        """What changed since the last call."""
        with self._lock:
            if (trouble := self._appends.trouble) == self._told:
                return []
            self._told = trouble
            return [Trouble(Cause.PUBLISHING, trouble)]

    def append(self, topic: str, partitions: int, records: Sequence[NewRecord], timeout_s: float) -> list[Position]:
        """See `EventLog`."""
        with self._failures(topic, {record.partition for record in records}, records):
            positions = self._log.append(topic, partitions, records, timeout_s)
        self._worked(topic, {record.partition for record in records} | {ALL})
        return positions

    def check(self, topic: str, partitions: int, timeout_s: float) -> None:
        """See `EventLog`."""
        with self._failures(topic, {ALL}):
            self._log.check(topic, partitions, timeout_s)

    def must_be_writable(self, topic: str) -> None:
        """See `EventLog`."""
        with self._failures(topic, {ALL}):
            self._log.must_be_writable(topic)
        self._worked(topic, {ALL})

    def obstacle(self, topic: str) -> str | None:
        """See `EventLog`."""
        with self._failures(topic, {ALL}):
            return self._log.obstacle(topic)

    def topic_id(self, topic: str) -> bytes:
        """See `EventLog`."""
        with self._failures(topic, {ALL}):
            return self._log.topic_id(topic)

    def partition_count(self, topic: str) -> int:
        """See `EventLog`."""
        with self._failures(topic, {ALL}):
            return self._log.partition_count(topic)

    def close(self) -> None:
        """See `EventLog`."""
        self._thread.close()
        self._log.close()

    @contextmanager
    def _failures(self, topic: str, partitions: set[int], records: Sequence[NewRecord] = ()) -> Iterator[None]:
        """Take note of what the call raises, but for a topic that is missing or has another partition count: the fold
        looks at the topics by itself, and tells that."""
        began = time.monotonic()
        try:
            yield
        except LogUnavailable as error:
            if not (isinstance(error, LogRefused) and error.of_records):
                if isinstance(error, NotAcknowledged):
                    missing = {records[i].partition for i in error.positions}
                    self._worked(topic, partitions - missing)
                    partitions = missing
                self._failed(topic, partitions, _failure(topic, error), began)
            raise

    def _worked(self, topic: str, partitions: set[int]) -> None:
        with self._lock:
            self._appends.worked(topic, partitions, time.monotonic())

    def _failed(self, topic: str, partitions: set[int], failure: Failure, began: float) -> None:
        with self._lock:
            self._appends.failed(topic, partitions, failure, began, time.monotonic())
        self._thread.ensure_running()

    def _look(self) -> float | None:
        """Ask the brokers about each topic of which nothing has failed for a while. Returns the seconds until the next
        look, None if all work."""
        with self._lock:
            doubtful = self._appends.doubtful()
        for topic, last in doubtful.items():
            if time.monotonic() - max(last, self._asked.get(topic, last)) >= QUIET_S:
                self._asked[topic] = time.monotonic()
                self._ask(topic, last)
        return LOOK_S if doubtful else None

    def _ask(self, topic: str, last: float) -> None:
        began = time.monotonic()
        try:
            self._log.check(topic, self._partitions, self._timeout_s)
            if not self._can_be_written(topic, last, began):
                return
        except LogUnavailable as error:
            self._failed(topic, {ALL}, _failure(topic, error), began)
            return
        except UnsuitableTopic:
            pass  # which the fold tells
        with self._lock:
            if self._appends.doubtful().get(topic) == last:  # no call has failed meanwhile
                self._appends.answered(topic)

    def _can_be_written(self, topic: str, last: float, began: float) -> bool:
        """Whether what was not appended would be now, as far as the brokers tell."""
        unproven = time.monotonic() - last >= UNPROVEN_S
        with self._lock:
            unanswered, untimely = self._appends.unanswered(topic), self._appends.untimely(topic)
        if not unanswered:
            return not untimely or unproven
        obstacle = self._log.obstacle(topic)
        if obstacle:
            why = Failure(f"topic {topic}: records are not acknowledged: {obstacle}", refused=False, unanswered=True)
            self._failed(topic, {ALL}, why, began)
        return not obstacle and ((obstacle is not None and not untimely) or unproven)


def _failure(topic: str, error: LogUnavailable) -> Failure:
    if isinstance(error, NotAcknowledged):
        why = f": {error.why}" if error.why else ""
        return Failure(f"topic {topic}: records are not acknowledged in time{why}", refused=False, unanswered=True)
    if isinstance(error, WrongClock):
        return Failure(error.detail, refused=True, untimely=True)
    return Failure(error.detail, refused=not error.retriable)
