"""`ctr backfill`: fold a whole log, or its archive, and load the states, so that UIC goes on from there. The file is
long because a run, its estimate and its proof share the job, the log and the folder of work.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO
from uuid import UUID

import msgspec

from mimn.arrow import pc
from mimn.bundle import BundleError, load_bundle
from mimn.options import positive, whole_number
from mimn.state import Keys, Progress, namespace
from uic.bulk import pool
from uic.bulk.archive import Archive, arrow_of, begin_archive, incomplete, open_archive
from uic.bulk.archiving import Archiver
from uic.bulk.backfill_job import ARCHIVE, JOB, KEPT, LOCK, STATES, BackfillJob, Target, new_job, read_job
from uic.bulk.commands.servers import add_loading, erasures_of, load, says_it_goes_on, says_run_again
from uic.bulk.errors import BulkRefused, DamagedFile, FolderFull
from uic.bulk.folder import Folder
from uic.bulk.kept_ledgers import KeptLedgers, keep
from uic.bulk.loading import ENTRY_BYTES
from uic.bulk.namespaces import refuse_aborted, refuse_another_topic
from uic.bulk.partition_fold import FoldedPartition, fold_partitions
from uic.bulk.partition_log import PartitionLog
from uic.bulk.progress_line import ProgressLine
from uic.bulk.saved_states import (
    MANIFEST,
    SavedPartition,
    SavedStates,
    read_manifest,
    saved_partition,
    seal,
    states_of,
)
from uic.bulk.verification import Verified, compare, fold_users
from uic.bulk.waiting_line import says_if_it_waits
from uic.core.event import RULES, Reason, Record
from uic.core.records import BatchRecord
from uic.core.start_position import contradiction
from uic.errors import LogUnavailable, StartRefused, StoreUnavailable
from uic.log.partition_reader import TopicBounds, log_reader
from uic.preflight import check_log_is_whole
from uic.settings import UicSettings, read_settings
from uic.store import RedisStore
from uic.tools.interrupted import says_if_interrupted

MIB = 1 << 20
SAMPLE_RECORDS = 100_000
"""A dry run folds about this many."""


def main(
    arguments: Sequence[str] | None = None,
    out: TextIO | None = None,
    after: Callable[[str], None] = lambda step: None,
    lineages: Sequence[int] | None = None,
) -> int:
    """Run the command. 0: loaded and handed over (or verified); 1: refused, no answer, or states differ; 2: usage.

    `after` is called after each step: "job", "fold", "seal", "claim", "states", "hand_over". `lineages`: of each
    partition, in place of new ones; with those of another fold, the states are the same to the byte.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.keep_ledgers is None) != (options.of_bundle is None):
        parser.error("--keep-ledgers and --of-bundle go together")
    settings = read_settings()
    settings.kafka.check_files()
    try:
        command = Backfill(settings, options, out, after, lineages)
        if options.verify:
            return command.verify(options.sample)
        if options.dry_run:
            return command.estimate()
        again = "run it again with the same --work; it goes on"
        with says_if_interrupted("ctr backfill", again), says_run_again(), says_it_goes_on():
            return command.run()
    except FolderFull as error:
        print(f"ctr backfill: {error}. Free space there, and run this again: it goes on", file=sys.stderr)
        return 1
    except (BundleError, BulkRefused, StartRefused, StoreUnavailable, LogUnavailable) as error:
        print(f"ctr backfill: {error}", file=sys.stderr)
        return 1


