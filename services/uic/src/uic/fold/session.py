"""One partition as this process has it, from the assignment until it is dropped whole. A session is one of five values,
and each holds what its phase needs and nothing else:

    TakingUp ──> Claiming ──> Reading       reading progress, storing a new progress record, reading and folding
        │            └──> Lost              another process wrote the partition's progress
        └──> Broken <── Reading             an operator decides

Whenever anything about a partition is in doubt, its session is dropped and another one begins with `TakingUp`. All of
it is owned by the fold thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar, cast

from mimn.state import Progress
from uic.core.advance import CaughtUp
from uic.core.cache import Shelf, StateCache
from uic.core.commit import Commit
from uic.core.event import Record
from uic.core.fold import Part
from uic.core.ordering import Batch
from uic.core.ports import Delivery, Log
from uic.core.records import Pending
from uic.core.staged_values import States
from uic.core.start_position import Begin, BrokenReason
from uic.core.status import Action
from uic.errors import NotOurs


@dataclass(slots=True)
class Resolution:
    """An operator's decision about a broken partition, and where the answer goes."""

    partition: int
    action: Action
    from_offset: int | None
    outcome: Future[Progress]
    about: BrokenReason | None = None
    """Why the partition had stopped."""

    def refuse(self, error: Exception) -> None:
        """Tell the operator, if they still wait, that it cannot be done."""
        with suppress(InvalidStateError):  # they gave up, on their own thread
            self.outcome.set_exception(error)

    def fulfil(self, progress: Progress) -> None:
        """Tell the operator, if they still wait, what was stored."""
        with suppress(InvalidStateError):
            self.outcome.set_result(progress)


@dataclass(slots=True)
class Attempt:
    """A commit on its way, and the progress that holds once the store has it. (Not frozen, because making a frozen
    one costs three times as much, and there is one a partition and round.)"""

    commit: Commit
    progress: Progress


@dataclass(slots=True)
class FoldedBatch(Attempt):
    """The attempt that writes the batch in hand."""

    part: Part
    states: States
    """Of the whole round; the rows of `part` are theirs."""


@dataclass(slots=True)
class Sending:
    """Dead letters on their way: those of the batch's rejected records up to `upto`."""

    delivery: Delivery
    upto: int


@dataclass(slots=True)
class InHand:
    """The batch that is folded next, or again: kept until it is written."""

    batch: Batch
    acknowledged: int = 0
    """How many of its rejected records the dead-letter topic has."""
    sending: Sending | None = None
    routed: bool = True
    """Whether its misrouted records, if it has any, may become dead letters."""
    counting: bool = False
    """Whether it waits to hear how many partitions the topic has."""
    lost: set[str] = field(default_factory=set)
    """Users whose states the store has lost: folded again from the initial state, `partial`."""
    aside: set[str] = field(default_factory=set)
    """Users whose unreadable values are set aside already: a batch may be loaded several times."""

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer from Kafka."""
        return self.counting or (self.sending is not None and not self.sending.delivery.done)


@dataclass(frozen=True, slots=True)
class Hold:
    """What a session keeps through all of its phases."""

    partition: int
    tag: int
    """Unique in the process: tells this session's records from those of earlier ones."""
    writer: int
    shelf: Shelf
    """The states in memory, exactly as they are stored under the session's progress."""


@dataclass(slots=True, kw_only=True)
class Session:
    """What all phases have in common."""

    hold: Hold
    due: float = 0.0
    """Nothing is tried before this time (monotonic, s)."""
    reason: str = ""
    """Why it does not fold; empty while it does."""
    unanswered: bool = False
    """Whether the store did not answer for it when last asked."""
    leaderless: bool = False
    """Whether no broker led the partition when the log was last asked."""
    untold: str = ""
    """Why the log did not say where the partition begins and ends when it was last asked; empty if it did, or said that
    no broker leads it."""
    unclaimed: bool = False
    """Whether the store had no answer to its claim and has none of it, so that it is taken up once more."""
    start: int | None = None
    """Start of the log when the broker was last asked."""
    end: int | None = None
    """End of the log (high watermark) when the broker was last asked."""
    progress: Progress | None = None
    """What is stored, as far as the session knows; None before it does."""

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.hold.partition

    @property
    def tag(self) -> int:
        """The tag that the session's records carry."""
        return self.hold.tag


@dataclass(slots=True, kw_only=True)
class TakingUp(Session):
    """The stored progress is read and the log is asked for its bounds; then `core.start_position` decides."""

    resolution: Resolution | None = None
    """What an operator decided, in place of `start_position`."""
    stored: bytes | None = None
    """The progress record; None until it is read and the log is asked."""
    removed: bool = False
    """Whether the namespace is being removed, so that it waits until that has ended."""


@dataclass(slots=True, kw_only=True)
class _Writing(Session):
    """What the phases that write have in common."""

    progress: Progress
    known: bytes
    """The stored progress record."""
    unsure: Attempt | None = None
    """A commit without an answer: progress is read until it is known what became of it."""


@dataclass(slots=True, kw_only=True)
class Claiming(_Writing):
    """Decided; before the first record, the erasures are read if it is a replay or leaves records out, and new progress
    is stored."""

    begin: Begin
    topic_id: bytes
    """Of the log, when that was decided."""
    decided_end: int
    """Where the log ended when that was decided; if it lost its tail, where it goes on with other records. Notes of
    erasures at or above it may be of records that are lost."""
    claimed: bool
    """Whether the store has `progress`, which is `begin`'s."""
    resolution: Resolution | None = None
    wants_erasures: bool = False
    erased: Mapping[bytes, int] = field(default_factory=dict)
    forgets: Sequence[str] = ()
    """Users whose states go with the claim: they were erased, and the erasure will not be read."""


