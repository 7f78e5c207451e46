"""The state value: decode inverts encode, every kind of unreadable value is a named error, and the bytes are pinned."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mimn.state import (
    Block,
    CorruptState,
    ForeignFingerprint,
    ForeignLayout,
    LayoutError,
    StateError,
    StateHeader,
    StateLayout,
    UserState,
    WrongUser,
    decode_state,
    encode_state,
    encode_states,
    header_rows,
    user_hash,
)
from mimn.state.codec import HEADER_BYTES

GOLDEN = Path(__file__).parents[1] / "golden"
FINGERPRINT = bytes(range(32))
WIDE = StateLayout((Block("h", (3,)), Block("M", (2, 5)), Block("count", (1,))))
HALF = StateLayout((Block("h", (4,), "float16"), Block("M", (2, 5), "float16"), Block("count", (1,))))

U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
HEADERS = st.builds(
    StateHeader,
    user=U64,
    lineage=U64,
    era=st.integers(0, 2**32 - 1),
    last_offset=I64,
    event_count=U64,
    last_event_time=I64,
    digest=st.binary(min_size=8, max_size=8),
    partial=st.booleans(),
)


WIDER = StateLayout((Block("M", (5, 10)), Block("ledger", (47,), "uint32")))
"""Of 98 words with the padding: four of marks, two of them in the last."""


def tensors(layout: StateLayout) -> st.SearchStrategy[NDArray[np.float32]]:
    return arrays(np.float32, layout.floats, elements=st.floats(-60000, 60000, width=32))


def mostly_zeros(layout: StateLayout, seed: int, share: float) -> NDArray[np.float32]:
    """Any bits, and a share of words that are zero."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 2**32, layout.floats, dtype=np.uint32)
    words[random.random(layout.floats) < share] = 0
    return words.view(np.float32)


HEADER = StateHeader(
    user=user_hash("user-1"),
    lineage=0x0123456789ABCDEF,
    era=2,
    last_offset=1_000_000_007,
    event_count=42,
    last_event_time=1_320_000_000_000,
    digest=b"\x01\x02\x03\x04\x05\x06\x07\x08",
    partial=True,
)


@given(HEADERS, tensors(WIDE))
def test_decode_inverts_encode_in_float32(header: StateHeader, values: NDArray[np.float32]) -> None:
    decoded = decode_state(encode_state(UserState(header, values), FINGERPRINT, WIDE), FINGERPRINT, WIDE, header.user)
    assert decoded.header == header
    assert decoded.tensors.tobytes() == values.tobytes()


@given(HEADERS, tensors(HALF))
def test_a_rounded_state_survives_float16_storage_bit_for_bit(header: StateHeader, values: NDArray[np.float32]) -> None:
    rounded = HALF.round(values)
    decoded = decode_state(encode_state(UserState(header, rounded), FINGERPRINT, HALF), FINGERPRINT, HALF)
    assert decoded.tensors.tobytes() == rounded.tobytes()
    assert HALF.round(decoded.tensors).tobytes() == rounded.tobytes()


@given(st.lists(HEADERS, max_size=5), st.sampled_from([WIDE, HALF]), st.integers(0, 2**32 - 1))
def test_many_states_are_encoded_as_each_alone(headers: list[StateHeader], layout: StateLayout, seed: int) -> None:
    values = layout.round(np.random.default_rng(seed).normal(size=(len(headers), layout.floats)).astype(np.float32))
    encoded = encode_states(header_rows(headers), values, FINGERPRINT, layout)
    for value, header, tensors_ in zip(encoded, headers, values, strict=True):
        assert value == encode_state(UserState(header, tensors_), FINGERPRINT, layout)
        decoded = decode_state(value, FINGERPRINT, layout, header.user)
        assert decoded.header == header
        np.testing.assert_array_equal(decoded.tensors, tensors_)


