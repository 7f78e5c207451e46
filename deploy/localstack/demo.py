"""The demo: real shop events through Kafka into user states, and where each user's actual next purchase ranks.

It starts the whole stack in a folder of its own, replays the histories of the test users, waits until every event is
folded, asks `/predict` for each of them, shows what one state holds, and stops the stack.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import httpx
import numpy as np
import redis

from localstack.catalogue import check_catalogue
from localstack.contents import contents
from localstack.replay import States, expect, moved_to_now, replay, wait_folded
from localstack.shoppers import Shopper, read_events, shoppers
from localstack.stack import Options, Stack, wipe
from localstack.topics import delete_topics, topics
from localstack.wait import until
from localstack.web import open_client
from mimn.bundle import Bundle
from mimn.data.events import Events
from mimn.state.codec import HEADER_BYTES

CANDIDATES = 100
ROWS_SHOWN = 12
PROBES = 200
GROUP = 8
PATIENT = {"X-Request-Deadline-Ms": "1000"}
"""On a busy laptop the default deadline would be missed."""


class DemoFailed(RuntimeError):
    """The system's answers do not agree with the events that were produced."""


@dataclass(frozen=True)
class Answer:
    """What `/predict` said about one shopper."""

    shopper: Shopper
    events: int
    status: str
    rank: int
    """Of the real next item among the candidates; 1 is best, and ties count against it."""
    score: float


@dataclass(frozen=True)
class Outcome:
    """The demo's figures."""

    bundle: str
    state_bytes: int
    """Of one stored state, whatever the history's length."""
    users: int
    events: int
    fold_s: float
    """From the first event produced until every event was folded."""
    candidates: int
    best_tenth: int
    """Users whose real next item is in the best tenth of the candidates."""
    median_rank: float
    short_events: float
    """Mean length of the short histories that were timed."""
    short_p50_ms: float
    long_events: float
    long_p50_ms: float
    requests: int
    """Timed for each of the two lengths."""


def run(options: Options, *, say: Callable[[str], None] = print) -> Outcome:
    """Run the demo, say what happens, and return the figures.

    Raises:
        OtherCatalogue: the bundle is for other items than the demo's.
        DemoFailed: a count that `/predict` reports is not the number of events that were produced.
        StackError, Ended, NotReady: the stack did not start, or did not fold in time.
    """
    began = time.monotonic()
    if options.redis_url or options.bootstrap:  # servers that others use too: names of our own, removed at the end
        name = f"demo-{uuid.uuid4().hex[:8]}"
        options = replace(options, topic=name, prefix=name)
    events = read_events()
    people = shoppers(events, candidates=CANDIDATES)
    known = check_catalogue(options.bundle, events, people)
    wipe(options.folder)
    try:
        with Stack(options, say=say) as stack:
            outcome = _replay_and_ask(stack, events, people, known, say)
    finally:
        if options.redis_url or options.bootstrap:  # once UIC has ended: it recreates its namespace when its topic goes
            _leave_no_trace(options)
    say(f"\nAll of it took {time.monotonic() - began:.0f} s. The stack is stopped.")
    return outcome


def _replay_and_ask(
    stack: Stack, events: Events, people: list[Shopper], known: float, say: Callable[[str], None]
) -> Outcome:
    at, options = stack.addresses, stack.options
    states = States(at.redis_url, options.bundle, prefix=at.prefix, partitions=options.partitions)
    try:
        bundle = states.bundle
        state_bytes = HEADER_BYTES + bundle.layout.stored_bytes
        say(f"\nModel {bundle.name}: a state is at most {state_bytes:,} bytes, however long the history is.")
        recent = moved_to_now(events, people, now_s=time.time())
        days = int(recent.timestamp[0] - events.timestamp[0]) * events.unit_ms // 86_400_000
        say(f"Replaying the histories of {len(people)} real users through Kafka; it knows {known:.0%} of their items.")
        say(f"Their times are moved by {days:,} days, so that the newest is a minute old; order and gaps stay.")
        started = time.monotonic()
        records = replay(at.bootstrap, at.topic, recent, people)
        wait_folded(states, {user: expect(sent) for user, sent in records.items()}, at.uic_admin, within_s=60)
        fold_s = time.monotonic() - started
        produced = sum(len(sent) for sent in records.values())
        say(f"{produced:,} events produced and folded in {fold_s:.1f} s; each user's digest says: once, in order.")
        stored = states.mean_bytes([shopper.user_id for shopper in people])
        say(f"These users' states take {stored:,.0f} bytes on average, because zeros are left out.")
        with client_of(at.predict) as client:
            answers = ask_when_warm(client, people)
            check(answers)
            short, long = people[:GROUP], people[-GROUP:]
            times = probe(client, short, long)
        outcome = figures(bundle, answers, short, long, times, fold_s=fold_s)
        for line in ("", *table(answers), "", *summary(outcome), "", *holds(states, recent, people[-1])):
            say(line)
        return outcome
    finally:
        states.close()


