"""What the facts about the brokers and the topics mean, a function a check. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mimn.state import partition_of
from uic.core.deployment import DAY_MS, NO_ANSWER_FIX, Finding, TopicFacts, fail, ok, warn
from uic.core.event import check_key
from uic.core.kafka_tools import KafkaTools
from uic.core.routing import PRODUCERS
from uic.core.topics import ranges
from uic.log.topic_answers import RIGHTS_PAGE, TO_READ, TO_WRITE
from uic.tools.doctor.samples import Sample

PARTITIONS_A_MASTER = 32
FEW_DAYS_MS = 7 * DAY_MS


def broker_reachable(servers: str, error: str | None, version: tuple[int, ...] | None, fix: str = "") -> Finding:
    """A broker answers. `fix` is empty if the error does not say what to do."""
    if error is not None:
        fix = fix or "start Kafka there, or correct UIC_KAFKA__BOOTSTRAP_SERVERS"
        return fail("broker", f"{servers}: {error}", fix)
    spoken = ".".join(map(str, version)) if version else "of unknown version"
    return ok("broker", f"{servers} answers, protocol of Kafka {spoken}")


def partitions_for_masters(topic: TopicFacts, masters: int) -> Finding:
    """At least 32 partitions for each Redis master, so that the slots spread evenly."""
    check = "partitions per store master"
    seen = f"{topic.partitions} partitions for {masters} master{'s' if masters != 1 else ''}"
    if topic.partitions < PARTITIONS_A_MASTER * masters:
        return warn(
            check,
            seen,
            f"plan {PARTITIONS_A_MASTER} partitions a master: N is fixed once the topic exists, so use a new topic "
            "while there is little in it",
        )
    return ok(check, seen)


def durability(topic: TopicFacts) -> Finding:
    """An acknowledged event survives the loss of a broker."""
    check = f"replication of {topic.name}"
    least = topic.number("min.insync.replicas")
    seen = f"{topic.replicas} replicas, min.insync.replicas {'unknown' if least is None else least}"
    if topic.replicas < 3 or (least or 0) < 2:
        return warn(check, seen, "3 replicas with min.insync.replicas=2 outlive the loss of a broker")
    if least is not None and least >= topic.replicas:
        return warn(check, seen, "min.insync.replicas below the replica count, else one lost broker stops all writes")
    return ok(check, seen)


def in_sync(topic: TopicFacts) -> Finding:
    """All replicas follow their leader: `durability` says what the topic can lose, and this what it has lost."""
    check = f"replicas of {topic.name}"
    if not topic.lagging:
        return ok(check, "all in sync")
    brokers = sorted({broker for away in topic.lagging.values() for broker in away})
    named = f"broker{'s' if len(brokers) > 1 else ''} {ranges(brokers)}"
    least = topic.number("min.insync.replicas")
    least_left = topic.replicas - max(map(len, topic.lagging.values()))
    if least is None:
        left = ""
    elif least_left < least:
        left = f": {least_left} left, fewer than min.insync.replicas, so no record is taken"
    elif least_left == least:
        left = f": {least_left} left, so one more loss stops all writes"
    else:
        left = f": {least_left} left"
    return warn(
        check,
        f"{len(topic.lagging)} of {topic.partitions} partitions are not in sync on {named}{left}",
        f"bring {named} back, or wait until what it has missed is copied; if it runs, see its log, disk and network",
    )


def erased_policy(topic: TopicFacts, partitions: int, tools: KafkaTools) -> Finding:
    """The topic of erasures is compacted and has as many partitions as the log: partition p holds p's users."""
    check = f"policy of {topic.name}"
    if topic.partitions != partitions:
        return fail(
            check,
            f"{topic.partitions} partitions, the log has {partitions}",
            tools.recount_erased(topic.name, topic.partitions, partitions),
        )
    if topic.config is None:
        return warn(check, "the broker does not report it", NO_ANSWER_FIX)
    if topic.policies != {"compact"}:
        return fail(
            check,
            f"cleanup.policy {','.join(sorted(topic.policies))}",
            f"an erasure that is deleted lets a rebuild bring the user back: "
            f"{tools.alter(topic.name, 'cleanup.policy=compact')}",
        )
    return ok(check, "compact, as many partitions as the log")


