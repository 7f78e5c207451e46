"""`ctr dead-letters`: lists, shows and replays the records that could not be folded. The file is long because the three
verbs choose, read and describe letters in the same way.

Delivery to the dead-letter topic is at least once, so readers drop repeats by topic, partition, offset and timestamp of
the original record: a topic that was made again has the same offsets. A replay appends the original key, value and
headers to the event topic as a new event, in its key's partition. Fix the cause first, or the record becomes a dead
letter again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.state import partition_of
from uic.core import letters
from uic.core.event import Reason, is_json
from uic.errors import NotAcknowledged, UicError
from uic.log.event_log import EventLog, KafkaLog, NewRecord
from uic.log.topic_reader import LogRecord, read_to_end
from uic.settings import KafkaSettings, read_client_settings
from uic.tools.confirm import confirmed
from uic.tools.table import table

REPLAY_OF: Final = "uic-replay-of"
"""Header of a replayed record: `<topic>/<partition>/<offset>` of the original."""
BATCH: Final = 500
SHOWN_HEADERS: Final = 100
SHOWN_BYTES: Final = 4096
TIMEOUT_S: Final = 10.0

Id = tuple[str, int, int, int]
"""Topic, partition, offset and timestamp of the original record."""


class NotALetter(ValueError):
    """A record of the dead-letter topic that UIC did not write."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be folded, as the dead-letter topic holds it."""

    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    """Cut if `cut_from` is set."""
    headers: tuple[tuple[str, bytes], ...]
    """The original record's."""
    cut_from: int | None = None
    """Length of the original value when it did not fit."""
    sha256: str | None = None
    """Of the original value when it did not fit."""
    key_bytes: int | None = None
    """Length of the original key when it did not fit and was left out."""
    detail: str = ""
    """The field and the rule that it breaks; empty in letters of older versions."""

    @property
    def id(self) -> Id:
        """The same for every repeat, and for no record of an earlier topic of this name."""
        return self.topic, self.partition, self.offset, self.timestamp_ms

    @property
    def value_bytes(self) -> int:
        """Length of the original value; 0 for null."""
        return self.cut_from if self.cut_from is not None else len(self.value or b"")


def read_letter(record: LogRecord) -> DeadLetter:
    """The dead letter that `record` holds.

    Raises:
        NotALetter: the headers that UIC adds are missing or make no sense.
    """
    known = letters.OURS
    ours: dict[str, bytes] = {}
    original: list[tuple[str, bytes]] = []
    for header in record.headers:  # there may be thousands: those that stay are not made again
        if header[1] is None:
            continue
        if header[0] in known:
            ours[header[0]] = header[1]
        else:
            original.append(header)  # type: ignore[arg-type]  # its value is not None
    try:
        sha256 = ours.get(letters.VALUE_SHA256, b"").decode()
        detail = ours.get(letters.DETAIL, b"").decode()
        if not (ours[letters.REASON].decode() + ours[letters.TOPIC].decode() + sha256 + detail).isprintable():
            raise ValueError("its reason, detail, topic or hash holds control characters")
        cut_from, key_bytes = ours.get(letters.VALUE_BYTES), ours.get(letters.KEY_BYTES)
        return DeadLetter(
            reason=ours[letters.REASON].decode(),
            topic=ours[letters.TOPIC].decode(),
            partition=int(ours[letters.PARTITION]),
            offset=int(ours[letters.OFFSET]),
            timestamp_ms=int(ours[letters.TIMESTAMP]),
            key=record.key,
            value=None if letters.NULL in ours else record.value,
            headers=tuple(original),
            cut_from=None if cut_from is None else int(cut_from),
            sha256=sha256 or None,
            key_bytes=None if key_bytes is None else int(key_bytes),
            detail=detail,
        )
    except (KeyError, ValueError) as error:
        raise NotALetter(f"partition {record.partition}, offset {record.offset}: {error!r}") from error


@dataclass(frozen=True)
class Selection:
    """Which dead letters to use; a field left at its default matches all."""

    reasons: frozenset[str] = frozenset()
    partition: int | None = None
    first: int = 0
    last: int | None = None
    """Offsets of the original records, both inclusive."""

    def __contains__(self, letter: object) -> bool:
        return (
            isinstance(letter, DeadLetter)
            and (not self.reasons or letter.reason in self.reasons)
            and self.partition in (None, letter.partition)
            and self.first <= letter.offset
            and (self.last is None or letter.offset <= self.last)
        )


@dataclass
class Scan:
    """Dead letters without repeats, and counts of the records that were skipped."""

    repeats: int = 0
    foreign: int = 0

    def letters(self, records: Iterable[LogRecord], selection: Selection) -> Iterator[DeadLetter]:
        """The selected letters, each once."""
        seen: set[Id] = set()
        for record in records:
            try:
                letter = read_letter(record)
            except NotALetter:
                self.foreign += 1
                continue
            if letter.id in seen:
                self.repeats += 1
                continue
            seen.add(letter.id)
            if letter in selection:
                yield letter


