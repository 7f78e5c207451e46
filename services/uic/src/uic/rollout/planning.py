"""What a rollout would take, and what stands against it, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mimn.bundle import Bundle, BundleError, Manifest, check_name, load_bundle, read_manifest
from mimn.bundle.arrays import read_array
from mimn.bundle.graph import proven_head, proven_step
from mimn.bundle.members import FILES
from mimn.bundle.seal import SEAL
from mimn.bundle.specs import HEAD, MANIFEST
from mimn.release import Finding, Gate, Release, out_of_memory
from mimn.state import Progress
from mimn.state.codec import HEADER_BYTES
from uic.core.start_position import LogBounds
from uic.errors import LogUnavailable, TopicRefused, UnsuitableTopic
from uic.log.partition_reader import PartitionReader
from uic.rollout.changes import changes, fewer_members
from uic.rollout.gates import LOG_TIMEOUT_S, Gates, made_of
from uic.rollout.log_policy import compacted
from uic.rollout.namespaces import Namespace, Reading, StateSize
from uic.rollout.origins import Origin
from uic.settings import ClientSettings

MEASURED: Final = 200
"""States whose memory is measured."""
ENTRY_BYTES: Final = 100
"""Beside a value, where no state can be measured."""
RATE: Final = 30_000
"""Events a second that one UIC process is counted on to fold; its budget's floor."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a rollout would take."""

    release: Release
    replaces: Release
    head_only: bool
    users: int = 0
    value_bytes: int = 0
    """Of one new state."""
    more_bytes: int = 0
    """That the store takes for the new namespace."""
    records: int = 0
    """Of the log that are folded: where the store has the new namespace, those after what it has folded."""
    hours: float = 0.0
    findings: tuple[Finding, ...] = field(default=())
    changes: tuple[str, ...] = ()
    """What callers of the scoring service will notice."""

    def view(self) -> dict[str, Any]:
        """For people and programs."""
        if self.head_only:
            what = "head only, nothing to migrate"
        else:
            what = f"a migration of {self.users} users from {self.replaces.namespace} to {self.release.namespace}"
        view: dict[str, Any] = {"bundle": self.release.bundle, "replaces": self.replaces.bundle, "what": what}
        if not self.head_only:
            view |= {
                "users": self.users,
                "bytes": self.more_bytes,
                "bytes_per_user": self.value_bytes,
                "records": self.records,
                "hours": round(self.hours, 2),
            }
        return view | {
            "changes": list(self.changes),
            "against": [f"{one.gate}: {one.reason}" for one in self.findings],
        }


def read_release(path: Path, generation: int) -> tuple[Release, Bundle]:
    """The release of a bundle, after its files were checked, and its golden cases as UIC and RTP check them.

    Raises:
        BundleError: it cannot be served, or has a name or version that the record cannot hold.
        GoldenMismatch: it cannot be served.
    """
    manifest, _ = read_manifest(path)
    try:
        check_name("name", manifest.name)
        check_name("version", manifest.version)
    except BundleError as error:
        raise BundleError(
            f"{path} cannot be rolled out or replaced: {error}. Copy it to a folder …/NAME/VERSION with an "
            "allowed name and version, write them into the copy's manifest.json, and seal it there by `sha256sum "
            f"{MANIFEST} > {SEAL}`; states stay valid, because the fingerprint does not depend on them"
        ) from error
    bundle = load_bundle(path.resolve())
    proven_step(bundle)
    proven_head(bundle)
    of = bundle.manifest
    return Release(of.name, of.version, bundle.sha256, of.files[HEAD], of.fingerprint, generation), bundle


def told_changes(settings: ClientSettings, path: Path, bundle: Bundle, replaces: Release) -> tuple[str, ...]:
    """What callers will notice when the bundle at `path` replaces a release, whose bundle is looked for at
    UIC_BUNDLE__PATH and beside the new one."""
    beside = path.resolve().parents[1] / replaces.name / replaces.version
    for place in (beside, *(() if settings.bundle is None else (settings.bundle.path,))):
        try:
            manifest, sha256 = read_manifest(place)
        except BundleError:
            continue
        if sha256 == replaces.manifest:
            return (*changes(manifest, bundle.manifest), *_fewer_members(manifest, place, bundle))
    return (
        f"not known, because the bundle in service, {replaces.bundle}, is not here: copy it to {beside} to be told what"
        " changes in answers and requests",
    )


def _fewer_members(served: Manifest, place: Path, bundle: Bundle) -> Iterator[str]:
    """As `fewer_members`, of the bundle in service, in the folder `place`, and the one that replaces it."""
    if served.members is None or bundle.reads is None or bundle.reads.members is None:
        return
    try:
        ids = read_array(place / FILES["ids"])
    except (OSError, ValueError) as error:
        yield f"not known of members, because {place / FILES['ids']} of the bundle in service cannot be read: {error}"
        return
    yield from fewer_members(ids, bundle.reads.members.index.ids)


