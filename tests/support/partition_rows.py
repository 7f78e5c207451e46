"""One partition's records for the fold of whole partitions: clicks, erasures and malformed values of a few users."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa

from ctr.event.v1.behavior_event_pb2 import ACTION_CLICK, BehaviorEvent
from mimn.state import Progress, partition_of
from uic.bulk.partition_fold import FoldedPartition, fold_partitions
from uic.bulk.partition_log import RECORDS, PartitionLog
from uic.core.model import Model

NOW = 1_700_000_000_000
N = 2
USERS = [u for u in (f"u{i}" for i in range(40)) if partition_of(u.encode(), N) == 0][:7]
"""Users of partition 0 of N."""

Row = tuple[int, int, bytes | None, bytes | None, list[dict[str, object]] | None]
"""Offset, timestamp in ms, key, value, headers."""


def fold_partition(log: PartitionLog, model: Model, *, shard: tuple[int, int] = (0, 1)) -> FoldedPartition:
    """The fold of one partition."""
    return fold_partitions([log], model, shard=shard)[0]


def click(offset: int, user: str, item: int = 3) -> Row:
    """A click, one second an offset."""
    value = BehaviorEvent(
        user_id=user, item_id=item, category_id=item % 5, action=ACTION_CLICK, event_time=NOW + offset * 1000
    )
    return offset, NOW + offset * 1000, user.encode(), value.SerializeToString(), None


def erasure(offset: int, user: str) -> Row:
    """A record that erases its user."""
    return offset, NOW + offset * 1000, user.encode(), None, None


def log_of(rows: Sequence[Row], cuts: Sequence[int] = (), *, base: int = 0, **more: object) -> PartitionLog:
    """The records of partition 0 as Arrow batches that are cut at `cuts`."""
    begin = Progress(partitions=N, next_offset=base, lineage=77, writer=5, base=base, as_of_ms=0)
    bounds = [0, *sorted(cuts), len(rows)]
    batches = [
        pa.RecordBatch.from_arrays(
            [pa.array([row[i] for row in rows[a:b]], RECORDS.field(i).type) for i in range(5)], schema=RECORDS
        )
        for a, b in pairwise(bounds)
    ]
    return PartitionLog(0, begin, batches, **more)  # type: ignore[arg-type]  # fields given by the test


def random_rows(kinds: Sequence[tuple[int, int]]) -> list[Row]:
    """By record: whose (an index), and what: 0 an erasure, 1 a malformed value, else an item."""
    rows = []
    for offset, (user, item) in enumerate(kinds):
        if item == 0:
            rows.append(erasure(offset, USERS[user]))
        elif item == 1:
            rows.append((offset, NOW, USERS[user].encode(), b"\xff", None))
        else:
            rows.append(click(offset, USERS[user], item))
    return rows


def stored(folded: FoldedPartition) -> dict[bytes, bytes]:
    """Each user's state as it is stored."""
    return {
        user: value
        for users, values in folded.states.values()
        for user, value in zip(users.to_pylist(), values.to_pylist(), strict=True)
    }
