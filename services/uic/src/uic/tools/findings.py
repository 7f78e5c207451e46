"""The checks of a deployment, as functions from facts to findings; `ctr doctor` gathers the facts and prints. The file
is long because it has a function for each check.

Every check says what it saw and, unless that is good, what to do. FAIL means that UIC would stop, refuse to start or
write wrong states; WARN means that it works, but is less safe than it should be. A fact that could not be gathered is
None, and the check says so instead of passing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mimn.release import Record, Release
from mimn.state import partition_of
from uic.core.deployment import DAY_MS, NO_ANSWER_FIX, Finding, Severity, TopicFacts, fail, ok, warn
from uic.core.event import check_key
from uic.core.kafka_tools import KafkaTools
from uic.core.start_position import BrokenReason
from uic.core.topics import ranges
from uic.log.topic_answers import RIGHTS_PAGE, TO_READ, TO_WRITE

OLDEST_STORE = (7, 2)
PARTITIONS_A_MASTER = 32
CLOCK_WARN_S = 2.0
CLOCK_FAIL_S = 60.0
FEW_DAYS_MS = 7 * DAY_MS
BROKEN_PAGE = "docs/runbooks/broken-log.md"
SEE_OUTAGE = "docs/runbooks/store-outage.md says for each answer what to do"
CORRECT_SENTINELS = (
    "correct what the reason names, or UIC_REDIS__SENTINELS and UIC_REDIS__SENTINEL_SERVICE, or bring the Sentinels "
    f"back: {SEE_OUTAGE}"
)
START_MASTER = f"start Redis or Valkey there, or wait until the Sentinels name another master: {SEE_OUTAGE}"


# Redis or Valkey


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What the store reports about itself."""

    server: str
    """"redis" or "valkey"."""
    version: str
    """The server's own version number."""
    policy: str | None
    """`maxmemory-policy`."""
    max_bytes: int
    """`maxmemory`; 0 is no limit."""
    used_bytes: int
    append_only: bool | None
    snapshots: str | None
    """The `save` setting; "" is off."""
    clustered: bool
    role: str
    """"master" or "slave"."""
    clock_ahead_s: float
    """The store's clock minus ours, corrected by half the round trip."""
    address: str = ""
    """Of one of a cluster's masters."""


def store_reachable(name: str, error: str | None, fix: str = "") -> Finding:
    """The store answers. `name`: its URL without credentials, or its master as the Sentinels name it; `fix` is empty if
    the error does not say what to do."""
    if error is None:
        return ok("store", f"{name} answers")
    return fail("store", f"{name}: {error}", fix or "start Redis or Valkey there, or correct UIC_REDIS__URL")


def store_version(facts: StoreFacts) -> Finding:
    """Redis or Valkey, 7.2 or newer."""
    seen = f"{facts.server} {facts.version}"
    numbers = version_numbers(facts.version)
    if len(numbers) < 2:
        return warn("store version", seen, "the version is unreadable: make sure that it is 7.2 or newer")
    if numbers[:2] < OLDEST_STORE:
        return fail("store version", seen, "upgrade to Redis 7.2 or Valkey 7.2, or newer")
    return ok("store version", seen)


def store_writable(facts: StoreFacts, mode: str) -> Finding:
    """The connection is to a master. `mode` as `store_mode`."""
    if facts.role != "master":
        fix = "wait until the Sentinels name its master" if mode == "sentinel" else "point UIC_REDIS__URL at the master"
        return fail("store role", f"connected to a {facts.role}", fix)
    return ok("store role", "master")


def store_writes(refused: Mapping[str, str]) -> Finding:
    """The masters take a commit, here and now, from the user that the settings name."""
    check = "store writes"
    if not refused:
        return ok(check, "a commit was written and deleted again")
    seen = "; ".join(f"{server}: {said}" for server, said in sorted(refused.items()))
    return fail(check, seen, SEE_OUTAGE)


def store_memory(facts: StoreFacts) -> Finding:
    """Under `noeviction` a full store refuses writes, and every partition pauses."""
    check = "store memory"
    mib = 1 << 20
    if not facts.max_bytes:
        return ok(check, f"{facts.used_bytes / mib:.0f} MiB used, no limit set")
    share = facts.used_bytes / facts.max_bytes
    seen = f"{facts.used_bytes / mib:.0f} of {facts.max_bytes / mib:.0f} MiB used ({share:.0%})"
    if share >= 0.98:
        return fail(check, seen, "raise maxmemory or add memory: a full store refuses every commit")
    if share >= 0.8:
        return warn(check, seen, "raise maxmemory before the store is full and refuses commits")
    return ok(check, seen)


