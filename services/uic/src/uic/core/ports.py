"""What UIC needs of the world, one protocol each. Real ones in `store`, `log` and `mimn.bundle`; fakes in the tests,
held to the same contract suites. The file is long because what the ports take and tell stands beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mimn.rows.encoded import Encoded
from mimn.state import Ledger, Sketch, Staged, StateLayout
from uic.core.commit import Answer, Commit, NoAnswer
from uic.core.event import Record
from uic.core.letters import Letter
from uic.core.ordering import ReadsRecords
from uic.core.start_position import LogBounds
from uic.core.trouble import Trouble


class Step(Protocol):
    """The step graph."""

    def __call__(self, events: NDArray[np.float32], state: NDArray[np.float32], /) -> NDArray[np.float32]:
        """[B, D], [B, F] → [B, F], float32; row b depends only on row b."""


@runtime_checkable
class FoldsMany(Step, Protocol):
    """A step that also folds all events of many users in one call."""

    def fold(
        self, events: NDArray[np.float32], depth: NDArray[np.int64], states: NDArray[np.float32], /
    ) -> NDArray[np.bool_] | None:
        """Fold events into states, in place: the first `depth[0]` into the first state, in order, and so on. An event
        whose result is not finite leaves its state as it was.

        [E, D], [R], [R, F] → by event whether its result was finite, or None if all were
        """


class Vectors(Protocol):
    """Events to graph input."""

    def __call__(
        self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64], actions: NDArray[np.uint8], /
    ) -> NDArray[np.float32]:
        """[k], [k], [k] → [k, D] float32."""


class Forget(Protocol):
    """Erases what a state knows of one item (`mimn.bundle.Bundle.forget`)."""

    def __call__(self, state: NDArray[np.float32], item_id: int, /) -> None:
        """[F], in place."""


class Counting(Protocol):
    """How events enter the counters of a state (`mimn.bundle.IdSketch`)."""

    @property
    def sketch(self) -> Sketch:
        """The sizes and rules."""

    def addresses(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64], /) -> NDArray[np.int64]:
        """The cells of events. [k], [k] → [k, A]"""

    def moments(self, times_ms: NDArray[np.int64], actions: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """When events happened, and what they count. [k], [k] → [k, 2, S]"""


class ManyStates(Protocol):
    """What a round does to many states at once. Numpy does it (`numpy_states.NumpyStates`), or compiled code, with the
    same results to the last byte."""

    def user_hashes(self, keys: Sequence[bytes], /) -> NDArray[np.uint64]:
        """`mimn.state.user_hashes`."""

    def absorb(
        self,
        headers: NDArray[np.void],
        rows: NDArray[np.int64],
        offsets: NDArray[np.int64],
        times: NDArray[np.int64],
        values: Sequence[bytes],
        /,
    ) -> NDArray[np.bool_]:
        """`numpy_states.absorb`."""

    def add_counts(  # noqa: PLR0917 (one array after another, as C takes them)
        self,
        sketch: Sketch,
        states: NDArray[np.float32],
        depth: NDArray[np.int64],
        addresses: NDArray[np.int64],
        moments: NDArray[np.float32],
        sound: NDArray[np.bool_] | None,
        /,
    ) -> None:
        """`Sketch.add`: the first `depth[0]` events into the first state, in order, and so on, in place; those that are
        not sound change nothing. `depth` never rises."""

    def add_entries(  # noqa: PLR0917 (one array after another, as C takes them)
        self,
        ledger: Ledger,
        states: NDArray[np.float32],
        depth: NDArray[np.int64],
        items: NDArray[np.uint64],
        times: NDArray[np.int64],
        sound: NDArray[np.bool_] | None,
        /,
    ) -> None:
        """`Ledger.add`, in the same order."""

    def read_headers(self, values: Sequence[bytes], into: NDArray[np.void], to: NDArray[np.int64], /) -> None:
        """`into[to] = mimn.state.read_headers(values)`."""

    def read_tensors(
        self,
        values: Sequence[bytes],
        layout: StateLayout,
        into: NDArray[np.float32],
        to: NDArray[np.int64],
        /,
    ) -> None:
        """`into[to] = mimn.state.read_tensors(values, layout)`."""


class Compiled(ReadsRecords, ManyStates, Protocol):
    """What C does for the records and events of a batch, with the results of the functions that it stands for."""

    def encode_states(self, states: Staged, /) -> Encoded:
        """`mimn.state.Staged.encoded`."""


class StateStore(Protocol):
    """States and progress. Every method raises `StoreUnavailable` unless it says otherwise."""

    def check(self) -> None:
        """Raises `EvictingStore` if the store may evict states or progress."""

    def claim_namespace(self, partitions: int, topic: str) -> str:
        """The store's identity: random, made when a namespace is first claimed, the same for all workers that write to
        this store. Records the namespace's partition count and topic if none are recorded; raises `NamespaceConflict`
        if others are."""

    def read_progress(self, partitions: Collection[int]) -> dict[int, bytes | NoAnswer]:
        """The progress record of each partition, or `ABSENT`; `NoAnswer` where the partition's server does not answer
        and another does. Raises if none does."""

    def load(self, wanted: Sequence[tuple[int, Sequence[str]]]) -> list[list[bytes | None] | NoAnswer]:
        """The values of users, by (partition, user ids), None for a user without one; `NoAnswer` as above."""

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        """What became of each commit, in order; each is atomic by itself. Does not raise. After a `NoAnswer` the rest
        of that server's may be given up without having been tried."""

    def set_aside(self, partition: int, values: Sequence[bytes]) -> None:
        """Keep unreadable values in the partition's bounded list for inspection, newest first."""

    def time_ms(self) -> int:
        """The store's clock, milliseconds since 1970-01-01 UTC; a cluster's is the one furthest ahead."""

    @property
    def sentinels(self) -> str | None:
        """Why no failover is followed, or none is made, as of when the Sentinels were last asked, which is whenever
        progress or clock are read: none named the master, or they are too few. Empty: all is well; None: there are
        none, or they were not asked yet. Reads may go well all the same."""

    @property
    def evicts(self) -> str:
        """Which servers may evict states, by their eviction policy, and how many keys they have evicted; empty if none
        may. As of the last look, at most every ten seconds when the clock is read."""

    @property
    def connections(self) -> int:
        """Rises with every connection made: when it does, what the store had may be lost."""


