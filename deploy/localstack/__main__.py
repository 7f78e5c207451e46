"""Start, look at and stop the whole system on this machine, or run the demo."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import redis
from kafka.errors import KafkaError

from localstack import demo
from localstack.catalogue import OtherCatalogue, check_catalogue
from localstack.dev_broker import broker_answers
from localstack.example import Example, of_bundle, of_shopper
from localstack.process import Ended
from localstack.replay import PartitionsBroken, States, expect, moved_to_now, replay, wait_folded
from localstack.shoppers import Shopper, read_events, shoppers
from localstack.signals import signals_unwind
from localstack.stack import (
    BUNDLE,
    CHEAPER_BUNDLE,
    DOCUMENTED_PORTS,
    FOLDER,
    Addresses,
    Options,
    Ports,
    Stack,
    StackError,
    addresses_of,
    command,
    living,
    spawned,
    take_down,
    wipe,
)
from localstack.topics import EVENTS, PARTITIONS, TopicMismatch, create_topics, topics
from localstack.uic_and_rtp import UIC_COMMAND, Surroundings, detail_of, grpc_serves, http_ok, uic_variables
from localstack.wait import NotReady, until
from mimn.bundle import BundleError, load_bundle
from mimn.data.events import DataError, Events
from mimn.options import whole_number
from mimn.release import CorruptRecord, decode_record, record_key
from mimn.state import namespace
from mimn.state.codec import HEADER_BYTES
from process.addresses import check_addresses

EXPECTED = (
    StackError,
    Ended,
    NotReady,
    PartitionsBroken,
    TopicMismatch,
    OtherCatalogue,
    demo.DemoFailed,
    BundleError,
    DataError,
    KafkaError,
)
"""Failures whose message is for the user; any other is a bug and shows its traceback."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m localstack") -> int:
    """Run one command; the exit status is 0, or 1 with a line on stderr that says what to change."""
    given = parser(prog).parse_args(arguments)
    try:
        with signals_unwind():
            return _run(given)
    except EXPECTED as failure:
        print(f"{given.command}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser(prog: str) -> argparse.ArgumentParser:
    """The commands and their options."""
    root = argparse.ArgumentParser(prog=prog, description=__doc__)
    text = f"data, logs and pids of the stack (default {FOLDER})"
    root.add_argument("--folder", type=Path, default=FOLDER, help=text)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help=text)
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout, and progress on stderr"
    )
    bundle = argparse.ArgumentParser(add_help=False)
    bundle.add_argument("--bundle", type=Path, default=BUNDLE, help=f"the model's directory (default {BUNDLE})")
    commands = root.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=parents)

    add(
        "demo", "replay real shop events, score them, print the results; nothing keeps running", folder, bundle, as_json
    )
    up = add("up", "start the stack and keep it running", folder, bundle, as_json)
    up.add_argument("--uic", type=whole_number(1), default=1, metavar="N", help="UIC workers (default 1)")
    text = "RTP processes on one socket (default 1)"
    up.add_argument("--rtp", type=whole_number(1), default=1, metavar="N", help=text)
    up.add_argument("--empty", action="store_true", help="do not replay the demo's histories into a new topic")
    add("down", "stop every process of the stack, by pid; data stays", folder, as_json)
    add("status", "what runs, and where; exit status 1 unless every member runs and is ready", folder, as_json)
    add("doctor", "`ctr doctor` on the running stack, or on what the UIC_... variables name", folder)
    add("wipe", "remove the data of a stack that does not run", folder)
    create = add("topics", "create the topics that are missing on any Kafka")
    create.add_argument("--bootstrap-servers", type=_brokers, required=True, help="host:port[,host:port]")
    create.add_argument("--topic", default=EVENTS)
    create.add_argument("--partitions", type=int, default=PARTITIONS)
    create.add_argument("--replication", type=int, default=-1, help="copies of a partition (default: the broker's)")
    return root


