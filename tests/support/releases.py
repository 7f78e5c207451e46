"""Releases and rollout records for tests of them, without bundles."""

from __future__ import annotations

from hashlib import sha256

from mimn.release import Record, Release, begin

SALT = "0123456789abcdef"
NOW_MS = 1_800_000_000_000


def release(name: str = "shop", version: str = "1", *, fingerprint: str = "", generation: int = 0) -> Release:
    """A release; bundles of one name have one fingerprint unless given another."""
    return Release(
        name,
        version,
        sha256(f"{name}/{version}".encode()).hexdigest(),
        sha256(f"head of {name}/{version}".encode()).hexdigest(),
        sha256((fingerprint or name).encode()).hexdigest(),
        generation,
    )


def begun(new: Release, old: Release | None = None, record: Record | None = None, now_ms: int = NOW_MS) -> Record:
    """A record in which the rollout of `new` has begun."""
    return begin(record, new, serving=old or release(), origin="log", salt=SALT, now_ms=now_ms, by="test")
