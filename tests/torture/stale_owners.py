"""A worker that lost its partition without knowing goes on to commit: nothing of it may reach the store.

In process, the real fold and a real store, a thousand times; and with a real worker that is stopped past its lease
and wakes up with a batch in its hands.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import psutil
import redis

from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from mimn.state import Keys
from support.fake_state_store import FakeStore
from support.fake_topics import FakeTopic
from support.fold_worker import Worker
from support.replayed import assert_exactly_once
from support.world import World
from torture.fleet import producing
from torture.stage import Size, Stage, Tally
from torture.watching import metric, owned, wait_well
from uic.core.commit import Answer, Commit, Refused
from uic.core.status import Phase
from uic.settings import RedisSettings
from uic.store import RedisStore

KEYS = Keys("0011223344556677-0", "test")
USERS = [f"u{i}" for i in range(12)]
PATIENCE_TURNS = 30
"""Six seconds: longer than the interval in which a loser hears of new leases."""


class Heard(RedisStore):
    """The real store; remembers what each commit was answered."""

    def __init__(self, url: str) -> None:
        super().__init__(RedisSettings(url=url), KEYS)
        self.answers: list[tuple[Commit, Answer]] = []

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        answers = super().commit(commits)
        self.answers += zip(commits, answers, strict=True)
        return answers


def stale_commits_by_ended_sessions_write_nothing(stage: Stage, size: Size) -> Tally:
    """1,000 (fast: 100) times: a worker sleeps with a batch in hand, another takes over, the first wakes."""
    trials = 1000 if size == "full" else 100
    numbers = random.Random(stage.seed)
    url = stage.valkey().address
    client = redis.Redis.from_url(url, protocol=2)
    topic = FakeTopic(1)
    stores = [Heard(url), Heard(url)]
    # The fakes' worker takes any store; it is annotated with the fake one.
    stale, heir = (Worker(topic, store, seed=i, max_states=4) for i, store in enumerate(stores))  # type: ignore[arg-type]
    stale.log.assign(0)
    wrong = []
    for trial in range(trials):
        for worker, store in zip((stale, heir), stores, strict=True):
            worker.now = max(stale.now, heir.now)
            store.answers.clear()
        produce(topic, numbers)
        settle(stale, topic)
        produce(topic, numbers)
        in_hand = stale.log.messages(0)
        heir.log.assign(0)
        produce(topic, numbers)
        settle(heir, topic)
        before = dump(client)
        counted = stale.counted("uic_commits_total", outcome="ownership_lost")
        stores[0].answers.clear()
        stale.log.leases_away = True
        stale.log.queued[:0] = in_hand
        for _ in range(PATIENCE_TURNS):
            stale.turn(0.2)
        attempts = stores[0].answers
        if [type(answer) for _, answer in attempts] != [Refused] or stale.phase() is not Phase.OWNERSHIP_LOST:
            wrong.append(f"trial {trial}: {len(attempts)} attempts, {stale.phase()}")
        if stale.counted("uic_commits_total", outcome="ownership_lost") != counted + 1:
            wrong.append(f"trial {trial}: not counted")
        if dump(client) != before:
            wrong.append(f"trial {trial}: the stale owner changed the store")
        again = [answer for commit, _ in stores[1].answers for answer in RedisStore.commit(stores[0], [commit])]
        if not again or not all(isinstance(answer, Refused) for answer in again[:-1]) or dump(client) != before:
            wrong.append(f"trial {trial}: a commit that came again was written again")
        stale.log.revoke(0)
        stale.turn()
        stale.log.leases_away = False
        stale, heir = heir, stale
        stores.reverse()
    settle(stale, topic)
    found = FakeStore()
    front = KEYS.state(0, "")
    found.states = {
        (0, key.decode().removeprefix(front)): value for key, value in dump(client).items() if b":s:" in key
    }
    try:
        assert_exactly_once(found, topic)
    except AssertionError as error:
        wrong.append(f"in the end: {error}")
    for store in stores:
        store.close()
    client.close()
    return Tally(trials, trials, wrong=tuple(wrong))


def produce(topic: FakeTopic, numbers: random.Random) -> None:
    for _ in range(numbers.randint(1, 9)):
        topic.event(numbers.choice(USERS), item=numbers.randint(1, 60))


def settle(worker: Worker, topic: FakeTopic) -> None:
    """Fold to the end of the log."""
    end = topic.partitions[0].end
    worker.until(lambda: any(p.phase is Phase.FOLDING and p.next_offset == end for p in worker.fold.status.partitions))


def dump(client: redis.Redis) -> dict[bytes, bytes]:
    """All states and progress."""
    connection: Any = client  # redis-py types both its clients at once
    names = [name for name in connection.keys("*") if b":s:" in name or name.endswith(b":progress")]
    return dict(zip(names, connection.mget(names), strict=True))


def a_worker_stopped_past_its_lease_writes_nothing(stage: Stage, size: Size) -> Tally:
    """20 times (fast: 2) under load: SIGSTOP in the middle of a commit until the other has all partitions, SIGCONT,
    each has half again. What was refused as a whole, by the store's own count, was counted as refused."""
    trials = 20 if size == "full" else 2
    store = stage.valkey()
    # A commit that is given up for a slow answer is tried again, and then writes nothing, which would be counted below.
    world = stage.world("zombie", store.address, UIC_FOLD__MAX_WAVES="4", UIC_REDIS__TIMEOUT_S="20")
    pair = [world.new_worker(), world.new_worker()]
    for worker in pair:
        worker.spawn()
    for worker in pair:
        worker.wait_ready()
    half = world.topics.partitions // 2
    settled_s = 120 + stage.lease_s
    until(lambda: owned(pair[0]) == owned(pair[1]) == half, "each has half", within_s=settled_s)
    refusals, in_vain = [], []
    with producing(world, 100, a_second=400):
        for trial in range(trials):
            stale, heir = pair if trial % 2 else reversed(pair)
            before, unwritten_before = refused(stale), without_a_write(world)
            world.produce(BACKLOG, 100)
            freeze_in_commit(stale, world)
            until(lambda heir=heir: owned(heir) == 2 * half, "the heir has all", within_s=settled_s)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            stale.thaw()
            until(lambda: owned(pair[0]) == owned(pair[1]) == half, "each has half again", within_s=settled_s)
            refusals.append(refused(stale) - before)
            in_vain.append(without_a_write(world) - unwritten_before)
    took = world.wait_folded(60)
    tally = Tally.of(world.compare(), trials=trials, faults=trials)
    wait_well(pair, 2 * half)
    counted = sum(map(refused, pair))
    unwritten = without_a_write(world)
    figures: dict[str, list[float]] = {
        "refusals counted": [counted],
        "exchanges that wrote nothing, by the store": [unwritten],
        "trials that met one": [sum(refusal > 0 for refusal in refusals)],
        "caught up after the last event, s": [round(took, 2)],
    }
    wrong = []
    if counted > trials * 2 * half:
        wrong.append(f"{counted:.0f} refusals: a duel")
    if unwritten > counted + trials:  # each freeze lies between a look and its write, which then writes nothing
        wrong.append(f"{unwritten} exchanges wrote nothing, and {counted:.0f} commits were counted as refused")
    if not all(in_vain):
        wrong.append(f"in {in_vain.count(0)} of {trials} trials no stale commit was tried")
    return tally + Tally(wrong=tuple(wrong), figures=figures)


