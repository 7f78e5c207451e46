"""The demo: real shop behavior through Kafka into user states, and where each user's actual next purchase ranks.

It starts the whole stack in a folder of its own, replays the histories of the test users, waits until every event is
folded, asks `/predict` for each of them, and takes the stack down again.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import httpx
import redis

from localstack.replay import States, expect, moved_to_now, replay, wait_folded
from localstack.shoppers import Shopper, read_events, shoppers
from localstack.stack import Options, Stack, wipe
from localstack.topics import delete_topics, topics
from localstack.wait import until

CANDIDATES = 100
ROWS_SHOWN = 12
PROBES = 200
GROUP = 8
PATIENT = {"X-Request-Deadline-Ms": "1000"}
"""A laptop that is busy with other things must not turn the demo into a lesson about deadlines."""


class DemoFailed(RuntimeError):
    """The system answered something else than what it was fed."""


@dataclass(frozen=True)
class Answer:
    """What `/predict` said about one shopper."""

    shopper: Shopper
    events: int
    status: str
    rank: int
    """Of the real next item among the candidates, 1 is best; ties count against it."""
    score: float


def run(options: Options, *, say: Callable[[str], None] = print) -> None:
    """Run the demo and print what it saw.

    Raises:
        DemoFailed: a count that `/predict` reports is not the number of events that were produced.
        StackError, Ended, NotReady: the stack did not come up, or did not fold in time.
    """
    began = time.monotonic()
    external = options.redis_url or options.bootstrap
    if external:  # servers that others use too: names of our own, removed at the end
        name = f"demo-{uuid.uuid4().hex[:8]}"
        options = replace(options, topic=name, prefix=name)
    wipe(options.folder)
    events = read_events()
    asked = shoppers(events, candidates=CANDIDATES)
    try:
        with Stack(options, say=say) as stack:
            at = stack.addresses
            states = States(at.redis_url, options.bundle, prefix=at.prefix, partitions=options.partitions)
            try:
                started = time.monotonic()
                recent = moved_to_now(events, asked, now_s=time.time())
                days = int(recent.timestamp[0] - events.timestamp[0]) // 86_400
                say(f"\nReplaying the histories of {len(asked)} real users through Kafka ...")
                say(f"Their times are moved by {days:,} days, so that the newest is a minute old; order and gaps stay.")
                records = replay(at.bootstrap, at.topic, recent, asked)
                expected = {user: expect(sent) for user, sent in records.items()}
                wait_folded(states, expected, within_s=60)
                total = sum(len(sent) for sent in records.values())
                took = time.monotonic() - started
                say(f"{total:,} events produced and folded in {took:.1f} s; each user's digest says: once, in order.")
                with client_of(at.predict) as client:
                    answers = ask_when_warm(client, asked)
                    check(answers)
                    short, long = asked[:GROUP], asked[-GROUP:]
                    times = probe(client, short, long)
                say("")
                for line in table(answers):
                    say(line)
                say("")
                for line in summary(answers, short, long, times):
                    say(line)
            finally:
                states.close()
    finally:
        if external:  # once UIC has ended: it writes its namespace again when its topic goes
            _leave_no_trace(options)
    say(f"\nAll of it, from start to here: {time.monotonic() - began:.0f} s. The stack is down again.")


def client_of(url: str) -> httpx.Client:
    """A client of `/predict` that gives every request a long deadline."""
    return httpx.Client(base_url=url, timeout=5, headers=PATIENT)


def ask_when_warm(client: httpx.Client, asked: list[Shopper], *, within_s: float = 20) -> list[Answer]:
    """Ask for every shopper, again until no state counts as stale: RTP looks at how far the log is folded every 2 s.

    Raises:
        NotReady: some state is still stale at the deadline.
    """
    answers: list[Answer] = []

    def none_stale() -> bool:
        answers[:] = [ask(client, shopper) for shopper in asked]
        return all(answer.status != "stale" for answer in answers)

    until(none_stale, "RTP has seen how far the log is folded: no state is stale", within_s=within_s, every_s=0.2)
    return answers


def ask(client: httpx.Client, shopper: Shopper) -> Answer:
    """Ask for one shopper's scores, the real next item in front of the sampled ones.

    Raises:
        DemoFailed: the answer is not 200.
    """
    response = client.post("/predict", json=request(shopper))
    if response.status_code != httpx.codes.OK:
        raise DemoFailed(f"/predict answered {response.status_code}: {response.text[:300]}")
    body = response.json()
    real, *others = body["scores"]
    rank = 1 + sum(score >= real for score in others)
    return Answer(shopper, body["state"]["events"], body["state"]["status"], rank, real)


def request(shopper: Shopper) -> dict[str, object]:
    """The body of `POST /predict`."""
    candidates = [(shopper.item_id, shopper.category_id), *shopper.others]
    return {
        "user_id": shopper.user_id,
        "candidates": [{"item_id": item, "category_id": category} for item, category in candidates],
    }


def check(answers: list[Answer]) -> None:
    """Compare what `/predict` reports with what was produced.

    Raises:
        DemoFailed: they differ; the message says how.
    """
    for answer in answers:
        produced = len(answer.shopper.rows)
        if answer.events != produced or answer.status != "warm":
            raise DemoFailed(
                f"{produced} events of a user were produced; /predict reports {answer.events}, status {answer.status}"
            )


def probe(client: httpx.Client, short: list[Shopper], long: list[Shopper]) -> tuple[list[float], list[float]]:
    """Seconds that `/predict` takes for users with short and with long histories, in turn so that both see the same
    machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(PROBES):
        for group, taken in zip((short, long), times, strict=True):
            body = request(group[i % len(group)])
            began = time.perf_counter()
            client.post("/predict", json=body)
            taken.append(time.perf_counter() - began)
    return times


