"""What UIC writes to a store, made without UIC: meta, progress and states of a few users, as keys and values."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle
from mimn.state import (
    Keys,
    Progress,
    StateHeader,
    UserState,
    encode_progress,
    encode_state,
    namespace,
    partition_of,
    user_hash,
)

LINEAGE = 0x1234


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Stored:
    """Builds a namespace. `values` is what to put into the store."""

    bundle: Bundle
    partitions: int = 4
    prefix: str = "uic"
    generation: int = 0
    values: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = Keys(namespace(self.bundle.manifest.fingerprint, self.generation), self.prefix)
        self.values[self.keys.meta] = json.dumps({"partitions": self.partitions, "topic": "behavior-events"}).encode()
        for partition in range(self.partitions):
            self.progress(partition)

    def partition(self, user_id: str) -> int:
        return partition_of(user_id.encode(), self.partitions)

    def key(self, user_id: str) -> str:
        return self.keys.state(self.partition(user_id), user_id)

    def progress(
        self,
        partition: int,
        *,
        as_of_ms: int | None = None,
        base: int = 0,
        lineage: int = LINEAGE,
        next_offset: int = 100,
    ) -> None:
        """A partition that is folded up to an offset."""
        progress = Progress(
            partitions=self.partitions,
            next_offset=next_offset,
            last_offset=next_offset - 1,
            lineage=lineage,
            writer=1,
            base=base,
            as_of_ms=now_ms() if as_of_ms is None else as_of_ms,
        )
        self.values[self.keys.progress(partition)] = encode_progress(progress)

    def state(
        self,
        user_id: str,
        *,
        events: int = 3,
        last_offset: int = 42,
        partial: bool = False,
        lineage: int = LINEAGE,
        owner: str | None = None,
    ) -> NDArray[np.float32]:
        """Store a state of `user_id` (or, under its key, of `owner`) and return its tensors."""
        golden = self.bundle.golden.states
        tensors = np.array(golden[len(user_id) % len(golden)])
        header = StateHeader(
            user=user_hash(owner or user_id),
            lineage=lineage,
            era=0,
            last_offset=last_offset,
            event_count=events,
            last_event_time=now_ms(),
            digest=bytes(8),
            partial=partial,
        )
        self.values[self.key(user_id)] = encode_state(
            UserState(header, tensors), self.bundle.fingerprint, self.bundle.layout
        )
        return tensors