class Delivery(Protocol):
    """Letters on their way."""

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""

    @property
    def error(self) -> str | None:
        """Once done: None if all were acknowledged, else why not."""

    @property
    def cut(self) -> int:
        """Once done without an error: how many lack a part of their record, because the topic takes no more."""


class DeadLetters(Protocol):
    """The dead-letter topic."""

    def send(self, letters: Sequence[Letter]) -> Delivery:
        """Begin to deliver; returns at once. All letters are acknowledged, or the delivery has an error and any number
        of them may have arrived."""


class Erasures(Protocol):
    """Which users were erased, and up to where."""

    def read(self, partitions: Collection[int], topic_id: bytes, /) -> Mapping[int, Mapping[bytes, int]]:
        """Partition → key → offset up to which (inclusive) the user's events of this log are erased.

        Raises `LogUnavailable`; if only some of the partitions cannot be read, a `NoLeader` that names them.
        """


# The log: what the fold tells the thread that polls it, and what it hears from there.


@dataclass(frozen=True, slots=True)
class Owned:
    """The partitions that this worker has by the leases. Those that are new are parked: nothing is read before
    `Log.read`."""

    partitions: frozenset[int]
    asked_at: float
    """When the leases were asked for, in monotonic seconds."""
    workers: frozenset[str] = frozenset()
    """All that hold a lease."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one partition, in log order, read because of the `Log.read` that carried `tag`. None, if only what is
    no event was passed."""

    partition: int
    tag: int
    records: Sequence[Record]
    position: int
    """Where the client reads on: above the last record's offset + 1 when markers of transactions follow it."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What lies at the offset that was read from is no event: the marker of a transaction, or a record of an aborted
    one. Comes before the records that follow it."""

    partition: int
    tag: int
    offset: int


