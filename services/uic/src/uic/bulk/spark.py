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
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from mimn.arrow import pa
from uic.bulk.backfill_job import BackfillJob
from uic.bulk.errors import BulkRefused
from uic.bulk.pool import Task, fold_task
from uic.bulk.saved_states import SavedPartition
from uic.bulk.spark_failures import fold_failed


def fold_on_spark(
    job: BackfillJob, work: str, tasks: Sequence[Task], *, master: str = "local[2]"
) -> Generator[list[SavedPartition], None, None]:
    """Fold the tasks, each as one Spark partition; what all of them wrote, at the end.

    Args:
        job: what is folded.
        work: the job's folder.
        tasks: partitions that are folded together.
        master: Spark's master URL; the session that is active already goes before it.

    Raises:
        BulkRefused: a task's archive is not what it should be, a process was killed, or Spark does not work.
    """
    try:
        saved = _folded(job, work, list(tasks), master)
    except (PySparkException, Py4JError, OSError) as error:  # OSError: Java is not there, or has ended
        raise BulkRefused(fold_failed(error, _text(error))) from error
    yield saved


def _text(error: Exception) -> str | None:
    """What an error says; None if that has to be asked of Java, which does not answer."""
    try:
        return str(error)
    except (Py4JError, OSError):
        return None


def _folded(job: BackfillJob, work: str, given: Sequence[Task], master: str) -> list[SavedPartition]:
    """What all tasks wrote."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.master(master).appName("ctr backfill").config("spark.ui.enabled", "false")
    spark = session.getOrCreate()

    def fold(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for at in batch.column(0).to_pylist():
                written = [msgspec.json.encode(saved).decode() for saved in fold_task(job, work, given[at])]
                yield pa.RecordBatch.from_pydict({"saved": written})

    try:
        rows = spark.range(0, len(given), numPartitions=max(len(given), 1)).mapInArrow(fold, "saved string").collect()
    finally:
        spark.stop()
    return [msgspec.json.decode(row.saved, type=SavedPartition) for row in rows]
