"""Headers that say where a record came from: what is written is read again, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uic.bulk.history import PLACE, Place, decode_place, encode_place
from uic.bulk.importing import There
from uic.core.header_places import read_place, write_place
from uic.core.records import BatchRecord
from uic.tools.letter_replay import Origin, decode_origin

OFFSETS = st.integers(0, 2**63 - 1)
FOREIGN = {
    "empty": b"",
    "no name": b"/0/1",
    "a name that no topic has": b"a b/0/1",
    "three numbers": b"s/0/1/2",
    "a sign": b"s/0/+1",
    "an end of a line": b"s/0/1\n",
    "a leading zero": b"s/0/01",
    "other digits than ASCII": "s/\u0663/4".encode(),
    "more digits than a number may have to be read": b"s/0/" + b"9" * 5_000,
}


@given(st.from_regex(r"[0-9A-Za-z._-]{1,249}", fullmatch=True), OFFSETS, OFFSETS)
def test_what_is_written_is_read_again(name: str, part: int, number: int) -> None:
    assert read_place(write_place(name, part, number)) == (name, part, number)


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_written_here_is_no_place(value: bytes) -> None:
    assert decode_place(value) is None
    assert decode_origin(value) is None
    there = There("s")
    there.add(0, BatchRecord(0, 5, b"ann", b"event", [(PLACE, value)]))
    assert (there.records, there.others, there.lanes) == (0, 0, {}), "it was not imported"


def test_both_headers_have_the_same_form() -> None:
    header = encode_place("behavior-events", Place(3, 41))
    assert decode_place(header) == ("behavior-events", Place(3, 41))
    assert decode_origin(header) == Origin("behavior-events", 3, 41)
