"""How a namespace goes, so that a worker that comes back meanwhile harms nothing, and a removal that was killed can be
repeated (decision 194).

1. A mark takes the place of every partition's progress record. Commits compare that record, so from here on none of
   this namespace succeeds, and a worker that finds a mark waits.
2. All other keys go, slice by slice, each call only while this removal's mark is there.
3. The namespace's meta goes, and its place in the list.
4. The marks go, that of partition 0 last: as long as it is there, the removal can be repeated. A worker that waited
   begins a new namespace; it writes the meta after its first progress record, so it does not lose it to step 3.

A later removal puts its own marks in place of those of an earlier one, which then stops.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from mimn.state import REMOVAL, Keys
from uic.bulk.errors import BulkRefused
from uic.store import read_meta, replace

REMOVE: Final = files("uic.bulk").joinpath("remove.lua").read_text("utf-8")
SLICE: Final = 500
"""Keys that are removed at a time."""


def another_removes(name: str) -> BulkRefused:
    """What a removal that is not alone says."""
    return BulkRefused(f"another command removes namespace {name}, or the store has lost writes: run this again")


class Removal:
    """One removal of a namespace. Every method raises redis-py's errors if the store does not answer."""

    def __init__(self, client: Any, keys: Keys) -> None:
        """Nothing is written yet."""
        self._client = client
        self._keys = keys
        self._mark = REMOVAL + secrets.token_hex(8).encode()
        self._replaced: dict[str, bytes] = {}
        """Progress record's key → what the mark replaced, `b""` for nothing."""

    def partitions(self) -> list[int]:
        """The partitions that may have keys, 0 among them."""
        said = read_meta(self._client.get(self._keys.meta))
        if isinstance(said, dict) and isinstance(said.get("partitions"), int):
            return list(range(max(1, said["partitions"])))
        tag = re.compile(re.escape(self._pattern[:-1]).encode() + rb"(\d+)\}")
        found = (tag.match(key) for key in self._client.scan_iter(match=self._pattern, count=1000))
        return sorted({0, *(int(one[1]) for one in found if one)})

    def close(self, seen: Mapping[int, bytes | None], *, force: bool) -> int:
        """Step 1: keep workers out of partitions; how many of them had a progress record, or an earlier removal's mark.

        Args:
            seen: partition → the record that it must have still.
            force: whatever it has by now.

        Raises:
            BulkRefused: a worker has written one meanwhile, or another removal has begun. `open_again` undoes what was
                done.
        """
        for p, record in seen.items():
            stored = self._close(self._keys.progress(p), record or b"", force=force)
            if stored != self._mark:
                if stored.startswith(REMOVAL) or (record and not stored):
                    raise another_removes(self._keys.namespace)
                raise BulkRefused(
                    f"a worker has begun to fold partition {p} of namespace {self._keys.namespace}: stop the workers "
                    "that have it and run this again"
                )
        return sum(map(bool, self._replaced.values()))

    def open_again(self) -> None:
        """Undo step 1, before step 2: no worker has written meanwhile, so the records are right still."""
        for progress, record in self._replaced.items():
            if record:
                replace(self._client, progress, self._mark, record)
            else:
                self._unlink(progress, [progress])
        self._replaced.clear()

    def remove(self, after: Callable[[str], None]) -> int:
        """Steps 2 to 4; how many keys went, without meta and marks.

        Args:
            after: called after each "slice", when all "keys" are gone, and when the "name" is.

        Raises:
            BulkRefused: another removal has taken this one over.
        """
        gone = 0
        for some in self._slices():
            gone += sum(self._unlink(progress, keys) for progress, keys in some.items())
            after("slice")
        after("keys")
        for progress in self._replaced:
            if self._client.get(progress) != self._mark:
                raise another_removes(self._keys.namespace)
        self._client.unlink(self._keys.meta)
        self._client.srem(self._keys.namespaces, self._keys.namespace)
        after("name")
        for progress in reversed(self._replaced):
            self._unlink(progress, [progress])
        return gone

    @property
    def _pattern(self) -> str:
        return f"{self._keys.prefix}:{{{self._keys.namespace}.*"

    def _close(self, progress: str, record: bytes, *, force: bool) -> bytes:
        """What is stored then: the mark, unless it was another record and not `force`."""
        while (stored := replace(self._client, progress, record, self._mark)) != self._mark and force:
            record = stored
        if stored == self._mark:
            self._replaced[progress] = record
        return stored

    def _unlink(self, progress: str, keys: Sequence[str | bytes]) -> int:
        gone = int(self._client.eval(REMOVE, 1 + len(keys), progress, *keys, self._mark))
        if gone < 0:
            raise another_removes(self._keys.namespace)
        return gone

    def _slices(self) -> Iterator[dict[str, list[bytes]]]:
        """All keys but the marks, by the progress record of their partition."""
        some: dict[str, list[bytes]] = defaultdict(list)
        for n, key in enumerate(self._client.scan_iter(match=self._pattern, count=1000), start=1):
            progress = key.partition(b"}")[0].decode() + "}:progress"
            if progress not in self._replaced:  # of a partition that the meta does not count
                self._close(progress, b"", force=True)
            if key != progress.encode():
                some[progress].append(key)
            if n % SLICE == 0 and some:
                yield some
                some = defaultdict(list)
        if some:
            yield some
