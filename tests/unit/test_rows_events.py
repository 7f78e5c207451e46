"""What C does for the events of a batch has the results of the Python that it stands for."""

from __future__ import annotations

from ctypes import CDLL
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.rows import stored
from mimn.rows.library import NEEDS, library
from mimn.rows.live import CompiledEvents
from mimn.state import (
    HEADERS,
    Block,
    CorruptState,
    ForeignFingerprint,
    ForeignLayout,
    Ledger,
    Sketch,
    Staged,
    StateError,
    StateLayout,
    WrongUser,
    decode_state,
    encode_states,
    extend_digests,
    partition_of,
    read_headers,
    read_tensors,
    sparse,
    stored_headers,
    user_hashes,
)
from mimn.state.codec import HEADER_BYTES
from support import skips
from support.variants import library_of
from uic.core.event import LAST_ACTION
from uic.core.event_columns import read_common
from uic.core.numpy_states import absorb

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
RNG = np.random.default_rng(0)
OWNER, FINGERPRINT = 2**64 - 3, bytes(range(1, 17))
Depth = NDArray[np.int64]


@pytest.fixture(scope="module")
def built() -> CDLL:
    found = library()
    if found is None:
        pytest.skip(skips.NO_COMPILED_STEP)  # an error in CI, which sets CTR_COMPILED_STEP
    return found


@pytest.fixture(scope="module", params=NEEDS)
def each_built(request: pytest.FixtureRequest) -> CDLL:
    """Every variant, for what is written differently for each."""
    return library_of(request.param)


@pytest.fixture(scope="module")
def compiled(built: CDLL) -> CompiledEvents:
    return CompiledEvents(built)


def drawn_values() -> tuple[list[bytes], list[bytes]]:
    """Values of all shapes, many of them damaged, and the keys of their records."""
    values, keys = [], []
    for n in range(4000):
        user = "u" * int(RNG.choice([1, 2, 9, 63, 64, 126, 127, 128])) if n % 5 else f"größe{n}"
        event = BehaviorEvent(
            event_id="e" * int(RNG.integers(0, 70)) if n % 3 else "é",
            user_id=user,
            item_id=int(RNG.integers(0, 1 << 64, dtype=np.uint64)) >> int(RNG.integers(0, 64)),
            category_id=int(RNG.integers(0, 300)),
            action=int(RNG.integers(0, 9)),  # type: ignore[arg-type] # a number that no enum has is on the wire, too
            event_time=int(RNG.integers(-5, 1 << 62)) >> int(RNG.integers(0, 62)),
        )
        data = bytearray(event.SerializeToString())
        for _ in range(int(RNG.integers(0, 2))):
            data[int(RNG.integers(len(data)))] = int(RNG.integers(256))
        values.append(bytes(data[: int(RNG.integers(len(data) + 1))] if n % 4 == 0 else data))
        keys.append(user.encode() if n % 7 else b"another")
    return values, keys


def test_the_same_values_have_the_common_form_and_the_same_numbers(compiled: CompiledEvents) -> None:
    values, keys = drawn_values()
    got, want = compiled.read(values, keys, LAST_ACTION), read_common(values, keys)
    common = want[-1]
    assert got[-1].tolist() == common.tolist()
    assert 0 < np.count_nonzero(common) < len(values)
    columns: list[tuple[NDArray[Any], NDArray[Any]]] = list(zip(got[:-1], want[:-1], strict=True))
    for ours, theirs in columns:
        np.testing.assert_array_equal(ours[common], theirs[common])
        assert ours.dtype == theirs.dtype
        assert not ours[~common].any()


