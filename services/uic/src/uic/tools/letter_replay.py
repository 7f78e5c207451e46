"""Replays dead letters: appends the original key, value and headers to the event topic as a new event, in its key's
partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mimn.state import partition_of
from uic.errors import NotAcknowledged, UicError
from uic.log.event_log import EventLog, NewRecord
from uic.tools.letter_reading import DeadLetter

REPLAY_OF: Final = "uic-replay-of"
"""Header of a replayed record: `<topic>/<partition>/<offset>` of the original."""
BATCH: Final = 500
"""Records that are acknowledged together."""


def not_replayable(letter: DeadLetter, topic: str) -> str | None:
    """Why `letter` cannot be replayed into `topic`, or None."""
    if letter.topic != topic:
        return "of another topic"
    if letter.cut_from is not None:
        return "value was cut"
    if not letter.key:
        return "no key"
    return None


class Origin(NamedTuple):
    """The original of a replayed record."""

    topic: str
    partition: int
    offset: int


def decode_origin(value: bytes) -> Origin | None:
    """What the header `REPLAY_OF` names; None if it names nothing."""
    topic, _, place = value.decode("utf-8", "replace").partition("/")
    partition, _, offset = place.partition("/")
    return Origin(topic, int(partition), int(offset)) if partition.isdecimal() and offset.isdecimal() else None


def replayed(letter: DeadLetter, partitions: int) -> NewRecord:
    """The record that replays `letter`: the original in its key's partition, with a header that says so."""
    assert letter.key  # noqa: S101  # `not_replayable` is None
    kept = [header for header in letter.headers if header[0] != REPLAY_OF]
    origin = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
    return NewRecord(partition_of(letter.key, partitions), letter.key, letter.value, (*kept, (REPLAY_OF, origin)))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of letters that were to be replayed, in their order: done and in doubt first, then those not sent."""

    done: int
    """Acknowledged."""
    in_doubt: Sequence[DeadLetter] = ()
    not_sent: Sequence[DeadLetter] = ()
    why: str = ""
    """What stopped it; empty if all are done."""


def replay(chosen: Sequence[DeadLetter], log: EventLog, topic: str, partitions: int, timeout_s: float) -> Replayed:
    """Append the originals of `chosen` to `topic` in order, up to the first batch that is not fully acknowledged.

    Whatever stops it, Ctrl-C included, it is known what was not sent: who replays all again folds the rest twice.
    """
    for start in range(0, len(chosen), BATCH):
        batch, rest = chosen[start : start + BATCH], chosen[start + BATCH :]
        try:
            log.append(topic, partitions, [replayed(letter, partitions) for letter in batch], timeout_s)
        except NotAcknowledged as error:
            in_doubt = [batch[i] for i in error.positions]
            return Replayed(start + len(batch) - len(in_doubt), in_doubt, rest, "not all were acknowledged in time")
        except UicError as error:  # before the first record of the batch was sent
            return Replayed(start, (), chosen[start:], error.detail)
        except KeyboardInterrupt:
            return Replayed(start, batch, rest, "interrupted")
    return Replayed(len(chosen))
