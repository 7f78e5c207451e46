"""Snapshots of a namespace: its states and progress, taken while UIC folds.

Of each partition progress is read first and the states after it. A state may then be ahead of the progress; once
restored, UIC reads the log again from that progress and skips what a state says it has
(`uic.core.fold.Part.already_folded`), and an erasure in between erases the state again. So the snapshot is exact
although nothing stood still. A partition is read again if it began a new lineage or era in the meantime, or if a
connection was lost: the store may have restarted without writes that the progress counts.

Whose states are read is what the store lists. A key of that list may be deleted, and what a snapshot then lacked would
be lost for good, because the progress counts its events. So the states of the store are looked for by their own keys as
well: users who are missing from the list before are saved too, and if more are missing after, there is no snapshot.

    <root>/<namespace>/<id>/       saved states (`saved_states`); the id is when it was begun, UTC,
                                   by the store's clock
    <root>/<namespace>/<id>/verified.json     when all of it was last read and found right

That clock may have been wrong, so a name is believed as far as the log agrees with it (`believed`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Final
from uuid import UUID

import msgspec

from mimn.state import (
    CorruptProgress,
    Progress,
    StateError,
    StateLayout,
    decode_progress,
    decode_state,
    user_hash,
)
from uic.bulk.errors import BulkRefused, DamagedFile, FolderUnavailable
from uic.bulk.folder import Folder
from uic.bulk.saved_states import (
    MANIFEST,
    SavedPartition,
    SavedStates,
    check_files,
    read_manifest,
    seal,
    states_of,
    writing_partition,
)
from uic.core.commit import ABSENT
from uic.store import RedisStore

VERIFIED: Final = "verified.json"
LIST_AGAIN: Final = "`ctr verify --repair` lists them again (docs/runbooks/lost-states.md)"
STATES_A_READ: Final = 256
TRIES: Final = 5
ID_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_ID = re.compile(r"\d{8}T\d{6}Z")
UNFINISHED_FOR: Final = timedelta(days=1)
"""An incomplete snapshot that is older than this was left by a killed run."""
LINEAGES: Final = 3
LINEAGES_FOR: Final = timedelta(days=30)
"""Of how many sets of lineages a verified snapshot stays, and for how long: UIC starts over when the store is lost, and
what has to be restored then is of the lineages before. Snapshots hold users who were erased since, so not forever."""


CLOCKS_APART: Final = timedelta(minutes=5)
"""By how much two clocks may differ before nothing is removed by one of them; so far ahead of now a name may be."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """`verified.json`."""

    at: str
    users: int


@dataclass(frozen=True, slots=True)
class Listed:
    """One snapshot of a namespace."""

    id: str
    manifest: SavedStates | None
    """None: it is not complete."""
    verified: str | None
    """When; None: never."""
    problem: str = ""
    """Why its manifest cannot be read."""

    @property
    def at(self) -> datetime:
        """When it was begun."""
        return datetime.strptime(self.id, ID_FORMAT).replace(tzinfo=UTC)

    def is_to_come(self, now: datetime) -> bool:
        """Whether its name is of the future: the store's clock was fast when it was taken, or `now` is too early."""
        return self.at - now > CLOCKS_APART


@dataclass(frozen=True, slots=True)
class Source:
    """The namespace that is saved."""

    namespace: str
    fingerprint: str
    prefix: str
    topic: str
    n: int


def create(
    store: RedisStore,
    source: Source,
    root: Folder,
    *,
    now: datetime,
    after: Callable[[str], None] = lambda step: None,
    done: Callable[[int], None] = lambda users: None,
    warn: Callable[[str], None] = lambda line: None,
) -> str:
    """Take a snapshot and return its id. What was written of one that fails is removed, unless the process is killed.

    Args:
        store: of the namespace.
        source: the namespace.
        root: below which snapshots lie.
        now: the store's time, UTC.
        after: called after each step: "partition", "seal".
        done: called with how many more users were saved, now and then.
        warn: called with what an operator should know although the snapshot is whole.

    Raises:
        BulkRefused: a partition has no progress yet, it or the store keeps starting over, or its list of users lost
            some in the meantime.
        FolderFull, FolderUnavailable: the snapshot cannot be written.
        StoreUnavailable: no answer.
    """
    begun = now
    while not (folder := root.below(source.namespace).below(begun.strftime(ID_FORMAT))).made():
        begun += timedelta(seconds=1)  # another run began in the same second
    identity = begun.strftime(ID_FORMAT)
    try:
        saved = _saved(store, source, folder, after=after, done=done, warn=warn)
        topic_ids = {one.decoded.topic_id for one in saved}
        if len(topic_ids) != 1:
            raise BulkRefused(
                "partitions are folded from different topics: UIC has to settle that first (ctr partitions)"
            )
        manifest = SavedStates(
            namespace=source.namespace,
            fingerprint=source.fingerprint,
            prefix=source.prefix,
            topic=source.topic,
            topic_id=str(UUID(bytes=topic_ids.pop())),
            n=source.n,
            created_ms=int(now.timestamp() * 1000),
            partitions=tuple(saved),
        )
        seal(folder, manifest)
    except BaseException:
        with suppress(FolderUnavailable):
            remove(root, source.namespace, identity)
        raise
    after("seal")
    return identity


