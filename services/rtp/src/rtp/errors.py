"""What can go wrong with a request, as exceptions that the doors turn into answers.

    RtpError
    ├── CallerMistake                the request is wrong; sending it again changes nothing
    │   ├── Unauthenticated          no key, or one that is not known
    │   ├── Forbidden                the key's scopes do not have it
    │   ├── MalformedHead            not HTTP, or not exactly one valid Host
    │   ├── HeadTooLarge             request line and headers
    │   ├── MalformedBody            not JSON
    │   ├── BodyTooLarge
    │   ├── SlowBody                 the body did not arrive within the deadline
    │   ├── UnsupportedMediaType
    │   └── InvalidRequest           JSON, but not a request: the faults with their fields
    └── NotServed                    the request may be fine; sending it again may help
        ├── Overloaded               refused at once, because it could not be answered in time
        ├── Draining                 this process is going away
        ├── NotReady                 this process has not seen the namespace in the store yet (/readyz alone says so)
        ├── StateUnavailable         the caller requires a state, and the store does not give it
        ├── DeadlineMissed
        └── ScoringFailed            the head graph failed or returned a non-finite score

    StoreError                       why a state could not be read; degrades an answer, never fails it by itself
    ├── StoreAway                    not connected, or not asked because it was away a moment ago
    ├── StoreLate                    no reply within what the deadline left
    └── StoreRefused                 an error reply

    UnsuitableClient                 the installed redis-py cannot be used, so RTP does not start

    ReloadRefused                    a bundle that is not taken up; the one before goes on serving
    └── ReloadTimedOut               it did not load in time

No I/O and no HTTP here: the one table from these classes to statuses is in `rtp.doors.problems`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_FAULTS = 20
MAX_FIELD_CHARACTERS = 100


class RtpError(Exception):
    """Base of every error that a caller can be told. `detail` is for people."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One fault of a request: where (`candidates[3].item_id`) and what."""

    field: str
    message: str


class CallerMistake(RtpError):
    """The request is wrong; sending it again changes nothing."""


class Unauthenticated(CallerMistake):
    """No key, or one that is not known."""


class Forbidden(CallerMistake):
    """A known key without the scope that the route needs."""


class MalformedHead(CallerMistake):
    """Request line or headers are not HTTP, or there is not exactly one valid Host header."""


class HeadTooLarge(CallerMistake):
    """Request line and headers are larger than the limit."""


class MalformedBody(CallerMistake):
    """The body is not JSON in UTF-8."""


class BodyTooLarge(CallerMistake):
    """The body is larger than the limit."""


class SlowBody(CallerMistake):
    """The body did not arrive within the deadline."""


class UnsupportedMediaType(CallerMistake):
    """The body is declared as something other than plain JSON."""


class InvalidRequest(CallerMistake):
    """JSON, but not a request. Names at most `MAX_FAULTS` faults, and of each field's name the beginning: it may be the
    caller's own word, which answers do not repeat at length."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        faults = [FieldFault(_beginning(fault.field), fault.message) for fault in faults[:MAX_FAULTS]]
        first = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{first.field}: {first.message}{more}")
        self.faults = faults


def _beginning(field: str) -> str:
    return field if len(field) <= MAX_FIELD_CHARACTERS else f"{field[:MAX_FIELD_CHARACTERS]}…"


class NotServed(RtpError):
    """The request may be fine, but is not answered now."""


class Overloaded(NotServed):
    """Refused at once, because it could not be answered within its deadline."""


class Draining(NotServed):
    """This process is going away."""


class NotReady(NotServed):
    """This process has not seen its namespace in the store yet."""


class StateUnavailable(NotServed):
    """The caller requires a state, and the store does not give it."""


class DeadlineMissed(NotServed):
    """The answer would come after the deadline."""


class ScoringFailed(NotServed):
    """The head graph failed, or gave a score that is not a finite number."""


class StoreError(Exception):
    """Why something could not be read from the store."""


class StoreAway(StoreError):
    """There is no connection, or the store is not asked because it was away a moment ago."""


class StoreLate(StoreError):
    """No reply within the time that was given."""


class StoreRefused(StoreError):
    """The store answered with an error (LOADING, NOPERM, CLUSTERDOWN and the like)."""


class UnsuitableClient(Exception):
    """The installed redis-py is not one that RTP is written for; the message names what to install."""


class ReloadRefused(Exception):
    """A bundle is not taken up; the one before goes on serving. The message says why and what to do."""


class ReloadTimedOut(ReloadRefused):
    """The bundle did not load in time; the thread that loads it is abandoned."""
