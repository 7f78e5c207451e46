"""`ctr namespaces`: what the store holds, namespace by namespace; and the end of one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TextIO

from uic.bulk.errors import BulkRefused
from uic.bulk.namespaces import Namespaces
from uic.core.start_position import LogBounds
from uic.errors import LogUnavailable, StartRefused, StoreUnavailable, UnsuitableTopic
from uic.log.partition_reader import log_reader
from uic.redis_client import FAILURES, open_client
from uic.settings import KafkaSettings, read_client_settings
from uic.store_failures import describe
from uic.tools.confirm import confirmed
from uic.tools.interrupted import says_if_interrupted
from uic.tools.table import table

REMOVING = (
    "once its removal has begun (`removed` of ctr namespaces list), no worker folds it; run the same command again, "
    "and it goes on"
)
UNSEEN = (
    "So no RTP can announce itself, and no worker can say that it has caught up: what is in service may stand here as "
    "not folded and not served. `drop` sees readers all the same"
)
COLUMNS = (
    "namespace",
    "topic",
    "users",
    "bytes",
    "lag",
    "partial_share",
    "last_read_s",
    "folded",
    "removed",
    "served_by",
)


def main(
    arguments: Sequence[str] | None = None, out: TextIO | None = None, after: Callable[[str], None] = lambda step: None
) -> int:
    """Run the command. 0: done, also without a lag, which only the log can tell; 1: refused, or the store does not
    answer; 2: called wrongly."""
    parser = argparse.ArgumentParser(
        prog="ctr namespaces",
        description="The namespaces of the store under UIC_REDIS__PREFIX, or the end of one. Bytes, partial share and "
        "last read are estimated from a sample of states.",
        epilog="Exit status: 0 done; 1 refused, or the store does not answer; 2 called wrongly, or `no` at the "
        "question. If the log does not say where the topic ends, all is shown but the lag (`-`, null in JSON), the "
        "reason is on stderr, and the status is 0.",
    )
    verbs = parser.add_subparsers(dest="verb")
    show = verbs.add_parser("list", help="all of them (the default)")
    drop = verbs.add_parser("drop", help="remove one, in slices; refused while it is served, written or read")
    drop.add_argument("namespace")
    drop.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    drop.add_argument(
        "--force", action="store_true", help="although a worker or a load seems to write it, or RTP reads it"
    )
    drop.add_argument(
        "--serving",
        action="store_true",
        help="although it serves by the rollout record: before a restore, with all its workers stopped",
    )
    for one in (parser, show, drop):
        one.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    as_json = getattr(options, "json", False)
    settings = read_client_settings()
    settings.kafka.check_files()
    try:
        found = Namespaces(open_client(settings.redis), settings.redis.prefix)
        if options.verb == "drop":
            question = f"All states of {options.namespace} go. Drop it?"
            if not options.yes and not confirmed(parser.prog, question):
                return 2
            with says_if_interrupted("ctr namespaces", REMOVING):
                keys = found.drop(options.namespace, force=options.force, serving=options.serving, after=after)
            report = {"dropped": options.namespace, "keys": keys}
            print(json.dumps(report) if as_json else f"{options.namespace} is gone, {keys} keys", file=out)
            return 0
        rows = [asdict(one) for one in found.survey(lambda: _logs(settings.kafka))]
        silenced = found.silenced()
    except (BulkRefused, StoreUnavailable, StartRefused) as error:
        print(f"ctr namespaces: {error}", file=sys.stderr)
        return 1
    except FAILURES as error:  # a cluster's client asks for the nodes when it is made
        print(f"ctr namespaces: the store does not answer: {describe(error)}", file=sys.stderr)
        return 1
    if silenced is not None:
        print(f"ctr namespaces: {silenced}. {UNSEEN}", file=sys.stderr)
    if as_json:
        print(json.dumps(rows), file=out)
    else:
        for row in rows:
            row["served_by"] = ", ".join(row["served_by"])
            row["lag"] = f"another log ({row['broken_log']})" if row["broken_log"] else row["lag"]
        shown = ([row[name] for name in COLUMNS] for row in rows)
        for line in table(COLUMNS, shown):
            print(line, file=out)
    return 0


def _logs(kafka: KafkaSettings) -> dict[str, dict[int, LogBounds]]:
    """The topic of the settings, by partition, with ends for a lag as `uic_lag_records` is defined; nothing if no
    broker answers."""
    try:
        with log_reader(kafka) as reader:
            bounds = reader.bounds()
            ends = enumerate(zip(bounds.partitions, bounds.log_ends, strict=True))
            return {kafka.topic: {p: replace(at, end=end) for p, (at, end) in ends}}
    except (LogUnavailable, UnsuitableTopic) as error:
        print(f"ctr namespaces: lag is unknown: {error}", file=sys.stderr)
        return {}