def plan(
    gates: Gates,
    settings: ClientSettings,
    *,
    release: Release,
    bundle: Bundle,
    replaces: Release,
    origin: Origin,
    topic: str | None = None,
    rate: float = RATE,
) -> Plan:
    """What rolling `release` out would take. Only reads. `topic`: that of which its states are made, if it is another
    than that of the states in service.

    Raises:
        redis.RedisError: the store does not answer.
    """
    if release.namespace == replaces.namespace:
        return Plan(release=release, replaces=replaces, head_only=True)
    old, new = gates.namespace(replaces), gates.namespace(release)
    before, after = old.read(), new.read()
    if before is None:
        lost = Finding(
            Gate.LOG,
            f"the store has no namespace {replaces.namespace} of the bundle in service, {replaces.bundle}: set "
            "UIC_BUNDLE__PATH and UIC_BUNDLE__GENERATION to what UIC runs with, and UIC_REDIS__PREFIX",
        )
        return Plan(
            release=release, replaces=replaces, head_only=False, value_bytes=_value_bytes(bundle, ()), findings=(lost,)
        )
    findings: list[Finding] = []
    if after is not None and (other := made_of(before, after, topic)) is not None:
        findings.append(other)
        after = None
    users, sample = sum(old.size(p) for p in range(before.partitions)), _sample(old, before.partitions)
    there = 0 if after is None else sum(new.size(p) for p in range(after.partitions))
    value_bytes = _value_bytes(bundle, sample)
    more = max(0, users - there) * (value_bytes + _entry_bytes(sample))
    findings += _memory(gates, more)
    records, of_log = _log(settings, before, after, origin) if topic is None else _other_log(settings, topic)
    findings += of_log
    folds = origin.reads_log or topic is not None
    hours = records / rate / 3600 if folds else 0.0
    return Plan(
        release=release,
        replaces=replaces,
        head_only=False,
        users=users,
        value_bytes=value_bytes,
        more_bytes=more,
        records=records if folds else 0,
        hours=hours,
        findings=tuple(findings),
    )


def _sample(old: Namespace, partitions: int) -> list[StateSize]:
    """The sizes of some states in service."""
    sample: list[StateSize] = []
    for p in range(partitions):
        if len(sample) >= MEASURED:
            break
        sample += old.state_sizes(p, old.sample(p, MEASURED // 4))
    return sample


def _value_bytes(bundle: Bundle, sample: Sequence[StateSize]) -> int:
    """The size of a new state. Values are stored without their zeros: of a ledger, counters or a list as many are
    expected as states in service have, and none of the rest."""
    whole = HEADER_BYTES + bundle.layout.stored_bytes
    filled = sum(size.value for size in sample) / sum(size.whole for size in sample) if sample else 1.0
    of_graph = 0 if bundle.event_list else 4 * len(range(bundle.layout.floats)[bundle.rest])
    return max(round(whole * filled), HEADER_BYTES + of_graph)


def _entry_bytes(sample: Sequence[StateSize]) -> int:
    """What the store takes for a state beside its value."""
    return round(sum(size.entry - size.value for size in sample) / len(sample)) if sample else ENTRY_BYTES


def _memory(gates: Gates, more: int) -> Iterator[Finding]:
    nodes = gates.memory()
    for used, whole in nodes:
        if (full := out_of_memory(used, -(-more // len(nodes)), whole)) is not None:
            way_out = "add masters or memory, collect old namespaces (`rollout gc`), or roll out a smaller state"
            yield Finding(full.gate, f"{full.reason}: {way_out}")


def _bounds(settings: ClientSettings, topic: str) -> Sequence[LogBounds] | Finding:
    """Of each partition of a topic; none if there is no such topic. A finding if the log does not answer, does not show
    the topic, or is one on which no worker starts."""
    try:
        with PartitionReader(settings.kafka.client_options(), topic, idle_s=LOG_TIMEOUT_S) as reader:
            bounds = reader.bounds().partitions
        return compacted(settings.kafka, topic) or bounds
    except TopicRefused as error:
        return Finding(Gate.LOG, error.detail)
    except LogUnavailable as error:
        return Finding(Gate.LOG, f"the log does not answer ({error.detail})", passes=True)
    except UnsuitableTopic:
        return ()


def _other_log(settings: ClientSettings, topic: str) -> tuple[int, list[Finding]]:
    """How many records another topic has."""
    bounds = _bounds(settings, topic)
    if isinstance(bounds, Finding):
        return 0, [bounds]
    absent = () if bounds else (Finding(Gate.LOG, f"there is no topic {topic}: make it, and import the log into it"),)
    return sum(one.end - one.start for one in bounds), list(absent)


def _log(settings: ClientSettings, before: Reading, after: Reading | None, origin: Origin) -> tuple[int, list[Finding]]:
    """How many records of the log are not folded yet, and whether it reaches back as far as the states in service.

    Args:
        settings: of the log.
        before: the namespace in service.
        after: what the store has of the new one, of the same log; None if nothing. A fold goes on from there.
        origin: of the new states.
    """
    bounds = _bounds(settings, before.topic)
    if isinstance(bounds, Finding):
        return 0, [bounds]
    if len(bounds) != before.partitions:
        return 0, [Finding(Gate.LOG, f"topic {before.topic} has {len(bounds)} partitions, not {before.partitions}")]
    folded = (None,) * len(bounds) if after is None else after.progress
    cut = [
        p
        for p, one in enumerate(before.progress)
        if one is not None and bounds[p].start > one.complete_from and not _goes_on(folded[p], one, bounds[p].start)
    ]
    findings = []
    if cut and origin.reads_log:
        findings.append(
            Finding(
                Gate.LOG,
                f"{len(cut)} of {before.partitions} partitions no longer begin where the states in service do "
                f"(partition {cut[0]} begins at {bounds[cut[0]].start}): use --from backfill with an archive or with "
                "kept ledgers (ctr backfill --keep-ledgers), or snapshot:ID",
            )
        )
    begins = [
        one.start if done is None else max(one.start, done.next_offset)
        for one, done in zip(bounds, folded, strict=True)
    ]
    return sum(max(0, one.end - begin) for one, begin in zip(bounds, begins, strict=True)), findings


def _goes_on(folded: Progress | None, served: Progress, start: int) -> bool:
    """Whether a partition of the new namespace needs nothing of the log before `start`, where that begins now: it has
    folded all that the one in service has, up to there or further."""
    return folded is not None and folded.complete_from <= served.complete_from and folded.next_offset >= start