class Backfill:
    """One run of the command."""

    def __init__(
        self,
        settings: UicSettings,
        options: argparse.Namespace,
        out: TextIO | None,
        after: Callable[[str], None],
        lineages: Sequence[int] | None,
    ) -> None:
        """Loads the bundle; connects to nothing."""
        self._settings = settings
        self._options = options
        self._out = out
        self._after = after
        self._lineages = lineages
        bundle = load_bundle(settings.bundle.path)
        kafka, redis = settings.kafka, settings.redis
        spaces = namespace(bundle.manifest.fingerprint, settings.bundle.generation)
        self._target = Target(bundle, spaces, redis.prefix, kafka.topic, kafka.partitions)
        self._keys = Keys(spaces, redis.prefix)
        self._store = RedisStore(redis, self._keys)
        self._work = Folder(options.work)

    def run(self) -> int:
        """Fold and load all that is not there yet.

        Raises:
            BulkRefused: another run writes the folder of work; or there is another reason not to.
        """
        refuse_another_topic(self._store, self._keys, self._target.topic)
        refuse_aborted(self._store, self._keys)
        self._check_log()
        bounds = self._bounds()
        if not self._folded():
            self._refuse_folded_namespace()
        with self._work.locked(LOCK) as alone:
            if not alone:
                raise BulkRefused(f"another run writes {self._work.url}: wait until it has ended, and run this again")
            return self._run(bounds)

    def _folded(self) -> bool:
        return self._work.below(STATES).exists(MANIFEST)

    def _run(self, bounds: TopicBounds) -> int:
        for folder in (self._work, self._work.below(KEPT), self._work.below(STATES)):
            folder.remove_unfinished()
        job = read_job(self._work, self._target) or self._begin(bounds)
        self._refuse_other_ledgers(job)
        self._refuse_another_log(job, self._bounds())  # again: the archive may have gone beyond the ends of before
        if not self._folded():
            self._fold(job)
        folder = self._work.below(STATES)
        with self._says_what_helps(job, folder):
            manifest = read_manifest(folder)
        records = sum(p.records for p in manifest.partitions)
        rejected = _total(p.rejected for p in manifest.partitions)
        if records and sum(rejected.values()) == records and not manifest.users:
            raise BulkRefused(
                f"all {records} records were rejected ({_counted(rejected)}), so no user has a state, and nothing was "
                f"loaded: {'; '.join(_rule(name) for name in rejected)}"
            )
        with self._says_what_helps(job, folder):
            loaded = load(
                folder,
                manifest,
                self._options,
                self._store,
                self._keys,
                kafka=self._settings.kafka,
                erased={},
                said="loaded",
                after=self._after,
            )
        outcomes = _total(p.outcomes for p in manifest.partitions)
        became = [_counted(outcomes)] if any(outcomes.values()) else []
        if rejected:
            became.append(f"{sum(rejected.values())} rejected ({_counted(rejected)})")
        of_records = f": {', '.join(became)}" if became else ""
        kept = _total(p.kept for p in manifest.partitions)
        of_ledgers = ""
        if kept:
            of_ledgers = (
                f". {sum(kept.values())} ledgers are kept; {kept['partial']} of their users' memories lack events"
            )
        counts = [p.partial for p in manifest.partitions if p.partial is not None]
        partial = sum(counts) if len(counts) == job.n else None
        of_partial = f". {partial} of the states are partial: they lack events" if partial else ""
        self._say(
            {
                "namespace": job.namespace,
                "users": manifest.users,
                "records": records,
                "outcomes": outcomes,
                "rejected": rejected,
                "bytes": manifest.value_bytes,
                "partitions": job.n,
                "loaded_states": loaded.states,
                "kept": kept,
                "partial_states": partial,
                "complete_from": {p.partition: p.decoded.complete_from for p in manifest.partitions},
            },
            f"{manifest.users} users in {job.n} partitions of {job.namespace} are loaded and handed over; "
            f"UIC goes on from there. {records} records{of_records}{of_ledgers}{of_partial}",
        )
        return 0

    def estimate(self) -> int:
        """What a run would take: folds a sample of whole partitions, and writes nothing anywhere."""
        options = self._options
        self._check_log()
        bounds = self._bounds()
        sizes, logs, complete_from = self._sample(bounds)
        records, read = sum(sizes), sum(sizes[log.partition] for log in logs)
        model = pool.load_model(str(self._target.bundle.path))
        began = time.process_time()
        folded = fold_partitions(logs, model)
        seconds_a_record = (time.process_time() - began) / max(read, 1)
        filled = sum(size > 0 for size in sizes)
        sampled = sum(len(f.states.users) for f in folded)
        users = sampled * filled // max(len(logs), 1)
        value, copied = sum(map(_value_bytes, folded)) // max(sampled, 1), 0
        if (kept := self._kept_ledgers(bounds)) is not None:
            users = max(users, kept.users)
            value = max(value, kept.value_bytes(self._target.bundle))
            copied = sum(saved.bytes for saved in kept.partitions)
        report = {
            "records": records,
            "users": users,
            "kept_users": kept.users if kept else 0,
            "store_bytes": users * (value + ENTRY_BYTES),
            "work_bytes": users * value + copied,
            "fold_hours": records * seconds_a_record / max(1, options.workers) / 3600,
            "load_hours": users * value / options.bytes_per_s / 3600,
            "us_per_record": seconds_a_record * 1e6,
            "complete_from": complete_from,
        }
        missing = "" if kept else incomplete(complete_from, len(sizes))
        of_kept = f", {kept.users:,} of them in the snapshot" if kept else ""
        self._say(
            report,
            f"{records:,} records of about {users:,} users{of_kept}: {report['fold_hours']:.3f} hours to fold with "
            f"{options.workers} processes ({report['us_per_record']:.1f} us of a core each), "
            f"{report['load_hours']:.3f} hours to load; about {report['store_bytes']:,} bytes in the store and "
            f"{report['work_bytes']:,} in {self._work.url}" + (f"\n{missing}" if missing else ""),
        )
        return 0

    def _sample(self, bounds: TopicBounds) -> tuple[list[int], list[PartitionLog], dict[int, int]]:
        """How many records each partition has; some whole partitions of about `SAMPLE_RECORDS` records; and from which
        offset on each partition has all records."""
        source: str = self._options.source
        archive = None if source == "log" else open_archive(Folder(source.removeprefix("archive:")), bounds.topic_id)
        manifests = [archive.checked(p) for p in range(archive.partitions)] if archive else []
        sizes = [m.records for m in manifests] or [b.end - b.start for b in bounds.partitions]
        complete_from = [m.complete_from for m in manifests] or [b.start for b in bounds.partitions]
        logs: list[PartitionLog] = []
        for partition in sorted((p for p, size in enumerate(sizes) if size), key=sizes.__getitem__):
            start = manifests[partition].base if archive else bounds.partitions[partition].start
            begin = Progress(partitions=len(sizes), next_offset=start, lineage=1, writer=1, base=start, as_of_ms=0)
            if archive:
                records = archive.records(manifests[partition], pool.LEAST_ROWS)
            else:
                with log_reader(self._settings.kafka) as reader:
                    read = reader.read(partition, start, bounds.partitions[partition].end)
                    records = iter([arrow_of(some) for some, _ in read if some])
            logs.append(PartitionLog(partition, begin, records))
            if sum(sizes[log.partition] for log in logs) >= SAMPLE_RECORDS:
                break
        return sizes, logs, dict(enumerate(complete_from))

    def verify(self, sample: int) -> int:
        """Compare users in the store with another fold of their events."""
        job = read_job(self._work, self._target)
        if job is None:
            raise BulkRefused(f"{self._work.url} holds no backfill: give the --work that it was run with")
        folder = self._work.below(STATES)
        if not folder.exists(MANIFEST):
            raise BulkRefused(f"the backfill of {self._work.url} is not finished: run it to its end first")
        manifest, archive = read_manifest(folder), job.open_archive()
        model = pool.load_model(job.bundle)
        share = min(1.0, sample / max(manifest.users, 1))
        choose = random.Random(0)  # noqa: S311 (a sample)
        verified = Verified()
        read = ProgressLine("read", sum(saved.records for saved in manifest.partitions), "records")
        for saved in manifest.partitions:
            users = [u for some, _ in states_of(folder, saved) for u in some if choose.random() < share]
            if not users:
                read.add(saved.records)
                continue
            records, kept = self._records(job, saved), pool.kept_partition(job, self._work.url, saved.partition)
            if kept is not None:
                records = (record for record in records if kept.holds(record.key, record.offset))
            partition, counted = saved.partition, _counting(records, read.add)
            begin, erased = job.begin(job.manifest(archive, partition)), job.erased_keys(partition)
            folded = fold_users(counted, set(users), erased, model, partition=partition, begin=begin)
            values = self._store.stored_values(saved.partition, [u.decode() for u in users])
            compare(
                dict(zip(users, values, strict=True)),
                folded,
                model,
                lineage=saved.decoded.lineage,
                end=saved.decoded.next_offset,
                verified=verified,
                kept={} if kept is None else kept.shared(set(users)),
            )
        self._say(
            asdict(verified) | {"wrong": verified.wrong},
            f"{verified.users} users compared: {verified.wrong} wrong ({verified.missing} missing, {verified.count} by "
            f"count, {verified.digest} by digest, {verified.tensors} by tensors, {verified.too_many} without events), "
            f"{verified.same_bits} the same to the last bit; {verified.moved_on} have gone on since",
        )
        return 1 if verified.wrong or not verified.users else 0

    # Steps

    def _begin(self, bounds: TopicBounds) -> BackfillJob:
        """Decide what is folded, and write it down. With `--from log` the log is archived first."""
        if (kept := self._kept_ledgers(bounds)) is not None:
            kept.copy(self._work.below(KEPT))
        source: str = self._options.source
        if source == "log":
            archive = begin_archive(
                self._work.below(ARCHIVE), self._target.topic, bounds.topic_id, len(bounds.partitions)
            )
            with log_reader(self._settings.kafka) as reader:
                archiver = Archiver(archive, reader)
                archiver.refuse(bounds.partitions)
                left = sum(archiver.left(partition, now) for partition, now in enumerate(bounds.partitions))
                line = ProgressLine("archived", left, "offsets")
                for partition, now in enumerate(bounds.partitions):
                    archiver.run(partition, now.end, line.add)
        else:
            archive = open_archive(Folder(source.removeprefix("archive:")), bounds.topic_id)
        job = new_job(self._target, archive, self._erased(archive), self._lineages, kept)
        self._work.write(JOB, msgspec.json.format(msgspec.json.encode(job)))
        self._after("job")
        return job

    def _kept_ledgers(self, bounds: TopicBounds) -> KeptLedgers | None:
        if self._options.keep_ledgers is None:
            return None
        return keep(
            Folder(self._options.keep_ledgers),
            Path(self._options.of_bundle),
            self._target.bundle,
            topic=self._target.topic,
            topic_id=str(UUID(bytes=bounds.topic_id)),
            n=self._target.n,
        )

    @contextmanager
    def _says_what_helps(self, job: BackfillJob, folder: Folder) -> Iterator[None]:
        """Within, folded states that are damaged are told with what to do: the archive still has their events.

        Raises:
            DamagedFile: the body's, which says so.
        """
        try:
            yield
        except DamagedFile as error:
            helps = f"remove {folder.url} and run this again: it folds the archive again"
            if any(self._store.progress_of(range(job.n)).values()):  # then a new fold would be refused
                helps = (
                    f"fold into another namespace, because {job.namespace} has partitions already: raise "
                    f"UIC_BUNDLE__GENERATION, and choose another --work, with --from archive:{job.archive}"
                )
            raise DamagedFile(f"{error}. Without a copy, {helps}") from error

    def _fold(self, job: BackfillJob) -> None:
        folder = self._work.below(STATES)
        archive = job.open_archive()
        with self._says_what_helps(job, folder):
            missing = [p for p in range(job.n) if saved_partition(folder, p) is None]
        manifests = [job.manifest(archive, p) for p in range(job.n)]
        lacking = incomplete({m.partition: m.complete_from for m in manifests}, job.n)
        if lacking and job.kept is None:  # memories beside ledgers that are kept are told at the end
            print(f"ctr backfill: {lacking}", file=sys.stderr)
        line = ProgressLine("folded", sum(manifests[p].records for p in missing), "records")
        with closing(self._engine(job, archive, missing)) as folding:
            for written in folding:
                line.add(sum(p.records for p in written))
                self._after("fold")
        done = [saved_partition(folder, p) for p in range(job.n)]
        manifest = SavedStates(
            namespace=job.namespace,
            fingerprint=job.fingerprint,
            prefix=job.prefix,
            topic=job.topic,
            topic_id=job.topic_id,
            n=job.n,
            created_ms=time.time_ns() // 1_000_000,
            partitions=tuple(saved for saved in done if saved is not None),
        )
        seal(folder, manifest)
        self._after("seal")

    def _engine(
        self, job: BackfillJob, archive: Archive, missing: Sequence[int]
    ) -> Generator[list[SavedPartition], None, None]:
        workers: int = self._options.workers
        tasks = pool.plan_tasks(
            job, archive, missing, workers=workers, memory=max(1, int(self._options.memory_mib * MIB))
        )
        if self._options.engine == "pool":
            return pool.fold_in_pool(job, self._work.url, tasks, workers)
        from uic.bulk.spark import fold_on_spark

        return fold_on_spark(job, self._work.url, tasks, master=self._options.spark_master)

    def _refuse_another_log(self, job: BackfillJob, bounds: TopicBounds) -> None:
        """Before anything is written: UIC must be able to go on from here in the log as it is."""
        archive = job.open_archive()
        for partition, now in enumerate(bounds.partitions):
            manifest = archive.manifest(partition)
            if manifest is None:
                continue
            reached = job.reached(manifest)
            if (reason := contradiction(reached, now)) is not None:
                raise BulkRefused(
                    f"partition {partition} of topic {job.topic} is not the log that was archived ({reason.value}): "
                    "check UIC_KAFKA__BOOTSTRAP_SERVERS, or archive again"
                )
            if now.start > reached.next_offset:
                where, remedy = "the archive ends", "Archive more often than retention removes"
                if job.kept is not None:
                    where, remedy = "the kept states end", "Take another snapshot, and choose another --work"
                raise BulkRefused(
                    f"partition {partition} begins at {now.start}, above {reached.next_offset} where {where}: "
                    f"what lies between would be missing. {remedy}"
                )

    def _refuse_other_ledgers(self, job: BackfillJob) -> None:
        asked = self._options.keep_ledgers
        begun = None if job.kept is None else job.kept.snapshot
        if asked is not None and Folder(asked).url != begun:
            raise BulkRefused(
                f"{self._work.url} holds a backfill that keeps {'no ledgers' if begun is None else begun}, and not "
                f"{asked}: choose another --work"
            )

    def _refuse_folded_namespace(self) -> None:
        """Before hours are spent on archiving and folding."""
        stored = self._store.progress_of(range(self._target.n))
        if found := [p for p, record in stored.items() if record]:
            raise BulkRefused(
                f"partition {found[0]} of namespace {self._target.namespace} has progress already: a worker folds "
                "it, or folded it. Stop the workers and drop the namespace (ctr namespaces drop), or raise "
                "UIC_BUNDLE__GENERATION"
            )

    # Servers

    def _check_log(self) -> None:
        """Refuse a log that a worker would not go on with."""
        kafka = self._settings.kafka
        with says_if_it_waits("the brokers"):
            check_log_is_whole(kafka, lambda said: print(f"ctr backfill: warning: {said}", file=sys.stderr))

    def _bounds(self) -> TopicBounds:
        with says_if_it_waits("the brokers"), log_reader(self._settings.kafka) as reader:
            bounds = reader.bounds()
        if len(bounds.partitions) != self._target.n:
            raise BulkRefused(
                f"topic {self._target.topic} has {len(bounds.partitions)} partitions, the settings say "
                f"{self._target.n}: correct UIC_KAFKA__PARTITIONS"
            )
        return bounds

    def _erased(self, archive: Archive) -> Mapping[int, Mapping[bytes, int]]:
        return erasures_of(self._settings.kafka).read(range(archive.partitions), archive.topic_id)

    def _records(self, job: BackfillJob, saved: SavedPartition) -> Iterator[Record]:
        """A partition's records for verification: from the log itself where it still has all of them."""
        archive = job.open_archive()
        manifest = job.manifest(archive, saved.partition)
        bounds = self._bounds()
        if bounds.partitions[saved.partition].start <= manifest.base:
            with log_reader(self._settings.kafka) as reader:
                for records, _ in reader.read(saved.partition, manifest.base, manifest.end):
                    yield from records
            return
        for some in archive.records(manifest):
            for row in some.to_pylist():
                headers = tuple((h["name"], h["value"]) for h in row["headers"] or ())
                yield BatchRecord(row["offset"], row["timestamp"], row["key"], row["value"], headers)

    def _say(self, report: Mapping[str, object], words: str) -> None:
        print(json.dumps(report) if self._options.json else words, file=self._out)


