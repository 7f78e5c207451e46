"""`ctr import`: append history to the topic that never was in it, so that the log is the only truth again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TextIO
from uuid import UUID

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from mimn.bundle import BundleError, Manifest, read_manifest
from mimn.data.events import DataError
from uic.bulk.archive import incomplete, open_archive
from uic.bulk.archived_history import ArchivedHistory
from uic.bulk.commands.servers import erasures_of, erasures_of_topic
from uic.bulk.described_history import DescribedHistory
from uic.bulk.errors import BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.history import refuse_short_retention
from uic.bulk.importing import Importer
from uic.bulk.progress_line import ProgressLine
from uic.bulk.waiting_line import says_if_it_waits
from uic.errors import LogUnavailable, UnsuitableTopic
from uic.log.clients import explained, open_kafka_client
from uic.log.partition_reader import log_reader
from uic.log.topic_answers import check_there
from uic.log.topic_facts import topic_facts
from uic.log.unreachable import unreachable
from uic.settings import ClientSettings, KafkaSettings, read_client_settings
from uic.tools.interrupted import says_if_interrupted

TIMEOUT_S = 30.0
"""How long a transaction may be open, and so how long the fold waits for one of an import that was killed."""
LEFT = "what it has appended stays in the topic; run the same command again, and it appends the rest"
SHORTER = "their users get shorter histories, and no state will say that it is partial"


def main(
    arguments: Sequence[str] | None = None, out: TextIO | None = None, after: Callable[[str], None] = lambda step: None
) -> int:
    """Run the command. 0: all of the source is in the topic; 1: refused, or no answer; 2: called wrongly."""
    parser = argparse.ArgumentParser(
        prog="ctr import",
        description="Append history to the topic of UIC_KAFKA__TOPIC, each record once: an import that was killed goes "
        "on when it is run again. One import at a time, and before other producers begin if their events are newer. "
        "With UIC_BUNDLE__PATH, a description whose events have actions that the bundle does not name is refused.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--description", type=Path, metavar="TOML", help="the [events] of a data set's description")
    source.add_argument("--archive", metavar="FOLDER", help="an archive of another topic, for example to raise N")
    parser.add_argument("--topic-id", type=UUID, help="which archive of the folder, if it has several")
    parser.add_argument(
        "--without-erasures",
        action="store_true",
        help="with --archive: the archived topic's notes of erasures are gone; import erased users' events as well",
    )
    parser.add_argument(
        "--grew-from",
        type=int,
        metavar="N",
        help="with --archive: how many partitions the topic had before it got more, if the archive does not say it",
    )
    parser.add_argument(
        "--leave-out-misrouted",
        action="store_true",
        help="with --archive: accept that records which are not in their key's partition are not imported",
    )
    parser.add_argument(
        "--another-source",
        action="store_true",
        help="the topic has imported records of another source, and none of them are in this one: append",
    )
    parser.add_argument(
        "--bring-back-erased",
        action="store_true",
        help="import also what is not newer than the erasure of its user or item in the topic, which is left out",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    settings = read_client_settings()
    settings.kafka.check_files()
    try:
        with says_if_interrupted("ctr import", LEFT):
            return _run(options, settings, out, after)
    except (BulkRefused, BundleError, DataError, UnsuitableTopic, LogUnavailable) as error:
        print(f"ctr import: {error}", file=sys.stderr)
        return 1


def _run(
    options: argparse.Namespace, settings: ClientSettings, out: TextIO | None, after: Callable[[str], None]
) -> int:
    kafka = settings.kafka
    if options.description:
        manifest = None if settings.bundle is None else read_manifest(settings.bundle.path)[0]
        with closing(DescribedHistory(options.description)) as history:
            if manifest is not None:
                _refuse_unnamed(history.actions(), manifest)
            return _append(history, options, kafka, out, after)
    archived = _archived(
        options.archive,
        options.topic_id,
        kafka,
        without_erasures=options.without_erasures,
        grew_from=options.grew_from,
    )
    return _append(archived, options, kafka, out, after)


def _append(
    history: DescribedHistory | ArchivedHistory,
    options: argparse.Namespace,
    kafka: KafkaSettings,
    out: TextIO | None,
    after: Callable[[str], None],
) -> int:
    misrouted = history.misrouted() if isinstance(history, ArchivedHistory) else 0
    if misrouted and isinstance(history, ArchivedHistory) and not options.leave_out_misrouted:
        raise BulkRefused(
            f"{misrouted} of {history.records} records would be left out: misrouted by {history.counts}. If the "
            "archived topic had another number of partitions before it was given more, name that by --grew-from, "
            "and they are imported. If they are misrouted by their producers, replay those that you want (ctr "
            "dead-letters replay), archive again, and accept the rest by --leave-out-misrouted"
        )
    if isinstance(history, ArchivedHistory):
        lacking = history.complete_from
        if missing := incomplete(lacking, len(lacking), SHORTER):
            print(f"ctr import: {missing}", file=sys.stderr)
    with ExitStack() as opened:
        with says_if_it_waits("the brokers"):
            reader = opened.enter_context(log_reader(kafka))
            bounds = reader.bounds()
        if isinstance(history, ArchivedHistory) and history.topic == (kafka.topic, bounds.topic_id):
            raise BulkRefused(f"the archive is of topic {kafka.topic} itself: its records are there already")
        if len(bounds.partitions) != kafka.partitions:
            raise UnsuitableTopic(
                f"topic {kafka.topic} has {len(bounds.partitions)} partitions, UIC_KAFKA__PARTITIONS says "
                f"{kafka.partitions}"
            )
        refuse_short_retention(history.oldest_ms, _retention_ms(kafka), time.time_ns() // 1_000_000)
        done = Importer(
            kafka.client_options(),
            bounds,
            erasures_of(kafka),
            timeout_s=TIMEOUT_S,
            max_request_bytes=kafka.max_request_bytes,
            another_source=options.another_source,
            bring_back_erased=options.bring_back_erased,
            after=after,
            progress=lambda word, total, what: ProgressLine(word, total, what).add,
        ).run(history, reader)
    report = {
        "topic": kafka.topic,
        "source": history.source,
        "records": history.records,
        "appended": done.records,
        "left_out": 0,
        "erased": done.erased,
    }
    if isinstance(history, ArchivedHistory):
        report["left_out"] = history.left_out.total() + history.doubled + misrouted
        report["misrouted"] = misrouted
        report["grew_from"] = history.grew_from
        report["complete_from"] = history.complete_from
    if isinstance(history, DescribedHistory):
        report["refused_rows"] = history.left_out.rows
    if options.json:
        print(json.dumps(report), file=out)
    else:
        print(f"{done.records} of {report['records']} records appended to {kafka.topic}", file=out)
        if done.erased:
            print(f"{done.erased} left out: their user or item was erased in {kafka.topic} since", file=out)
        if isinstance(history, ArchivedHistory):
            if history.grew_from is not None:
                print(f"both parts of each user's records, by {history.counts}, the older part first", file=out)
            if misrouted:
                print(f"{misrouted} left out: misrouted by {history.counts}", file=out)
            if history.doubled:
                print(f"{history.doubled} left out: replays of dead letters whose originals are imported", file=out)
            for why, n in history.left_out.items():
                print(f"{n} left out, a dead letter of the archived topic: {why}", file=out)
        else:
            for reason, n in history.left_out.rows.items():
                print(f"{n} rows refused: {reason} (first: {history.left_out.first.get(reason, '?')})", file=out)
    return 0


def _refuse_unnamed(counts: Mapping[str, int], manifest: Manifest) -> None:
    """A bundle folds no event whose action it does not name, and what was appended stays.

    Raises:
        BulkRefused: there are such events.
    """
    named = manifest.actions
    unnamed = {} if named is None else {name: n for name, n in counts.items() if name not in named}
    if not unnamed or named is None:
        return
    actions = ", ".join(f"{name} ({n})" for name, n in unnamed.items())
    raise BulkRefused(
        f"{sum(unnamed.values())} of {sum(counts.values())} events have an action that bundle {manifest.name}/"
        f"{manifest.version} of UIC_BUNDLE__PATH does not name, so they would never be folded: {actions}. It names "
        f"{', '.join(named)}. Give the description the `action` and the `[actions]` that the bundle was trained with, "
        "with weight 0 and without `is` for actions to leave out. To append them for another bundle, name that one "
        "or none. Nothing was appended"
    )


def _archived(
    folder: str, topic_id: UUID | None, kafka: KafkaSettings, *, without_erasures: bool, grew_from: int | None
) -> ArchivedHistory:
    archive = open_archive(Folder(folder), topic_id.bytes if topic_id else None)
    if without_erasures:
        return ArchivedHistory(archive, {}, grew_from)
    grown = archive.about.grew_from is not None or grew_from is not None  # it was not given more notes' partitions
    notes = erasures_of_topic(kafka, archive.about.topic, None if grown else archive.partitions)
    try:
        with says_if_it_waits("the brokers"):
            erased = notes.read(range(archive.partitions), archive.topic_id)
    except LogUnavailable as error:
        raise BulkRefused(
            f"the notes of erased users of {archive.about.topic} cannot be read ({error.detail}), so erased users "
            "would come back: make them available, or accept that by --without-erasures"
        ) from error
    return ArchivedHistory(archive, erased, grew_from)


def _retention_ms(kafka: KafkaSettings) -> int | None:
    """The topic's retention; None if the broker does not say."""
    try:
        admin = open_kafka_client(
            KafkaAdminClient, **kafka.client_options() | {"bootstrap_timeout_ms": kafka.request_timeout_ms}
        )
        try:
            with explained(admin):
                [found] = admin.describe_topics([kafka.topic])
                check_there(kafka.client_options(), found)
                facts = topic_facts(admin, [found])
        finally:
            admin.close()
    except KafkaError as error:
        raise unreachable(kafka.client_options(), error) from error
    return facts[kafka.topic].number("retention.ms")