def dead_letter_policy(dead: TopicFacts, log: TopicFacts, tools: KafkaTools) -> Finding:
    """Dead letters are kept long enough to be examined, and every record of the log fits."""
    check = f"policy of {dead.name}"
    if dead.config is None:
        return warn(check, "the broker does not report it", NO_ANSWER_FIX)
    if "compact" in dead.policies:
        return fail(
            check,
            f"cleanup.policy {','.join(sorted(dead.policies))}",
            f"compaction keeps one dead letter a key: {tools.alter(dead.name, 'cleanup.policy=delete')}",
        )
    kept = dead.number("retention.ms")
    if kept is not None and 0 <= kept < FEW_DAYS_MS:
        return warn(
            check,
            f"kept for {kept / DAY_MS:.1f} days",
            tools.alter(dead.name, f"retention.ms={4 * FEW_DAYS_MS}"),
        )
    largest, largest_of_log = dead.number("max.message.bytes"), log.number("max.message.bytes")
    if largest is not None and largest_of_log is not None and largest <= largest_of_log:
        return warn(
            check,
            f"max.message.bytes {largest}, the log's is {largest_of_log}",
            "a dead letter is its record plus headers, and a larger one is cut: "
            + tools.alter(dead.name, f"max.message.bytes={largest_of_log + 65536}"),
        )
    return ok(check, "kept long enough, takes every record of the log")


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a right on a topic is for."""

    right: str
    without: str
    """What happens if the user lacks it."""
    stops: bool = False
    """Whether UIC waits then."""


EVENTS_USES = (
    Use(right=TO_READ, without="nothing is folded", stops=True),
    Use(right=TO_WRITE, without="UIC's gRPC calls, ctr import and ctr dead-letters replay are refused"),
)
DEAD_LETTERS_USES = (
    Use(right=TO_WRITE, without="a partition with a bad record waits", stops=True),
    Use(right=TO_READ, without="ctr dead-letters is refused"),
)
ERASED_USES = (
    Use(right=TO_READ, without="a rebuild waits, ctr backfill and ctr import are refused", stops=True),
    Use(right=TO_WRITE, without="EraseUser is refused"),
)


def topic_rights(uses: Sequence[tuple[TopicFacts, Sequence[Use]]]) -> Finding:
    """Our user may do on each topic what UIC and its commands do there."""
    check = "rights on the topics"
    missing = []
    for topic, wanted in uses:
        if topic.rights is None:
            return warn(check, "the broker does not report them", f"compare them with those of {RIGHTS_PAGE}")
        missing += [(topic.name, use) for use in wanted if use.right not in topic.rights]
    if not missing:
        return ok(check, "as many as UIC and its commands use")
    seen = "; ".join(f"no {use.right} on {name}: {use.without}" for name, use in missing)
    judged = fail if any(use.stops for _, use in missing) else warn
    return judged(check, seen, f"give the user what {RIGHTS_PAGE} lists")


def run_rights(unusable: Collection[str], commands: Mapping[str, str]) -> Finding:
    """Our user may use the transactional ids of the commands that append. `commands` names each one's."""
    check = "rights on the transactional ids"
    if not unusable:
        return ok(check, "as many as the commands use")
    seen = "; ".join(f"no {TO_WRITE} on {name}: {commands[name]} is refused" for name in sorted(unusable))
    return warn(check, seen, f"give the user what {RIGHTS_PAGE} lists")


def record_size(topic: TopicFacts, max_request_bytes: int, tools: KafkaTools) -> Finding:
    """The topic accepts the largest request of UIC's own producer."""
    check = f"max.message.bytes of {topic.name}"
    largest = topic.number("max.message.bytes")
    if largest is None:
        return warn(check, "the broker does not report it", NO_ANSWER_FIX)
    if largest < max_request_bytes:
        return warn(
            check,
            f"{largest} bytes, a produce request has up to {max_request_bytes}",
            tools.alter(topic.name, f"max.message.bytes={max_request_bytes}"),
        )
    return ok(check, f"{largest} bytes")


def partitioner(
    samples: Iterable[Sample], partitions: int, tolerated_share: float, error: str | None = None
) -> Finding:
    """Producers choose a key's partition by Kafka's murmur2; more than `tolerated_share` elsewhere stops UIC. Records
    without a valid key say nothing of it, here as in UIC: they are dead letters, wherever they lie.

    `error` says why the newest records could not be read.
    """
    check = "partitioner of the producers"
    if error is not None:
        return warn(check, f"the newest records cannot be read: {error}", "allow this user to read the topic")
    seen = misrouted = 0
    for sample in samples:
        keys = [key for key in sample.keys if key is not None and check_key(key) is None]
        seen += len(keys)
        misrouted += sum(partition_of(key, partitions) != sample.partition for key in keys)
    if not seen:
        return ok(check, "no record with a key to check yet")
    found = f"{misrouted} of the newest {seen} records with a key lie in another partition than their key's"
    fix = f"let producers partition by murmur2. {PRODUCERS}"
    if misrouted > tolerated_share * seen:
        return fail(check, found, fix)
    if misrouted:
        return warn(check, found, fix)
    return ok(check, f"the newest {seen} records with a key all lie where murmur2 puts their key")
