"""The rollout record: one value in the store that says which releases serve, and how the next one is coming along.

     0  4s  magic "UIRO"      8  u32 length of the document, bytes
     4  u16 version          12  u32 CRC-32 (zlib) of the document
     6  u16 zero             16  the document: JSON, fields as in `Record`

It is replaced whole, by compare-and-set over its bytes, so of two that change it at once one finds out. Everything in
it is bounded.
"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct as Layout
from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta, Struct

from mimn.bundle.specs import NAME
from mimn.release.arms import BUCKETS, Buckets
from mimn.state import namespace

MAGIC = b"UIRO"
VERSION = 1
MAX_RECORD_BYTES = 1 << 18
MAX_ARMS = 16
MAX_ROLLOUTS = 32
MAX_ENTRIES = 200
MAX_REASON = 400
"""Characters."""
_FRONT = Layout("<4sHHII")

Name = Annotated[str, Meta(pattern=NAME)]
ORIGIN = r"^(none|log|backfill|snapshot:[A-Za-z0-9_.:-]{1,128}|topic:[A-Za-z0-9._-]{1,249})\Z"
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Salt = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Text = Annotated[str, Meta(max_length=MAX_REASON)]
Bucket = Annotated[int, Meta(ge=0, le=BUCKETS)]


class CorruptRecord(ValueError):
    """The bytes are not a rollout record of this version."""


class Refused(Exception):
    """The record does not change; the message says why, and what to do."""


class Unstorable(Refused):
    """Programs would refuse to read the changed record."""


class State(StrEnum):
    """Where a rollout stands."""

    PLANNED = "planned"
    """The plan was accepted; nothing is known of the new namespace."""
    BUILDING = "building"
    """Not every partition of the new namespace has been taken up."""
    CATCHING_UP = "catching_up"
    """All partitions are there, and at least one lags, or has not kept up for long enough."""
    VERIFYING = "verifying"
    """It has caught up, and users are compared with the namespace in service."""
    READY = "ready"
    """Every gate but `loaded` was open when last looked at. `promote` looks again, at all of them."""
    CANARY = "canary"
    """Some users are served by it."""
    SERVING = "serving"
    """All users are. The release before is still folded, so that `rollback` costs nothing."""
    RETIRED = "retired"
    """The release before was given up; there is no way back to it but another rollout."""
    COLLECTED = "collected"
    """The namespace that is not needed any more was removed from the store."""
    FAILING = "failing"
    """A gate is closed, and time alone does not open it."""
    ABORTED = "aborted"
    """Given up before it served everybody. As long as the record has it, no other rollout uses its namespace."""
    ROLLED_BACK = "rolled_back"
    """It served everybody, and the release before serves again."""


OPEN = frozenset(
    {State.PLANNED, State.BUILDING, State.CATCHING_UP, State.VERIFYING, State.READY, State.CANARY, State.FAILING}
)
"""On the way to serving. At most one rollout is."""


class Release(Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle, known by its hashes, and the namespace that it reads."""

    name: Name
    version: Name
    manifest: Sha256
    """sha256 of `manifest.json`, which holds the hash of every other file."""
    head: Sha256
    """sha256 of `head.onnx`."""
    fingerprint: Sha256
    generation: Count

    @property
    def bundle(self) -> str:
        """`<name>/<version>`."""
        return f"{self.name}/{self.version}"

    @property
    def namespace(self) -> str:
        """Where its states are."""
        return namespace(self.fingerprint, self.generation)


