"""A model for the fold whose steps can be computed by hand, and events for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.rows.live import compiled_events
from mimn.state import Block, StateLayout, partition_of
from uic.core.model import Model

WALL_MS = 1_700_000_000_000
FINGERPRINT = bytes(range(32))
LAYOUT = StateLayout((Block("sum", (3,)), Block("last", (2,))))
INITIAL = np.array([0.5, 0.0, 0.0, 0.0, 0.0], np.float32)
POISON_ITEM = 666
"""An item whose step gives a non-finite value."""


def vectors(
    items: NDArray[np.uint64], categories: NDArray[np.uint64], _actions: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """[k], [k], [k] → [k, 2]; actions make no difference."""
    out = np.stack([items % np.uint64(97), categories % np.uint64(89)], axis=1).astype(np.float32)
    out[items == POISON_ITEM] = np.nan
    return out


def step(events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decaying sums, a count, and the last event: order matters, and row b depends only on row b."""
    after = np.empty_like(state)
    after[:, :2] = state[:, :2] * np.float32(0.5) + events
    after[:, 2] = state[:, 2] + np.float32(1)
    after[:, 3:] = events
    return after


class ManySteps:
    """`step`, which folds many events in one call, too."""

    def __call__(self, events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Step`."""
        return step(events, state)

    def fold(
        self, events: NDArray[np.float32], depth: NDArray[np.int64], states: NDArray[np.float32]
    ) -> NDArray[np.bool_] | None:
        """See `FoldsMany`."""
        sound = np.ones(len(events), np.bool_)
        row_of = np.repeat(np.arange(len(depth)), depth)
        for at, row in enumerate(row_of.tolist()):
            after = step(events[at : at + 1], states[row : row + 1])
            sound[at] = np.isfinite(after).all()
            if sound[at]:
                states[row] = after[0]
        return None if sound.all() else sound


def forget(state: NDArray[np.float32], item_id: int) -> None:
    """Takes the item out of the last event, if it is that."""
    state[3] = np.where(state[3] == item_id % 97, 0, state[3])


MODEL = Model(step, vectors, forget, INITIAL, LAYOUT, FINGERPRINT)
COMPILED_MODEL = replace(MODEL, step=ManySteps(), compiled=compiled_events())
"""The same with a step that folds many events in one call; with compiled code, and records in columns, where the
C extension is."""


def event_value(user: str, item: int = 1, category: int = 0, event_time: int = WALL_MS, event_id: str = "") -> bytes:
    """A behavior event in protobuf."""
    return BehaviorEvent(
        event_id=event_id, user_id=user, item_id=item, category_id=category, event_time=event_time
    ).SerializeToString()


def users_of(partition: int, partitions: int, n: int, prefix: str = "user") -> list[str]:
    """`n` user ids that belong to a partition."""
    found: list[str] = []
    for i in count():
        if partition_of(f"{prefix}{i}".encode(), partitions) == partition:
            found.append(f"{prefix}{i}")
            if len(found) == n:
                break
    return found
