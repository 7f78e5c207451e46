"""Encodes a user state as bytes and decodes it. The bytes are specified in docs/formats/state.md.

    0  4s  magic "UIST"             32  u64 lineage          64  i64 last event time, ms
    4  u16 layout version           40  u32 era              72  8s  digest
    6  u8  dtype (0 f32, 1 f16)     44  u32 checksum         80  tensors: 1 whole, 2 sparse
    7  u8  flags (1 = partial)      48  i64 last offset
    8  16s fingerprint              56  u64 event count
   24  u64 user hash

Little-endian. The checksum is CRC-32 (zlib) over everything but itself. An unreadable value raises one of three named
errors, checked in this order: `CorruptState` for a flipped byte, `ForeignLayout` for another layout, and
`ForeignFingerprint` for another bundle's state.

Version 1 holds the tensors whole, padded to 8 bytes, version 2 without their zeros (`mimn.state.sparse`). A value is
written in the shorter one, and both are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mimn.state.layout import StateLayout
from mimn.state.sparse import Words, compact, fits, restore, words_of
from mimn.state.user_state import HEADERS, StateHeader, UserState, header_rows

T = TypeVar("T")
MAGIC = b"UIST"
WHOLE, SPARSE = 1, 2
"""Layout versions."""
SWITCH = "MIMN_SPARSE_STATES"
"""Environment variable; `off`: states are written with their zeros (layout version 1), for readers that know no other.
Both versions are read."""
WRITES_SPARSE = os.environ.get(SWITCH) != "off"
HEADER_BYTES = 80
FLAGS_AT = 7
"""Of the byte of flags, whose lowest bit says that the state is partial."""
FINGERPRINT_BYTES = 16
_PARTIAL = 1
_BEFORE = Struct("<4sHBB16sQQI")
_AFTER = Struct("<qQq8s")
_CHECKSUM = Struct("<I")
_AFTER_AT = _BEFORE.size + _CHECKSUM.size
_VERSION, _VERSION_AT = Struct("<H"), len(MAGIC)
_COLUMNS = {
    "magic": "S4",
    "version": "<u2",
    "dtype": "u1",
    "flags": "u1",
    "fingerprint": "V16",
    "user": "<u8",
    "lineage": "<u8",
    "era": "<u4",
    "checksum": "<u4",
    "last_offset": "<i8",
    "event_count": "<u8",
    "last_event_time": "<i8",
    "digest": "V8",
}
_OFFSETS = (0, 4, 6, 7, 8, 24, 32, 40, 44, 48, 56, 64, 72)
_HEADER_TYPE = np.dtype(
    {"names": [*_COLUMNS], "formats": [*_COLUMNS.values()], "offsets": [*_OFFSETS], "itemsize": HEADER_BYTES}
)


class StateError(ValueError):
    """A stored value that cannot be used as this user's state."""


class CorruptState(StateError):
    """The bytes are not what was written: wrong length, magic or checksum."""


class ForeignLayout(StateError):
    """Written in a layout version or dtype that this bundle does not read."""


class ForeignFingerprint(StateError):
    """Written under another bundle's fingerprint, so its numbers mean something else."""


class WrongUser(StateError):
    """A valid state that belongs to another user."""


class Staged(NamedTuple):
    """n states in arrays, as a fold leaves them: not encoded yet."""

    headers: NDArray[np.void]
    """[n] of dtype `HEADERS`."""
    tensors: NDArray[np.float32]
    """[R, F], rounded to the layout."""
    place: NDArray[np.intp]
    """[n]: the row of each state's tensors."""
    fingerprint: bytes
    """The bundle's, at least 16 bytes."""
    layout: StateLayout
    sparse: bool = WRITES_SPARSE
    """Whether zeros may be left out."""

    def encoded(self) -> list[bytes]:
        """The stored values. [n]"""
        return encode_states(self.headers, self.tensors[self.place], self.fingerprint, self.layout, sparse=self.sparse)


def encode_state(state: UserState, fingerprint: bytes, layout: StateLayout, *, sparse: bool = WRITES_SPARSE) -> bytes:
    """The stored value of `state`.

    Args:
        state: tensors [F] float32, already rounded to the layout (`StateLayout.round`); otherwise bits are lost here.
        fingerprint: the bundle's, at least 16 bytes; the first 16 are stored.
        layout: the bundle's.
        sparse: whether zeros may be left out.

    Returns: at most `HEADER_BYTES + layout.stored_bytes` bytes.
    """
    headers = header_rows([state.header])
    return encode_states(headers, state.tensors[np.newaxis], fingerprint, layout, sparse=sparse)[0]