def store_persistence(facts: StoreFacts) -> Finding:
    """Without persistence a restart loses all states, and every partition is folded again from the log."""
    check = "store persistence"
    if facts.append_only:
        return ok(check, "append-only file on")
    if facts.append_only is None and facts.snapshots is None:
        return warn(check, "the server does not report it", NO_ANSWER_FIX)
    if facts.snapshots:
        return warn(
            check,
            f"snapshots only ({facts.snapshots})",
            "appendonly yes: with snapshots a crash rewinds states by minutes, and they are folded again",
        )
    return warn(
        check,
        "off",
        "appendonly yes: without persistence a restart means folding the whole log again",
    )


def store_mode(facts: StoreFacts, mode: str) -> Finding:
    """The setting matches the server. `mode` is the setting: single, sentinel or cluster."""
    check = "store mode"
    if facts.clustered and mode != "cluster":
        return fail(check, f"the server runs in cluster mode, the setting says {mode}", "set UIC_REDIS__MODE=cluster")
    if mode == "cluster" and not facts.clustered:
        return fail(check, "the setting says cluster, the server is not in cluster mode", "set UIC_REDIS__MODE=single")
    return ok(check, mode)


def sentinels_quorum(trouble: str, untold: str) -> Finding:
    """The Sentinels are enough to replace the master. `trouble`: that they are not; `untold`: why they did not say."""
    check = "sentinel quorum"
    if trouble:
        fix = f"start the Sentinels that are missing, or see why the others do not reach them: {SEE_OUTAGE}"
        return fail(check, trouble, fix)
    if untold:
        return warn(check, f"not told: {untold}", "give the user at the Sentinels +sentinel|ckquorum, to be told")
    return ok(check, "enough Sentinels to replace the master")


def clock(what: str, ahead_s: float | None) -> Finding:
    """Our clock and another machine's agree: as-of times and the limits of event times compare them."""
    check = f"clock of {what}"
    if ahead_s is None:
        return ok(check, "nothing to compare yet")
    seen = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    fix = "synchronize both clocks (chrony or ntpd)"
    if abs(ahead_s) > CLOCK_FAIL_S:
        return fail(check, seen, fix)
    if abs(ahead_s) > CLOCK_WARN_S:
        return warn(check, seen, fix)
    return ok(check, seen)


# Kafka


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Keys of a partition's newest records (None for a record without a key), and the newest timestamp."""

    partition: int
    keys: tuple[bytes | None, ...]
    newest_ms: int | None = None


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
    fix = "librdkafka producers (C, Go, .NET, confluent-kafka) must set partitioner=murmur2_random"
    if misrouted > tolerated_share * seen:
        return fail(check, found, fix)
    if misrouted:
        return warn(check, found, fix)
    return ok(check, f"the newest {seen} records with a key all lie where murmur2 puts their key")


def newest_event(samples: Iterable[Sample], now_ms: int) -> Finding:
    """No record has a timestamp ahead of our clock; otherwise its producer's clock is wrong, or ours."""
    newest = max((s.newest_ms for s in samples if s.newest_ms is not None), default=None)
    if newest is None or newest <= now_ms:
        return ok("clock of the producers", "no record from the future")
    return clock("the producers", (newest - now_ms) / 1000)


# Bundle, namespace, libraries


def bundle_loads(path: str, name: str | None, error: str | None) -> Finding:
    """The bundle is complete, and this process computes the same numbers as its exporter."""
    if error is not None:
        return fail("bundle", f"{path}: {error}", "export or copy the bundle again, or correct UIC_BUNDLE__PATH")
    return ok("bundle", f"{name} loads, golden cases pass")


