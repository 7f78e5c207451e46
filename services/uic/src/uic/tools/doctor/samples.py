"""The newest records' keys and times, as the checks of producers look at them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Keys of a partition's newest records (None for a record without a key), and the newest timestamp."""

    partition: int
    keys: tuple[bytes | None, ...]
    newest_ms: int | None = None