def _counting(records: Iterable[Record], done: Callable[[int], None]) -> Iterator[Record]:
    """The records; `done` is called with 1 at each."""
    for record in records:
        yield record
        done(1)


def _value_bytes(folded: FoldedPartition) -> int:
    return sum(pc.sum(pc.binary_length(values)).as_py() or 0 for _, values in folded.states.values())


def _total(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in several:
        for name, n in counts.items():
            total[name] = total.get(name, 0) + n
    return total


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def _rule(name: str) -> str:
    """The rule that records which were rejected for this reason broke."""
    field, rule = RULES[Reason(name)]
    return f"{field or 'the record'} {rule}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctr backfill",
        description="Fold the whole log of UIC_KAFKA__TOPIC, or its archive, with the bundle of UIC_BUNDLE__PATH, and "
        "load the states into a namespace that no worker has folded yet. A run that was killed goes on when it is run "
        "again with the same --work. Start UIC afterwards: it goes on where the backfill ended.",
    )
    parser.add_argument("--work", required=True, metavar="FOLDER", help="keeps the job: archive, states; a path or URL")
    parser.add_argument(
        "--from", dest="source", default="log", metavar="log|archive:FOLDER", help="what is folded (default: the log)"
    )
    parser.add_argument(
        "--keep-ledgers",
        metavar="SNAPSHOT",
        help="keep the ledgers of the states in service, for events that the log no longer has; the folder that ctr "
        "snapshot create printed",
    )
    parser.add_argument("--of-bundle", metavar="BUNDLE", help="with which those were folded: the one in service")
    parser.add_argument("--dry-run", action="store_true", help="fold a sample; say hours and bytes; load nothing")
    parser.add_argument("--verify", action="store_true", help="compare a sample of users with another fold")
    parser.add_argument(
        "--sample", type=whole_number(1), default=10_000, metavar="USERS", help="of --verify (default %(default)s)"
    )
    parser.add_argument("--engine", choices=("pool", "spark"), default="pool")
    parser.add_argument("--spark-master", default="local[2]", help="(default %(default)s)")
    parser.add_argument(
        "--workers", type=whole_number(1), default=pool.processors(), help="processes (default %(default)s)"
    )
    parser.add_argument("--memory-mib", type=positive, default=1024, help="for states, a process (default %(default)s)")
    add_loading(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser
