"""History in the archive of another topic."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mimn.arrow import pc
from mimn.state import partition_of
from uic.bulk.archive import Archive, PartitionManifest
from uic.bulk.errors import BulkRefused
from uic.bulk.history import PLACE, HistoryRecord, Place
from uic.core.event import MAX_VALUE_BYTES, Reason, check_key
from uic.tools.letter_replay import REPLAY_OF, decode_origin


class ArchivedHistory:
    """An archive's records, partition by partition: a lane each. Records keep key, value, headers and time, so that
    what was malformed stays malformed. Events of users who were erased since are left out, and so are records that
    were dead letters whatever they hold: a misrouted one would be in its place now, and be folded.

    If the topic had N partitions and was given more, a user may have older records in the partition by N, and newer
    ones in the one by the count of now. What lies in its place by N alone comes first, in lanes of its own; then what
    lies in its place by the count of now. A user's records in one partition are in order there; so all are, without
    holding or comparing any.
    """

    def __init__(
        self, archive: Archive, erased: Mapping[int, Mapping[bytes, int]], grew_from: int | None = None
    ) -> None:
        """
        Args:
            archive: of another topic.
            erased: by partition of the archive, key → offset up to which the user's events are left out.
            grew_from: N before the topic grew, if the archive does not say it.

        Raises:
            BadArchive: it has a hole, or files that do not belong.
            BulkRefused: `grew_from` is no lower count.
        """
        self._archive = archive
        self._erased = erased
        self.grew_from = archive.about.grew_from if grew_from is None else grew_from
        """N before the topic grew; None if it did not."""
        if self.grew_from is not None and not 0 < self.grew_from < archive.partitions:
            raise BulkRefused(
                f"the archived topic has {archive.partitions} partitions, so it has not grown from {self.grew_from}"
            )
        self._manifests = [archive.checked(p) for p in range(archive.partitions)]
        about = archive.about
        self.topic = about.topic, archive.topic_id
        self.source = hashlib.sha256(f"{about.topic} {about.topic_id}".encode()).hexdigest()[:16]
        self.left_out: Counter[Reason] = Counter()
        """Dead letters of the archived topic that `read` has left out, without misrouted ones."""
        self.doubled = 0
        """Replays of dead letters that `read` has left out, because it brings the originals."""

    @property
    def records(self) -> int:
        """See `History`."""
        return sum(manifest.records for manifest in self._manifests)

    @property
    def first_lanes(self) -> range:
        """See `History`: of the records that lie in their place by the count before the topic grew."""
        first = self._archive.partitions
        return range(first, first + (self.grew_from or 0))

    @property
    def oldest_ms(self) -> int | None:
        """See `History`: of the first records, which in a log are the oldest."""
        first = [next(self._archive.records(m, 1), None) for m in self._manifests if m.records]
        return min((some.column("timestamp")[0].as_py() for some in first if some is not None), default=None)

    @property
    def complete_from(self) -> dict[int, int]:
        """By partition of the archive, from which offset on none of its records is missing."""
        return {manifest.partition: manifest.complete_from for manifest in self._manifests}

    @property
    def counts(self) -> str:
        """By which N records are looked for, in words."""
        now = f"N = {self._archive.partitions}"
        return now if self.grew_from is None else f"N = {self.grew_from} and by {now}"

    def misrouted(self) -> int:
        """How many records have a key and do not lie in its partition, by no count that the topic had: `read` leaves
        them out. Reads the keys of all of them."""
        found = 0
        for manifest in self._manifests:
            for keys in self._archive.keys(manifest):
                for row in pc.value_counts(keys).to_pylist():
                    key, n = row["values"], row["counts"]
                    if check_key(key) is None and not self._in_place(key, manifest.partition):
                        found += n
        return found

    def read(self, after: Mapping[int, int]) -> Iterator[HistoryRecord]:
        """See `History`."""
        for lane, manifest in self._lanes():
            if manifest.end > after.get(lane, -1) + 1:
                for row in self._lane(lane, manifest, after.get(lane, -1)):
                    match row:
                        case HistoryRecord():
                            yield row
                        case Reason():
                            self.left_out[row] += 1
                        case None:
                            self.doubled += 1

    def _lanes(self) -> Iterator[tuple[int, PartitionManifest]]:
        """All of them in order, with what each is read from."""
        yield from zip(self.first_lanes, self._manifests, strict=False)
        yield from ((manifest.partition, manifest) for manifest in self._manifests)

    def _lane(self, lane: int, manifest: PartitionManifest, done: int) -> Iterator[HistoryRecord | Reason | None]:
        """The records of a lane above the number `done`; in place of one that is left out because it was a dead letter,
        the reason, and in place of one that replays another one, None."""
        partition, moved = manifest.partition, lane in self.first_lanes
        erased = self._erased.get(partition, {})
        for some in self._archive.records(manifest):
            for row in some.to_pylist():
                offset, key, value = row["offset"], row["key"], row["value"]
                if offset <= done:
                    continue
                if reason := check_key(key):
                    if not moved:  # else it is counted when the partition is read as a whole
                        yield reason
                    continue
                home = partition_of(key, self._archive.partitions)
                if (home != partition) is not moved or (moved and self._place_before(key) != partition):
                    continue
                if value is not None and erased.get(key, -1) >= offset:
                    continue
                if value is not None and moved and key in self._erased.get(home, {}):
                    continue  # erased after the topic grew
                if value is not None and len(value) > MAX_VALUE_BYTES:
                    yield Reason.TOO_LARGE
                    continue
                headers = row["headers"] or ()
                if self.grew_from is not None and self._doubles(key, headers):
                    yield None
                    continue
                # A null header becomes an empty one: kafka-python writes no other.
                kept = tuple((h["name"], h["value"] or b"") for h in headers if h["name"] != PLACE)
                yield HistoryRecord(Place(lane, offset), key, value, kept, row["timestamp"])

    def _in_place(self, key: bytes, partition: int) -> bool:
        """Whether a key's records belong into this partition, by the count of now or by that before."""
        return partition in (partition_of(key, self._archive.partitions), self._place_before(key))

    def _place_before(self, key: bytes) -> int | None:
        """A key's partition before the topic grew."""
        return None if self.grew_from is None else partition_of(key, self.grew_from)

    def _doubles(self, key: bytes, headers: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a record replays a dead letter that was misrouted by the count before the topic grew, and is in its
        place by the count of now: `read` brings the original."""
        for header in headers:
            if header["name"] == REPLAY_OF and (origin := decode_origin(header["value"] or b"")) is not None:
                return (
                    origin.topic == self._archive.about.topic
                    and origin.partition == partition_of(key, self._archive.partitions)
                    and origin.partition != self._place_before(key)
                    and any(f.first <= origin.offset <= f.last for f in self._manifests[origin.partition].files)
                )
        return False
