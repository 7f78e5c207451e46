"""Replays dead letters: appends the original key, value and headers to the event topic as a new event, in its key's
partition.

A fleet that folds the log from its beginning, as a migration's does, sends the letters of old records again, those that
were replayed since among them. So the log is asked which replays it has already, once nothing more of an earlier replay
can come: each is a run (`uic.log.transactions`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kafka.errors import KafkaError

from mimn.state import partition_of
from uic.core.event import DAY_MS
from uic.core.header_places import read_place, write_place
from uic.log.erasures import Noted
from uic.log.producer import NewRecord
from uic.log.topic_answers import TO_WRITE
from uic.log.topic_reader import LogRecord
from uic.log.transactions import Run
from uic.log.unreachable import described
from uic.tools.letter_reading import DeadLetter, Id

REPLAY_OF: Final = "uic-replay-of"
"""Header of a replayed record: `<topic>/<partition>/<offset>` of the original."""
BATCH: Final = 500
"""Records of a transaction."""


def not_replayable(letter: DeadLetter, topic: str) -> str | None:
    """Why `letter` cannot be replayed into `topic`, or None."""
    if letter.topic != topic:
        return "of another topic"
    if letter.cut_from is not None:
        return "value was cut"
    if not letter.key:
        return "no key"
    if letter.headers_left_out:
        return "headers were left out"
    return None


def erased_since(letter: DeadLetter, noted: Mapping[int, Mapping[bytes, Noted]], partitions: int) -> bool:
    """Whether the user of `letter` was erased after the original was written, or at the same time. By the clock,
    because a letter may lie in another partition than the erasure (misrouted)."""
    assert letter.key  # noqa: S101  # `not_replayable` is None
    erased = noted[partition_of(letter.key, partitions)].get(letter.key)
    return erased is not None and letter.timestamp_ms <= erased.time_ms


class Origin(NamedTuple):
    """The original of a replayed record."""

    topic: str
    partition: int
    offset: int


def decode_origin(value: bytes) -> Origin | None:
    """What the header `REPLAY_OF` names; None if it names nothing."""
    found = read_place(value)
    return None if found is None else Origin(*found)


def replayed(letter: DeadLetter, partitions: int) -> NewRecord:
    """The record that replays `letter`: the original in its key's partition, with a header that says so."""
    assert letter.key  # noqa: S101  # `not_replayable` is None
    kept = [header for header in letter.headers if header[0] != REPLAY_OF]
    headers = (*kept, (REPLAY_OF, _origin(letter)))
    return NewRecord(partition_of(letter.key, partitions), letter.key, letter.value, headers)


def replays_begin(letters: Iterable[DeadLetter], partitions: int, now_ms: int) -> dict[int, int]:
    """Where replays of `letters` may lie: key's partition → the earliest time that one may have, ms.

    A replay is written after its original, by another clock: a day is allowed between the two. 0 if an original's time
    is unknown, or tells nothing because it is in the future.
    """
    begin: dict[int, int] = {}
    for letter in letters:
        assert letter.key  # noqa: S101  # `not_replayable` is None
        p, written_ms = partition_of(letter.key, partitions), letter.timestamp_ms
        earliest = max(0, written_ms - DAY_MS) if written_ms <= now_ms + DAY_MS else 0
        begin[p] = min(earliest, begin.get(p, earliest))
    return begin


def replayed_before(letters: Iterable[DeadLetter], log: Iterable[LogRecord]) -> set[Id]:
    """Which of `letters` a record of the log replays: it names the original, and has its key and value. The name alone
    is not enough, because a topic that was made again has the same offsets."""
    wanted: dict[tuple[bytes | None, bytes], list[DeadLetter]] = defaultdict(list)
    for letter in letters:
        wanted[letter.key, _origin(letter)].append(letter)
    found: set[Id] = set()
    for record in log:
        for name, content in record.headers:
            if name == REPLAY_OF and content is not None:
                found.update(one.id for one in wanted.get((record.key, content), ()) if one.value == record.value)
    return found


def _origin(letter: DeadLetter) -> bytes:
    return write_place(letter.topic, letter.partition, letter.offset)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of letters that were to be replayed."""

    done: int
    """How many of them, in their order, are in the log."""
    why: str = ""
    """What stopped it; empty if all are done. The next `BATCH` are in the log then, or none of them is."""
    ended_by: KeyboardInterrupt | SystemExit | None = None
    """Ctrl-C, or a signal that `ctr` hears; to be raised again once all this is told."""


def replay(chosen: Sequence[DeadLetter], run: Run, client: Mapping[str, Any], topic: str, partitions: int) -> Replayed:
    """Append the originals of `chosen` to `topic` in order, up to the first transaction that fails.

    Args:
        chosen: all are replayable.
        run: appends.
        client: its options, for what is said of an error.
        topic: the event topic.
        partitions: how many it has.
    """
    done = 0
    try:
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            run.append(topic, [replayed(letter, partitions) for letter in batch])
            done += len(batch)
    except KafkaError as error:
        return Replayed(done, described(error, client, topic, TO_WRITE))
    except (KeyboardInterrupt, SystemExit) as ended:
        return Replayed(done, "interrupted", ended)
    return Replayed(done)
