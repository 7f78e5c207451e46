"""Follows the rollout record: loads the releases that it names, drops those that it does not, and routes by its arms.

What serves changes by one assignment, and only to releases that are loaded here and whose namespace was read. A release
that cannot be loaded leaves its users with the release in service, and the others alone. The record is followed for as
long as this process lives: one that is gone or unreadable stays in force as last read, because a store that was emptied
is no order to serve something else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from mimn import release as rollouts
from mimn.release import SERVING, Buckets, CorruptRecord, Record, decode_record, record_key
from rtp.core.fields import Fields, fields_of, of_others
from rtp.core.ports import StateReader
from rtp.errors import ReloadRefused, ReloadTimedOut, StoreAway, StoreError, StoreLate
from rtp.field_history import read_asked
from rtp.loader import Loader
from rtp.metrics import Metrics
from rtp.progress_watcher import NoNamespace, ProgressReader
from rtp.release import Arm, InService, Release, Traffic
from rtp.trouble import Trouble

log = structlog.stdlib.get_logger(__name__)

ARMS_WITHIN_S = 10.0
"""How much longer than for what serves a process that starts waits for the releases of the other arms, so that from its
first answer on a user has the arm that the other processes give them. Longer than a large head takes (2 s for 300 MB),
and short for a load that hangs."""


@dataclass(frozen=True, slots=True)
class Bundles:
    """Where the bundles of releases may be: under a folder as `<name>/<version>`, and at the configured path."""

    folder: Path
    configured: Path

    def of(self, release: rollouts.Release) -> Path:
        """The first of the two places that has a bundle of this name; the folder if neither has."""
        under = self.folder / release.name / release.version
        configured = self.configured.resolve()
        if not under.is_dir() and (configured.parent.name, configured.name) == (release.name, release.version):
            return configured
        return under


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a release could not be loaded, and when it is tried again, in seconds of the clock; after a load that hung,
    only when that is asked for (`RolloutFollower.retry`)."""

    reason: str
    again_at: float
    passes: bool = False
    """The store did not answer, so that the next try may succeed by itself."""


class NotObeyed(CorruptRecord):
    """The store has an older record than the one in force, or none any more: it is read, and stays without effect until
    a command of today writes one."""


