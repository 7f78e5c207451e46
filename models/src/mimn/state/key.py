"""The keys in Redis, and the partition that a user belongs to.

The part of a key in braces is Redis Cluster's hash tag. It puts all keys of a partition into one slot, so one script
can write states and progress in a cluster, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack

NAMESPACE_DIGITS = 16
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Kafka's murmur2 of `key` (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned 32-bit integer."""
    length = len(key)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for word in unpack(f"<{length // 4}I", key[:whole]):
        k = word * _M & _MASK
        h = (h * _M ^ (k ^ (k >> 24)) * _M) & _MASK
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record key, as Kafka's Java and kafka-python producers choose it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def namespace(fingerprint: str, generation: int = 0) -> str:
    """The namespace of all states with the same meaning: `<first 16 hex digits of the fingerprint>-<generation>`."""
    return f"{fingerprint[:NAMESPACE_DIGITS]}-{generation}"


@dataclass(frozen=True)
class Keys:
    """The Redis keys of one namespace under one prefix."""

    namespace: str
    prefix: str = "uic"

    def _tag(self, partition: int) -> str:
        return f"{self.prefix}:{{{self.namespace}.{partition}}}"

    def state(self, partition: int, user_id: str) -> str:
        """One string a user: the state value."""
        return f"{self._tag(partition)}:s:{user_id}"

    @property
    def states(self) -> str:
        """A glob pattern that matches exactly the keys of `state`."""
        return f"{self.prefix}:{{{self.namespace}.*}}:s:*"

    def owner(self, key: bytes) -> tuple[int, str] | None:
        """The partition and the user of a key that `states` matches; None if `state` makes no such key."""
        digits, _, user = key[len(f"{self.prefix}:{{{self.namespace}.".encode()) :].partition(b"}:s:")
        try:
            partition, name = int(digits), user.decode()
        except ValueError:
            return None
        return (partition, name) if self.state(partition, name).encode() == key else None

    def same_user_in(self, other: Keys, key: bytes) -> bytes:
        """The key in another namespace for the user of `key`, one of our state keys. Both have the same partition
        count."""
        return key.replace(
            f"{self.prefix}:{{{self.namespace}.".encode(), f"{other.prefix}:{{{other.namespace}.".encode(), 1
        )

    def partition_in(self, key: bytes) -> int:
        """The partition that `key`, one of our state keys, names."""
        return int(key[len(f"{self.prefix}:{{{self.namespace}.".encode()) :].partition(b"}")[0])

    def progress(self, partition: int) -> str:
        """The partition's progress record."""
        return f"{self._tag(partition)}:progress"

    def bad(self, partition: int) -> str:
        """A bounded list of unreadable values of the partition, newest first, kept for inspection."""
        return f"{self._tag(partition)}:bad"

    def users(self, partition: int) -> str:
        """The set of the partition's users who have a state: distinguishes a lost state from one that never existed."""
        return f"{self._tag(partition)}:users"

    def loading(self, partition: int) -> str:
        """Which load in bulk may write the partition's states now; only while there is no progress record."""
        return f"{self._tag(partition)}:loading"

    def staged(self, partition: int) -> str:
        """The users of a load that is not complete: becomes `users` together with the progress record, or is gone when
        a worker begins a lineage."""
        return f"{self._tag(partition)}:staged"

    @property
    def meta(self) -> str:
        """Partition count and topic of the namespace, set once."""
        return f"{self.prefix}:{self.namespace}:meta"

    @property
    def leases(self) -> str:
        """The workers that fold the namespace, and until when each of them holds its lease."""
        return f"{self.prefix}:{self.namespace}:leases"

    @property
    def namespaces(self) -> str:
        """The set of all namespaces under the prefix."""
        return f"{self.prefix}:namespaces"
