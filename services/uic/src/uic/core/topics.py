"""The names of UIC's topics, of its consumer group and of what commands are called at the brokers, all derived from the
event topic's name; and how partitions are named."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def dead_letter_topic(events: str) -> str:
    """Where records that cannot be folded go."""
    return f"{events}.dlq"


DEAD_LETTER_PARTITIONS = 4
"""Of a topic that is made as UIC proposes it; any number will do."""


def erased_topic(events: str) -> str:
    """The compacted topic that remembers erasures."""
    return f"{events}.erased"


def import_run(events: str) -> str:
    """The name that all imports into a topic have at the brokers: a transactional id."""
    return f"{events}.import"


def replay_run(events: str) -> str:
    """The same of replays of dead letters."""
    return f"{events}.replay"


def miscounted(found: int, partitions: int) -> str:
    """What is wrong with a topic of `found` partitions that should have `partitions`; empty if it has."""
    return "" if found == partitions else f"has {found} partitions, not {partitions}"


def ranges(partitions: Iterable[int]) -> str:
    """Partitions as people write them: `0-3,7`."""
    runs: list[list[int]] = []
    for p in sorted(partitions):
        if runs and runs[-1][1] == p - 1:
            runs[-1][1] = p
        else:
            runs.append([p, p])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def named(partitions: Collection[int]) -> str:
    """Partitions in a sentence: `partitions 0-3,7`."""
    return f"{_one_or_more(partitions, 'partition', 'partitions')} {ranges(partitions)}"


def without_leader(partitions: Collection[int]) -> str:
    """That partitions have no leader."""
    return f"{named(partitions)} {_one_or_more(partitions, 'has', 'have')} no leader"


def bring_back(partitions: Collection[int]) -> str:
    """The same, and what to do."""
    return f"{without_leader(partitions)}: bring {_one_or_more(partitions, 'its', 'their')} replicas back"


def _one_or_more(partitions: Collection[int], one: str, more: str) -> str:
    return one if len(partitions) == 1 else more


def group_name(prefix: str, events: str, namespace: str, store: str = "") -> str:
    """The group under which the brokers keep the offsets of `events` as folded into one namespace of one store, for lag
    tools. It has no members.

    Args:
        prefix: the first part of all keys.
        events: the event topic.
        namespace: of the bundle and generation.
        store: the store's identity, if it has one.
    """
    return ".".join(part for part in (prefix, events, namespace, store) if part)