def encode_states(
    headers: NDArray[np.void],
    tensors: NDArray[np.float32],
    fingerprint: bytes,
    layout: StateLayout,
    *,
    sparse: bool = WRITES_SPARSE,
) -> list[bytes]:
    """The stored values of n states. Encodes column by column, because UIC writes thousands at a time.

    Args:
        headers: [n] of dtype `HEADERS`.
        tensors: [n, F] float32, rounded to the layout.
        fingerprint: the bundle's, at least 16 bytes.
        layout: the bundle's.
        sparse: whether zeros may be left out.
    """
    rows, half = stored_headers(headers, fingerprint, layout), layout.half_floats
    rows["half"], rows["wide"] = tensors[:, :half], tensors[:, half:]
    if padding := layout.stored_bytes - 2 * half - 4 * (layout.floats - half):
        rows.view(np.uint8).reshape(len(rows), rows.itemsize)[:, -padding:] = 0
    return stored_values(rows, sparse=sparse)


def stored_headers(headers: NDArray[np.void], fingerprint: bytes, layout: StateLayout) -> NDArray[np.void]:
    """Stored states, of a `stored_type`, of which only the header is filled, without its checksum. [n] → [n]"""
    rows = np.empty(len(headers), stored_type(layout))
    rows["magic"] = MAGIC
    rows["version"] = WHOLE
    rows["dtype"] = 1 if layout.half_floats else 0
    rows["flags"] = headers["partial"] * np.uint8(_PARTIAL)
    rows["fingerprint"] = np.frombuffer(fingerprint, "V16", 1)
    for name in ("user", "lineage", "era", "last_offset", "event_count", "last_event_time", "digest"):
        rows[name] = headers[name]
    return rows


def stored_values(rows: NDArray[np.void], *, sparse: bool = WRITES_SPARSE) -> list[bytes]:
    """The values of stored states that have no checksum yet. [n] of a `stored_type`"""
    stored = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
    tensors = stored[:, HEADER_BYTES:]
    forms = compact(tensors.view("<u4")) if sparse else [None] * len(rows)
    return [
        _sealed(head, WHOLE, whole.tobytes()) if form is None else _sealed(head, SPARSE, form)
        for head, whole, form in zip(stored[:, :HEADER_BYTES], tensors, forms, strict=True)
    ]


def _sealed(head: NDArray[np.uint8], version: int, tensors: bytes) -> bytes:
    value = bytearray(head.tobytes() + tensors)
    _VERSION.pack_into(value, _VERSION_AT, version)
    _CHECKSUM.pack_into(value, _BEFORE.size, _checksum(value))
    return bytes(value)


def _checksum(value: bytes | bytearray) -> int:
    return crc32(memoryview(value)[_AFTER_AT:], crc32(memoryview(value)[: _BEFORE.size]))


@lru_cache(maxsize=16)
def stored_type(layout: StateLayout) -> np.dtype[np.void]:
    """A stored state as a record: the header's fields, then `half` and `wide`, the tensors of 2 and of 4 bytes."""
    half = layout.half_floats
    return np.dtype(
        {
            "names": [*_COLUMNS, "half", "wide"],
            "formats": [*_COLUMNS.values(), ("<f2", (half,)), ("<f4", (layout.floats - half,))],
            "offsets": [*_OFFSETS, HEADER_BYTES, HEADER_BYTES + 2 * half],
            "itemsize": HEADER_BYTES + layout.stored_bytes,
        }
    )


def headers_of(rows: NDArray[np.void]) -> NDArray[np.void]:
    """The headers of stored states, as an array of dtype `HEADERS`; nothing is checked. [n] of a `stored_type`, or only
    the fields before its tensors → [n]"""
    headers = np.empty(len(rows), HEADERS)
    for name in ("user", "lineage", "era", "last_offset", "event_count", "last_event_time", "digest"):
        headers[name] = rows[name]
    headers["partial"] = rows["flags"] & _PARTIAL
    return headers


def tensors_of(rows: NDArray[np.void]) -> NDArray[np.float32]:
    """The flat vectors of stored states. [n] of a `stored_type` → [n, F]"""
    return np.concatenate([rows["half"].astype(np.float32), rows["wide"]], axis=1)


def whole_bytes(front: bytes, size: int) -> int:
    """How many bytes a stored value of `size` bytes would have with its zeros; `front`: at least its first 84 bytes."""
    (version,) = _VERSION.unpack_from(front, _VERSION_AT)
    return size if version != SPARSE else HEADER_BYTES + 4 * words_of(front[HEADER_BYTES:])


