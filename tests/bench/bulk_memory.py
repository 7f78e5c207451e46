"""What a user takes of the memory of a backfill's worker, against what tasks are planned by.

    PYTHONPATH=tests python -m bench.bulk_memory --users 200000 --events 300000

Two workers fold the same number of events, one of few users and one of many: what the second takes more is its users'.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bench.bulk_fold import archive_of
from bench.fold_core import PARTITIONS
from mimn.bundle import load_bundle
from uic.bulk.backfill_job import BackfillJob
from uic.bulk.partition_fold import begin_fold
from uic.bulk.pool import Task, fold_task, load_model, settle

BUNDLES = Path(__file__).parents[2] / "models" / "bundles"
FEW = 64
"""The first worker has so many times fewer users."""


class UserBytes(NamedTuple):
    """What a user takes."""

    planned: int
    taken: float


def user_bytes(bundle: Path, users: int, events: int) -> UserBytes:
    """Fold `events` events of up to `users` users, all alike."""
    few, many = (_worker(bundle, drawn, events) for drawn in (users // FEW, users))
    return UserBytes(begin_fold(load_model(str(bundle))).user_bytes, (many[1] - few[1]) / (many[0] - few[0]))


def _worker(bundle: Path, users: int, events: int) -> tuple[int, int]:
    """Users that were folded, and the peak of the worker's memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        job = archive_of(Path(folder) / "archive", load_bundle(bundle), users, events, 0.0)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle) as pool:
            return pool.submit(_fold, job, str(Path(folder) / "work")).result()


def _fold(job: BackfillJob, work: str) -> tuple[int, int]:
    users = sum(saved.users for saved in fold_task(job, work, Task(tuple(range(PARTITIONS)))))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return users, int(status["VmHWM"].split()[0]) << 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each bundle."""
    parser = argparse.ArgumentParser(prog="python -m bench.bulk_memory", description=__doc__)
    default = [BUNDLES / name / "1" for name in ("online-retail", "online-retail-sketch", "online-retail-ledger")]
    parser.add_argument("--bundle", type=Path, nargs="+", default=default)
    parser.add_argument("--users", type=int, default=200_000, help="that events are drawn for (default %(default)s)")
    parser.add_argument("--events", type=int, default=300_000, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    for bundle in options.bundle:
        planned, taken = user_bytes(bundle, options.users, options.events)
        print(f"{bundle.parent.name}: {taken:,.0f} bytes a user, planned {planned:,}: {planned / taken:.2f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