def _brokers(text: str) -> str:
    try:
        return check_addresses(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(given: argparse.Namespace) -> int:
    match given.command:
        case "demo":
            return _demo(given)
        case "up":
            return _up(given)
        case "down":
            ended = take_down(given.folder, say=_progress(given))
            if given.json:
                print(json.dumps({"folder": str(given.folder), "ended": ended}))
            else:
                print("The stack is down; its data stays." if ended else f"Nothing runs in {given.folder}.")
        case "status":
            return _status(given.folder, as_json=given.json)
        case "doctor":
            return _doctor(given.folder)
        case "wipe":
            wipe(given.folder)
        case "topics":
            at: str = given.bootstrap_servers
            unmet = f"the Kafka of --bootstrap-servers ({at}) does not answer: start it, or correct the option"
            until(lambda: broker_answers(at), "the Kafka answers", within_s=10, unmet=unmet)
            wanted = topics(given.topic, given.partitions)
            made = create_topics(at, wanted, replication=given.replication)
            for topic in wanted:
                what = "created" if topic.name in made else "existed already"
                print(f"{topic.name}: {topic.partitions} partitions, {what}")
    return 0


def _progress(given: argparse.Namespace) -> partial[None]:
    """Where progress goes: stdout, or stderr when stdout is for JSON."""
    return partial(print, file=sys.stderr if given.json else sys.stdout, flush=True)


def _demo(given: argparse.Namespace) -> int:
    options = replace(Options.from_environment(), folder=given.folder / "demo", bundle=given.bundle)
    outcome = demo.run(options, say=_progress(given))
    if given.json:
        print(json.dumps(asdict(outcome)))
        return 0
    if given.bundle == BUNDLE:
        print(cheaper())
    up, down = command("up", given.folder), command("down", given.folder)
    print(f"`{up}` starts a stack like this one, with these users, and keeps it running; `{down}` stops it.")
    return 0


def cheaper() -> str:
    """What to serve instead of the default model to save memory."""
    size = HEADER_BYTES + load_bundle(CHEAPER_BUNDLE).layout.stored_bytes
    return (
        f"The cheaper choice is sum pooling with a sketch (--bundle {CHEAPER_BUNDLE}): at most {size:,} bytes a user\n"
        "and less to compute, but a little less accurate."
    )


def _up(given: argparse.Namespace) -> int:
    options = replace(
        Options.from_environment(),
        folder=given.folder,
        bundle=given.bundle,
        uic_workers=given.uic,
        rtp_processes=given.rtp,
        ports=Ports.usual(),
        outlives=True,
    )
    say = _progress(given)
    replayed = None if given.empty else _demo_events(options.bundle)
    stack = Stack(options, say=say)
    at = stack.start()
    try:
        if replayed is not None and options.topic in stack.created_topics:
            _fold_demo(at, options, *replayed, say=say)
        for line in (*elsewhere(at, options), *serving_elsewhere(at, options)):
            say(line)
        if given.json:
            print(json.dumps(asdict(at)), flush=True)
        else:
            bundle = load_bundle(options.bundle)
            shown = of_bundle(bundle, at.predict) if replayed is None else of_shopper(replayed[1][-1])
            print(how_to_use(at, shown, options.folder), flush=True)
    except BaseException:
        stack.stop()
        raise
    return 0


def _demo_events(bundle: Path) -> tuple[Events, list[Shopper]]:
    """The demo's events and users, which the bundle must know."""
    events = read_events()
    people = shoppers(events, candidates=3)
    check_catalogue(bundle, events, people)
    return events, people


def _fold_demo(
    at: Addresses, options: Options, events: Events, people: list[Shopper], *, say: Callable[[str], None]
) -> None:
    """Replay the users' histories, and wait until they are folded and RTP knows it."""
    recent = moved_to_now(events, people, now_s=time.time())
    records = replay(at.bootstrap, at.topic, recent, people)
    states = States(at.redis_url, options.bundle, prefix=at.prefix, partitions=options.partitions)
    wait_folded(states, {user: expect(sent) for user, sent in records.items()}, at.uic_admin, within_s=60)
    with demo.client_of(at.predict) as client:
        demo.ask_when_warm(client, people)
    folded = sum(map(len, records.values()))
    say(f"{folded:,} events of {len(people)} shoppers are folded, their times moved to the present.\n")
    for line in demo.holds(states, recent, people[-1]):
        say(line)
    states.close()


def elsewhere(at: Addresses, options: Options) -> list[str]:
    """Where each member is whose usual port another program has."""
    members = {
        "rtp": ("RTP", [at.predict]),
        "rtp_admin": ("RTP's admin port", at.rtp_admin),
        "uic_grpc": ("UIC", at.uic),
        "uic_admin": ("UIC's admin port", at.uic_admin),
        "redis": ("Valkey", [] if options.redis_url else [at.redis_url]),
        "kafka": ("the broker", [] if options.bootstrap else [at.bootstrap]),
    }
    usual = asdict(DOCUMENTED_PORTS)
    taken = [name for name, port in asdict(options.ports).items() if port == 0 and members[name][1]]
    return [f"port {usual[name]} is taken: {members[name][0]} is at {members[name][1][0]}" for name in taken]


def serving_elsewhere(at: Addresses, options: Options) -> list[str]:
    """That users are answered from a namespace that no member folds, because a rollout has replaced the bundle, and how
    a worker of it is started."""
    try:
        with redis.Redis.from_url(at.redis_url, protocol=2, socket_timeout=10) as client:
            stored = client.get(record_key(at.prefix))
        serving = decode_record(stored).serving if isinstance(stored, bytes) else None
    except (redis.RedisError, CorruptRecord) as error:
        return [f"the rollout record, which says what serves, cannot be read ({error}): docs/runbooks/roll-back.md"]
    if serving is None:
        return []
    ours = namespace(load_bundle(options.bundle).manifest.fingerprint, options.generation)
    if serving.namespace == ours:
        return []
    path = options.bundle.resolve().parents[1] / serving.name / serving.version
    surroundings = replace(surroundings_of(at), bundle=path, generation=serving.generation)
    told = uic_variables(surroundings, grpc_port=0, admin_port=0)
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in told.items())
    return [
        f"the rollout record answers users by {serving.bundle}, from namespace {serving.namespace}. UIC here folds "
        f"{ours}, so those states grow stale unless a worker of theirs runs beside it:",
        f"  {assignments} {shlex.quote(sys.executable)} {' '.join(UIC_COMMAND)}",
    ]