def not_replayable(letter: DeadLetter, topic: str) -> str | None:
    """Why `letter` cannot be replayed into `topic`, or None."""
    if letter.topic != topic:
        return "of another topic"
    if letter.cut_from is not None:
        return "value was cut"
    if not letter.key:
        return "no key"
    return None


def replayed(letter: DeadLetter, partitions: int) -> NewRecord:
    """The record that replays `letter`: the original in its key's partition, with a header that says so."""
    assert letter.key  # noqa: S101  # `not_replayable` is None
    kept = [header for header in letter.headers if header[0] != REPLAY_OF]
    origin = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
    return NewRecord(partition_of(letter.key, partitions), letter.key, letter.value, (*kept, (REPLAY_OF, origin)))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of letters that were to be replayed, in their order: done and in doubt first, then those not sent."""

    done: int
    """Acknowledged."""
    in_doubt: Sequence[DeadLetter] = ()
    not_sent: Sequence[DeadLetter] = ()
    why: str = ""
    """What stopped it; empty if all are done."""


def replay(chosen: Sequence[DeadLetter], log: EventLog, topic: str, partitions: int, timeout_s: float) -> Replayed:
    """Append the originals of `chosen` to `topic` in order, up to the first batch that is not fully acknowledged.

    Whatever stops it, Ctrl-C included, it is known what was not sent: who replays all again folds the rest twice.
    """
    for start in range(0, len(chosen), BATCH):
        batch, rest = chosen[start : start + BATCH], chosen[start + BATCH :]
        try:
            log.append(topic, partitions, [replayed(letter, partitions) for letter in batch], timeout_s)
        except NotAcknowledged as error:
            in_doubt = [batch[i] for i in error.positions]
            return Replayed(start + len(batch) - len(in_doubt), in_doubt, rest, "not all were acknowledged in time")
        except UicError as error:  # before the first record of the batch was sent
            return Replayed(start, (), chosen[start:], error.detail)
        except KeyboardInterrupt:
            return Replayed(start, batch, rest, "interrupted")
    return Replayed(len(chosen))


def describe(letter: DeadLetter) -> Iterator[str]:
    """Lines that show one dead letter in full. They contain the user id: for an operator, not for a log."""
    yield f"reason     {letter.reason}"
    if letter.detail:
        yield f"detail     {letter.detail}"
    yield f"original   topic {letter.topic}, partition {letter.partition}, offset {letter.offset}"
    yield f"time       {_time(letter.timestamp_ms)}"
    yield f"key        {_bytes(letter.key) if letter.key_bytes is None else f'left out: {letter.key_bytes} bytes'}"
    for name, value in letter.headers[:SHOWN_HEADERS]:
        yield f"header     {_bytes(name.encode())}: {_bytes(value)}"
    if len(letter.headers) > SHOWN_HEADERS:
        yield f"           … {len(letter.headers) - SHOWN_HEADERS:,} more headers"
    if letter.cut_from is not None:
        yield f"value      cut: {len(letter.value or b'')} of {letter.cut_from} bytes, sha256 {letter.sha256}"
    else:
        yield f"value      {'null' if letter.value is None else f'{len(letter.value)} bytes'}"
    if letter.value is None:
        return
    if (event := _event(letter)) is not None:
        text = json.dumps(event, ensure_ascii=False)
        yield f"decoded    {text if text.isprintable() else json.dumps(event)}"
    for at in range(0, min(len(letter.value), SHOWN_BYTES), 16):
        row = letter.value[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        yield f"  {at:06x}  {row.hex(' '):<47}  {text}"
    if len(letter.value) > SHOWN_BYTES:
        yield f"  … {len(letter.value) - SHOWN_BYTES} more bytes"


def summary(letter: DeadLetter) -> dict[str, Any]:
    """One dead letter as a line of `list`, without the user id."""
    return {
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": _time(letter.timestamp_ms),
        "bytes": letter.value_bytes,
        "cut": letter.cut_from is not None,
    }


def _event(letter: DeadLetter) -> dict[str, Any] | None:
    """The value as an event, unknown JSON fields ignored; None if it cannot be read as one."""
    event = BehaviorEvent()
    try:
        if is_json(letter.headers):
            json_format.Parse(letter.value or b"", event, ignore_unknown_fields=True)
        else:
            event.ParseFromString(letter.value or b"")
    except (json_format.ParseError, DecodeError, ValueError, RecursionError):
        return None
    shown: dict[str, Any] = json_format.MessageToDict(event, preserving_proto_field_name=True)
    return shown


def _bytes(value: bytes | None) -> str:
    if value is None:
        return "null"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return text if text.isprintable() else repr(text)


def _time(timestamp_ms: int) -> str:
    if timestamp_ms < 0:
        return "none"
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{timestamp_ms} ms"


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: done; 1: nothing matched, or it could not be done; 2: called wrongly."""
    options = _parser().parse_args(arguments)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the operator does not need its retry messages
    kafka = read_client_settings().kafka
    try:
        result: int = options.run(options, kafka, out)
    except UicError as error:
        print(f"ctr dead-letters: {error.detail}", file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctr dead-letters", description="Records that could not be folded: list, show, replay."
    )
    verbs = parser.add_subparsers(required=True, metavar="list|show|replay")
    selection = argparse.ArgumentParser(add_help=False)
    selection.add_argument(
        "--reason", action="append", default=[], choices=[r.value for r in Reason], help="may be given several times"
    )
    selection.add_argument("--partition", type=int, help="of the original record")
    selection.add_argument("--first", type=int, default=0, metavar="OFFSET", help="of the original record, inclusive")
    selection.add_argument("--last", type=int, metavar="OFFSET", help="of the original record, inclusive")

    listing = verbs.add_parser("list", parents=[selection], help="one line each, without users and repeats")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)

    show = verbs.add_parser("show", help="one dead letter in full, with the user's id")
    show.add_argument("partition", type=int, help="of the original record")
    show.add_argument("offset", type=int, help="of the original record")
    show.set_defaults(run=_show)

    again = verbs.add_parser("replay", parents=[selection], help="append the originals to the event topic again")
    again.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    again.add_argument(
        "--limit", type=int, default=10_000, help="refuse to replay more than this (default %(default)s)"
    )
    again.set_defaults(run=_replay)
    return parser


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(frozenset(options.reason), options.partition, options.first, options.last)


