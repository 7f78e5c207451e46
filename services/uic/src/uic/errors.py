"""What can go wrong in UIC, as one tree. A door has one table from these classes to its own codes, tested to be total.

    UicError
    ├── StartRefused            a deployment that would write wrong states; the message says how to fix it
    │   ├── EvictingStore
    │   ├── NamespaceConflict
    │   └── UnsuitableTopic
    ├── StoreUnavailable        no answer, or one that says nothing about the outcome; try again
    ├── LogUnavailable          the broker does not answer, or did not acknowledge; try again
    ├── DeadLetterUnavailable   a dead letter was not acknowledged; try again
    └── RequestRefused          the caller's mistake
        ├── InvalidField
        ├── NoState
        ├── NotOurs
        └── NotBroken

What is wrong with a single record is no exception but a value: `uic.core.event.Reason`.
"""

from __future__ import annotations


class UicError(Exception):
    """Base of all. `detail` is for people and never names a user."""

    retriable = False
    """Whether the same call may succeed later without anybody changing anything."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class StartRefused(UicError):
    """UIC will not run against this deployment."""


class EvictingStore(StartRefused):
    """The store's maxmemory-policy may evict states or progress."""


class NamespaceConflict(StartRefused):
    """The namespace belongs to another topic or partition count."""


class UnsuitableTopic(StartRefused):
    """The topic is missing, compacted, or has another partition count than the settings say."""


class StoreUnavailable(UicError):
    """The store gave no answer, or an error that does not say whether a write happened."""

    retriable = True


class LogUnavailable(UicError):
    """The broker is away, or did not acknowledge in time."""

    retriable = True


class DeadLetterUnavailable(UicError):
    """The dead-letter topic did not acknowledge a record."""

    retriable = True


class RequestRefused(UicError):
    """A call that cannot be granted as it is."""


class InvalidField(RequestRefused):
    """A field of the request breaks a rule; `detail` names the field and the fix."""


class NoState(RequestRefused):
    """Nothing is stored under this user."""


class NotOurs(RequestRefused):
    """The partition is not assigned to this process; ask the one that has it."""


class NotBroken(RequestRefused):
    """`continue` or `rebuild` was asked for a partition that is not stopped."""