def test_headers_absorb_the_same_events(compiled: CompiledEvents) -> None:
    values = [RNG.bytes(int(n)) for n in RNG.choice([0, 1, 40, 111, 112, 113, 239, 240, 241, 700], 500)]
    rows, offsets, times = RNG.integers(0, 6, len(values)), np.arange(len(values)) * 3, RNG.integers(0, 99, len(values))
    ours = np.frombuffer(RNG.bytes(8 * HEADERS.itemsize), HEADERS).copy()
    ours["last_offset"] = [-1, 0, 1, 700, 9999, -1, 5, 5]  # of all events, of some and of none; two get no event
    ours["partial"] = [True, False] * 4
    theirs = ours.copy()
    new = compiled.absorb(ours, rows, offsets, times, values)
    assert new.tolist() == absorb(theirs, rows, offsets, times, values).tolist()
    assert set(new.tolist()) == {True, False}
    assert ours.tobytes() == theirs.tobytes()
    digests = [bytes(8)] * 6
    extend_digests(digests, rows.tolist(), offsets, values)
    fresh = np.zeros(6, HEADERS)
    fresh["last_offset"] = -1
    assert compiled.absorb(fresh, rows, offsets, times, values).all()
    assert fresh["digest"].tolist() == digests


def test_hashes_and_partitions_are_the_same(compiled: CompiledEvents) -> None:
    values = [RNG.bytes(int(n)) for n in RNG.choice([0, 1, 40, 111, 112, 113, 239, 240, 241, 700], 500)]
    assert compiled.user_hashes(values).tolist() == user_hashes(values).tolist()
    assert [compiled.partition_of(v, 7) for v in values] == [partition_of(v, 7) for v in values]


def drawn_depth() -> tuple[Depth, Depth]:
    """How many events each of some states gets, and each event's state."""
    depth = np.array([90, 40, 40, 17, 3, 1, 0])
    return depth, np.repeat(np.arange(len(depth)), depth)


@pytest.mark.parametrize("half_lives", [(0,), (30,), (0, 7, 365)])
def test_counters_are_the_same_with_late_events_and_periods_that_pass(
    compiled: CompiledEvents, half_lives: tuple[int, ...]
) -> None:
    sketch, (depth, row) = Sketch(5, 11, half_lives), drawn_depth()
    events = len(row)
    addresses = sketch.addresses_of(RNG.integers(1, 60, events).astype(np.uint64), RNG.integers(0, 9, events))
    times = NOW + RNG.integers(0, 4000, events) * (DAY_MS // 3)
    moments = sketch.moments(times, RNG.choice([0.5, 1, 3, 8], events).astype(np.float32))
    sound = RNG.random(events) > 0.1
    states = np.zeros((len(depth), sketch.values + 3 + len(half_lives)), np.float32)
    want = states.copy()
    for at in range(events):
        if sound[at]:
            sketch.add(want[row[at] : row[at] + 1], addresses[at : at + 1], moments[at : at + 1])
    compiled.add_counts(sketch, states, depth, addresses, moments, sound)
    assert states.tobytes() == want.tobytes()


@pytest.mark.parametrize(("buckets", "ways"), [(1, 2), (3, 8), (16, 4)])
@pytest.mark.parametrize("minutes", [20, 3000])
def test_a_ledger_is_the_same_with_late_events_and_bases_that_move(
    compiled: CompiledEvents, buckets: int, ways: int, minutes: int
) -> None:
    ledger, depth = Ledger(buckets, ways), np.array([1500, 700, 2, 0])
    row = np.repeat(np.arange(len(depth)), depth)
    events = len(row)
    times = NOW + np.cumsum(RNG.integers(0, minutes * 60_000, events))
    times -= RNG.integers(0, 80, events) * DAY_MS * (RNG.random(events) < 0.1)
    items, sound = RNG.integers(1, 90, events).astype(np.uint64), RNG.random(events) > 0.1
    states = np.zeros((len(depth), 5 + ledger.words), np.float32)
    want, keys = states.copy(), ledger.keys(items)
    for at in range(events):
        if sound[at]:
            ledger.add(want[row[at] : row[at] + 1], keys.part(at, at + 1), times[at : at + 1])
    compiled.add_entries(ledger, states, depth, items, times, sound)
    assert states.tobytes() == want.tobytes()


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("half", [0, 6, 22])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.99])
def test_stored_values_are_the_same(each_built: CDLL, half: int, zeros: float, *, sparse: bool) -> None:
    compiled = CompiledEvents(each_built)
    blocks = [Block("halves", (half,), "float16")] if half else []
    layout = StateLayout((*blocks, Block("floats", (133,))))
    tensors = layout.round(RNG.standard_normal((9, layout.floats)).astype(np.float32))
    tensors[RNG.random(tensors.shape) < zeros] = 0
    headers = np.frombuffer(RNG.bytes(7 * HEADERS.itemsize), HEADERS).copy()
    headers["partial"] = RNG.random(7) > 0.5
    place = RNG.integers(0, 9, 7)
    states = Staged(headers, tensors, place, bytes(range(16)), layout, sparse)
    values = encode_states(headers, tensors[place], bytes(range(16)), layout, sparse=sparse)
    assert compiled.encode_states(states).apart() == values
    assert compiled.encode_states(Staged(headers[:0], tensors, place[:0], bytes(16), layout)).apart() == []

    want_headers, want_tensors = np.zeros(9, HEADERS), np.full((9, layout.floats), 7, np.float32)
    got_headers, got_tensors, to = want_headers.copy(), want_tensors.copy(), RNG.permutation(9)[:7]
    want_headers[to], want_tensors[to] = read_headers(values), read_tensors(values, layout)
    compiled.read_headers(values, got_headers, to)
    compiled.read_tensors(values, layout, got_tensors, to)
    assert got_headers.tobytes() == want_headers.tobytes()
    assert got_tensors.tobytes() == want_tensors.tobytes()
    assert (got_headers[to].tobytes(), got_tensors[to].tobytes()) == (headers.tobytes(), tensors[place].tobytes())


