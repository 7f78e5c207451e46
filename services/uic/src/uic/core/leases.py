"""Which worker has which partitions: each worker holds a lease in the store, and everyone computes the same owners from
the names of those who hold one.

A partition goes to the worker with the highest weight for it (rendezvous hashing, Thaler and Ravishankar, 1998) that
does not have its even share yet (consistent hashing with bounded loads, Mirrokni et al., 2018). Commits are fenced by
the progress record: two workers that both believe they own a partition cost time and no event.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Leases:
    """Who holds a lease on a namespace, as of when one worker renewed its own."""

    workers: frozenset[str]
    """All that hold one, that worker included."""
    joined: bool
    """Whether it held none before, because it is new or its lease ran out."""

    def owned_by(self, worker: str, partitions: int) -> frozenset[int]:
        """The partitions of a worker, of `partitions` in all. None of one that has just joined others: until its next
        renewal they learn of it and let its partitions go."""
        if self.joined and len(self.workers) > 1:
            return frozenset()
        return frozenset(p for p, name in enumerate(owners(self.workers, partitions)) if name == worker)


@lru_cache(maxsize=2)
def owners(workers: frozenset[str], partitions: int) -> tuple[str, ...]:
    """By partition, the worker that has it; `workers` is not empty. No worker has more than its share, rounded up."""
    share = -(-partitions // len(workers))
    counts: Counter[str] = Counter()
    found = []
    for partition in range(partitions):
        free = (worker for worker in workers if counts[worker] < share)
        name = max(free, key=lambda worker: (_weight(partition, worker), worker))
        counts[name] += 1
        found.append(name)
    return tuple(found)


def _weight(partition: int, worker: str) -> bytes:
    return blake2b(f"{partition}/{worker}".encode(), digest_size=8).digest()