def table(answers: list[Answer]) -> list[str]:
    """A row a user: the shortest, the middle and the longest histories."""
    each, middle = ROWS_SHOWN // 3, len(answers) // 2
    shown = [*answers[:each], *answers[middle - each // 2 : middle - each // 2 + each], *answers[-each:]]
    head = f"{'user':>8}  {'events folded':>13}  {'state':>5}  {'rank of the real next item':>26}  {'score':>6}"
    rows = [
        f"{answer.shopper.user_id:>8}  {answer.events:>13,}  {answer.status:>5}  "
        f"{answer.rank:>19} of {len(answer.shopper.others) + 1:>3}  {answer.score:>6.3f}"
        for answer in shown
    ]
    return [head, "-" * len(head), *rows]


def summary(
    answers: list[Answer], short: list[Shopper], long: list[Shopper], times: tuple[list[float], list[float]]
) -> list[str]:
    """The ranks over all users, and the latency by length of history."""
    candidates = len(answers[0].shopper.others) + 1
    ranks = [answer.rank for answer in answers]
    near = sum(rank <= candidates // 10 for rank in ranks)
    lengths = [statistics.mean(len(shopper.rows) for shopper in group) for group in (short, long)]
    p50 = [statistics.median(taken) * 1000 for taken in times]
    return [
        f"All {len(answers)} users: for {near} the real next item is in the best tenth of {candidates} candidates "
        f"(by chance {len(answers) / 10:.0f}).",
        f"Its median rank is {statistics.median(ranks):g} (by chance {(candidates + 1) / 2:g}).",
        f"/predict with {candidates} candidates, p50 over {len(times[0])} requests each, in turn: "
        f"{p50[0]:.2f} ms for histories of {lengths[0]:.0f} events, {p50[1]:.2f} ms for {lengths[1]:.0f}.",
    ]


def _leave_no_trace(options: Options) -> None:
    """Remove the demo's keys and topics from servers that it does not own."""
    if options.redis_url:
        client = redis.Redis.from_url(options.redis_url, protocol=2, socket_timeout=10)
        for key in client.scan_iter(match=f"{options.prefix}:*", count=1000):
            client.delete(key)
        client.close()
    if options.bootstrap:
        delete_topics(options.bootstrap, [topic.name for topic in topics(options.topic, options.partitions)])
