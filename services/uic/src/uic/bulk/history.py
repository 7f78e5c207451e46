"""History that is not in the log yet, as records to append: where a record lies in its source, and what a source gives.

Every record has a place in its source, `(lane, number)`: numbers rise within a lane, and all records of a user lie in
one lane in the user's order; where the archived topic has grown, in two, of which one comes first. Appended in this
order with the place in a header, a user's records keep their order, and a reader of the topic can tell for each lane
how far a killed import came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from uic.bulk.errors import BulkRefused
from uic.core.header_places import read_place, write_place

PLACE: Final = "ctr-import"
"""Header of an imported record: the source, lane and number, as `encode_place` writes them."""


class Place(NamedTuple):
    """Where a record lies in its source."""

    lane: int
    number: int


class HistoryRecord(NamedTuple):
    """A record to append."""

    place: Place
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int | None
    """None: the time at which it is appended."""


class History(Protocol):
    """A source."""

    @property
    def source(self) -> str:
        """Its identity: the same for the same records in the same order."""

    @property
    def records(self) -> int:
        """How many there are, those left out included."""

    @property
    def first_lanes(self) -> range:
        """Lanes that must be in the topic whole before a record of any other is."""

    @property
    def oldest_ms(self) -> int | None:
        """The lowest timestamp that records are appended with; None: they are appended with the current time."""

    def read(self, after: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """The records in order, without those of a lane up to the number in `after`."""


def encode_place(source: str, place: Place) -> bytes:
    """The header's value."""
    return write_place(source, *place)


def decode_place(value: bytes) -> tuple[str, Place] | None:
    """The source and the place that a header names; None if it is none that `encode_place` writes."""
    found = read_place(value)
    return None if found is None else (found[0], Place(*found[1:]))


def refuse_short_retention(oldest_ms: int | None, retention_ms: int | None, now_ms: int) -> None:
    """Records keep their time; a topic whose retention is shorter than their age would drop them at once.

    Raises:
        BulkRefused: it would.
    """
    if oldest_ms is not None and retention_ms is not None and 0 <= retention_ms < now_ms - oldest_ms:
        raise BulkRefused(
            f"the oldest record is {(now_ms - oldest_ms) / 86_400_000:.0f} days old, and the topic keeps records for "
            f"{retention_ms / 86_400_000:.0f} days, so it would be dropped at once: raise the topic's retention.ms "
            "until the import and the backfill are done (-1: unlimited)"
        )
