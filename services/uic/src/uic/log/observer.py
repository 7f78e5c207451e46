"""What the brokers say about the log. A thread asks, on a connection of its own, so that reading never waits for it.

It answers the fold's questions, looks now and then at what folding does not show (the topics of erasures and of dead
letters, the event topic's cleanup policy), and commits offsets to a consumer group without members: for tools that show
lag, never the position that reading starts from.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from typing import Any, Final

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    KafkaError,
    NoError,
    UnknownBrokerIdError,
)
from kafka.structs import OffsetAndMetadata

from uic.core.kafka_tools import KafkaTools
from uic.core.ports import (
    Advised,
    Described,
    LeaderAway,
    LogMessage,
    NotCounted,
    NotDescribed,
    PartitionCount,
)
from uic.core.start_position import log_bounds
from uic.core.topics import erased_topic, miscounted
from uic.core.trouble import TOPIC, Cause, Trouble
from uic.log.clients import explained, open_kafka_client
from uic.log.dead_letter_topic import why_away
from uic.log.topic_answers import NO_BROKER, RIGHTS_PAGE, trouble_of
from uic.log.topic_facts import extents, topic_id_of
from uic.log.unreachable import described, unreachable, was_answered
from uic.logs import say
from uic.settings import KafkaSettings

log = logging.getLogger("uic.log.observer")
COMPACTED: Final = (
    "topic {topic} has cleanup.policy {policy}, which removes events before and after they are folded: set it to delete"
)

QUESTION_MS: Final = 3000
"""How long a broker may take for an answer."""
AGAIN_S: Final = 1.0
"""The pause before another client is opened."""
PATIENCE_S: Final = 5.0
"""How long no question must have an answer before it is told: one broker of several may restart."""
UNFIT_S: Final = 15.0
"""A worker that no broker has answered for this long gives its lease up."""
LOOK_S: Final = 5.0
"""Between looks at the topics."""
COMMIT_S, COMMIT_AGAIN_S = 1.0, 5.0
"""Between commits of offsets, and after one that failed."""
QUIET_S: Final = 0.2
"""How long the thread waits for a question."""


class LogObserver(threading.Thread):
    """Begin with `begin`, end with `leave`."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Nothing is connected yet."""
        super().__init__(name="log observer", daemon=True)
        self._settings = settings
        self._topic = settings.topic
        self._client = settings.client_options() | {
            "request_timeout_ms": QUESTION_MS,
            "bootstrap_timeout_ms": QUESTION_MS,
        }
        self._tools = KafkaTools.of(self._client)
        self._group = ""
        self.messages: queue.SimpleQueue[LogMessage] = queue.SimpleQueue()
        """All that there is to tell the fold."""
        self.ends: dict[int, int] = {}
        """Partition → where reading can go on to, as its leader last said; only of those whose leader answers."""
        self._questions: queue.SimpleQueue[Mapping[int, int] | None] = queue.SimpleQueue()
        """Partition → tag; None asks for the number of partitions."""
        self._lock = threading.Lock()
        self._advice: dict[int, int] = {}
        self._leaving = threading.Event()
        self._answered_at: float | None = None
        self._began = time.monotonic()
        # Owned by the thread:
        self._asked: Mapping[int, int] | None = {}
        """The question in hand; empty if there is none."""
        self._silent: set[int] = set()
        """Leaders that had no answer, which are asked last."""
        self._told: dict[tuple[Cause, str], Trouble] = {}
        """What was said last of each part; at first nothing is wrong."""
        self._tells_policy = True
        self._look_due = self._commit_due = 0.0

    # For other threads

    def begin(self, group: str) -> None:
        """Answer, and commit offsets to this group."""
        self._group = group
        self.start()

    def describe(self, tags: Mapping[int, int]) -> None:
        """See `Log`."""
        if tags:
            self._questions.put(dict(tags))

    def count_partitions(self) -> None:
        """See `Log`."""
        self._questions.put(None)

    def advise(self, offsets: Mapping[int, int]) -> None:
        """See `Log`."""
        with self._lock:
            self._advice |= offsets

    def unfit(self) -> str:
        """Why this worker should have no partitions; empty if it should."""
        at = self._answered_at
        if at is None:
            return "no broker has answered yet"
        silent_s = time.monotonic() - at
        return f"no broker has answered for {silent_s:.0f} s" if silent_s >= UNFIT_S else ""

    def leave(self, timeout_s: float) -> None:
        """Commit the last advice and end the thread."""
        self._leaving.set()
        if self.ident is not None:
            self.join(timeout_s)

    # The thread

    def run(self) -> None:
        """Answer, with a new client after every failure, until `leave`."""
        while not self._leaving.is_set():
            try:
                with closing(open_kafka_client(KafkaAdminClient, **self._client)) as admin, explained(admin):
                    while not self._leaving.is_set():
                        self._turn(admin)
                    self._commit(admin)
            except Exception as error:  # kafka-python's: a new client starts clean
                self._fail(error)
                self._leaving.wait(AGAIN_S)

    def _turn(self, admin: KafkaAdminClient) -> None:
        with suppress(queue.Empty):
            self._asked = self._questions.get(timeout=QUIET_S)
            if self._asked is None:
                self._count(admin)
            else:
                self._describe(admin, self._asked)
        self._asked = {}
        now = time.monotonic()
        if now >= self._look_due:
            self._look_due = now + LOOK_S
            self._look_at_topics(admin)
        if now >= self._commit_due:
            self._commit_due = now + COMMIT_S
            self._commit(admin)

    def _fail(self, error: Exception) -> None:
        """Every question gets this answer."""
        why = described(error, self._client, self._topic)
        self._heard(error)
        self.ends = {}
        questions = [self._asked]
        with suppress(queue.Empty):
            while True:
                questions.append(self._questions.get_nowait())
        for asked in questions:
            if asked is None:
                self.messages.put(NotCounted(why))
            elif asked:
                self.messages.put(NotDescribed(tuple(asked.values()), why))
        self._asked = {}

    def _heard(self, error: Exception | None = None) -> None:
        """A question was answered, or why not."""
        now = time.monotonic()
        if error is None or was_answered(error):
            self._answered_at = now
            self._tell(Cause.LOG, "", "brokers")
        elif was_answered(error) is False and now - (self._answered_at or self._began) >= PATIENCE_S:
            self._tell(Cause.LOG, unreachable(self._client, error).detail, "brokers")

    def _tell(self, cause: Cause, detail: str, part: str = "") -> None:
        """Put it into the queue if it is news."""
        found = Trouble(cause, detail, part)
        if found != self._told.get((cause, part), Trouble(cause, "", part)):
            self._told[cause, part] = found
            self.messages.put(found)

    def _count(self, admin: KafkaAdminClient) -> None:
        [found] = admin.describe_topics([self._topic])
        self._heard()
        if trouble := trouble_of(self._client, found):
            self.messages.put(NotCounted(f"topic {self._topic} {trouble}"))
        else:
            self.messages.put(PartitionCount(len(found["partitions"])))

    def _describe(self, admin: KafkaAdminClient, tags: Mapping[int, int]) -> None:
        asked_ms = time.time_ns() // 1_000_000
        [found] = admin.describe_topics([self._topic])
        self._heard()
        if not self._is_there(found):
            self.ends = {}
            self._not_described(tags, tags, f"topic {self._topic} {trouble_of(self._client, found)}")
            return
        topic_id = topic_id_of(found)
        leaders = {one["partition_index"]: one["leader_id"] for one in found["partitions"]}
        led: dict[int, list[int]] = defaultdict(list)
        for partition in tags:
            led[leaders.get(partition, NO_BROKER)].append(partition)
        if away := led.pop(NO_BROKER, []):
            self._forget_ends(away)
            self.messages.put(LeaderAway(tuple(tags[p] for p in away)))
        for leader in sorted(led, key=self._silent.__contains__):
            try:
                with explained(admin, leader):
                    found_at = extents(admin, [TopicPartition(self._topic, p) for p in led[leader]])
            except UnknownBrokerIdError:  # the client's metadata are older than this broker; a new client's are not
                raise
            except KafkaError as error:
                self._silent.add(leader)
                self._heard(error)
                self._forget_ends(led[leader])
                self._not_described(tags, led[leader], described(error, self._client, self._topic))
                continue
            self._silent.discard(leader)
            for (_, partition), extent in found_at.items():
                bounds = log_bounds(extent.start, extent.stable_end, topic_id)
                self.ends[partition] = bounds.end
                log_end = max(extent.log_end, bounds.end)
                self.messages.put(Described(partition, tags[partition], bounds, asked_ms, log_end))

    def _is_there(self, found: Mapping[str, Any]) -> bool:
        """Tell whether the event topic is there, and has as many partitions as it should."""
        trouble = trouble_of(self._client, found)
        self._tell(Cause.LOG, trouble and f"topic {self._topic} {trouble}", TOPIC)
        if not trouble and (count := len(found["partitions"])) != self._settings.partitions:
            self.messages.put(PartitionCount(count))
        return not trouble

    def _not_described(self, tags: Mapping[int, int], partitions: Collection[int], why: str) -> None:
        self.messages.put(NotDescribed(tuple(tags[p] for p in partitions), why))

    def _forget_ends(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            self.ends.pop(partition, None)

    def _look_at_topics(self, admin: KafkaAdminClient) -> None:
        erased, letters = erased_topic(self._topic), self._settings.dead_letter_topic
        found = {one["name"]: one for one in admin.describe_topics([self._topic, erased, letters])}
        self._heard()
        self._is_there(found[self._topic])
        trouble = trouble_of(self._client, found[erased])
        trouble = trouble or miscounted(len(found[erased]["partitions"]), self._settings.partitions)
        self._tell(Cause.ERASURES, trouble and f"topic {erased} {trouble}", TOPIC)
        self._tell(Cause.DEAD_LETTERS, why_away(letters, trouble_of(self._client, found[letters]), self._tools))
        wanted = ConfigResource(ConfigResourceType.TOPIC, self._topic, configs=["cleanup.policy"])
        told = admin.describe_configs([wanted], config_filter="all").get("topic", {}).get(self._topic, {})
        policy = told.get("cleanup.policy", {}).get("value")
        self._policy_told(policy is not None)
        if policy is not None:
            compacted = COMPACTED.format(topic=self._topic, policy=policy)
            self._tell(Cause.COMPACTED, compacted if "compact" in policy else "")

    def _policy_told(self, told: bool) -> None:
        """Log once that the brokers keep the topic's policy to themselves, and once that they show it again."""
        if told is self._tells_policy:
            return
        self._tells_policy = told
        if told:
            say(log, logging.INFO, "the broker tells the topic's cleanup.policy", topic=self._topic)
            return
        say(
            log,
            logging.WARNING,
            "the broker does not tell the topic's cleanup.policy",
            topic=self._topic,
            detail="what it told last still counts, and a change is not noticed: this user needs DESCRIBE_CONFIGS on "
            f"the topic (see {RIGHTS_PAGE})",
        )

    def _commit(self, admin: KafkaAdminClient) -> None:
        """Commit what was advised. Newer offsets of a partition replace those that were not sent yet."""
        with self._lock:
            offsets, self._advice = self._advice, {}
        if not offsets:
            return
        wanted = {TopicPartition(self._topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        error: KafkaError | None = None
        try:
            found = admin.alter_group_offsets(self._group, wanted)
            if failed := next((error for error in found.values() if error is not NoError), None):
                error = failed(self._group)
        except GroupAuthorizationFailedError:  # the library adds words of its own
            error = GroupAuthorizationFailedError(self._group)
        except KafkaError as one:
            error = one
        if error is not None:
            self._commit_due = time.monotonic() + COMMIT_AGAIN_S
            with self._lock:
                self._advice = offsets | self._advice
        why = None if error is None else described(error, self._client, self._topic)
        self.messages.put(Advised(tuple(offsets), why, refused=isinstance(error, AuthorizationError)))