def refuse_without_progress(store: RedisStore, partitions: int) -> None:
    """Find out, before anything is done for a snapshot, whether one can be taken.

    Raises:
        BulkRefused: a partition has no progress yet.
        StoreUnavailable: no answer.
    """
    for partition, stored in store.progress_of(range(partitions)).items():
        _decoded(stored, partition)


def _saved(
    store: RedisStore,
    source: Source,
    folder: Folder,
    *,
    after: Callable[[str], None],
    done: Callable[[int], None],
    warn: Callable[[str], None],
) -> list[SavedPartition]:
    """All partitions, with every user whose state the store has."""
    fingerprint = bytes.fromhex(source.fingerprint)
    unlisted = store.unlisted(fingerprint)
    if unlisted:
        warn(f"{_missing(unlisted)}; they are saved all the same, and {LIST_AGAIN}")
    saved = []
    for partition in range(source.n):
        saved.append(_save(store, folder, partition, unlisted.get(partition, ()), fingerprint))
        done(saved[-1].users)
        after("partition")
    since = {p: new for p, users in store.unlisted(fingerprint).items() if (new := {*users} - {*unlisted.get(p, ())})}
    if since:
        raise BulkRefused(f"while the snapshot was taken, {_missing(since)}; {LIST_AGAIN}. Then run this again")
    return saved


def _missing(unlisted: Mapping[int, Collection[str]]) -> str:
    """How many users of which partitions, never who."""
    places = ", ".join(map(str, sorted(unlisted)[:5])) + (" and others" if len(unlisted) > 5 else "")
    users = sum(map(len, unlisted.values()))
    return f"{users} users with a state are missing from the list of users of partition {places}"


def _save(
    store: RedisStore, folder: Folder, partition: int, unlisted: Sequence[str], fingerprint: bytes
) -> SavedPartition:
    for _ in range(TRIES):
        store.lists(partition, [""])  # connects, and so does the next line
        _progress(store, partition)
        connections = store.connections
        progress = _progress(store, partition)
        everyone = chain(store.users(partition), store.still_unlisted(partition, unlisted, fingerprint))
        seen: set[str] = set()
        with writing_partition(folder, partition) as writer:
            while some := list(islice(everyone, STATES_A_READ)):
                new = [user for user in dict.fromkeys(some) if user not in seen]
                seen.update(new)  # SSCAN may name a user twice
                values = store.stored_values(partition, new)
                # Without a value: lost before, or erased just now.
                gone = [user for user, value in zip(new, values, strict=True) if value is None]
                erased = {user for user, known in zip(gone, store.lists(partition, gone), strict=True) if not known}
                kept = [(u.encode(), v) for u, v in zip(new, values, strict=True) if u not in erased]
                writer.add([user for user, _ in kept], [value for _, value in kept])
        now = _progress(store, partition)
        same = (now.lineage, now.era) == (progress.lineage, progress.era) and now.next_offset >= progress.next_offset
        if same and store.connections == connections:
            return writer.finish(progress)
    raise BulkRefused(
        f"partition {partition} started over, or the store restarted, each time it was read: see ctr partitions"
    )


def _progress(store: RedisStore, partition: int) -> Progress:
    return _decoded(store.progress_of([partition])[partition], partition)


def _decoded(stored: bytes, partition: int) -> Progress:
    if stored == ABSENT:
        raise BulkRefused(f"partition {partition} has no progress yet: take a snapshot when UIC has all partitions")
    try:
        return decode_progress(stored)
    except CorruptProgress as error:
        raise BulkRefused(f"the progress of partition {partition} cannot be read ({error})") from error