def how_to_use(at: Addresses, example: Example, folder: Path) -> str:
    """Commands about the example that work when pasted into a shell in the folder where `up` ran."""
    fields = {"user_id": example.request["user_id"], "item_id": example.item_id, "category_id": example.category_id}
    event = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    metrics = ", ".join(f"{url}/metrics" for url in (*at.rtp_admin, *at.uic_admin))
    body = shlex.quote(json.dumps(example.request))
    return f"""
# Score {example.scored}:

curl -s --noproxy '*' {at.predict}/predict -H 'content-type: application/json' -d {body}

# Send the event {example.sent}:

{shlex.quote(sys.executable)} - <<'EOF'
import time
from ctr.event.v1.behavior_event_pb2 import {example.action}, BehaviorEvent
from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers="{at.bootstrap}", acks="all")
event = BehaviorEvent({event}, action={example.action})
event.event_time = int(time.time() * 1000)
print(producer.send("{at.topic}", key=event.user_id.encode(), value=event.SerializeToString()).get(timeout=10))
producer.close()
EOF

# metrics  {metrics}
# API      {at.predict}/docs
# logs     {folder / "logs"}
# stop     {command("down", folder)}"""


_NAMES_A_SYSTEM = re.compile(
    r"UIC_(BUNDLE(__PATH)?|KAFKA(__BOOTSTRAP_SERVERS)?|REDIS(__(URL|NODES|SENTINELS))?|(GRPC|ADMIN)(__(HOST|PORT))?)"
)
"""Variables that say which system is meant. Where one is set, nothing of the stack takes its place or stands beside it:
a command would work on a system that was not named, or on parts of two."""


def tool_variables(folder: Path, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The `UIC_...` variables that `env` lacks, so that UIC's tools work on the stack of `folder`.

    None when it does not run, or when `env` names a system.
    """
    given = {name.upper() for name in env}  # as the settings are read
    if any(map(_NAMES_A_SYSTEM.fullmatch, given)) or not living(folder):
        return {}
    at = addresses_of(folder)
    # The tools serve nothing; they call the first worker.
    ports = [urlsplit(url).port or 0 for url in (f"//{at.uic[0]}", at.uic_admin[0])] if at.uic else [0, 0]
    told = uic_variables(surroundings_of(at), grpc_port=ports[0], admin_port=ports[1])
    return {name: value for name, value in told.items() if name not in given}


def surroundings_of(at: Addresses) -> Surroundings:
    """What the services of a running stack share."""
    return Surroundings(
        bootstrap=at.bootstrap,
        redis_url=at.redis_url,
        bundle=Path(at.bundle),
        topic=at.topic,
        partitions=at.partitions,
        prefix=at.prefix,
    )


def _doctor(folder: Path) -> int:
    environment = {**os.environ, **tool_variables(folder)}
    return subprocess.run([sys.executable, "-m", "uic", "doctor"], env=environment, check=False).returncode


def _status(folder: Path, *, as_json: bool) -> int:
    at = addresses_of(folder)
    members = spawned(folder)
    running = {name: identity.pid for name, identity in members.items() if identity.alive()}
    ended = [name for name in members if name not in running]
    ready = {at.predict: http_ok(f"{at.predict}/readyz")} | {address: grpc_serves(address) for address in at.uic}
    about = detail_of(f"{at.predict}/readyz")
    if as_json:
        view = {"running": running, "ended": ended, "ready": ready, "detail": about, "addresses": asdict(at)}
        print(json.dumps(view))
    else:
        for name in members:
            print(f"{name}: runs, pid {running[name]}" if name in running else f"{name}: has ended")
        for address, answers in ready.items():
            said = f": {about}" if about and address == at.predict else ""
            print(f"{address}: {'ready' if answers else 'not ready'}{said}")
    if ended:
        down, up = (f"`{command(verb, folder)}`" for verb in ("down", "up"))
        print(
            f"status: ended, and not by {down}: {', '.join(ended)}. The logs are in {folder / 'logs'}; {down} and {up} "
            "start the stack again, with its data",
            file=sys.stderr,
        )
    return 0 if all(ready.values()) and not ended else 1


if __name__ == "__main__":
    sys.exit(main())
