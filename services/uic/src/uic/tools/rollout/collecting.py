"""Removes a namespace that nothing needs any more, in slices, so that the store answers others meanwhile.

Progress goes first: whoever folds the namespace again afterwards begins a new lineage, to which no state that is still
there belongs. Run again after an interruption, it goes on: the users of a partition are forgotten after their states,
and the namespace at the very end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mimn.release import NotAllowed
from uic.tools.rollout.namespaces import Namespace

SLICE: Final = 256
"""States that one command removes."""
QUIET_MS: Final = 20_000
"""A namespace whose progress was written since is still being folded."""


def remove(client: Any, namespace: Namespace, now_ms: int) -> int:
    """Remove everything of a namespace; returns how many states that were.

    Raises:
        NotAllowed: workers still fold it.
    """
    reading = namespace.read()
    if reading is None:
        client.srem(namespace.keys.namespaces, namespace.keys.namespace)
        return 0
    fresh = sum(one is not None and now_ms - one.as_of_ms < QUIET_MS for one in reading.progress)
    if fresh:
        raise NotAllowed(
            f"namespace {namespace.keys.namespace} is still folded ({fresh} partitions were caught up within the last "
            f"{QUIET_MS // 1000} s): stop its UIC workers first"
        )
    removed = 0
    keys = namespace.keys
    for p in range(reading.partitions):
        client.unlink(keys.progress(p))
    for p in range(reading.partitions):
        for users in _slices(namespace, p):
            removed += int(client.unlink(*(keys.state(p, user) for user in users)))
        client.unlink(keys.users(p), keys.bad(p))
    client.unlink(keys.meta)
    client.srem(keys.namespaces, keys.namespace)
    return removed


def _slices(namespace: Namespace, partition: int) -> Iterator[list[str]]:
    for users in namespace.users(partition):
        for begin in range(0, len(users), SLICE):
            yield users[begin : begin + SLICE]
