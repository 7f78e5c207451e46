"""What the store has of one namespace: its meta, progress, users, and the headers of their states."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from mimn.release import Headers, Release, read_headers
from mimn.state import Keys, Progress
from mimn.state.codec import HEADER_BYTES, whole_bytes
from uic.store import read_meta
from uic.tools.in_service import progress_of

CHUNK: Final = 500
"""Users in one round trip."""


def always() -> None:
    """What goes on to its end."""


@dataclass(frozen=True)
class Reading:
    """A namespace at one moment."""

    partitions: int
    topic: str
    progress: tuple[Progress | None, ...]

    @property
    def log(self) -> tuple[int, str]:
        """N and the topic."""
        return self.partitions, self.topic

    @property
    def topic_ids(self) -> list[bytes]:
        """Of the partitions that were taken up."""
        return [one.topic_id for one in self.progress if one is not None]

    @property
    def lineages(self) -> str:
        """16 hexadecimal digits that change when a partition starts over or a broken log is accepted."""
        known = [(one.lineage, one.era) if one is not None else None for one in self.progress]
        return hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()


class StateSize(NamedTuple):
    """What a state takes, in bytes."""

    value: int
    whole: int
    """Of the value with its zeros."""
    entry: int
    """Of the store's memory, with the value."""


class Namespace:
    """Reads one namespace."""

    def __init__(
        self, client: Any, prefix: str, release: Release, *, clustered: bool, proceed: Callable[[], None] = always
    ) -> None:
        """`proceed` is called before each `CHUNK` of users, and raises to end what reads them."""
        self._client = client
        self._proceed = proceed
        self.keys = Keys(release.namespace, prefix)
        self._fingerprint = bytes.fromhex(release.fingerprint)[:16]
        self._clustered = clustered

    def read(self) -> Reading | None:
        """Meta and progress; None if the store does not have the namespace."""
        meta = read_meta(self._client.get(self.keys.meta))
        if not isinstance(meta, dict) or not isinstance(meta.get("partitions"), int):
            return None
        partitions = meta["partitions"]
        progress = self.progress(range(partitions))
        return Reading(partitions, str(meta.get("topic")), tuple(progress))

    def progress(self, partitions: Sequence[int]) -> list[Progress | None]:
        """Progress of some partitions, None where there is none or it cannot be read."""
        names = [self.keys.progress(p) for p in partitions]
        if self._clustered:
            records = [self._client.get(name) for name in names]
        else:
            records = self._client.mget(names) if names else []
        return [progress_of(record) for record in records]

    def users(self, partition: int) -> Iterator[list[str]]:
        """The partition's users with a state, in chunks; one may come twice."""
        self._proceed()
        chunk: list[str] = []
        for user in self._client.sscan_iter(self.keys.users(partition), count=CHUNK):
            chunk.append(user.decode())
            if len(chunk) == CHUNK:
                yield chunk
                self._proceed()
                chunk = []
        if chunk:
            yield chunk

    def size(self, partition: int) -> int:
        """How many users of the partition have a state."""
        return int(self._client.scard(self.keys.users(partition)))

    def sample(self, partition: int, most: int) -> list[str]:
        """Some users of the partition, at random."""
        return [user.decode() for user in self._client.srandmember(self.keys.users(partition), most) or ()]

    def count(self, partition: int, users: Sequence[str]) -> int:
        """How many of some different users of the partition have a state."""
        return int(self._client.exists(*(self.keys.state(partition, user) for user in users))) if users else 0

    def headers(self, partition: int, users: Sequence[str]) -> Headers:
        """The headers of the states of some users of the partition. [n]"""
        values: list[bytes | None] = []
        for begin in range(0, len(users), CHUNK):
            self._proceed()
            pipeline = self._client.pipeline(transaction=False)
            for user in users[begin : begin + CHUNK]:
                pipeline.getrange(self.keys.state(partition, user), 0, HEADER_BYTES - 1)
            values += pipeline.execute()
        return read_headers(values, self._fingerprint)

    def state_sizes(self, partition: int, users: Sequence[str]) -> list[StateSize]:
        """What the states of some users take. [n]"""
        pipeline = self._client.pipeline(transaction=False)
        for user in users:
            key = self.keys.state(partition, user)
            pipeline.getrange(key, 0, HEADER_BYTES + 3)
            pipeline.strlen(key)
            pipeline.memory_usage(key)
        said = iter(pipeline.execute() if users else [])
        return [
            StateSize(int(value), whole_bytes(front, int(value)), int(entry))
            for front, value, entry in zip(said, said, said, strict=True)
            if len(front) > HEADER_BYTES and entry
        ]
