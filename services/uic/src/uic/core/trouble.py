"""What may be wrong while a worker goes on to serve."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TOPIC: Final = "topic"
"""The part of a cause that is the topic itself."""


class Cause(StrEnum):
    """The ten causes that have a runbook. A worker goes on to serve; everything else is an error of a library."""

    STORE = "store_unavailable"
    CLOCK = "clock_unavailable"
    """The store does not say what time it is, so it is not known how recent states are."""
    SKEW = "clock_skew"
    SENTINELS = "sentinels_unavailable"
    EVICTION = "store_evicts"
    LOG = "log_unavailable"
    COMPACTED = "log_compacted"
    ERASURES = "erasures_unavailable"
    DEAD_LETTERS = "dead_letter_topic_unavailable"
    PUBLISHING = "publishing_fails"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A part of a cause begins or ends to be wrong."""

    cause: Cause
    detail: str
    """Why; empty: it is over."""
    part: str = ""
    """Which of several things that the cause stands for."""
