"""What answers users by the rollout record, and whether workers fold it. Tools look at the namespace that their
settings name, and after a rollout users may be answered from another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from mimn.bundle import BundleError, read_manifest
from mimn.release import CorruptRecord, Record, Release, State, behind, decode_record, not_built, record_key
from mimn.state import CorruptProgress, Keys, Progress, decode_progress, namespace
from uic.errors import UicError
from uic.redis_client import FAILURES, clock_ms, open_client
from uic.settings import BundleSettings, RedisSettings
from uic.store import read_meta

STALE_AFTER_MS: Final = 60_000
"""From then on RTP calls the states of a partition stale, by its defaults (RTP_STATE__STALE_AFTER_S)."""

REACHED_WITHIN_S: Final = 5.0
"""At normal load a worker has folded a record of just now within a second."""
PAUSE_S: Final = 0.1


class Role(StrEnum):
    """What the record has a namespace for, beside the one that serves."""

    CANARY = "canary"
    """It answers some users."""
    SHADOW = "shadow"
    """Requests are scored by it, and it answers no user."""
    KEPT = "kept"
    """It would answer all users after a rollback."""


@dataclass(frozen=True, slots=True)
class Answering:
    """A release that answers users, is tried on their requests, or would answer after a rollback."""

    release: Release
    unfolded: str | None
    """Why RTP calls its states stale; None if it does not."""
    topic: str | None = None
    """Of which its namespace is made; None if the store does not say."""
    progress: Mapping[int, Progress] = field(default_factory=dict)
    """By partition, how far it is folded, where the store says so."""

    def beyond(self, partition: int, offset: int) -> bool:
        """Whether it has folded this record of its topic."""
        at = self.progress.get(partition)
        return at is not None and at.next_offset > offset

    @property
    def said(self) -> str:
        """A sentence's beginning, for tools that look at another namespace."""
        return f"The rollout record answers users from {self.release.namespace} ({self.release.bundle})"


@dataclass(frozen=True, slots=True)
class InService:
    """What the rollout record says."""

    record: Record | None = None
    """None if there is none, or if it cannot be read."""
    error: str | None = None
    """Why it cannot be read."""
    answering: tuple[Answering, ...] = ()
    """Each namespace once, that of what serves first."""
    shadows: tuple[Answering, ...] = ()
    """The other namespaces by which requests are scored and not answered."""
    kept: tuple[Answering, ...] = ()
    """The other namespaces that are kept for a way back."""

    @property
    def beside(self) -> tuple[tuple[Role, Answering], ...]:
        """The namespaces beside the one that serves, as far as the store has them, and what each is there for."""
        of = ((Role.CANARY, self.answering[1:]), (Role.SHADOW, self.shadows), (Role.KEPT, self.kept))
        return tuple((role, one) for role, some in of for one in some if one.topic is not None)


def read_in_service(client: Any, prefix: str) -> InService:
    """Ask the store for the record, and how far the namespaces of the releases that answer users are folded.

    Raises:
        FAILURES: no answer.
    """
    stored = client.get(record_key(prefix))
    if not stored:
        return InService()
    try:
        record = decode_record(stored)
    except CorruptRecord as error:
        return InService(error=str(error))
    now_ms = clock_ms(client)
    seen: set[str] = set()

    def others(releases: Iterable[Release]) -> Iterator[Answering]:
        for release in releases:
            if (name := release.namespace) not in seen:
                seen.add(name)
                yield _answering(client, release, Keys(name, prefix), now_ms)

    return InService(
        record,
        answering=tuple(others(record.answering)),
        shadows=tuple(others(arm.release for arm in record.shadows)),
        kept=tuple(others(one.replaces for one in record.rollouts if one.state is State.SERVING)),
    )


def _answering(client: Any, release: Release, keys: Keys, now_ms: int) -> Answering:
    meta = read_meta(client.get(keys.meta))
    if not isinstance(meta, dict) or not isinstance(partitions := meta.get("partitions"), int):
        return Answering(release, "the store does not have its namespace")
    progress = [progress_of(client.get(keys.progress(p))) for p in range(partitions)]
    found = not_built(progress) or behind(progress, now_ms, STALE_AFTER_MS)
    return Answering(
        release,
        None if found is None else found.reason,
        meta.get("topic"),
        {p: one for p, one in enumerate(progress) if one is not None},
    )


def progress_of(record: bytes | None) -> Progress | None:
    """What a progress record says; None if there is none, or it cannot be read."""
    try:
        return None if record is None else decode_progress(record)
    except CorruptProgress:
        return None


def variables(release: Release) -> str:
    """What UIC workers of a release are started with, beside what all workers have in common."""
    return f"UIC_BUNDLE__PATH=FOLDER/{release.bundle} UIC_BUNDLE__GENERATION={release.generation}"


def elsewhere(settings: RedisSettings, bundle: BundleSettings | None) -> Answering | None:
    """What serves, if that is not the namespace that the settings name; None also if the store does not answer."""
    client = None
    try:
        client = open_client(settings)
        found = read_in_service(client, settings.prefix)
    except (*FAILURES, UicError):
        return None
    finally:
        if client is not None:
            client.close()
    if not found.answering or found.answering[0].release.namespace == _configured(bundle):
        return None
    return found.answering[0]


def others_behind(
    settings: RedisSettings,
    topic: str,
    partition: int,
    offset: int,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[tuple[Role, Answering], ...]:
    """The namespaces beside the one that serves which have not folded this record, after up to `REACHED_WITHIN_S`; none
    also if the store does not answer."""
    client = None
    deadline = clock() + REACHED_WITHIN_S
    try:
        client = open_client(settings)
        while True:
            beside = read_in_service(client, settings.prefix).beside
            late = tuple((role, one) for role, one in beside if one.topic != topic or not one.beyond(partition, offset))
            if all(one.topic != topic or one.unfolded for _, one in late) or clock() > deadline:
                return late
            sleep(PAUSE_S)
    except (*FAILURES, UicError):
        return ()
    finally:
        if client is not None:
            client.close()


def _configured(bundle: BundleSettings | None) -> str | None:
    """The namespace that the settings name; None if they name none that can be read here."""
    if bundle is None:
        return None
    try:
        return namespace(read_manifest(bundle.path)[0].fingerprint, bundle.generation)
    except BundleError:
        return None