def test_a_value_that_is_no_state_of_the_layout_is_not_read(compiled: CompiledEvents) -> None:
    layout, other = StateLayout((Block("floats", (133,)),)), StateLayout((Block("floats", (135,)),))
    into = np.zeros((1, 133), np.float32)
    for zeros in (0, 130):
        tensors = np.arange(135, dtype=np.float32)[np.newaxis] - zeros
        [value] = encode_states(np.zeros(1, HEADERS), np.maximum(tensors, 0), bytes(16), other)
        with pytest.raises(ValueError, match="not checked"):
            compiled.read_tensors([value], layout, into, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="not checked"):
        compiled.read_tensors([bytes(79)], layout, into, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="without a header"):
        compiled.read_headers([bytes(79)], np.zeros(1, HEADERS), np.zeros(1, np.int64))


@pytest.mark.parametrize("words", [2, 30, 32, 34, 64, 98, 1514])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.97, 1.0])
def test_a_sparse_form_is_restored_or_refused_the_same(
    each_built: CDLL, words: int, zeros: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "library", lambda: each_built)

    def both(form: bytes, n: int) -> bytes | None:
        tensors = decoded(value_of(b"", form=form), StateLayout((Block("words", (n,), "uint32"),)))
        return None if isinstance(tensors, StateError) else tensors.tobytes()

    values = RNG.integers(1, 2**32, (1, words), dtype=np.uint32)
    values[RNG.random(values.shape) < zeros] = 0
    [form] = sparse.compact(values)
    if form is None:
        assert np.count_nonzero(values) + sparse.overhead(words) >= words
        form = words.to_bytes(4, "little") + b"\xff" * (4 * sparse.overhead(words) - 4) + values.tobytes()
        assert (both(form, words) is None) == (words % 32 != 0)
    else:
        assert both(form, words) == values.tobytes()
    for wrong in (b"", form[:-1], form[:-4], form + bytes(4), form + bytes(1)):
        assert both(wrong, words) is None
    for n in {words - 2, words + 2, words + 32} - {0}:
        assert both(form, n) is None
    for _ in range(50):
        changed = bytearray(form)
        changed[RNG.integers(0, min(len(form), 4 * sparse.overhead(words)))] ^= 1 << int(RNG.integers(0, 8))
        both(bytes(changed), words)


