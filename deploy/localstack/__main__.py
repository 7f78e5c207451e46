"""`python -m localstack`: start, look at and stop the whole system on this machine, or run the demo."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from kafka.errors import KafkaError

from localstack import demo
from localstack.process import Ended
from localstack.replay import States, expect, moved_to_now, replay, wait_folded
from localstack.services import Surroundings, grpc_serves, http_ok, uic_variables
from localstack.shoppers import Shopper, read_events, shoppers
from localstack.signals import signals_unwind
from localstack.stack import (
    BUNDLE,
    FOLDER,
    Addresses,
    Options,
    Ports,
    Stack,
    StackError,
    addresses_of,
    living,
    take_down,
    wipe,
)
from localstack.topics import EVENTS, PARTITIONS, TopicMismatch, create_topics, topics
from localstack.wait import NotReady
from mimn.bundle import BundleError
from mimn.data.events import DataError

EXPECTED = (StackError, Ended, NotReady, TopicMismatch, demo.DemoFailed, BundleError, DataError, KafkaError)
"""Failures whose message is for the reader; anything else is a fault of ours and shows its traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 1 with a line on stderr that says what to change."""
    parser = argparse.ArgumentParser(prog="localstack", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"data, logs and pids (default {FOLDER})")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("demo", "replay real behaviors, ask for scores, print what came out; leaves nothing running"),
        ("up", "start the stack and leave it running"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--bundle", type=Path, default=BUNDLE, help=f"the model's directory (default {BUNDLE})")
    command.add_argument("--uic", type=int, default=1, metavar="N", help="UIC workers (default 1)")
    command.add_argument("--rtp", type=int, default=1, metavar="N", help="RTP processes on one socket (default 1)")
    command.add_argument("--empty", action="store_true", help="do not replay the demo's histories into a new topic")
    commands.add_parser("down", help="end whatever of the stack runs, by pid; data stays")
    commands.add_parser("status", help="what runs, and where; exit status 1 unless all is ready")
    commands.add_parser("doctor", help="`uic doctor` on the stack that runs, else on what the environment names")
    commands.add_parser("wipe", help="remove the data of a stack that is down")
    command = commands.add_parser("topics", help="create the topics that are missing on any Kafka")
    command.add_argument("--bootstrap-servers", required=True)
    command.add_argument("--topic", default=EVENTS)
    command.add_argument("--partitions", type=int, default=PARTITIONS)
    command.add_argument("--replication", type=int, default=-1, help="copies of a partition (default: the broker's)")
    given = parser.parse_args(arguments)
    try:
        with signals_unwind():
            return _run(given)
    except EXPECTED as failure:
        print(f"localstack: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(given: argparse.Namespace) -> int:
    match given.command:
        case "demo":
            said = partial(print, flush=True)
            demo.run(replace(Options.from_environment(), folder=given.folder / "demo", bundle=given.bundle), say=said)
            print("`make up` keeps a stack like this one running, with these users in it, and `make down` ends it.")
        case "up":
            return _up(given)
        case "down":
            ended = take_down(given.folder, say=print)
            print("The stack is down; its data stays." if ended else f"Nothing runs in {given.folder}.")
        case "status":
            return _status(given.folder)
        case "doctor":
            return _doctor(given.folder)
        case "wipe":
            wipe(given.folder)
        case "topics":
            wanted = topics(given.topic, given.partitions)
            made = create_topics(given.bootstrap_servers, wanted, replication=given.replication)
            for topic in wanted:
                what = "created" if topic.name in made else "was there"
                print(f"{topic.name}: {topic.partitions} partitions, {what}")
    return 0


def _up(given: argparse.Namespace) -> int:
    options = replace(
        Options.from_environment(),
        folder=given.folder,
        bundle=given.bundle,
        uic_workers=given.uic,
        rtp_processes=given.rtp,
        ports=Ports.usual(),
    )
    events = read_events()
    people = shoppers(events, candidates=3)
    stack = Stack(options, say=partial(print, flush=True))
    at = stack.start()
    try:
        if options.topic in stack.created_topics and not given.empty:
            recent = moved_to_now(events, people, now_s=time.time())
            records = replay(at.bootstrap, at.topic, recent, people)
            states = States(at.redis_url, options.bundle, prefix=at.prefix, partitions=options.partitions)
            wait_folded(states, {user: expect(sent) for user, sent in records.items()}, within_s=60)
            states.close()
            with demo.client_of(at.predict) as client:
                demo.ask_when_warm(client, people)
            folded = sum(map(len, records.values()))
            print(f"{folded:,} behaviors of {len(people)} shoppers are folded, their times moved to the present.")
    except BaseException:
        stack.stop()
        raise
    print(how_to_use(at, people[-1], options.folder))
    return 0


def how_to_use(at: Addresses, shopper: Shopper, folder: Path) -> str:
    """Commands about one shopper that work when pasted into a shell at the repository root."""
    fields = {"user_id": shopper.user_id, "item_id": shopper.item_id, "category_id": shopper.category_id}
    event = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    metrics = ", ".join(f"{url}/metrics" for url in (*at.rtp_admin, *at.uic_admin))
    return f"""
# Ask for the scores of what user {shopper.user_id} bought next, and of two other items:

curl -s {at.predict}/predict -H 'content-type: application/json' -d '{json.dumps(demo.request(shopper))}'

# Tell the system that he bought it:

{shlex.quote(sys.executable)} - <<'EOF'
import time
from ctr.event.v1.behavior_event_pb2 import ACTION_PURCHASE, BehaviorEvent
from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers="{at.bootstrap}", acks="all")
event = BehaviorEvent({event}, action=ACTION_PURCHASE)
event.event_time = int(time.time() * 1000)
print(producer.send("{at.topic}", key=event.user_id.encode(), value=event.SerializeToString()).get(timeout=10))
producer.close()
EOF

# metrics  {metrics}
# API      {at.predict}/docs
# logs     {folder / "logs"}
# stop     make down"""


def _doctor(folder: Path) -> int:
    environment = dict(os.environ)
    if living(folder):
        at = addresses_of(folder)
        surroundings = Surroundings(
            bootstrap=at.bootstrap,
            redis_url=at.redis_url,
            bundle=Path(at.bundle),
            topic=at.topic,
            partitions=at.partitions,
            prefix=at.prefix,
        )
        # The doctor starts no server, so it needs no port.
        environment |= uic_variables(surroundings, grpc_port=0, admin_port=0)
    return subprocess.run([sys.executable, "-m", "uic", "doctor"], env=environment, check=False).returncode


def _status(folder: Path) -> int:
    at = addresses_of(folder)
    for name, identity in living(folder).items():
        print(f"{name}: runs, pid {identity.pid}")
    ready = [(at.predict, http_ok(f"{at.predict}/readyz")), *((address, grpc_serves(address)) for address in at.uic)]
    for address, answers in ready:
        print(f"{address}: {'ready' if answers else 'not ready'}")
    return 0 if all(answers for _, answers in ready) else 1


if __name__ == "__main__":
    sys.exit(main())
