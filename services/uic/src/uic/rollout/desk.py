"""The rollout record in the store: read, and replaced by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mimn.release import Conflict, CorruptRecord, NotAllowed, Record, decode_record, encode_record, record_key
from uic.store import replace

TRIES: Final = 5


class Desk:
    """Reads and changes the record of one key prefix."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._key = record_key(prefix)

    def read(self) -> Record | None:
        """The record, None if there is none.

        Raises:
            CorruptRecord: what is stored is not one.
        """
        return self._decoded(self._stored())

    def existing(self) -> Record:
        """The record.

        Raises:
            NotAllowed: there is none.
            CorruptRecord: as `read`.
        """
        record = self.read()
        if record is None:
            raise NotAllowed("there is no rollout yet: `rollout start BUNDLE` begins the first")
        return record

    def change(self, how: Callable[[Record], Record]) -> Record:
        """Replace the record by what `how` makes of it, whatever it is by then; for changes that need no look at gates.

        Raises:
            NotAllowed, CorruptRecord: as `existing`; and whatever `how` raises.
            Conflict: others kept changing it.
        """
        for _ in range(TRIES):
            record = self.existing()
            try:
                return self.replace(record, how(record))
            except Conflict as lost:
                last = lost
        raise last

    def replace(self, before: Record | None, after: Record) -> Record:
        """Store `after` in the place of `before`; nothing is written if they are the same.

        A reply that was lost leaves the record written or not, and the next command finds out which.

        Raises:
            Conflict: another record is stored by now.
            Unstorable: it has grown too large, or could not be read again.
        """
        if after is before:
            return after
        value = encode_record(after)
        if before is None:
            # Without the script, so a full store refuses it: RTPs could not say there what they serve, and the first
            # record must not change that.
            stored = value if self._client.set(self._key, value, nx=True) else self._stored()
        else:
            stored = replace(self._client, self._key, encode_record(before), value)
        if stored != value:
            found = self._decoded(stored)
            at = "gone" if found is None else f"at revision {found.revision}"
            raise Conflict(
                f"another command changed the record, which is {at} now: run `ctr rollout list`, then repeat yours"
            )
        return after

    def _stored(self) -> bytes:
        return self._client.get(self._key) or b""

    def _decoded(self, stored: bytes) -> Record | None:
        try:
            return decode_record(stored) if stored else None
        except CorruptRecord as error:
            raise CorruptRecord(
                f"{error}. RTPs that run go on by the last record that they read: restart none. If a newer ctr wrote "
                f"it, use that one; if it is damaged, the way on is `DEL {self._key}` and a new record, as "
                "docs/runbooks/roll-back.md says"
            ) from error