def listed(root: Folder, namespace: str) -> list[Listed]:
    """The snapshots of a namespace, oldest first. One whose manifest is not what was written counts as incomplete."""
    found = []
    for name in root.below(namespace).names():
        if not _ID.fullmatch(name):
            continue
        folder = root.below(namespace).below(name)
        manifest, problem = None, ""
        if folder.exists(MANIFEST):
            try:
                manifest = read_manifest(folder)
            except FolderUnavailable:  # it may be readable again, and must not expire
                raise
            except BulkRefused as error:
                problem = str(error)
        verified = None if manifest is None else _verified(folder)
        found.append(Listed(name, manifest, verified, problem))
    return found


def _verified(folder: Folder) -> str | None:
    """When a snapshot was verified. A note that is not what was written is none: verifying again replaces it."""
    if not folder.exists(VERIFIED):
        return None
    try:
        return msgspec.json.decode(folder.read(VERIFIED), type=Verification).at
    except (msgspec.DecodeError, ValueError):
        return None


def believed(snapshots: Sequence[Listed], now: datetime) -> list[Listed]:
    """The complete ones that were taken when their names say, as far as can be told: those that are not of the future,
    and of each lineages as many as possible of which none has less of the log than one with an earlier name. So one
    name that is too early is contradicted by those after it, and one that is too late by those before. Pure.

    Args:
        snapshots: all of a namespace, oldest first by name.
        now: UTC.
    """
    folded: dict[str, list[tuple[int, str]]] = {}
    for one in snapshots:
        if one.manifest is not None and not one.is_to_come(now):
            folded.setdefault(one.manifest.lineages, []).append((one.manifest.folded, one.id))
    agree = {identity for rows in folded.values() for identity in _longest_rise(rows)}
    return [one for one in snapshots if one.id in agree]


def _longest_rise(rows: Sequence[tuple[int, str]]) -> list[str]:
    """The ids of a longest part of the rows whose numbers never fall; of several, that which ends first."""
    best: list[tuple[int, int | None]] = []
    for i, (folded, _) in enumerate(rows):
        before = [j for j in range(i) if rows[j][0] <= folded]
        last = max(before, key=lambda j: best[j][0], default=None)
        best.append((1 if last is None else best[last][0] + 1, last))
    at = max(range(len(rows)), key=lambda j: best[j][0], default=None)
    found = []
    while at is not None:
        found.append(rows[at][1])
        at = best[at][1]
    return found


def as_taken(snapshots: Sequence[Listed], now: datetime) -> list[Listed]:
    """The complete ones in the order in which they were taken, as far as can be told: lineages by the last of their
    names that is believed, and those of the same lineages by how much of the log they have, whatever their names. Pure;
    arguments as `believed`."""
    complete = [(one, one.manifest) for one in snapshots if one.manifest is not None]
    trusted = {one.id for one in believed(snapshots, now)}
    last = {them.lineages: one.id for one, them in complete if not trusted or one.id in trusted}
    rows = [(last.get(them.lineages, ""), them.folded, one.id in trusted, one.id, one) for one, them in complete]
    return [row[-1] for row in sorted(rows, key=lambda row: row[:-1])]


def newest(snapshots: Sequence[Listed], now: datetime) -> Listed | None:
    """The complete one that was taken last: of the lineages that the names say are the latest, that with the most of
    the log, whatever its name. Pure; arguments as `believed`."""
    return next(reversed(as_taken(snapshots, now)), None)


def doubts(snapshots: Sequence[Listed], chosen: str, now: datetime) -> list[str]:
    """What speaks against restoring a snapshot that was chosen as the newest complete one, a line each. Pure.

    Args:
        snapshots: all of the namespace, oldest first by name.
        chosen: the id.
        now: UTC.
    """
    lines = [
        f"snapshot {one.id} is newer and cannot be used: {one.problem or 'it is not complete'}"
        for one in snapshots
        if one.id > chosen and one.manifest is None
    ]
    complete = [(one, one.manifest) for one in snapshots if one.manifest is not None]
    ours = next(manifest for one, manifest in complete if one.id == chosen)
    for one, them in complete:
        if one.is_to_come(now):
            also = "it is taken all the same, for none has more of the log"
            other = f"it has {'no more' if them.lineages == ours.lineages else 'another part'} of the log than {chosen}"
            lines.append(
                f"snapshot {one.id} has a name of the future: the store's clock was fast when it was taken, or is slow "
                f"now (docs/runbooks/clocks.md); {also if one.id == chosen else other}"
            )
    older = [(one, them) for one, them in complete if one.id < chosen or one.is_to_come(now)]
    better = [(one, them) for one, them in older if them.lineages != ours.lineages and them.lacking < ours.lacking]
    if better:
        one, them = min(reversed(better), key=lambda pair: pair[1].lacking)
        lines.append(
            f"UIC started over after snapshot {one.id}: {ours.partial} of {ours.n} partitions of {chosen} lack events "
            f"of the log, and {them.partial} of {them.n} of the older one. If it started over because the store was "
            f"lost, restore that one: --id {one.id}"
        )
    return lines