class RolloutFollower:
    """Serves what the record says."""

    def __init__(
        self,
        in_service: InService,
        store: StateReader,
        reader: ProgressReader,
        metrics: Metrics,
        loader: Loader,
        *,
        bundles: Bundles,
        prefix: str,
        timeout_s: float,
        every_s: float,
        retry_every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._in_service = in_service
        self._store = store
        self._reader = reader
        self._metrics = metrics
        self._loader = loader
        self._bundles = bundles
        self._prefix = prefix
        self._key = record_key(prefix)
        self._timeout_s = timeout_s
        self._every_s = every_s
        self._retry_every_s = retry_every_s
        self._clock = clock
        self._value: bytes | None = None
        self._older: bytes | None = None
        """The record that the store has, if it is older than the one in force; empty if it has none any more."""
        self._loaded: dict[rollouts.Release, Release] = {}
        self._loading: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        """Set when the record may have changed, and when a load has ended; `begin` waits for it."""
        self._fields: Fields = frozenset()
        """What any release that was ever loaded here, or that the record remembers, reads of requests: after a
        rollback, callers still send it."""
        self._known: set[rollouts.Release] = set()
        """Releases whose fields are in `_fields`."""
        self._unread: set[rollouts.Release] = set()
        """Earlier releases whose manifests could not be read here."""
        self._hung = False
        """Whether reading one hung: the next would, too, and too many of those keep every release from loading."""
        self._remembering: asyncio.Task[None] | None = None
        self._obeyed = False
        """Whether what this process serves has been what it should, by the record or without one, if only once."""
        self.record: Record | None = None
        """The record in force; None while none was ever seen."""
        self.refused: dict[rollouts.Release, Refusal] = {}
        self._trouble = Trouble()
        self.unread: str | None = None
        """Why the record that the store has cannot be read; None if it can, also if it is not obeyed."""
        metrics.record_up.set(1)

    @property
    def governor(self) -> str | None:
        """What decides what is served instead of a reload, for people."""
        return None if self.record is None else f"the rollout record (revision {self.record.revision})"

    @property
    def trouble(self) -> str | None:
        """Why the last look at the record failed; None if it did not."""
        return self._trouble.reason

    @property
    def unready(self) -> str | None:
        """Why this process cannot answer for the release in service, None if it does, or serves what it did before."""
        if self._obeyed:
            return None
        if self.record is None:
            return self.trouble or "the rollout record was not read yet"
        return f"{self.record.serving.bundle} is in service and is not loaded here: {self._why(self.record.serving)}"

    @property
    def details(self) -> str:
        """What is not as the record wants it, for people; empty if nothing."""
        refused = [f"{release.bundle} is not loaded here: {one.reason}" for release, one in self.refused.items()]
        answering = () if self.record is None else self.record.answering
        meanwhile = self._in_service.current.bundle
        loading = [
            f"{release.bundle} is being loaded, {meanwhile} answers until then" for release in self._awaited(answering)
        ]
        return "; ".join([*refused, *loading, *([self.trouble] if self.trouble else [])])

    async def run(self) -> None:
        """Look at the record every so often, forever. The first look is the caller's."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    def close(self) -> None:
        """Give up what is being loaded."""
        for task in (self._loading, self._remembering):
            if task is not None:
                task.cancel()

    def retry(self) -> None:
        """Try every refused release again at the next look, and every manifest that could not be read: bundles may have
        been copied here meanwhile."""
        self._unread, self._hung = set(), False
        self.refused = {release: Refusal(one.reason, 0.0, one.passes) for release, one in self.refused.items()}

    async def look(self) -> None:
        """Read the record once, and take up what it says. Never raises: the next look tries again."""
        try:
            value = (await self._store.read_many([self._key], self._timeout_s))[0]
            if value is None:
                if self.record is not None:
                    self._older = b""  # who begins a new record decides today, whatever its revision
                    raise NotObeyed("it is gone from the store; the last one stays in force")
                self._obeyed = True  # without a record, what the settings name is what should serve
            elif value == self._value:
                self._older = None
            else:
                record = decode_record(value)
                self._refuse_older(value, record)
                log.info("rollout record", revision=record.revision, serving=record.serving.bundle)
                self._value, self.record = value, record
                self._assign()
        except Exception as error:
            if self.record is None and isinstance(error, CorruptRecord):
                self._obeyed = True  # no program can say what else should serve
            if not (ours := isinstance(error, StoreError | CorruptRecord)):
                self._value = None  # it may not have been taken up whole
            why = str(error) if ours else repr(error)
            self.unread = None if isinstance(error, NotObeyed) else why
            reason = f"the rollout record cannot be followed: {why}"
            if self._trouble.begins(error, reason):
                log.warning("the rollout record is not followed", reason=reason, exc_info=not ours and error)
        else:
            self.unread = None
            if self._trouble.ends():
                log.info("the rollout record is followed again")
        self._metrics.record_up.set(0 if self.trouble else 1)
        traffic = self._in_service.traffic
        self._metrics.keep(
            [(arm.name, arm.release.bundle) for arm in traffic.arms],
            [(arm.name, arm.release.bundle) for arm in traffic.shadows],
            self._clock(),
        )
        self._load()
        self._moved.set()

    def _refuse_older(self, value: bytes, record: Record) -> None:
        """Raises NotObeyed for a record that a store with older data brought back: it may name what was rolled back
        since. A command that changes it is a decision of today, and is obeyed."""
        known = 0 if self.record is None else self.record.revision
        if value == self._older or (self._older is None and record.revision < known):
            self._older = value
            raise NotObeyed(
                f"the store has revision {record.revision}, which is older than {known}; that one stays in force until "
                "a rollout command changes the record (ctr rollout list)"
            )
        self._older = None

    async def begin(self) -> None:
        """Return when the releases that answer users are loaded or refused, or nothing loads them: those of the record
        as it is then, which `run` follows meanwhile. For those beside what serves it waits `ARMS_WITHIN_S` more at
        most."""
        await self._until(lambda record: not self._awaited((record.serving,)))
        try:
            async with asyncio.timeout(ARMS_WITHIN_S):
                await self._until(lambda record: not self._awaited(record.answering))
        except TimeoutError:
            late = [release.bundle for release in self._awaited(() if self.record is None else self.record.answering)]
            log.warning("a release loads slowly, its users are answered by what serves until then", bundles=late)

    async def _until(self, settled: Callable[[Record], bool]) -> None:
        """Return when the record of the moment is `settled`, or there is none."""
        while self.record is not None and not settled(self.record):
            self._moved.clear()
            await self._moved.wait()

    def _awaited(self, releases: Iterable[rollouts.Release]) -> list[rollouts.Release]:
        """Those that are being loaded, or will be next."""
        if not self._is_loading:
            return []
        return [release for release in releases if release not in self._loaded.keys() | self.refused.keys()]

    async def settled(self) -> None:
        """Return when no load is going on."""
        while going := [task for task in (self._loading, self._remembering) if task is not None and not task.done()]:
            await asyncio.wait(going)

    # Loading

    @property
    def _is_loading(self) -> bool:
        return _goes_on(self._loading)

    def _load(self) -> None:
        if not _goes_on(self._remembering) and next(self._unknown(), None) is not None:
            self._remembering = asyncio.create_task(self._remember_fields())
        if not self._is_loading and next(self._wanted(), None) is not None:
            self._loading = asyncio.create_task(self._load_wanted())
            self._loading.add_done_callback(lambda _: self._moved.set())

    def _wanted(self) -> Iterator[rollouts.Release]:
        """What the record holds and this process lacks, except for refusals whose time has not come."""
        if self.record is not None:
            now = self._clock()
            for release in self.record.held:
                refusal = self.refused.get(release)
                if release not in self._loaded and (refusal is None or refusal.again_at <= now):
                    yield release

    async def _load_wanted(self) -> None:
        """Load one after another; the record is followed meanwhile."""
        if self._remembering is not None and not self._obeyed:  # a process that is ready knows these fields
            await asyncio.wait([self._remembering])
        while (release := next(self._wanted(), None)) is not None:
            try:
                self._loaded[release] = await self._open(release)
                self.refused.pop(release, None)
            except Exception as error:
                reason = str(error) if isinstance(error, ReloadRefused) else f"{type(error).__name__}: {error}"
                known = self.refused.get(release)
                if known is None or known.reason != reason:
                    log.error("release refused, the others go on", bundle=release.bundle, reason=reason)
                # A load that hangs would hang again, and too many of those keep every other release from loading.
                wait_s = math.inf if isinstance(error, ReloadTimedOut) else self._retry_every_s
                passes = isinstance(error, StoreAway | StoreLate)
                self.refused[release] = Refusal(reason, self._clock() + wait_s, passes)
            self._assign()
            self._moved.set()

    def _unknown(self) -> Iterator[rollouts.Release]:
        """What the record remembers, and this process has neither loaded nor looked for. What is on its way is loaded
        when it is ready, and often it is not on this disk before."""
        if self.record is not None and not self._hung:
            going = () if self.record.open is None else (self.record.open.release,)
            seen = self._known.union(self._unread, going)
            yield from (release for release in self.record.past if release not in seen)

    async def _remember_fields(self) -> None:
        """Learn the fields of releases that the record remembers and this process has never loaded: those of before it
        was started, and of rollouts that it missed. Beside the loads, which a read that hangs must not hold up."""
        while (release := next(self._unknown(), None)) is not None:
            try:
                fields = await self._loader.read(partial(self._fields_of, release))
            except Exception as error:
                log.info("the manifest of an earlier release is not here: fields that it alone knows are refused",
                         bundle=release.bundle, reason=str(error))  # fmt: skip
                self._unread.add(release)
                self._hung = isinstance(error, ReloadTimedOut)
            else:
                self._fields |= fields
                self._known.add(release)
                self._assign()

    def _fields_of(self, release: rollouts.Release) -> Fields:
        """What a release reads of requests, by its bundle here.

        Raises:
            ReloadRefused: it is another bundle.
            BundleError: as `read_asked`.
        """
        path = self._bundles.of(release)
        asked = read_asked(path)
        if asked.sha256 != release.manifest:
            raise ReloadRefused(f"{path} is another bundle")
        return asked.fields

    async def _open(self, wanted: rollouts.Release) -> Release:
        """The release, loaded and with its namespace read.

        Raises:
            ReloadRefused: the bundle is another one than the record's.
            Exception: whatever loading, or reading the namespace, raises.
        """
        served = self._in_service.current.model
        model = served if served.sha256 == wanted.manifest else None
        if model is None:
            path = self._bundles.of(wanted)
            model = await self._loader.load(path)
            if model.sha256 != wanted.manifest:
                raise ReloadRefused(
                    f"{path} is another bundle than the one that was rolled out (sha256 of the manifest is "
                    f"{model.sha256[:12]}…, not {wanted.manifest[:12]}…): copy that one here"
                )
        known = self._in_service.namespaces
        release = Release.of(model, prefix=self._prefix, generation=wanted.generation, known=known)
        if release.progress is None:
            try:
                release.namespace.progress = await self._reader.read_whole(release.keys)
            except NoNamespace as error:
                raise ReloadRefused(f"the store has no namespace {release.keys.namespace}") from error
        return release

    # Serving

    def _why(self, release: rollouts.Release) -> str:
        refusal = self.refused.get(release)
        return "it is being loaded" if refusal is None else refusal.reason

    def _assign(self) -> None:
        """Make the assignment that the record asks for, as far as its releases are loaded."""
        record = self.record
        if record is None:
            return
        held = set(record.held)
        serving = self._loaded.get(record.serving, self._in_service.current)
        self._obeyed |= record.serving in self._loaded
        self._loaded = {
            release: loaded for release, loaded in self._loaded.items() if release in held or loaded is serving
        }
        self.refused = {release: one for release, one in self.refused.items() if release in held}
        self._known.update(self._loaded)
        self._fields |= frozenset[tuple[str, str, str]]().union(
            *(fields_of(one.model.request.specs) for one in (serving, *self._loaded.values()))
        )
        traffic = Traffic(
            (self._arm(SERVING, serving), *self._arms(record.arms)),
            tuple(self._arms(record.shadows)),
            record.salt.encode(),
        )
        asked = {arm.release for arm in (*traffic.arms, *traffic.shadows)}
        standby = [loaded for loaded in self._loaded.values() if loaded not in asked]
        self._in_service.assign(traffic, standby)
        self._show(record, traffic, standby)

    def _arms(self, arms: tuple[rollouts.Arm, ...]) -> Iterator[Arm]:
        for arm in arms:
            if (release := self._loaded.get(arm.release)) is not None:
                yield self._arm(arm.name, release, arm.buckets)

    def _arm(self, name: str, release: Release, buckets: Buckets = ()) -> Arm:
        return Arm(name, release, buckets, of_others(self._fields, fields_of(release.model.request.specs)))

    def _show(self, record: Record, traffic: Traffic, standby: list[Release]) -> None:
        metrics = self._metrics
        serving = traffic.arms[0].release
        metrics.revision.set(record.revision)
        metrics.serves(serving.model.name, serving.model.version, serving.keys)
        metrics.releases.clear()
        metrics.compiled_head.clear()
        roles = [(arm.release, arm.name) for arm in traffic.arms]
        roles += [(arm.release, f"shadow:{arm.name}") for arm in traffic.shadows]
        for arm in traffic.arms:
            metrics.of_arm(arm.name, arm.release.bundle)
        for arm in traffic.shadows:
            metrics.of_shadow(arm.name, arm.release.bundle)
        for release, role in [*roles, *((release, "standby") for release in standby)]:
            metrics.releases.labels(release.bundle, release.keys.namespace, role).set(1)
            metrics.compiled_head.labels(release.bundle).set(release.model.compiled)
        metrics.releases_refused.clear()
        for refused in self.refused:
            metrics.releases_refused.labels(refused.bundle).set(1)


def _goes_on(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()
