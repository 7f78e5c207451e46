"""Folds a job's partitions on Spark, for archives that one machine is too small for. Needs the extra `spark` and Java.

No shuffle: the log is partitioned by user and in order already. Each Spark partition is one task of `pool.fold_task`,
which reads its partitions of the archive, checks their hashes and writes the states. The archive and the work folder
must be reachable from all executors (a shared disk or an object store), and the bundle must lie at the same path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence

import msgspec
from pyspark.sql import SparkSession

from mimn.arrow import pa
from uic.bulk.backfill_job import BackfillJob
from uic.bulk.pool import Task, fold_task
from uic.bulk.saved_states import SavedPartition


def fold_on_spark(
    job: BackfillJob, work: str, tasks: Sequence[Task], *, master: str = "local[2]"
) -> Generator[list[SavedPartition], None, None]:
    """Fold the tasks, each as one Spark partition; what all of them wrote, at the end.

    Args:
        job: what is folded.
        work: the job's folder.
        tasks: partitions that are folded together.
        master: Spark's master URL; the session that is active already goes before it.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.master(master).appName("ctr backfill").config("spark.ui.enabled", "false")
    spark = session.getOrCreate()
    given = list(tasks)

    def fold(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for at in batch.column(0).to_pylist():
                written = [msgspec.json.encode(saved).decode() for saved in fold_task(job, work, given[at])]
                yield pa.RecordBatch.from_pydict({"saved": written})

    try:
        rows = spark.range(0, len(given), numPartitions=max(len(given), 1)).mapInArrow(fold, "saved string").collect()
    finally:
        spark.stop()
    yield [msgspec.json.decode(row.saved, type=SavedPartition) for row in rows]