def choose(root: Folder, namespace: str, identity: str | None, now: datetime) -> tuple[Folder, SavedStates]:
    """A snapshot by its id, or the `newest` complete one.

    Raises:
        BulkRefused: there is none.
        DamagedFile: its manifest cannot be read.
    """
    if identity is None:
        found = newest(listed(root, namespace), now)
        if found is None:
            raise BulkRefused(f"{root.url}/{namespace} holds no complete snapshot")
        identity = found.id
    folder = root.below(namespace).below(identity)
    return folder, read_manifest(folder)


def verify(folder: Folder, manifest: SavedStates, layout: StateLayout) -> int:
    """Read all of a snapshot: hashes, and every state's checksum, owner and fingerprint. Returns how many users it has.

    Args:
        folder: the snapshot.
        manifest: its manifest.
        layout: of the bundle that it was made with.

    Raises:
        DamagedFile: something is not what was written.
    """
    check_files(folder, manifest.partitions)
    fingerprint = bytes.fromhex(manifest.fingerprint)
    for saved in manifest.partitions:
        users = 0
        for keys, values in states_of(folder, saved):
            users += len(keys)
            for user, value in zip(keys, values, strict=True):
                if value is None:
                    continue
                try:
                    decode_state(value, fingerprint, layout, user_hash(user.decode()))
                except StateError as error:
                    raise DamagedFile(
                        f"{folder.url}: partition {saved.partition} holds a bad state: {error}"
                    ) from error
        if users != saved.users:
            raise DamagedFile(f"{folder.url}: partition {saved.partition} holds {users} users, not {saved.users}")
    return manifest.users


def note_verified(folder: Folder, users: int, now: datetime) -> None:
    """Note that a snapshot was verified.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    folder.write(VERIFIED, msgspec.json.encode(Verification(at=now.strftime(ID_FORMAT), users=users)))


def expired(snapshots: Sequence[Listed], now: datetime, days: int) -> list[str]:
    """Which snapshots may go: the newest of each of the last `days` days (UTC) stays, and so do the newest one, the
    newest verified one, and for a month the newest verified one of each of the latest `LINEAGES` sets of lineages.
    Incomplete ones go after a day. Pure.

    One whose name is not `believed` replaces no other one of its day or its lineages. It stays until its day is one of
    those before, and for as long as it is the newest one, or the newest verified one, by the log."""
    complete = believed(snapshots, now)
    ordered = [one for one in as_taken(snapshots, now) if not one.is_to_come(now)]
    verified = [one for one in ordered if one.verified]
    keep = {one.id for one in (*ordered[-1:], *verified[-1:])}
    believed_last = sorted(verified, key=lambda one: one in complete)  # the age of the others cannot be told
    chosen = {one.manifest.lineages: one.id for one in believed_last if one.manifest is not None}
    of_lineages = [one for one in verified if one.id in chosen.values()][-LINEAGES:]
    keep |= {one.id for one in of_lineages if now - one.at < LINEAGES_FOR}
    first = (now - timedelta(days=days - 1)).date()
    unsure = [one for one in snapshots if one.manifest is not None and one not in complete]
    keep |= {one.id for one in unsure if one.is_to_come(now) or one.at.date() >= first}
    newest_of = {one.at.date(): one.id for one in complete}
    keep |= {identity for day, identity in newest_of.items() if day >= first}
    keep |= {one.id for one in snapshots if one.manifest is None and now - one.at < UNFINISHED_FOR}
    return [one.id for one in snapshots if one.id not in keep]


def remove(root: Folder, namespace: str, identity: str) -> None:
    """Remove a snapshot: first what makes it count."""
    folder = root.below(namespace).below(identity)
    folder.remove(MANIFEST)
    root.below(namespace).remove(identity)
