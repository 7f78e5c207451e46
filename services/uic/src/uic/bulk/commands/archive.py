"""`ctr archive`: copy the log's raw records to Parquet, so that Kafka need only keep days."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TextIO

from uic.bulk.archive import begin_archive, incomplete
from uic.bulk.archiving import RECORDS_A_FILE, Archiver
from uic.bulk.commands.servers import says_it_goes_on
from uic.bulk.errors import BulkRefused, FolderFull
from uic.bulk.folder import Folder
from uic.bulk.progress_line import ProgressLine
from uic.bulk.waiting_line import says_if_it_waits
from uic.errors import LogUnavailable, UnsuitableTopic
from uic.log.partition_reader import log_reader
from uic.preflight import check_log_is_whole
from uic.settings import read_client_settings
from uic.tools.interrupted import says_if_interrupted


def main(
    arguments: Sequence[str] | None = None, out: TextIO | None = None, after: Callable[[str], None] = lambda step: None
) -> int:
    """Run the command. 0: all is archived up to where the log ended, or to where an open transaction begins in it;
    1: refused, or no answer; 2: called wrongly.

    `after` is called after each step of writing: "file", "manifest".
    """
    parser = argparse.ArgumentParser(
        prog="ctr archive",
        description="Archive the topic of UIC_KAFKA__TOPIC up to where it ends now. Repeat it to add what is new: at "
        "least twice per retention time. A run that was killed loses nothing; run it again.",
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a path, or a URL that fsspec knows")
    parser.add_argument("--partition", type=int, action="append", help="this one only; may be repeated")
    parser.add_argument("--records-a-file", type=int, default=RECORDS_A_FILE, help="(default %(default)s)")
    parser.add_argument(
        "--accept-gap",
        action="store_true",
        help="go on although retention removed records before, or although the folder of a partition is gone",
    )
    parser.add_argument(
        "--replace-damaged",
        action="store_true",
        help="archive files again that are missing or cut short, where the log still has their records",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    if options.records_a_file < 1:
        parser.error("--records-a-file must be positive")
    kafka = read_client_settings().kafka
    kafka.check_files()
    try:
        stays = "whole files stay; run the same command again, and it goes on"
        with says_if_interrupted("ctr archive", stays), says_it_goes_on():
            with ExitStack() as opened:
                with says_if_it_waits("the brokers"):
                    check_log_is_whole(kafka, lambda said: print(f"ctr archive: warning: {said}", file=sys.stderr))
                    reader = opened.enter_context(log_reader(kafka))
                    bounds = reader.bounds()
                count = len(bounds.partitions)
                if wrong := [p for p in options.partition or () if not 0 <= p < count]:
                    parser.error(f"--partition {wrong[0]}: the topic has partitions 0 to {count - 1}")
                told = kafka.partitions if "partitions" in kafka.model_fields_set else None  # a default says nothing
                archive = begin_archive(Folder(options.to), kafka.topic, bounds.topic_id, count, told)
                archive.after = after
                partitions = options.partition or range(count)
                archiver = Archiver(
                    archive,
                    reader,
                    records_a_file=options.records_a_file,
                    accept_gap=options.accept_gap,
                    replace_damaged=options.replace_damaged,
                )
                archiver.refuse(bounds.partitions)
                left = sum(archiver.left(p, bounds.partitions[p]) for p in partitions)
                line = ProgressLine("archived", left, "offsets")
                done = [archiver.run(p, bounds.partitions[p].end, line.add) for p in partitions]
            manifests = filter(None, map(archive.manifest, range(count)))
            complete_from = {m.partition: m.complete_from for m in manifests}
    except FolderFull as error:
        print(f"ctr archive: {error}. Free space there, and run this again: it goes on", file=sys.stderr)
        return 1
    except (BulkRefused, UnsuitableTopic, LogUnavailable) as error:
        print(f"ctr archive: {error}", file=sys.stderr)
        return 1
    records, size = sum(row.records for row in done), sum(row.bytes for row in done)
    waiting = [
        {"partition": row.partition, "archived_to": row.end, "log_end": bounds.log_ends[row.partition]}
        for row in done
        if bounds.partitions[row.partition].end < bounds.log_ends[row.partition]
    ]
    if options.json:
        report = {
            "archive": archive.folder.url,
            "records": records,
            "bytes": size,
            "grew_from": archive.about.grew_from,
            "open_transactions": waiting,
            "complete_from": complete_from,
        }
        print(json.dumps(report), file=out)
    else:
        if archive.about.grew_from is not None:
            grown = f"{kafka.topic} has grown from {archive.about.grew_from} to {count} partitions"
            print(f"{grown}, which the archive says: see docs/runbooks/grown-topic.md", file=out)
        for at in waiting:
            upto = f"partition {at['partition']} is archived up to {at['archived_to']} of {at['log_end']}"
            print(f"{upto}: a transaction is open, see docs/runbooks/data-gap.md", file=out)
        print(f"{records} records more in {archive.folder.url}, {size} bytes", file=out)
        if missing := incomplete(complete_from, count):
            print(missing, file=out)
    return 0