def _records(kafka: KafkaSettings) -> Iterator[LogRecord]:
    return read_to_end(kafka.client_options(), kafka.dead_letter_topic, idle_s=TIMEOUT_S)


def _list(options: argparse.Namespace, kafka: KafkaSettings, out: TextIO | None) -> int:
    scan = Scan()
    rows = [summary(letter) for letter in scan.letters(_records(kafka), _selection(options))]
    rows.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
    if options.json:
        for row in rows:
            print(json.dumps(row), file=out)
        return 0 if rows else 1
    if rows:
        for line in table(list(rows[0]), (list(row.values()) for row in rows)):
            print(line, file=out)
    counts = Counter(row["reason"] for row in rows)
    by_reason = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none"
    print(f"{len(rows)} dead letters: {by_reason}; {_passed_over(scan)}", file=out)
    return 0 if rows else 1


def _show(options: argparse.Namespace, kafka: KafkaSettings, out: TextIO | None) -> int:
    wanted = Selection(partition=options.partition, first=options.offset, last=options.offset)
    found = sorted(Scan().letters(_records(kafka), wanted), key=lambda letter: letter.id)
    if not found:
        print(f"there is no dead letter of partition {options.partition}, offset {options.offset}", file=sys.stderr)
        return 1
    for letter in found:  # more than one if the topic was made again
        for line in describe(letter):
            print(line, file=out)
    return 0


def _replay(options: argparse.Namespace, kafka: KafkaSettings, out: TextIO | None) -> int:
    scan = Scan()
    chosen: list[DeadLetter] = []
    skipped: Counter[str] = Counter()
    for letter in scan.letters(_records(kafka), _selection(options)):
        if why := not_replayable(letter, kafka.topic):
            skipped[why] += 1
            continue
        chosen.append(letter)
        if len(chosen) > options.limit:
            print(f"more than {options.limit} match: narrow the selection or raise --limit", file=sys.stderr)
            return 2
    for why, count in skipped.most_common():
        print(f"skipped {count}: {why}", file=out)
    print(f"{len(chosen)} to replay into {kafka.topic}; {_passed_over(scan)}", file=out)
    if erasures := sum(letter.value is None for letter in chosen):
        print(f"{erasures} of them have a null value: each erases its user, with all that was folded since", file=out)
    if not chosen:
        return 1
    question = "Each becomes a new event, even if it was replayed before. Continue?"
    if not options.yes and not confirmed("ctr dead-letters", question):
        print("nothing was replayed", file=out)
        return 2
    chosen.sort(key=lambda letter: (letter.partition, letter.offset))
    log = KafkaLog(kafka.client_options(), timeout_s=TIMEOUT_S, max_request_bytes=kafka.max_request_bytes)
    try:
        result = replay(chosen, log, kafka.topic, kafka.partitions, TIMEOUT_S)
    finally:
        log.close()
    print(f"replayed {result.done} of {len(chosen)}", file=out)
    for letter in result.in_doubt:
        print(f"in doubt: partition {letter.partition}, offset {letter.offset}", file=out)
    if result.not_sent:
        first = result.not_sent[0]
        print(
            f"not sent: {len(result.not_sent)}, from partition {first.partition}, offset {first.offset} on. "
            f"To go on, add --partition {first.partition} --first {first.offset}, then replay each partition above it",
            file=out,
        )
    if result.why:
        print(f"ctr dead-letters: {result.why}", file=sys.stderr)
    return 1 if result.why else 0


def _passed_over(scan: Scan) -> str:
    return f"skipped {scan.repeats} repeats and {scan.foreign} records that UIC did not write"
