"""The poll thread: the one owner of the Kafka consumer, which is never shared between threads. The file is long because
everything in it runs on that thread and shares its state.

The thread polls all the time, whatever the store does. It reads the partitions that the leases give this worker
(`fold.lease_keeper`), executes the fold thread's commands and queues everything that happens for it. It never waits for
the store and chooses no position: a partition that is new is parked (`seek(0)` and `pause`) until the fold thread says
where to read.

Records carry the tag of the command that caused them, so records fetched before a rewind or for an earlier assignment
can be recognized. `backpressure` decides which partitions are paused.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from mimn.state import NO_TOPIC_ID
from uic.core.kafka_tools import KafkaTools
from uic.core.ports import (
    BrokersSilent,
    DeadLettersAway,
    Described,
    ErasuresAway,
    Fetched,
    LeaderAway,
    LogAway,
    LogMessage,
    NoLease,
    NotCounted,
    NotDescribed,
    OutOfRange,
    Owned,
    PartitionCount,
    ReadRefused,
    Skipped,
    TopicAway,
    TopicCompacted,
    Unreadable,
)
from uic.core.records import joined
from uic.core.start_position import log_bounds
from uic.core.topics import erased_topic
from uic.log.backpressure import Backpressure
from uic.log.broker_view import BrokerView
from uic.log.dead_letter_topic import why_away
from uic.log.kafka_repairs.assumptions import check_client
from uic.log.kafka_repairs.clients import explained
from uic.log.kafka_repairs.fetching import fetch_refused, open_consumer, poll_once, position, too_large, unblock_paused
from uic.log.kafka_repairs.leaders import LeaderAnswer, ask_leaders, led_by
from uic.log.kafka_repairs.metadata import fresh_topic_id, leaderless, learn_topic, partition_count
from uic.log.record_batches import UnreadableBatch
from uic.log.silence import Silence
from uic.log.topic_answers import RIGHTS_PAGE, TO_READ, refusal
from uic.log.unreachable import described, to_correct, unreachable, was_answered
from uic.log.watchdog import Watchdog
from uic.logs import say
from uic.settings import KafkaSettings

log = logging.getLogger("uic.log.consumer")

POLL_MS = 20
"""How long a poll may wait for the answer to an open fetch, with which it ends: with Kafka this is no delay."""
LONGEST_PAUSE_S = 0.032
"""Between polls that bring nothing. Some brokers answer an empty fetch at once (the local stack's small one does), so
polling without a pause would cost a core."""
LONGEST_REFUSED_S = 1.0
"""The same, while the brokers refuse to let this user read."""
DESCRIBE_MS = 3000
UNFIT_S = 15.0
"""A worker that no broker has answered for this long gives its lease up; it asks every few seconds."""
LEADER_PAUSE_S = 5.0
"""After a leader had no answer; each try may take `DESCRIBE_MS`, for which nothing is read."""
CHECK_INTERVAL_S = 1.0
TOPICS_LOOK_S = 5.0
"""How often the brokers are asked what folding alone does not show: whether the topic of erasures is there, which only
erasures and rebuilds need, and that of dead letters, and whether the event topic is compacted."""
REOPEN_S, LONGEST_REOPEN_S = 1.0, 5.0
"""The pause before another client is opened: at first, and after several that found a broker and then failed without
having worked."""
BATCH_READS = 3
"""How often an unreadable batch is fetched before its partition stops: damage in transit is gone the next time."""
ANSWER_BYTES, MOST_ANSWER_BYTES = 100_000_000, 1 << 29
"""Largest answer of a broker that is read: at first, and once a broker has sent larger ones than it was asked for.
Kafka does so for a single batch, the local stack's small broker for whole partitions."""
Command = Callable[[KafkaConsumer], None]


class _Lost(Exception):
    """The watchdog found that this client reads nothing."""


class _TooLarge(Exception):
    """A broker's answer was larger than this client reads: the next one reads larger ones."""


class LogConsumer(threading.Thread):
    """`Log` on a Kafka consumer without a group. Begin with `start`, end with `leave`."""

    def __init__(
        self,
        settings: KafkaSettings,
        queue_records: int,
        advise: Callable[[Mapping[int, int]], None],
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            settings: the log.
            queue_records: fetched records that may wait for the fold, over all partitions.
            advise: see `Log`.
            goes_on: called when the thread begins something that may wait, and when it is done with it.

        Raises:
            UnsuitableClient: the installed kafka-python cannot be used.
        """
        check_client()
        super().__init__(name="poll", daemon=True)
        self._settings = settings
        self._topic = settings.topic
        self._client = settings.client_options()
        self._tools = KafkaTools.of(self._client)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[LogMessage] = queue.SimpleQueue()
        self._leaving = threading.Event()
        self.advise = advise
        self._goes_on = goes_on
        self._owned: Owned | None = None
        """What the leases last gave this worker."""
        self._answered_at: float | None = None
        """When a broker last answered a question."""
        # Owned by the poll thread:
        self._tags: dict[int, int] = {}
        self._backpressure = Backpressure(queue_records)
        self._check_due = 0.0
        self._topic_id = NO_TOPIC_ID
        self._answer_bytes = ANSWER_BYTES
        self._failure = ""
        """Why the last client failed; empty once the next one works."""
        self._failures = 0
        """How many clients found a broker since then."""
        self._read_refused = False
        self._to_correct = ""
        self._silent_until: dict[Any, tuple[float, KafkaError]] = {}
        """By leader that had no answer: until when it is not asked again, and why it had none."""
        self._topic_away = ""
        self._topics_due = 0.0
        self._told: dict[type[LogMessage], LogMessage] = {}
        """What was found at the last look at the topics, by its kind; at first nothing is wrong."""
        self._tells_policy = True
        self._bad_reads: dict[int, tuple[int, int]] = {}
        self._watchdog = Watchdog()
        self._silence = Silence()
        self._broker: BrokerView | None = None

    # For the fold thread

    def messages(self, timeout_s: float) -> list[LogMessage]:
        """See `Log`."""
        found: list[LogMessage] = []
        with suppress(queue.Empty):
            found.append(self._messages.get(timeout=timeout_s) if timeout_s > 0 else self._messages.get_nowait())
            while True:
                found.append(self._messages.get_nowait())
        return found

    def describe(self, tags: Mapping[int, int]) -> None:
        """See `Log`."""
        wanted = dict(tags)
        self._commands.put(lambda consumer: self._describe(consumer, wanted))

    def count_partitions(self) -> None:
        """See `Log`."""
        self._commands.put(self._count_partitions)

    def read(self, partition: int, tag: int, offset: int) -> None:
        """See `Log`."""
        self._commands.put(lambda consumer: self._read(consumer, partition, tag, offset))

    def park(self, partition: int) -> None:
        """See `Log`."""
        self._commands.put(lambda consumer: self._park(consumer, partition))

    def took(self, tag: int, records: int) -> None:
        """See `Log`."""
        self._backpressure.took(tag, records)

    # For the lease thread

    def own(self, owned: Owned) -> None:
        """Read these partitions and no others."""
        self._owned = owned
        self._commands.put(self._take_over)

    def disown(self, why: str) -> None:
        """Read none, because this worker holds no lease."""
        self._messages.put(NoLease(why))
        self._owned = None
        self._commands.put(self._take_over)

    def unfit(self) -> str:
        """Why this worker should have no partitions; empty if it should."""
        at = self._answered_at
        if at is None:
            return "no broker has answered yet"
        silent_s = time.monotonic() - at
        return f"no broker has answered for {silent_s:.0f} s" if silent_s >= UNFIT_S else ""

    # For the owner

    def leave(self, timeout_s: float) -> bool:
        """End the thread; False if that was not done in time."""
        self._leaving.set()
        self.join(timeout_s)
        return not self.is_alive()

    # The poll thread

    def run(self) -> None:
        """Consume until told to leave, with a new consumer after every failure."""
        while not self._leaving.is_set():
            consumer = None
            pause_s = REOPEN_S
            self._goes_on()
            try:
                consumer = open_consumer(
                    **self._settings.consumer_options(),
                    receive_message_max_bytes=self._answer_bytes,
                    most_bytes=self._settings.max_batch_bytes,
                )
                self._goes_on()
                with explained(consumer):
                    learn_topic(consumer, self._topic, self._settings.request_timeout_ms)
                    self._note_answer()
                    self._take_over(consumer)
                    self._consume(consumer)
            except _Lost as lost:
                say(log, logging.WARNING, "the client reads nothing: opening another one", detail=str(lost))
                self._messages.put(LogAway(str(lost)))
            except _TooLarge as answer:
                say(log, logging.WARNING, "a broker sends more than it is asked for", detail=str(answer))
                self._messages.put(LogAway(f"an answer of more than {self._answer_bytes:,} bytes: {answer}"))
                self._answer_bytes = min(2 * self._answer_bytes, MOST_ANSWER_BYTES)
            except Exception as error:  # kafka-python's: a new consumer starts clean
                why = described(error, self._client, self._topic)
                self._to_correct = to_correct(error)
                if why != self._failure:  # each try ends alike, whether no broker answers or one refuses
                    say(log, logging.WARNING, "consumer failed", detail=why)
                self._failure = why
                self._messages.put(LogAway(why))
                self._note_answer(error)
                if consumer is not None:
                    pause_s = min(REOPEN_S * 2**self._failures, LONGEST_REOPEN_S)
                    self._failures += 1
            self._goes_on()
            if consumer is not None:
                _close(consumer)
            self._begin_clean()
            self._leaving.wait(pause_s)

    def _begin_clean(self) -> None:
        """Forget what belonged to a consumer that is gone."""
        for partition in list(self._tags):
            self._forget(partition)
        self._silent_until = {}
        self._watchdog = Watchdog()
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def _consume(self, consumer: KafkaConsumer) -> None:
        pause_s = 0.0
        while not self._leaving.is_set():
            self._goes_on()
            self._obey(consumer, pause_s)
            for partition in self._backpressure.relieved():
                consumer.resume(self._tp(partition))
            self._check_topic(consumer)
            self._look_at_topics()
            # At the limit a new consumer would read no more.
            if self._answer_bytes < MOST_ANSWER_BYTES and (answer := too_large(consumer)):
                raise _TooLarge(answer)
            unblock_paused(consumer)
            longest_s = LONGEST_REFUSED_S if self._read_refused else LONGEST_PAUSE_S
            pause_s = min(longest_s, max(0.001, 2 * pause_s))
            try:
                fetched = poll_once(consumer, POLL_MS) if consumer.assignment() else {}
            except OffsetOutOfRangeError as error:
                self._out_of_range(consumer, error.args[0])
            except LogTruncationError as error:
                self._out_of_range(consumer, error.divergent_offsets)
            else:
                self._look_at_fetches(consumer)
                if fetched and not self._same_log(consumer):
                    self._give_back(consumer, fetched)
                    continue
                for tp, batches in fetched.items():
                    self._deliver(consumer, tp, batches)
                    pause_s = 0.0

    def _take_over(self, consumer: KafkaConsumer) -> None:
        """Let go what this worker has no more, and park what is new."""
        owned = self._owned
        wanted = frozenset() if owned is None else owned.partitions
        before = {tp.partition for tp in consumer.assignment()}
        for partition in before - wanted:
            self._forget(partition)
        if before != wanted:
            consumer.assign([self._tp(p) for p in sorted(wanted)])
        for partition in wanted - before:
            self._park(consumer, partition)
        if owned is not None:
            self._messages.put(owned)

    def _obey(self, consumer: KafkaConsumer, wait_s: float = 0.0) -> None:
        """Do what the fold thread asks for; wait up to `wait_s` for it to ask."""
        try:
            while True:
                command = self._commands.get(timeout=wait_s) if wait_s > 0 else self._commands.get_nowait()
                command(consumer)
                self._goes_on()
                wait_s = 0.0
        except queue.Empty:
            return

    def _look_at_fetches(self, consumer: KafkaConsumer) -> None:
        """Tell when the brokers begin to refuse reading, and when they have answered a fetch again. Another client is
        told no other thing."""
        refused = fetch_refused(consumer)
        if refused is not None or not consumer.assignment():
            self._failure, self._failures = "", 0
        if refused and not self._read_refused:
            self._read_refused = True
            self._messages.put(ReadRefused(f"topic {self._topic} {refusal(self._client, TO_READ)}"))
        elif self._read_refused and (refused is False or not consumer.assignment()):
            self._read_refused = False  # answered, or there is nothing to read any more
            self._messages.put(ReadRefused(""))

    def _same_log(self, consumer: KafkaConsumer) -> bool:
        """Whether what was just fetched belongs to the topic that was described; asked after every fetch.

        Records are fetched by name: if the topic was deleted and created again while we heard nothing, they would come
        from another log, at offsets that look right. Then the fold thread hears that first, and no session takes what
        comes after.
        """
        if not any(self._topic_id):
            return True
        try:
            found = self._asked().topic_id()
        except KafkaError:
            return False
        if found != self._topic_id:
            self._describe(consumer, dict(self._tags))
        return found == self._topic_id

    def _asked(self) -> BrokerView:
        """The broker, for questions; connected when first needed.

        Raises:
            KafkaError: no broker answers.
        """
        if self._broker is None:
            bounded = {"request_timeout_ms": DESCRIBE_MS, "bootstrap_timeout_ms": DESCRIBE_MS}
            options = self._client | bounded
            self._broker = BrokerView(options, self._topic)
        return self._broker

    @contextmanager
    def _questions(self) -> Iterator[BrokerView]:
        """The broker, to ask it something, and to note whether it answered.

        Raises:
            KafkaError: no broker answers, or it refuses.
        """
        self._goes_on()
        try:
            broker = self._asked()
            with broker.explained():
                yield broker
        except KafkaError as error:
            self._note_answer(error)
            raise
        finally:
            self._goes_on()
        self._note_answer()

    def _note_answer(self, error: Exception | None = None) -> None:
        """A question was answered, or why not. Tell when all brokers are silent, and when one answers again."""
        if error is None or was_answered(error):
            self._answered_at = time.monotonic()
            self._tell_silence(self._silence.answered())
        elif was_answered(error) is False:
            why = unreachable(self._client, error, all_silent=True).detail
            self._tell_silence(self._silence.unanswered(why, time.monotonic()))

    def _tell_silence(self, found: BrokersSilent | None) -> None:
        if found is not None:
            self._messages.put(found)

    def _give_back(self, consumer: KafkaConsumer, fetched: Mapping[TopicPartition, list[Any]]) -> None:
        """Fetch again later what was fetched now."""
        for tp, batches in fetched.items():
            if tp.partition in self._tags and tp in consumer.assignment():
                consumer.seek(tp, batches[0].offset)

    def _deliver(self, consumer: KafkaConsumer, tp: TopicPartition, batches: list[Any]) -> None:
        tag = self._tags.get(tp.partition)
        if tag is None:
            return
        bad = batches.pop() if isinstance(batches[-1], UnreadableBatch) else None
        for empty in (batch for batch in batches if not batch.records):
            self._messages.put(Skipped(tp.partition, tag, empty.offset))
        if batches := [batch for batch in batches if batch.records]:
            records = joined([batch.records for batch in batches])
            self._backpressure.gave(tag, len(records))
            after = position(consumer, tp) or records[-1].offset + 1
            self._messages.put(Fetched(tp.partition, tag, records, after))
        if bad is not None:
            self._unreadable(consumer, tp, tag, bad)
            return
        if self._backpressure.overflows(tag, tp.partition):
            consumer.pause(tp)

    def _unreadable(self, consumer: KafkaConsumer, tp: TopicPartition, tag: int, bad: UnreadableBatch) -> None:
        """Read the batch again, or stop this partition and say why; the others go on."""
        offset, reads = self._bad_reads.get(tag, (-1, 0))
        reads = reads + 1 if offset == bad.offset else 1
        self._bad_reads[tag] = (bad.offset, reads)
        if reads < BATCH_READS:
            return  # the client is still positioned at the batch
        self._park(consumer, tp.partition)
        self._messages.put(Unreadable(tp.partition, tag, bad.offset, bad.next_offset, bad.reason))

    def _read(self, consumer: KafkaConsumer, partition: int, tag: int, offset: int) -> None:
        tp = self._tp(partition)
        if tp not in consumer.assignment():
            return  # taken away since; the fold thread is about to hear of it
        self._forget(partition)
        self._tags[partition] = tag
        self._backpressure.begin(tag)
        consumer.seek(tp, offset)
        consumer.resume(tp)

    def _park(self, consumer: KafkaConsumer, partition: int) -> None:
        self._forget(partition)
        tp = self._tp(partition)
        if tp in consumer.assignment():
            consumer.seek(tp, 0)
            consumer.pause(tp)

    def _forget(self, partition: int) -> None:
        tag = self._tags.pop(partition, None)
        if tag is not None:
            self._backpressure.forget(tag)
            self._bad_reads.pop(tag, None)

    def _describe(self, consumer: KafkaConsumer, tags: Mapping[int, int]) -> None:
        assigned = consumer.assignment()
        wanted = {p: tag for p, tag in tags.items() if self._tp(p) in assigned}
        if not wanted:
            return
        asked_ms = time.time_ns() // 1_000_000
        try:
            with explained(consumer):
                topic_id = fresh_topic_id(consumer, self._topic, DESCRIBE_MS)
        except KafkaError as error:
            self._note_answer(error)
            self._look_at_connections([error])
            self._messages.put(NotDescribed(tuple(wanted.values()), described(error, self._client, self._topic)))
            return
        self._note_answer()
        is_other = topic_id != self._topic_id
        if is_other:  # everything that is read must be checked again
            wanted = {p: tag for p, tag in self._tags.items() if self._tp(p) in assigned} | wanted
        partitions = [self._tp(p) for p in wanted]
        away = leaderless(consumer, partitions)
        led = [tp for tp in partitions if tp not in away]
        answers = self._leaders_say(consumer, led)
        told = {tp: extent for one in answers if isinstance(one.found, dict) for tp, extent in one.found.items()}
        for one in answers:
            if isinstance(one.found, KafkaError):
                why = described(one.found, self._client, self._topic)
                self._messages.put(NotDescribed(tuple(wanted[tp.partition] for tp in one.partitions), why))
        if away:
            self._messages.put(LeaderAway(tuple(wanted[tp.partition] for tp in away)))
        if led and not told:
            return  # a topic that is unknown for a moment is no other one
        if is_other:  # what is read of the others may be of the other topic
            self._out_of_range(consumer, [tp for tp in partitions if tp not in told])
        behind = {}
        for tp, extent in told.items():
            p, tag = tp.partition, wanted[tp.partition]
            at = position(consumer, tp) if self._tags.get(p) == tag else None
            bounds = log_bounds(extent.start, extent.stable_end, topic_id)
            self._messages.put(Described(p, tag, bounds, asked_ms, at, max(extent.log_end, bounds.end)))
            if at is not None and at < bounds.end and not (self._read_refused or self._backpressure.is_full(tag)):
                behind[tag] = at
        self._topic_id = topic_id
        if problem := self._watchdog.progress(behind, time.monotonic()):
            raise _Lost(problem)

    def _leaders_say(self, consumer: KafkaConsumer, led: Collection[TopicPartition]) -> list[LeaderAnswer]:
        """Ask the leaders of partitions. Reading waits meanwhile, so that what is told is not older than what was read
        before it; one that had no answer is not asked again for `LEADER_PAUSE_S`."""
        by_leader, now = led_by(consumer, led), time.monotonic()
        silent = {leader: one for leader, one in self._silent_until.items() if now < one[0]}
        asked = {leader: of_it for leader, of_it in by_leader.items() if leader not in silent}
        answers = ask_leaders(consumer, asked, DESCRIBE_MS) if asked else []
        until = time.monotonic() + LEADER_PAUSE_S
        failed = {one.leader: (until, one.found) for one in answers if isinstance(one.found, KafkaError)}
        self._silent_until = silent | failed
        self._look_at_connections([why for _, why in self._silent_until.values()])
        return answers + [
            LeaderAnswer(leader, tuple(of_it), silent[leader][1])
            for leader, of_it in by_leader.items()
            if leader in silent
        ]

    def _look_at_connections(self, errors: Collection[KafkaError]) -> None:
        """Log what is to be corrected, once: it may come up long after the log became unavailable."""
        found = "; ".join(dict.fromkeys(filter(None, map(to_correct, errors))))
        if found and found != self._to_correct:
            say(log, logging.WARNING, "no connection to the brokers", detail=found)
        if found or not errors:
            self._to_correct = found

    def _count_partitions(self, consumer: KafkaConsumer) -> None:
        """The client's own metadata may be minutes old."""
        try:
            with explained(consumer):
                self._messages.put(PartitionCount(self._asked().partition_count()))
        except Exception as error:  # of any kind: the fold thread asks nothing more before it has an answer
            self._messages.put(NotCounted(described(error, self._client, self._topic)))
            if not isinstance(error, KafkaError):
                raise  # which ends this consumer

    def _out_of_range(self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            tag = self._tags.get(tp.partition)
            self._park(consumer, tp.partition)
            if tag is not None:
                self._messages.put(OutOfRange(tp.partition, tag))

    def _check_topic(self, consumer: KafkaConsumer) -> None:
        if time.monotonic() < self._check_due:
            return
        self._check_due = time.monotonic() + CHECK_INTERVAL_S
        count = partition_count(consumer, self._topic)
        if count and count != self._settings.partitions:
            self._messages.put(PartitionCount(count))
        away = ""
        if not count:  # of a topic that is gone, or while a leader is elected
            try:
                with self._questions() as broker:
                    away = broker.topic_trouble(self._topic)
            except KafkaError:
                return
        if away != self._topic_away:
            self._topic_away = away
            self._messages.put(TopicAway(away))

    def _look_at_topics(self) -> None:
        """Tell what is found, when it is another than before."""
        if time.monotonic() < self._topics_due:
            return
        self._topics_due = time.monotonic() + TOPICS_LOOK_S
        try:
            with self._questions() as broker:
                for found in self._seen_of_topics(broker):
                    if found != self._told.get(type(found), type(found)("")):
                        self._told[type(found)] = found
                        self._messages.put(found)
        except KafkaError:  # the next question would wait as long for its answer
            return

    def _seen_of_topics(self, broker: BrokerView) -> Iterator[ErasuresAway | DeadLettersAway | TopicCompacted]:
        yield ErasuresAway(broker.topic_trouble(erased_topic(self._topic), self._settings.partitions))
        letters = self._settings.dead_letter_topic
        yield DeadLettersAway(why_away(letters, broker.topic_trouble(letters), self._tools))
        policy = broker.cleanup_policy()
        self._policy_told(policy is not None)
        if policy is not None:
            yield TopicCompacted(policy if "compact" in policy else "")

    def _policy_told(self, told: bool) -> None:
        """Say once that the brokers keep the topic's policy to themselves, and once that they tell it again."""
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

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)


def _close(consumer: KafkaConsumer) -> None:
    try:
        consumer.close(autocommit=False, timeout_ms=2000)
    except Exception as error:  # we are done with it
        say(log, logging.DEBUG, "closing the consumer failed", detail=repr(error))
