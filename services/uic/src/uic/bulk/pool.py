"""Folds a job's partitions with processes on this machine: the default engine.

A task folds a group of partitions side by side and writes their states. How many fit into a task's memory is estimated
from the partition's users; a partition that is too large alone is folded in shards of its users, each of which reads it
again.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import chain
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread

from mimn.arrow import pa, pc
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import open_step
from uic.bulk.archive import Archive, PartitionManifest
from uic.bulk.backfill_job import KEPT, STATES, BackfillJob
from uic.bulk.errors import BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.kept_ledgers import KeptPartition
from uic.bulk.partition_fold import FoldedPartition, fold_partitions
from uic.bulk.partition_log import PartitionLog
from uic.bulk.saved_states import SavedPartition, saved_partition, writing_partition
from uic.core.event import Reason
from uic.core.held_states import HeldStates
from uic.core.model import Model
from uic.fold.bundle_model import model_of

ROWS_AT_ONCE = 1 << 18
"""Records of a task's partitions together that are folded in one go."""
LEAST_ROWS = 1 << 11
MOST_MISROUTED = 0.01
"""The default of `UIC_FOLD__MISROUTED_SHARE`: more means another partition count or another partitioner."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some partitions that one process folds together."""

    partitions: tuple[int, ...]
    shards: int = 1


