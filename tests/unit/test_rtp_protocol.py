"""RTP's connections: an answer leaves in one piece."""

from __future__ import annotations

from typing import cast

import pytest

from rtp.doors.protocol import JoinedWrites

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    """Records what a transport is told."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def joined(wire: Wire) -> JoinedWrites:
    return JoinedWrites(cast("JoinedWrites", wire))  # type: ignore[arg-type]  # what is called of a transport


def test_a_head_waits_for_its_body_and_both_are_one_write(wire: Wire, joined: JoinedWrites) -> None:
    joined.write(HEAD)
    assert wire.written == []
    joined.write(b"{}")
    assert wire.written == [HEAD + b"{}"]


def test_further_pieces_of_a_body_are_sent_as_they_come(wire: Wire, joined: JoinedWrites) -> None:
    for piece in (HEAD, b"a", b"b"):
        joined.write(piece)
    assert wire.written == [HEAD + b"a", b"b"]


def test_an_answer_without_a_body_is_sent_when_it_is_complete(wire: Wire, joined: JoinedWrites) -> None:
    joined.write(HEAD)
    joined.flush()
    joined.flush()
    assert wire.written == [HEAD]


def test_a_kept_head_is_sent_before_the_connection_closes(wire: Wire, joined: JoinedWrites) -> None:
    joined.write(HEAD)
    joined.close()
    assert (wire.written, joined.is_closing()) == ([HEAD], True)


def test_a_body_that_begins_like_a_head_is_not_kept(wire: Wire, joined: JoinedWrites) -> None:
    joined.write(HEAD)
    joined.write(HEAD)
    assert wire.written == [HEAD + HEAD]