def holds(states: States, events: Events, shopper: Shopper) -> list[str]:
    """What the stored state of one shopper holds; `events` are those that were replayed."""
    state = states.read(shopper.user_id)
    if state is None:
        raise DemoFailed(f"user {shopper.user_id} has no state any more")
    rows = np.arange(shopper.rows.start, shopper.rows.stop)
    return [
        f"What the state of user {shopper.user_id} holds after {state.header.event_count:,} events:",
        *contents(
            states.bundle,
            state,
            items=events.item_id[rows].astype(np.uint64),
            categories=events.category_id[rows].astype(np.uint64),
            now_ms=int(time.time() * 1000),
        ),
    ]


def client_of(url: str) -> httpx.Client:
    """A client of `/predict` that gives every request a long deadline."""
    return open_client(base_url=url, headers=PATIENT)


def ask_when_warm(client: httpx.Client, asked: list[Shopper], *, within_s: float = 20) -> list[Answer]:
    """Ask for every shopper until no state counts as stale: RTP checks only every 2 s how far the log is folded.

    Raises:
        NotReady: some state is still stale at the deadline.
    """
    answers: list[Answer] = []

    def none_stale() -> bool:
        answers[:] = [ask(client, shopper) for shopper in asked]
        return all(answer.status != "stale" for answer in answers)

    until(none_stale, "RTP knows how far the log is folded, and no state is stale", within_s=within_s, every_s=0.2)
    return answers


def ask(client: httpx.Client, shopper: Shopper) -> Answer:
    """Ask for one shopper's scores: of the real next item first, then of the sampled ones.

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
    """Compare the event counts that `/predict` reports with what was produced.

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
    """Seconds that `/predict` takes for short and for long histories, alternating so that both see the same machine."""
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


def figures(
    bundle: Bundle,
    answers: list[Answer],
    short: list[Shopper],
    long: list[Shopper],
    times: tuple[list[float], list[float]],
    *,
    fold_s: float,
) -> Outcome:
    """The ranks over all users, and the latency by length of history; `times` are seconds."""
    candidates = len(answers[0].shopper.others) + 1
    ranks = [answer.rank for answer in answers]
    lengths = [statistics.mean(len(shopper.rows) for shopper in group) for group in (short, long)]
    p50_ms = [statistics.median(taken) * 1000 for taken in times]
    return Outcome(
        bundle=bundle.name,
        state_bytes=HEADER_BYTES + bundle.layout.stored_bytes,
        users=len(answers),
        events=sum(answer.events for answer in answers),
        fold_s=fold_s,
        candidates=candidates,
        best_tenth=sum(rank <= candidates // 10 for rank in ranks),
        median_rank=statistics.median(ranks),
        short_events=lengths[0],
        short_p50_ms=p50_ms[0],
        long_events=lengths[1],
        long_p50_ms=p50_ms[1],
        requests=len(times[0]),
    )


def summary(outcome: Outcome) -> list[str]:
    """The figures in words."""
    return [
        f"All {outcome.users} users: for {outcome.best_tenth} the real next item is in the best tenth of "
        f"{outcome.candidates} candidates (by chance {outcome.users / 10:.0f}).",
        f"Its median rank is {outcome.median_rank:g} (by chance {(outcome.candidates + 1) / 2:g}).",
        f"/predict with {outcome.candidates} candidates, p50 over {outcome.requests} requests each, alternating: "
        f"{outcome.short_p50_ms:.2f} ms for histories of {outcome.short_events:.0f} events, "
        f"{outcome.long_p50_ms:.2f} ms for {outcome.long_events:.0f}.",
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