@dataclass(frozen=True, slots=True)
class Described:
    """The answer to `Log.describe`."""

    partition: int
    tag: int
    bounds: LogBounds
    asked_ms: int
    """Wall clock before the question was sent: what was in the log then lies below `bounds.end`."""
    log_end: int
    """End of the log (high watermark). While a transaction is open it is above `bounds.end` (last stable offset): the
    acknowledged events between the two cannot be read yet."""


@dataclass(frozen=True, slots=True)
class NotDescribed:
    """No answer to `Log.describe` for these: their leader is silent or refuses us, no broker answers, or the topic is
    away. Others that were asked about with them may be described."""

    tags: tuple[int, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class LeaderAway:
    """An answer to `Log.describe`, too: no broker leads these partitions. The brokers answer, and other partitions are
    not concerned."""

    tags: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """The log no longer has the position that we read at, or says that it was truncated below it. Parked."""

    partition: int
    tag: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The batch that comes next cannot be read: damaged, or compressed with an unknown codec. Parked. The records
    before it were delivered."""

    partition: int
    tag: int
    offset: int
    next_offset: int
    """Where the next batch begins; `offset` if that is unknown."""
    detail: str


@dataclass(frozen=True, slots=True)
class Advised:
    """The brokers' answer to `Log.advise`."""

    partitions: tuple[int, ...]
    error: str | None
    refused: bool = False
    """Whether they did not because this user lacks a right, which `error` names."""


@dataclass(frozen=True, slots=True)
class PartitionCount:
    """How many partitions the topic has: the answer to `Log.count_partitions`, and told unasked once it is not N."""

    partitions: int


@dataclass(frozen=True, slots=True)
class NotCounted:
    """No answer to `Log.count_partitions`."""

    detail: str


@dataclass(frozen=True, slots=True)
class NoLease:
    """This worker has given its lease up, and has no partitions."""

    detail: str


@dataclass(frozen=True, slots=True)
class LogAway:
    """The client failed and is replaced; `Owned` comes again once the next one works."""

    detail: str


LogMessage = (
    Owned
    | NoLease
    | Fetched
    | Skipped
    | Described
    | NotDescribed
    | LeaderAway
    | OutOfRange
    | Unreadable
    | Advised
    | PartitionCount
    | NotCounted
    | LogAway
    | Trouble
)


class Log(Protocol):
    """The event log. All methods return at once, except `messages`."""

    def messages(self, timeout_s: float) -> list[LogMessage]:
        """All that happened since the last call, in order; waits up to `timeout_s` if that is nothing."""

    def describe(self, tags: Mapping[int, int]) -> None:
        """Ask for the bounds of partitions (partition → tag); each is answered by `Described`, `LeaderAway` or
        `NotDescribed`."""

    def count_partitions(self) -> None:
        """Ask a broker how many partitions the topic has now; answered by `PartitionCount` or `NotCounted`."""

    def read(self, partition: int, tag: int, offset: int, topic_id: bytes) -> None:
        """Read a partition of the topic with this id from `offset`; what is fetched carries `tag`. Once the topic is
        another one, nothing more is delivered, and the partition is `OutOfRange`."""

    def park(self, partition: int) -> None:
        """Stop reading a partition; what was fetched is not delivered any more."""

    def took(self, tag: int, records: int) -> None:
        """This many of the fetched records are dealt with: there is room for more."""

    def advise(self, offsets: Mapping[int, int]) -> None:
        """Tell the brokers the next offsets of partitions, for lag tools; answered by `Advised`, for one or several
        calls together."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All that a fold reads from and writes to."""

    log: Log
    store: StateStore
    dead_letters: DeadLetters
    erasures: Erasures