def plan_tasks(
    job: BackfillJob, archive: Archive, partitions: Sequence[int], *, workers: int, memory: int
) -> list[Task]:
    """Groups of partitions, the largest ones first, so that each task's states fit into `memory` bytes.

    Raises:
        BadArchive, DamagedFile: as `Archive.checked`.
    """
    manifests = sorted((job.manifest(archive, p) for p in partitions), key=lambda m: -m.records)
    if not manifests:
        return []
    largest = manifests[0]
    users = count_users(archive, largest)
    model = load_model(job.bundle)
    copied = 0 if job.kept is None else 4 * model.layout.floats
    each = max(users, 1) * (HeldStates(model).user_bytes + copied)
    if each > memory:
        shards = -(-each // memory)
        return [Task((m.partition,), shards) for m in manifests]
    size = max(1, min(memory // each, -(-len(manifests) // workers)))
    groups = -(-len(manifests) // size)
    return [Task(tuple(m.partition for m in manifests[at::groups])) for at in range(groups)]


def count_users(archive: Archive, manifest: PartitionManifest) -> int:
    """Distinct keys of a partition."""
    seen = pa.array([], pa.binary())
    for keys in archive.keys(manifest):
        seen = pa.concat_arrays([seen, pc.unique(keys)])
        if len(seen) > 1 << 20:
            seen = pc.unique(seen)
    return len(pc.unique(seen))


def fold_in_pool(
    job: BackfillJob, work: str, tasks: Sequence[Task], workers: int
) -> Generator[list[SavedPartition], None, None]:
    """Fold the tasks; what each wrote, as it is done. When it ends early (a task failed, a signal, `close`), its
    processes are killed: a task may take hours, and a partition counts when its last file appears whole.

    Raises:
        BulkRefused: a task's archive is not what it should be, or a process was killed; the others are ended.
    """
    others = active_children()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=settle) as pool:
        try:
            waiting = [pool.submit(fold_task, job, work, task) for task in tasks]
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            raise BulkRefused(
                "a process that folded was killed, perhaps for lack of memory: lower --workers or --memory-mib, and "
                "run this again; it goes on"
            ) from error
        except BaseException:
            # The pool itself would wait for the tasks that have begun.
            for process in set(active_children()).difference(others):
                process.kill()
            raise


def settle() -> None:
    """Set a worker process up: it ends with the process that started it, even if that is killed; Ctrl-C is that
    process's to answer; and it has few reference cycles among millions of objects."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 100)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def fold_task(job: BackfillJob, work: str, task: Task) -> list[SavedPartition]:
    """Fold some partitions and write their states; those that are written already are only read back.

    Raises:
        BulkRefused: see `save`; or the archive is not what it should be.
    """
    folder = Folder(work).below(STATES)
    done = {p: saved for p in task.partitions if (saved := saved_partition(folder, p)) is not None}
    missing = [p for p in task.partitions if p not in done]
    if missing:
        model, archive = load_model(job.bundle), job.open_archive()
        manifests = [job.manifest(archive, p) for p in missing]
        rows = max(LEAST_ROWS, ROWS_AT_ONCE // len(missing))
        kept = {p: kept_partition(job, work, p) for p in missing}

        def fold(shard: int) -> list[FoldedPartition]:
            logs = [partition_log(job, archive, manifest, rows, kept[manifest.partition]) for manifest in manifests]
            return fold_partitions(logs, model, shard=(shard, task.shards))

        if task.shards == 1:
            done |= {one.partition: save(folder, [one], kept[one.partition]) for one in fold(0)}
        else:
            [partition] = missing
            shards = (fold(shard)[0] for shard in range(task.shards))
            done[partition] = save(folder, shards, kept[partition])
    return [done[p] for p in task.partitions]


def kept_partition(job: BackfillJob, work: str, partition: int) -> KeptPartition | None:
    """The states whose ledgers the job keeps, of one partition; None if it keeps none.

    Raises:
        BulkRefused: the archive ends below them.
    """
    if job.kept is None:
        return None
    kept = KeptPartition(
        states_in=Folder(work).below(KEPT),
        saved=job.kept.partitions[partition],
        old=loaded(job.kept.bundle),
        new=loaded(job.bundle),
        lineage=job.lineages[partition],
        writer=job.writer,
        erased=job.erased_keys(partition),
    )
    kept.refuse_older_log(job.ends[partition])
    return kept


def partition_log(
    job: BackfillJob, archive: Archive, manifest: PartitionManifest, rows: int, kept: KeptPartition | None = None
) -> PartitionLog:
    """A partition of the archive as `fold_partitions` takes it."""
    records = archive.records(manifest, rows)
    return PartitionLog(
        manifest.partition,
        job.begin(manifest),
        records if kept is None else kept.cut(records),
        job.erased_keys(manifest.partition),
        manifest.gap_ends,
        manifest.end,
    )


def save(folder: Folder, shards: Iterable[FoldedPartition], kept: KeptPartition | None = None) -> SavedPartition:
    """Write one partition's states, shard after shard, joined with the ledgers that are kept.

    Raises:
        BulkRefused: too many of its records belong to another partition; nothing was written.
    """
    outcomes: Counter[str] = Counter()
    rejected: Counter[Reason] = Counter()
    folded: FoldedPartition
    shards = iter(shards)
    first = next(shards)
    with writing_partition(folder, first.partition) as writer:
        for folded in chain([first], shards):
            outcomes.update(folded.tally.outcomes)
            rejected.update(folded.tally.rejected)
            _refuse_misrouted(first.partition, rejected[Reason.MISROUTED], folded.tally.records)
            for users, values in folded.states.values() if kept is None else kept.join(folded):
                writer.add(users, values)
    return writer.finish(
        first.progress if kept is None else kept.reached,
        records=first.tally.records,
        outcomes=outcomes,
        rejected={reason.value: n for reason, n in rejected.items()},
        kept=None if kept is None else {"complete": kept.joined.complete, "partial": kept.joined.partial},
    )


def _refuse_misrouted(partition: int, misrouted: int, records: int) -> None:
    if misrouted > MOST_MISROUTED * records:
        raise BulkRefused(
            f"{misrouted} of {records} records of partition {partition} belong to another partition: the archive is of "
            "a topic with another number of partitions, or its producers partition by another rule"
        )


@cache
def loaded(path: str) -> Bundle:
    """A bundle, once a process."""
    return load_bundle(Path(path))


@cache
def load_model(path: str) -> Model:
    """The model of a bundle, once a process."""
    bundle = loaded(path)
    return model_of(bundle, open_step(bundle))


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
