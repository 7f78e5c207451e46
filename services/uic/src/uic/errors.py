"""What can go wrong in UIC, as one tree. Each port has one table from these classes to its codes, tested to be total.

    UicError
    ├── StartRefused            a deployment that would write wrong states; the message says how to fix it
    │   ├── EvictingStore
    │   ├── NamespaceConflict
    │   ├── UnsuitableClient
    │   └── UnsuitableTopic
    ├── StoreUnavailable        no answer, or one that says nothing about the outcome; try again
    ├── LogUnavailable          the broker does not answer; try again
    │   ├── NoLeader            partitions have no leader; goes on once their replicas are back
    │   ├── TopicRefused        the user lacks a right on the topic; goes on once it is given
    │   ├── NotAcknowledged     some records may or may not be in the log; to try again may double them
    │   ├── LogRefused          the brokers refuse the records, so none is in the log; the message says why
    │   ├── WrongClock          this machine's clock is wrong, so that no record of its time is taken; another may do it
    │   └── UnreadableLog       a batch stays unreadable; trying again does not help
    ├── DeadLetterUnavailable   a dead letter was not acknowledged; try again
    ├── UnreadableState         what is stored under a user is not what was written
    │   └── ForeignState
    ├── Overloaded              more calls at once than are admitted; try again later
    └── RequestRefused          the caller's mistake
        ├── Unauthenticated
        ├── Forbidden
        ├── InvalidField
        ├── DeadlineTooShort
        ├── NoState
        ├── NotOurs
        └── NotBroken

What is wrong with a single record is no exception but a value: `uic.core.event.Reason`.
"""

from __future__ import annotations


class UicError(Exception):
    """Base of all. `detail` is for people and never names a user."""

    retriable = False
    """Whether the same call may succeed later although nothing was changed."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.kind = type(self).__name__
        """What went wrong, in words that are the same at each try; those of `detail` may differ by chance."""


class StartRefused(UicError):
    """UIC will not run against this deployment."""


class EvictingStore(StartRefused):
    """The store's maxmemory-policy may evict states or progress."""


class NamespaceConflict(StartRefused):
    """The namespace belongs to another topic or partition count."""


class UnsuitableClient(StartRefused):
    """The installed Kafka client, or for a cluster the installed redis-py, is not one that UIC knows how to use."""


class UnsuitableTopic(StartRefused):
    """The topic is missing, compacted, or has another partition count than the settings say."""


class StoreUnavailable(UicError):
    """The store gave no answer, or an error that does not say whether a write happened."""

    retriable = True

    def __init__(self, detail: str, *, answered: bool = False, kind: str = "") -> None:
        super().__init__(detail)
        self.kind = kind or self.kind
        self.answered = answered
        """Whether it is there and answers this with an error, as it does to a user who lacks a right."""


class LogUnavailable(UicError):
    """The broker is away, or did not acknowledge in time."""

    retriable = True


class NoLeader(LogUnavailable):
    """No broker leads some of the partitions that were asked for: all brokers with their replicas are away."""

    def __init__(self, detail: str, partitions: tuple[int, ...]) -> None:
        super().__init__(detail)
        self.partitions = partitions
        """Those without a leader."""


class TopicRefused(LogUnavailable):
    """The brokers do not let this user see or read the topic. `detail` names the topic, the user and the right."""

    retriable = False


class NotAcknowledged(LogUnavailable):
    """Some records were not acknowledged in time: each of them may or may not lie in the log, and the others do."""

    retriable = False

    def __init__(self, positions: tuple[int, ...], total: int, why: str = "") -> None:
        """`why`, as far as that is known: the brokers refused some, or there is no connection to them; else empty."""
        super().__init__(
            f"{len(positions)} of {total} records were not acknowledged in time and may or may not be in the log; "
            "if you send them again, one that is in the log already is folded twice" + (f" ({why})" if why else "")
        )
        self.positions = positions
        """Which, counted from 0 in the order of the call."""
        self.why = why


class LogRefused(LogUnavailable):
    """The brokers refuse the call's records: no right, too large, or the like. None of them is in the log, and the same
    call is refused again until what `detail` names is changed."""

    retriable = False

    def __init__(self, detail: str, *, of_records: bool = False) -> None:
        super().__init__(detail)
        self.of_records = of_records
        """Whether it is about these records, as their size is; else no record at all is taken."""


class WrongClock(LogUnavailable):
    """This machine's clock is so wrong that a record which has its time is refused. None of the call's records is in
    the log. It goes on once the clock is right, and a machine with another clock may take the same call."""


class UnreadableLog(LogUnavailable):
    """A batch of the log is damaged, or compressed with an unknown codec. It stays so: a later read ends here again."""

    retriable = False


class DeadLetterUnavailable(UicError):
    """The dead-letter topic did not acknowledge a record."""

    retriable = True


class UnreadableState(UicError):
    """The stored value is damaged: its checksum or its owner is wrong. UIC replaces it at the user's next event."""


class ForeignState(UnreadableState):
    """The stored value is sound, but of another layout or bundle than the one that is loaded."""


class Overloaded(UicError):
    """More calls at once than this process admits."""

    retriable = True


class RequestRefused(UicError):
    """A call that cannot be granted as it is."""


class Unauthenticated(RequestRefused):
    """No key, or one that is not known."""


class Forbidden(RequestRefused):
    """A known key without the scope that the call asks for."""


class InvalidField(RequestRefused):
    """A field of the request breaks a rule; `detail` names the field and the fix."""


class DeadlineTooShort(RequestRefused):
    """The caller's deadline leaves no time to write anything; nothing was written."""


class NoState(RequestRefused):
    """Nothing is stored under this user."""


class NotOurs(RequestRefused):
    """The partition is not assigned to this process; ask the one that has it."""


class NotBroken(RequestRefused):
    """`continue` or `rebuild` of a partition that is not stopped."""
