"""What must hold of a deployment before UIC starts, as functions from gathered facts to findings. The preflight refuses
to start on a failed one; the doctor prints them among its own.

FAIL means that UIC would stop, refuse to start or write wrong states; WARN means that it works, with less safety than
the design promises. A fact that could not be gathered is None, and the check says so instead of passing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mimn.state import NO_TOPIC_ID
from uic.core.kafka_tools import KafkaTools
from uic.core.topics import without_leader

NO_ANSWER_FIX = "permit this user to read it, or check the value on the server by hand"
DAY_MS = 24 * 3600 * 1000


class Severity(StrEnum):
    """The result of a check."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    verdict: Severity
    seen: str
    fix: str = ""
    """Empty exactly when the verdict is OK."""

    @property
    def line(self) -> str:
        """What was checked, what was seen, and what to do."""
        return f"{self.check}: {self.seen}; {self.fix}"


def ok(check: str, seen: str) -> Finding:
    """All is well."""
    return Finding(check, Severity.OK, seen)


def warn(check: str, seen: str, fix: str) -> Finding:
    """Works, with less safety."""
    return Finding(check, Severity.WARN, seen, fix)


def fail(check: str, seen: str, fix: str) -> Finding:
    """Would stop, or do harm."""
    return Finding(check, Severity.FAIL, seen, fix)


@dataclass(frozen=True, kw_only=True)
class TopicFacts:
    """One topic: its partitions, and its settings by name; `config` is None if the broker does not report them."""

    name: str
    partitions: int
    replicas: int
    """The smallest replica count of its partitions."""
    leaderless: tuple[int, ...]
    """Partitions without a leader now."""
    lagging: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Partition → the brokers whose replica of it is not in sync now, of those with one that is not."""
    config: Mapping[str, str] | None
    rights: frozenset[str] | None = None
    """The operations on it that our user is allowed; None if the brokers do not report them."""
    topic_id: bytes = NO_TOPIC_ID
    """16 bytes; zeros if the broker has none."""

    def number(self, name: str) -> int | None:
        """A numeric setting, None if unknown."""
        value = (self.config or {}).get(name)
        return None if value is None else int(value)

    @property
    def policies(self) -> frozenset[str]:
        """`cleanup.policy`, as a set."""
        return frozenset(p.strip() for p in (self.config or {}).get("cleanup.policy", "").split(",") if p.strip())


def store_policy(policy: str | None) -> Finding:
    """Nothing without a TTL is ever evicted: states and progress have none, so the `volatile-` policies keep them."""
    check = "maxmemory-policy"
    if policy is None:
        return warn(check, "the server does not report it", NO_ANSWER_FIX)
    if policy.startswith("allkeys-"):
        return fail(
            check,
            f"{policy} may evict states and progress",
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in the server's configuration file",
        )
    return ok(check, policy)


def topic_exists(name: str, topic: TopicFacts | None, create: str, trouble: str = "") -> Finding:
    """The topic exists, with a leader for each partition.

    Args:
        name: the topic's.
        topic: None if it does not exist, or there is `trouble`.
        create: the command that creates it.
        trouble: why the brokers do not show it, with what is needed; empty if they do, or if it does not exist.
    """
    check = f"topic {name}"
    if trouble:
        return fail(check, trouble, "give the user what it lacks, and run this again; whether it exists is not known")
    if topic is None:
        return fail(check, "does not exist", create)
    if topic.leaderless:
        return fail(check, without_leader(topic.leaderless), "bring the missing brokers back")
    return ok(check, f"{topic.partitions} partitions, {topic.replicas} replicas")


def partition_count(topic: TopicFacts, partitions: int) -> Finding:
    """The topic has N partitions, which must never change: users' keys in the store depend on it."""
    check = f"partitions of {topic.name}"
    if topic.partitions != partitions:
        return fail(
            check,
            f"{topic.partitions}, the setting says {partitions}",
            "set UIC_KAFKA__PARTITIONS to the topic's count if this namespace is new; if the topic was "
            "given more partitions, bring its events into a new topic and a new generation "
            "(docs/runbooks/grown-topic.md)",
        )
    return ok(check, str(partitions))


def log_cleanup(topic: TopicFacts, tools: KafkaTools) -> Finding:
    """The event log is never compacted: compaction keeps one event a user."""
    check = f"cleanup.policy of {topic.name}"
    if topic.config is None:
        return warn(check, "the broker does not report it", NO_ANSWER_FIX)
    if topic.policies != {"delete"}:
        return fail(
            check,
            ",".join(sorted(topic.policies)) or "empty",
            f"events that were compacted away are gone; to keep the others: "
            f"{tools.alter(topic.name, 'cleanup.policy=delete')}",
        )
    return ok(check, "delete")


def log_retention(topic: TopicFacts, tools: KafkaTools) -> Finding:
    """The log reaches back as far as a rebuild must: unlimited, unless chosen otherwise."""
    check = f"retention of {topic.name}"
    time_ms, size = topic.number("retention.ms"), topic.number("retention.bytes")
    if time_ms is None:
        return warn(check, "the broker does not report it", NO_ANSWER_FIX)
    forever = tools.alter(topic.name, "retention.ms=-1,retention.bytes=-1")
    fix = f"accept that a rebuild restores no more than this, or keep all: {forever}"
    if time_ms < 0 and (size is None or size < 0):
        return ok(check, "unlimited")
    limits = [f"{time_ms / DAY_MS:.1f} days"] if time_ms >= 0 else []
    if size is not None and size >= 0:
        limits.append(f"{size} bytes a partition")
    return warn(check, " and ".join(limits), fix)