@pytest.mark.parametrize("half", [0, 2, 6, 8, 38])
@pytest.mark.parametrize("version", [1, 2])
def test_a_value_is_decoded_or_refused_the_same(
    each_built: CDLL, half: int, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "library", lambda: each_built)
    blocks = [Block("halves", (half,), "float16")] * bool(half) + [Block("floats", (97,))]
    layout = StateLayout(tuple(blocks))
    headers = np.frombuffer(RNG.bytes(HEADERS.itemsize), HEADERS).copy()
    headers["user"], headers["partial"] = OWNER, True
    tensors = layout.round(RNG.normal(size=layout.floats).astype(np.float32))
    tensors[RNG.random(layout.floats) < 0.7] = 0
    [value] = encode_states(headers, tensors[np.newaxis], FINGERPRINT, layout, sparse=version == 2)
    found = stored.decode(value, FINGERPRINT, layout, OWNER)
    assert found.tensors.tobytes() == tensors.tobytes()
    assert not found.tensors.flags.writeable
    assert decoded(value, layout).tobytes() == tensors.tobytes()  # type: ignore[union-attr]
    assert stored.decode(value, FINGERPRINT, layout).header == found.header
    with pytest.raises(WrongUser):
        stored.decode(value, FINGERPRINT, layout, OWNER ^ 1)
    with pytest.raises(ForeignFingerprint):
        stored.decode(value, bytes(16), layout, OWNER)
    with pytest.raises(ForeignLayout):
        stored.decode(value, FINGERPRINT, StateLayout((Block("other", (half + 97,)), Block("more", (2,)))), OWNER)
    for size in (0, 4, 79, 80, 84, len(value) - 1):
        assert isinstance(decoded(value[:size], layout), StateError)
        assert isinstance(decoded(value_of(value[:size]), layout), StateError)
    for place in [*range(80), *RNG.integers(80, len(value), 40).tolist()]:
        damaged = bytearray(value)
        damaged[place] ^= 1 << int(RNG.integers(8))
        assert isinstance(decoded(bytes(damaged), layout), CorruptState)
        decoded(value_of(bytes(damaged)), layout)


def value_of(value: bytes, form: bytes | None = None) -> bytes:
    """With the checksum that it should have; `form`: a sparse state of these tensors."""
    if form is not None:
        head = stored_headers(np.zeros(1, HEADERS), FINGERPRINT, StateLayout((Block("words", (2,), "uint32"),)))
        value = head.tobytes()[:4] + (2).to_bytes(2, "little") + head.tobytes()[6:HEADER_BYTES] + form
    return value[:44] + crc32(value[48:], crc32(value[:44])).to_bytes(4, "little") + value[48:]


def decoded(value: bytes, layout: StateLayout) -> NDArray[np.float32] | StateError:
    """What C and Python decode, or why they refuse it."""
    found: list[NDArray[np.float32] | StateError] = []
    headers = []
    for decode in (stored.decode, decode_state):
        try:
            state = decode(value, FINGERPRINT, layout)
        except StateError as error:
            found.append(error)
        else:
            headers.append(state.header)
            found.append(state.tensors)
    one, other = found
    if isinstance(one, StateError) or isinstance(other, StateError):
        assert (type(one), str(one)) == (type(other), str(other))
    else:
        nan = np.isnan(one)  # a damaged float16 that is no number may have other bits
        assert (nan == np.isnan(other)).all()
        assert one[~nan].tobytes() == other[~nan].tobytes()
        assert headers[0] == headers[1]
    return one