class Arm(Struct, frozen=True, forbid_unknown_fields=True):
    """Users, by their buckets, who are answered by a release, or scored by it in the background."""

    name: Name
    release: Release
    buckets: Annotated[tuple[tuple[Bucket, Bucket], ...], Meta(max_length=BUCKETS // 2)]


class Hold(Struct, frozen=True, forbid_unknown_fields=True):
    """Since when every look found the lag within its allowance, in the partitions of these lineages."""

    since_ms: Count
    lineages: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class Rollout(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One release on its way to all users, or what became of it."""

    id: Name
    release: Release
    replaces: Release
    """What served when it began. Promoting is refused when something else serves by then."""
    origin: Annotated[str, Meta(pattern=ORIGIN)]
    """Where the new states come from: `log`, `backfill`, `snapshot:ID` or `topic:NAME`; `none` when only the head
    changes."""
    state: State
    reason: Text
    begun_ms: Count
    changed_ms: Count
    """When `state` was entered."""
    hold: Hold | None = None
    keep_until_ms: Count = 0
    """While serving: until when the release before is kept."""

    @property
    def head_only(self) -> bool:
        """Both releases read the same states."""
        return self.release.namespace == self.replaces.namespace


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One change, for people."""

    at_ms: Count
    revision: Count
    rollout: Name
    state: State
    reason: Text
    by: Text


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole record."""

    revision: Annotated[int, Meta(ge=1, le=2**53)]
    """+1 with every change."""
    salt: Salt
    """16 hexadecimal digits, new with every rollout, so that it is not always the same users who are tried on."""
    serving: Release
    arms: Annotated[tuple[Arm, ...], Meta(max_length=MAX_ARMS)] = ()
    shadows: Annotated[tuple[Arm, ...], Meta(max_length=MAX_ARMS)] = ()
    rollouts: Annotated[tuple[Rollout, ...], Meta(max_length=MAX_ROLLOUTS)] = ()
    """Oldest first."""
    begun: Count = 0
    """How many rollouts there ever were; their ids are made of it."""
    log: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)] = ()
    """Oldest first."""

    @property
    def open(self) -> Rollout | None:
        """The rollout that is on its way, if there is one."""
        return next((one for one in self.rollouts if one.state in OPEN), None)

    @property
    def served_by(self) -> Rollout | None:
        """The rollout that can be rolled back, if there is one."""
        return next((one for one in self.rollouts if one.state is State.SERVING), None)

    @property
    def answering(self) -> tuple[Release, ...]:
        """The releases that answer users, what serves first."""
        return tuple(dict.fromkeys((self.serving, *(arm.release for arm in self.arms))))

    @property
    def held(self) -> tuple[Release, ...]:
        """What a scoring process has loaded: what serves, is tried, or may have to serve within a second."""
        wanted = [self.serving, *(arm.release for arm in (*self.arms, *self.shadows))]
        if self.served_by is not None:
            wanted.append(self.served_by.replaces)
        if self.open is not None and self.open.state is State.READY:
            wanted.append(self.open.release)
        return tuple(dict.fromkeys(wanted))

    @property
    def past(self) -> tuple[Release, ...]:
        """The other releases of the rollouts that it remembers, the latest first."""
        known = dict.fromkeys(release for one in reversed(self.rollouts) for release in (one.release, one.replaces))
        held = self.held
        return tuple(release for release in known if release not in held)

    def find(self, identity: str) -> Rollout | None:
        """The rollout with this id."""
        return next((one for one in self.rollouts if one.id == identity), None)


def other_topic(origin: str) -> str | None:
    """The topic that a rollout's origin names in place of that in service; None if the log is the same."""
    kind, _, name = origin.partition(":")
    return name if kind == "topic" else None


def record_key(prefix: str) -> str:
    """The key under which the store has the record."""
    return f"{prefix}:rollout"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def encode_record(record: Record) -> bytes:
    """The stored value. It is decoded before it is returned: a value that no program reads would lock all rollouts.

    Raises:
        Unstorable: `decode_record` would refuse it.
    """
    try:
        document = _encode(record)
        value = _FRONT.pack(MAGIC, VERSION, 0, len(document), crc32(document)) + document
        if len(value) > MAX_RECORD_BYTES:
            raise Unstorable(
                f"the record would have {len(value)} bytes, {MAX_RECORD_BYTES} are allowed: `rollout gc` first"
            )
        decode_record(value)
    except (CorruptRecord, UnicodeEncodeError) as error:
        raise Unstorable(f"nothing was written, because no program could read it: {error}") from error
    return value


def decode_record(value: bytes) -> Record:
    """The record that `value` holds.

    Raises:
        CorruptRecord: another length, magic, version or checksum, or a document that is not a record.
    """
    if not _FRONT.size <= len(value) <= MAX_RECORD_BYTES or value[:4] != MAGIC:
        raise CorruptRecord(f"{len(value)} bytes that are not a rollout record")
    _, version, _, length, checksum = _FRONT.unpack_from(value)
    if version != VERSION:
        raise CorruptRecord(f"rollout record of version {version}; this program reads version {VERSION}")
    document = value[_FRONT.size :]
    if len(document) != length or crc32(document) != checksum:
        raise CorruptRecord("length or checksum of the rollout record does not match")
    try:
        record = _decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecord(f"the rollout record's document: {error}") from error
    for arms in (record.arms, record.shadows):
        if len({arm.name for arm in arms}) != len(arms):
            raise CorruptRecord("two arms of the rollout record have the same name")
        _check_disjoint([arm.buckets for arm in arms])
    if sum(one.state in OPEN for one in record.rollouts) > 1:
        raise CorruptRecord("two rollouts of the record are on their way at once")
    if sum(one.state is State.SERVING for one in record.rollouts) > 1:
        raise CorruptRecord("two rollouts of the record serve at once")
    return record


def _check_disjoint(of_arms: list[Buckets]) -> None:
    end = 0
    for begin, until in sorted(one for buckets in of_arms for one in buckets):
        if begin < end or begin >= until:
            raise CorruptRecord("buckets of the rollout record overlap or are empty")
        end = until
