"""What an event costs a backfill's fold, against UIC's live fold: the same bundle and the same distribution of users,
in one run, in turn.

    PYTHONPATH=tests python -m bench.bulk_fold --users 1000000 --events 20000000 --live-events 300000 --rounds 3

Live: a UIC process folds a backlog of a broker into a Valkey, as `loadtest.budgets.fold` measures it; set
KAFKA_BOOTSTRAP_SERVERS for a real broker. Bulk: a task of the default engine, from the archive's Parquet files to the
files of folded states. Figures are processor time of the process that folds, by events; what broker and store spend is
left out. With another `--events` than `--live-events` the two see different parts of one stream.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.fold_core import PARTITIONS
from loadtest.budgets.fold import fold_backlog
from loadtest.feeder import event, zipf_users
from loadtest.population import measured_bundle
from loadtest.stacks import running
from mimn.bundle import Bundle, load_bundle
from mimn.state import namespace, partition_of
from uic.app import settle_interpreter
from uic.bulk.archive import PartitionManifest, begin_archive
from uic.bulk.backfill_job import BackfillJob, Target, new_job
from uic.bulk.folder import Folder
from uic.bulk.partition_log import RECORDS
from uic.bulk.pool import Task, fold_task

WRITTEN_AT_ONCE = 1 << 20


def archive_of(folder: Path, bundle: Bundle, users: int, events: int, exponent: float) -> BackfillJob:
    """A job over the archive of a log with `events` events, Zipf over `users`."""
    archive = begin_archive(Folder(str(folder)), "bench", bytes(15) + b"\x01", PARTITIONS)
    manifests = [
        archive.put(PartitionManifest(topic_id=archive.about.topic_id, partition=p, base=0)) for p in range(PARTITIONS)
    ]
    behaviors = itertools.cycle(
        zip(bundle.items.ids[:1000].tolist(), itertools.cycle(bundle.categories.ids.tolist()), strict=False)
    )
    stream = zip(zipf_users(users, events, 0, exponent), behaviors, strict=False)
    places: dict[str, int] = {}
    now = time.time_ns() // 1_000_000
    while some := list(itertools.islice(stream, WRITTEN_AT_ONCE)):
        keys: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        values: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        for user, (item, category) in some:
            partition = places.get(user, -1)
            if partition < 0:
                partition = places[user] = partition_of(user.encode(), PARTITIONS)
            keys[partition].append(user.encode())
            values[partition].append(event(user, item, category))
        for p, manifest in enumerate(manifests):
            n = len(keys[p])
            if n:
                columns = [
                    pa.array(np.arange(manifest.end, manifest.end + n)),
                    pa.array(np.full(n, now)),
                    pa.array(keys[p], pa.binary()),
                    pa.array(values[p], pa.binary()),
                    pa.nulls(n, RECORDS.field("headers").type),
                ]
                records = pa.RecordBatch.from_arrays(columns, schema=RECORDS)
                manifests[p] = archive.add(manifest, [records], manifest.end, manifest.end + n - 1)
    target = Target(bundle, namespace(bundle.manifest.fingerprint), "bench", "bench", PARTITIONS)
    return new_job(target, archive, {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print microseconds an event of each, and the ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.bulk_fold", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=measured_bundle())
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=300_000, help="of the archive")
    parser.add_argument("--live-events", type=int, default=300_000)
    parser.add_argument("--exponent", type=float, default=1.0, help="of Zipf's law over users (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    bundle = load_bundle(options.bundle)
    live, bulk = [], []
    with tempfile.TemporaryDirectory() as folder:
        job = archive_of(Path(folder) / "archive", bundle, options.users, options.events, options.exponent)
        settle_interpreter()
        for n in range(options.rounds):
            with running(rtp_processes=0, bundle=options.bundle) as stack:
                users = zipf_users(options.users, options.live_events, 0, options.exponent)
                live.append(fold_backlog(stack, users, options.live_events).cpu_us)
            began = time.process_time()
            saved = fold_task(job, str(Path(folder) / f"work{n}"), Task(tuple(range(PARTITIONS))))
            bulk.append((time.process_time() - began) / options.events * 1e6)
            folded = sum(p.users for p in saved)
            print(f"live {live[-1]:.2f} us, bulk {bulk[-1]:.2f} us an event ({folded:,} users)", flush=True)
    ratio = statistics.median(live) / statistics.median(bulk)
    print(f"median live {statistics.median(live):.2f} us, bulk {statistics.median(bulk):.2f} us: {ratio:.2f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