BACKLOG = 4000
"""Events that the stale worker has half of in its hands, so that it wakes up with more commits to try."""


def freeze_in_commit(worker: UicWorker, world: World) -> None:
    """SIGSTOP while the worker watches the records of a commit that it has yet to send. There is always one soon: the
    producer goes on.

    Raises:
        NotReady: it was never found there.
    """

    assert worker.child is not None
    process = psutil.Process(worker.child.pid)

    def caught() -> bool:
        worker.freeze()
        asleep = process.status() == psutil.STATUS_STOPPED
        if asleep and watches(process, world) and watches(process, world):  # twice: its EXEC may have been on the way
            return True
        worker.thaw()
        return False

    until(caught, "the worker is stopped in the middle of a commit", within_s=120, every_s=0.002)


def watches(process: psutil.Process, world: World) -> bool:
    """Whether the store has a connection of the process that watches keys."""
    ports = {connection.laddr.port for connection in process.net_connections("tcp")}
    clients = world.client.client_list()
    return any(c["watch"] != "0" and int(c["addr"].rpartition(":")[2]) in ports for c in clients)


def refused(worker: UicWorker) -> float:
    """How often the worker found that another one had written, by a refused commit or by reading progress back."""
    return metric(worker, "uic_commits_total", 'outcome="ownership_lost"')


def without_a_write(world: World) -> int:
    """How many transactions of workers wrote nothing: records were changed after the look, or none was left to write.
    One that writes has an MSET."""
    said = world.client.info("commandstats")
    ended, wrote = (said.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("exec", "mset"))
    return int(ended) - int(wrote)