def decode_state(value: bytes, fingerprint: bytes, layout: StateLayout, user: int | None = None) -> UserState:
    """The state that `value` holds. Its tensors are read-only; stored whole in float32, they are a view of `value`.

    Args:
        value: a stored value.
        fingerprint: the loaded bundle's, at least 16 bytes.
        layout: the loaded bundle's.
        user: the hash that the state must carry (`user_hash`), or None to accept any user.

    Raises:
        CorruptState, ForeignLayout, ForeignFingerprint, WrongUser: see each class.
    """
    header, stored = _checked(value, fingerprint, layout, user, restore)
    return UserState(header, _tensors(stored, layout))


def read_header(value: bytes, fingerprint: bytes, layout: StateLayout, user: int | None = None) -> StateHeader:
    """The header of `value`, once it is certain that the rest can be read. Arguments and errors: see `decode_state`."""
    return _checked(value, fingerprint, layout, user, _fitting)[0]


def _fitting(stored: bytes, words: int) -> bytes | None:
    return stored if fits(stored, words) else None


def _checked(
    value: bytes, fingerprint: bytes, layout: StateLayout, user: int | None, restore: Callable[[bytes, int], T | None]
) -> tuple[StateHeader, T | memoryview]:
    """The header of `value`, and its tensors: as they are if they are whole, else what `restore` makes of them."""
    if len(value) < HEADER_BYTES or value[:4] != MAGIC:
        raise CorruptState(f"{len(value)} bytes that do not begin with a state's magic")
    if _checksum(value) != _CHECKSUM.unpack_from(value, _BEFORE.size)[0]:
        raise CorruptState("the checksum does not match")
    _, version, dtype, _, written_by, owner, _, _ = _BEFORE.unpack_from(value)
    if version not in (WHOLE, SPARSE) or dtype != (1 if layout.half_floats else 0):
        raise ForeignLayout(f"layout version {version} with dtype {dtype}, which this bundle does not read")
    if written_by != fingerprint[:FINGERPRINT_BYTES]:
        raise ForeignFingerprint(f"written under fingerprint {written_by.hex()}, not {fingerprint[:16].hex()}")
    size = layout.stored_bytes
    stored: T | memoryview | None
    if version == SPARSE:
        stored = restore(value[HEADER_BYTES:], size // 4)
    else:
        stored = memoryview(value)[HEADER_BYTES:] if len(value) == HEADER_BYTES + size else None
    if stored is None:
        raise ForeignLayout(f"{len(value)} bytes are no state of {layout.floats} values in layout version {version}")
    if user is not None and owner != user:
        raise WrongUser("the state under this user's key carries another user's hash")
    return header_of(value), stored


def header_of(value: bytes) -> StateHeader:
    """The header of a value that was checked."""
    _, _, _, flags, _, owner, lineage, era = _BEFORE.unpack_from(value)
    last_offset, event_count, last_event_time, digest = _AFTER.unpack_from(value, _AFTER_AT)
    return StateHeader(
        user=owner,
        lineage=lineage,
        era=era,
        last_offset=last_offset,
        event_count=event_count,
        last_event_time=last_event_time,
        digest=digest,
        partial=bool(flags & _PARTIAL),
    )


def read_headers(values: Sequence[bytes]) -> NDArray[np.void]:
    """The headers of n values that `read_header` accepts, or that were encoded here. → [n] of dtype `HEADERS`"""
    return headers_of(np.frombuffer(b"".join([value[:HEADER_BYTES] for value in values]), _HEADER_TYPE))


def read_tensors(values: Sequence[bytes], layout: StateLayout) -> NDArray[np.float32]:
    """The flat vectors of such values. → [n, F]"""
    whole = b"".join([value[:HEADER_BYTES] + bytes(_whole(value, layout)) for value in values])
    return tensors_of(np.frombuffer(whole, stored_type(layout)))


def _whole(value: bytes, layout: StateLayout) -> memoryview | Words:
    """The stored tensors of a value that was checked, with their zeros."""
    if _VERSION.unpack_from(value, _VERSION_AT)[0] != SPARSE:
        return memoryview(value)[HEADER_BYTES:]
    words = restore(value[HEADER_BYTES:], layout.stored_bytes // 4)
    if words is None:
        raise ValueError("a stored value that was not checked")
    return words


def _tensors(stored: memoryview | Words, layout: StateLayout) -> NDArray[np.float32]:
    """The flat vector [F] of whole tensors; a view if none is float16."""
    half = layout.half_floats
    wide = np.frombuffer(stored, "<f4", layout.floats - half, 2 * half)
    tensors = np.concatenate([np.frombuffer(stored, "<f2", half).astype(np.float32), wide]) if half else wide
    tensors.flags.writeable = False
    return tensors