@dataclass(slots=True, kw_only=True)
class Reading(_Writing):
    """Records are read and folded.

    Invariant: `known` is the encoding of `progress`, and the store acknowledged it.
    """

    erased: Mapping[bytes, int]
    verify: Begin | None
    """While the first record, which must carry the witness, has not arrived."""
    position: int
    """Where the client reads on."""
    read_back_due: float
    pending: Pending = field(default_factory=Pending)
    """Fetched records that are not committed, those of the batch in hand included. Only `Sessions` changes it."""
    unreadable: str = ""
    """Why the batch behind `pending` cannot be read."""
    undelivered: str = ""
    """Why the dead letters of the batch in hand are not acknowledged."""
    described_at: int = -1
    """The next offset of progress when the log was last described."""
    held_at: int | None = None
    """Where an open transaction begins that records below `end` wait for."""
    in_hand: InHand | None = None
    caught_up: CaughtUp | None = None

    @property
    def folds(self) -> bool:
        """Whether batches may be folded now."""
        return self.unsure is None and self.verify is None

    @property
    def held(self) -> bool:
        """Whether everything that can be read is read, and an open transaction keeps the rest."""
        return self.folds and self.held_at is not None and self.position >= self.held_at

    def ready(self, now: float) -> bool:
        """Whether there is something to do for the next round."""
        if not self.pending or self.due > now or not self.folds:
            return False
        return self.in_hand is None or not self.in_hand.waits


@dataclass(slots=True, kw_only=True)
class Lost(Session):
    """Another process wrote the partition's progress: wait for leases that are newer."""

    progress: Progress
    since: float
    """When it did (monotonic, s)."""


@dataclass(slots=True, kw_only=True)
class Broken(Session):
    """An operator decides."""

    cause: BrokenReason


S = TypeVar("S", bound=Session)


class Sessions:
    """The sessions of all assigned partitions, one a partition."""

    def __init__(self, cache: StateCache, event_log: Log, random_id: Callable[[], int]) -> None:
        """None yet. `random_id` gives writers their ids."""
        self.cache = cache
        self._log = event_log
        self._random_id = random_id
        self._last_tag = 0
        self._of: dict[int, Session] = {}
        self._in_phase: dict[type[Session], dict[int, Session]] = defaultdict(dict)
        """The same sessions: a turn asks for those of a phase ten times, and nearly all are `Reading`."""
        self._waiting: dict[int, Reading] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._of.values()))

    def __getitem__(self, partition: int) -> Session:
        return self._of[partition]

    def get(self, partition: int) -> Session | None:
        """The session of a partition, None if it is not assigned."""
        return self._of.get(partition)

    def of(self, kind: type[S]) -> list[S]:
        """The sessions in a phase."""
        return list(cast("dict[int, S]", self._in_phase[kind]).values())

    def tagged(self, partition: int, tag: int) -> Session | None:
        """The session that a message is for, None if it was dropped since."""
        session = self._of.get(partition)
        return session if session is not None and session.tag == tag else None

    @property
    def waiting(self) -> list[Reading]:
        """Those with pending records, the one that waited longest for its turn first."""
        return list(self._waiting.values())

    def fetched(self, reading: Reading, records: Sequence[Record]) -> None:
        """Records wait to be folded."""
        if records:
            reading.pending.append(records)
            self._waiting.setdefault(reading.partition, reading)

    def folded(self, reading: Reading, records: int) -> None:
        """The first `records` pending ones are committed."""
        reading.pending.drop(records)
        if not reading.pending:
            self._waiting.pop(reading.partition, None)

    def had_turn(self, reading: Reading) -> None:
        """Move a partition behind the others that wait."""
        self._waiting[reading.partition] = self._waiting.pop(reading.partition)

    def start(self, partition: int, *, due: float, resolution: Resolution | None = None) -> TakingUp:
        """Begin a session."""
        self._last_tag += 1
        hold = Hold(partition, self._last_tag, self._random_id(), self.cache.open())
        session = TakingUp(hold=hold, due=due, resolution=resolution)
        self.put(session)
        return session

    def park(self, partition: int) -> None:
        """Stop reading a partition."""
        self._log.park(partition)

    def put(self, session: Session) -> None:
        """A new session, or the same one in another phase."""
        before = self._of.get(session.partition)
        if before is not None:
            self._leave(before)
        self._of[session.partition] = self._in_phase[type(session)][session.partition] = session

    def _leave(self, session: Session) -> None:
        del self._in_phase[type(session)][session.partition]
        self._waiting.pop(session.partition, None)

    def end(self, partition: int) -> None:
        """Drop a session, if there is one, with all that it holds."""
        session = self._of.pop(partition, None)
        if session is not None:
            self._leave(session)
            self.cache.close(session.hold.shelf)
            if isinstance(session, TakingUp | Claiming) and session.resolution is not None:
                session.resolution.refuse(NotOurs(f"partition {partition} was taken away in the meantime"))

    def restart(self, session: Session, now: float, *, delay_s: float = 0.0) -> TakingUp:
        """Drop everything, and take the partition up again from what is stored."""
        self.park(session.partition)
        resolution = None
        if isinstance(session, TakingUp | Claiming):
            resolution, session.resolution = session.resolution, None
        self.end(session.partition)
        return self.start(session.partition, due=now + delay_s, resolution=resolution)