@given(st.integers(0, HEADER_BYTES + WIDE.stored_bytes - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(at: int, flip: int) -> None:
    value = bytearray(encode_state(UserState(HEADER, np.arange(WIDE.floats, dtype=np.float32)), FINGERPRINT, WIDE))
    value[at] ^= flip
    with pytest.raises(CorruptState):
        decode_state(bytes(value), FINGERPRINT, WIDE)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_the_named_errors(value: bytes) -> None:
    with pytest.raises(StateError):
        decode_state(value, FINGERPRINT, WIDE)


@given(st.integers(1, HEADER_BYTES + WIDE.stored_bytes), st.booleans())
def test_a_cut_value_is_corrupt(cut: int, sparse: bool) -> None:
    value = encode_state(UserState(HEADER, np.zeros(WIDE.floats, np.float32)), FINGERPRINT, WIDE, sparse=sparse)
    with pytest.raises(CorruptState):
        decode_state(value[: max(len(value) - cut, 0)], FINGERPRINT, WIDE)


@given(HEADERS, st.sampled_from([WIDE, WIDER]), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_zeros_are_left_out_where_that_is_shorter_and_come_back(
    header: StateHeader, layout: StateLayout, seed: int, share: float
) -> None:
    values = mostly_zeros(layout, seed, share)
    state = UserState(header, values)
    whole, shorter = (encode_state(state, FINGERPRINT, layout, sparse=sparse) for sparse in (False, True))
    words = layout.stored_bytes // 4
    sparse_words = 1 + -(-words // 32) + int(np.count_nonzero(values.view(np.uint32)))
    assert len(whole) == HEADER_BYTES + 4 * words
    assert len(shorter) == HEADER_BYTES + 4 * min(words, sparse_words)
    assert shorter == whole or sparse_words < words
    for value in (whole, shorter):
        decoded = decode_state(value, FINGERPRINT, layout, header.user)
        assert decoded.header == header
        assert decoded.tensors.tobytes() == values.tobytes()
        assert not decoded.tensors.flags.writeable


def test_a_negative_zero_is_kept() -> None:
    values = np.zeros(WIDER.floats, np.float32)
    values[7] = -0.0
    value = encode_state(UserState(HEADER, values), FINGERPRINT, WIDER)
    assert len(value) < HEADER_BYTES + WIDER.stored_bytes
    assert decode_state(value, FINGERPRINT, WIDER).tensors.tobytes() == values.tobytes()


def test_a_sparse_value_of_another_size_is_a_foreign_layout() -> None:
    value = encode_state(UserState(HEADER, mostly_zeros(WIDER, 1, 0.9)), FINGERPRINT, WIDER)
    for words in (WIDER.floats - 40, WIDER.floats - 1, WIDER.floats + 40):
        with pytest.raises(ForeignLayout):
            decode_state(value, FINGERPRINT, StateLayout((Block("M", (words,)),)))


@pytest.mark.parametrize("marks", [b"\xff" * 16, b"\0" * 16, b"\0" * 12 + b"\0\0\0\x80"])
def test_marks_that_do_not_fit_are_a_foreign_layout(marks: bytes) -> None:
    value = bytearray(encode_state(UserState(HEADER, mostly_zeros(WIDER, 1, 0.98)), FINGERPRINT, WIDER))
    value[HEADER_BYTES + 4 : HEADER_BYTES + 20] = marks
    value[44:48] = crc32(value[48:], crc32(value[:44])).to_bytes(4, "little")
    with pytest.raises(ForeignLayout):
        decode_state(bytes(value), FINGERPRINT, WIDER)


def test_unreadable_values_are_told_apart() -> None:
    value = encode_state(UserState(HEADER, np.zeros(WIDE.floats, np.float32)), FINGERPRINT, WIDE)
    with pytest.raises(ForeignFingerprint):
        decode_state(value, bytes(32), WIDE)
    with pytest.raises(ForeignLayout):
        decode_state(value, FINGERPRINT, HALF)
    with pytest.raises(ForeignLayout):
        decode_state(value, FINGERPRINT, StateLayout((*WIDE.blocks, Block("more", (8,)))))
    with pytest.raises(WrongUser):
        decode_state(value, FINGERPRINT, WIDE, user_hash("user-2"))


@pytest.mark.parametrize(("name", "layout"), [("state_float32", WIDE), ("state_float16", HALF)])
def test_stored_bytes_are_pinned(name: str, layout: StateLayout) -> None:
    values = layout.round((np.arange(layout.floats) / 7 - 1).astype(np.float32))
    golden = (GOLDEN / f"{name}.bin").read_bytes()
    assert encode_state(UserState(HEADER, values), FINGERPRINT, layout).hex() == golden.hex()
    assert decode_state(golden, FINGERPRINT, layout).header == HEADER


def test_sparse_bytes_are_pinned() -> None:
    values = np.zeros(WIDER.floats, np.float32)
    values[:50:7] = np.arange(8) / 7 - 1
    values.view(np.uint32)[[50, 63, 64, 96]] = [1, 2**31, 2**32 - 1, 7]
    golden = (GOLDEN / "state_sparse.bin").read_bytes()
    assert encode_state(UserState(HEADER, values), FINGERPRINT, WIDER).hex() == golden.hex()
    assert decode_state(golden, FINGERPRINT, WIDER).tensors.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((), "at least one block"),
        ((Block("h", (3,)), Block("h", (3,))), "used twice"),
        ((Block("h", (0,)),), "every axis"),
        ((Block("h", (4,)), Block("M", (4,), "float16")), "float16 blocks first"),
        ((Block("h", (3,), "float16"),), "odd number"),
        ((Block("h", (2**21,)),), "more than"),
        ((Block("h", (2,), "float64"),), "use float32, float16 or uint32"),  # type: ignore[arg-type]
    ],
)
def test_a_layout_that_describes_no_state_is_refused_by_name(blocks: tuple[Block, ...], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        StateLayout(blocks)


def test_view_and_flatten_are_inverse_and_views_share_memory() -> None:
    values = np.arange(2 * WIDE.floats, dtype=np.float32).reshape(2, -1)
    views = WIDE.view(values)
    assert {name: view.shape for name, view in views.items()} == {"h": (2, 3), "M": (2, 2, 5), "count": (2, 1)}
    assert np.shares_memory(views["M"], values)
    assert WIDE.flatten({name: view[1] for name, view in views.items()}).tolist() == values[1].tolist()
    with pytest.raises(LayoutError, match="'M' is missing"):
        WIDE.flatten({"h": views["h"][0], "count": views["count"][0]})
    with pytest.raises(LayoutError, match="shape"):
        WIDE.flatten(views)
