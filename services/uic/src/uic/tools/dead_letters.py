"""`ctr dead-letters`: lists, shows and replays the records that could not be folded. Fix the cause before a replay, or
the record becomes a dead letter again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, TextIO

from uic.core.event import Reason
from uic.core.same_topic import Identity, has_grown, made_again
from uic.core.topics import replay_run
from uic.errors import UicError, UnsuitableTopic
from uic.log.erasures import KafkaErasures
from uic.log.event_log import KafkaLog
from uic.log.topic_reader import LogRecord, read_to_end
from uic.log.transactions import open_run
from uic.settings import KafkaSettings, read_client_settings
from uic.tools.confirm import confirmed
from uic.tools.letter_display import describe, shown_time, summary
from uic.tools.letter_reading import DeadLetter, Scan, Selection
from uic.tools.letter_replay import BATCH, erased_since, not_replayable, replay, replayed_before, replays_begin
from uic.tools.table import table

TIMEOUT_S: Final = 10.0
RUN_AGAIN: Final = "Run it again: what is in the log by then is left out"
EPILOG: Final = (
    "Exit status: 0 done; 1 no dead letter matched, or it could not be done; 2 called wrongly, or `no` at the "
    "question; 130 ended by Ctrl-C: it says what was sent by then."
)


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command; its exit status is as `EPILOG` says."""
    options = _parser().parse_args(arguments)
    kafka = read_client_settings().kafka
    kafka.check_files()
    try:
        result: int = options.run(options, kafka, out)
    except UicError as error:
        print(f"ctr dead-letters: {error.detail}", file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctr dead-letters", description="Records that could not be folded: list, show, replay.", epilog=EPILOG
    )
    verbs = parser.add_subparsers(required=True, metavar="list|show|replay")
    selection = argparse.ArgumentParser(add_help=False)
    selection.add_argument(
        "--reason", action="append", default=[], choices=[r.value for r in Reason], help="may be given several times"
    )
    selection.add_argument("--partition", type=int, help="of the original record")
    selection.add_argument("--first", type=int, default=0, metavar="OFFSET", help="of the original record, inclusive")
    selection.add_argument("--last", type=int, metavar="OFFSET", help="of the original record, inclusive")

    listing = verbs.add_parser(
        "list", parents=[selection], help="one line each, without users and repeats", epilog=EPILOG
    )
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)

    show = verbs.add_parser("show", help="one dead letter in full, with the user's id", epilog=EPILOG)
    show.add_argument("partition", type=int, help="of the original record")
    show.add_argument("offset", type=int, help="of the original record")
    show.set_defaults(run=_show)

    again = verbs.add_parser(
        "replay", parents=[selection], help="append the originals to the event topic again", epilog=EPILOG
    )
    again.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    again.add_argument(
        "--limit", type=int, default=10_000, help="refuse to replay more than this (default %(default)s)"
    )
    again.add_argument(
        "--again", action="store_true", help="also those that were replayed before; the log is not searched for them"
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
        if not rows:
            print(f"ctr dead-letters: none; {_passed_over(scan)}", file=sys.stderr)
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
    begun = None
    if chosen:
        begun = _identity(kafka)
        chosen = _not_erased(chosen, kafka, begun, out)
    if begun is None or not chosen:
        print(f"0 to replay into {kafka.topic}; {_passed_over(scan)}", file=out)
        return 1
    client, name, most = kafka.client_options(), replay_run(kafka.topic), kafka.max_request_bytes
    with closing(open_run(client, name, timeout_s=TIMEOUT_S, max_request_bytes=most)) as run:
        if not options.again:
            chosen = _not_replayed(chosen, kafka, out)
        print(f"{len(chosen)} to replay into {kafka.topic}; {_passed_over(scan)}", file=out)
        if erasures := sum(letter.value is None for letter in chosen):
            print(
                f"{erasures} of them have a null value: each erases its user, with all that was folded since", file=out
            )
        if not chosen:
            return 1
        question = f"Each becomes a new event{', even if it was replayed before' if options.again else ''}. Continue?"
        if not options.yes and not confirmed("ctr dead-letters", question):
            print("nothing was replayed", file=out)
            return 2
        chosen.sort(key=lambda letter: (letter.partition, letter.offset))
        result = replay(chosen, run, client, kafka.topic, kafka.partitions)
        print(f"replayed {result.done} of {len(chosen)}", file=out)
        if left := chosen[result.done :]:
            print(
                f"in doubt: {min(BATCH, len(left))}, from partition {left[0].partition}, offset {left[0].offset} on: "
                f"all of them are in the log, or none. {RUN_AGAIN}",
                file=out,
            )
        if result.why:
            print(f"ctr dead-letters: {result.why}", file=sys.stderr)
        if result.ended_by is not None:
            raise result.ended_by
        if changed := _changed(begun, _identity(kafka)):
            print(f"ctr dead-letters: {changed}", file=sys.stderr)
        return 1 if result.why or changed else 0


def _identity(kafka: KafkaSettings) -> Identity:
    """Which topic the event topic is now."""
    log = KafkaLog(kafka.client_options(), timeout_s=TIMEOUT_S, max_request_bytes=kafka.max_request_bytes)
    with closing(log):
        return Identity(kafka.topic, log.topic_id(kafka.topic), log.partition_count(kafka.topic))


def _changed(begun: Identity, now: Identity) -> str:
    """What became of the topic while letters were replayed into it; empty if it is the one of before."""
    if made_again(begun, now):
        return (
            f"topic {begun.topic} was deleted and created again while letters were replayed into it: what was replayed "
            f"before that is gone. {RUN_AGAIN} (without --again)"
        )
    if has_grown(begun, now):
        return (
            f"topic {begun.topic} was given more partitions while letters were replayed into it: it has "
            f"{now.partitions}, and they lie where {begun.partitions} says: see docs/runbooks/grown-topic.md"
        )
    return ""


def _not_erased(
    chosen: list[DeadLetter], kafka: KafkaSettings, begun: Identity, out: TextIO | None
) -> list[DeadLetter]:
    """Those of `chosen` whose user was not erased since."""
    if begun.partitions != kafka.partitions:
        raise UnsuitableTopic(
            f"topic {kafka.topic} has {begun.partitions} partitions, UIC_KAFKA__PARTITIONS says {kafka.partitions}"
        )
    erasures = KafkaErasures(kafka.client_options(), kafka.topic, kafka.partitions, timeout_s=TIMEOUT_S)
    noted = erasures.noted(range(kafka.partitions), begun.topic_id)
    left = [letter for letter in chosen if not erased_since(letter, noted, kafka.partitions)]
    if len(left) < len(chosen):
        print(f"skipped {len(chosen) - len(left)}: their user was erased since", file=out)
    return left


def _not_replayed(chosen: list[DeadLetter], kafka: KafkaSettings, out: TextIO | None) -> list[DeadLetter]:
    """Those of `chosen` that the log has no replay of."""
    since_ms = replays_begin(chosen, kafka.partitions, time.time_ns() // 1_000_000)
    begin = shown_time(min(since_ms.values()))
    print(f"looking for earlier replays in {len(since_ms)} partitions of {kafka.topic}, from {begin} on", file=out)
    log = read_to_end(kafka.client_options(), kafka.topic, since_ms.keys(), since_ms=since_ms, idle_s=TIMEOUT_S)
    before = replayed_before(chosen, log)
    left = [letter for letter in chosen if letter.id not in before]
    if len(left) < len(chosen):
        print(f"left out {len(chosen) - len(left)}: replayed before (--again replays them, too)", file=out)
    return left


def _passed_over(scan: Scan) -> str:
    return f"skipped {scan.repeats} repeats and {scan.foreign} records that UIC did not write"