def namespace_meta(
    stored: Mapping[str, str] | None,
    expected: Mapping[str, str],
    namespace: str,
    *,
    removed: bool = False,
    folded: int = 0,
) -> Finding:
    """The namespace in the store matches the settings, and no removal of it has begun.

    Args:
        stored: its meta; None before UIC's first start.
        expected: what the settings say.
        namespace: its name.
        removed: whether a removal of it has begun.
        folded: of how many partitions the store has progress.
    """
    check = f"namespace {namespace}"
    if removed:
        fix = f"wait until it is gone; if that was interrupted, ctr namespaces drop {namespace} finishes it"
        return fail(check, "is being removed, and no worker folds it meanwhile", fix)
    if not stored and folded:
        fix = (
            "find out who deleted its key, which ends in :meta, and start UIC; while it runs, it writes the key again "
            "within seconds (docs/runbooks/lost-states.md)"
        )
        return fail(check, f"its meta is gone from the store, and {folded} partitions have progress", fix)
    if not stored:
        return ok(check, "not in the store yet: UIC writes it at its first start")
    wrong = {k: (stored.get(k), v) for k, v in expected.items() if stored.get(k) != v}
    if wrong:
        return fail(
            check,
            "; ".join(f"{k} is {have!r} in the store, {want!r} by the settings" for k, (have, want) in wrong.items()),
            "correct the settings, or raise the generation (UIC and RTP both) to start a new namespace",
        )
    return ok(check, ", ".join(f"{k} {v}" for k, v in expected.items()))


def rollout_record(record: Record | None, error: str | None, configured: str | None, variables: str) -> Finding:
    """The settings name the namespace that users are answered from.

    Args:
        record: None if there is none, or if `error` says why it cannot be read.
        configured: the namespace of the settings; None if their bundle does not load.
        variables: what names the one in service.
    """
    check = "rollout record"
    if error is not None:
        fix = "RTPs that run go on by the last one that they read: restart none, and see docs/runbooks/roll-back.md"
        return fail(check, error, fix)
    if record is None:
        return ok(check, "none: RTP serves the bundle of its settings")
    serving = record.serving
    seen = f"revision {record.revision}: {serving.bundle} serves, from namespace {serving.namespace}"
    if configured in (None, serving.namespace):
        return ok(check, seen)
    return warn(
        check,
        f"{seen}; the settings name {configured}",
        f"UIC's other commands look at {configured}, too: with {variables} they look at what serves",
    )


def same_log(namespace: str, topic: str, broken: Mapping[int, BrokenReason]) -> Finding:
    """The topic can be the log from which a namespace was folded.

    Args:
        namespace: of which UIC would go on.
        topic: its name.
        broken: partition → why its log cannot be the one that was folded.
    """
    check = f"log of {namespace}"
    if not broken:
        return ok(check, f"nothing in {topic} contradicts what was folded")
    return fail(check, another_log(topic, broken), f"{BROKEN_PAGE} says what to decide")


def another_log(topic: str, broken: Mapping[int, BrokenReason]) -> str:
    """That partitions wait for an operator, by the reasons that UIC gives."""
    of = ", ".join(f"{n} by {reason}" for reason, n in sorted(Counter(broken.values()).items()))
    return f"{topic} is not the log that was folded, and UIC folds nothing of it until an operator decides: {of}"


def folded(release: Release, unfolded: str | None, variables: str, another: str = "") -> Finding:
    """Workers fold the namespace of a release that answers users.

    Args:
        release: it.
        unfolded: why RTP calls its states stale.
        variables: what its workers are started with.
        another: why none can fold it, if the topic is not its log.
    """
    check = f"workers of {release.namespace}"
    if another:
        return fail(check, f"{release.bundle} answers from it, and {another}", f"{BROKEN_PAGE} says what to decide")
    if unfolded is None:
        return ok(check, f"it is folded, {release.bundle} answers from it")
    fix = f"start UIC workers with {variables}, or see with these what keeps theirs: ctr partitions, ctr doctor"
    return fail(check, f"{release.bundle} answers from it, and its states are stale: {unfolded}", fix)


@dataclass(frozen=True)
class Library:
    """A library that UIC needs: the oldest accepted version, and the installed one."""

    name: str
    oldest: str
    installed: str | None


def library(facts: Library) -> Finding:
    """The library is installed, in an accepted version."""
    check = f"library {facts.name}"
    fix = f"pip install '{facts.name}>={facts.oldest}'"
    if facts.installed is None:
        return fail(check, "not installed", fix)
    if version_numbers(facts.installed) < version_numbers(facts.oldest):
        return fail(check, f"{facts.installed}, older than {facts.oldest}", fix)
    return ok(check, facts.installed)


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "7.2.4-rc1" → (7, 2, 4)."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def worst(findings: Iterable[Finding]) -> Severity:
    """FAIL if any check failed, else WARN if any warned, else OK."""
    verdicts = {finding.verdict for finding in findings}
    return next((v for v in (Severity.FAIL, Severity.WARN) if v in verdicts), Severity.OK)
