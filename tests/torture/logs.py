"""Brokers die, the log is another one under the same name, or has lost its beginning."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from functools import partial
from itertools import count

from kafka import KafkaAdminClient, TopicPartition

from localstack.topics import Topic, create_topics
from localstack.uic_and_rtp import UicWorker
from localstack.wait import until
from support.uic_running import delete_and_wait
from support.world import World
from torture.fleet import producing
from torture.stage import Size, Stage, Tally, side_by_side
from torture.watching import metric, owned, partitions
from uic.tools import partitions as operator

N = 4


def brokers_that_die_or_restart_in_turn_cost_no_event(stage: Stage, size: Size) -> Tally:
    """Of three brokers, one is killed, the next one stopped, and so on, six times (fast: once), while two workers fold
    and events come; the others take over, and the broker comes back."""
    broker = stage.own_kafka(nodes=3)
    world = stage.world("brokers", stage.valkey().address, partitions=N, bootstrap=broker.address)
    workers = [world.worker(), world.worker()]
    until(lambda: sum(map(owned, workers)) == N, "every partition has an owner", within_s=60)
    tally = Tally()
    for n in range(6 if size == "full" else 1):
        with producing(world, 100, a_second=200) as produced:
            (broker.stop if n % 2 else broker.kill)(n % 3 + 1)
            began = time.monotonic()
            at = produced()
            until(lambda at=at: produced() > at + 600, "the load goes on", within_s=120)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            broker.start()
            at = produced()
            until(lambda at=at: produced() > at + 200, "the load goes on", within_s=120)  # type: ignore[misc]  # as above
        world.forget_log()  # and the clients that still try the broker as it was
        world.wait_folded(120)
        tally += Tally.of(world.compare(), figures={"from the fault to all folded, s": time.monotonic() - began})
        until(lambda: sum(map(owned, workers)) == N, "every partition has an owner", within_s=60)
    return tally


def another_log_under_the_same_name_is_never_folded_into_the_old_states(stage: Stage, size: Size) -> Tally:
    """The topic is deleted and made again, shorter and longer than it was, also while UIC sleeps: every partition stops
    by name, no state has changed, and after an operator's `rebuild` the states are the new log's."""
    rounds = 3 if size == "full" else 1
    url = stage.valkey().address
    parts = [(longer, asleep, n) for n in range(rounds) for longer in (True, False) for asleep in (True, False)]
    return side_by_side(partial(_recreated, stage, url), parts, 2)


def _recreated(stage: Stage, url: str, part: tuple[bool, bool, int]) -> Tally:
    longer, asleep, n = part
    name = f"recreated-{'longer' if longer else 'shorter'}-{'asleep' if asleep else 'awake'}-{n}"
    # UIC sleeps for less than its lease.
    with stage.passing_world(name, url, partitions=N, UIC_FOLD__LEASE_S="60") as world:
        worker = world.worker()
        world.produce(200)
        world.wait_folded()
        return make_anew(world, [worker], 600 if longer else 60, asleep=asleep)


def make_anew(world: World, workers: Sequence[UicWorker], n: int, *, asleep: bool = False) -> Tally:
    """Delete the topic and make it again with `n` events, while the workers fold, or are asleep. All that was folded
    is what it was, until an operator decides `rebuild`."""
    old = world.log()
    for worker in workers if asleep else ():
        worker.freeze()
    delete_and_wait(world.topics.bootstrap, world.topics.events)
    create_topics(world.topics.bootstrap, [Topic(world.topics.events, world.topics.partitions)])
    world.forget_log()
    world.produce(n)
    for worker in workers:
        worker.thaw()
    try:
        until(lambda: _broken(workers) == world.topics.partitions, "every partition stops", within_s=60)
    except TimeoutError as late:
        unmoved = Tally.of(world.judge.compare(old, world.stored(), snapshot=True), trials=0, faults=0)
        return Tally.failed(late, of=str([partitions(worker) for worker in workers])) + unmoved
    tally = Tally.of(world.judge.compare(old, world.stored(), snapshot=True))
    for worker in workers:
        until(lambda worker=worker: not worker.ready(), "health follows", within_s=60)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        for p in partitions(worker):
            said = io.StringIO()
            if "broken_log" not in p["reason"]:
                tally += Tally(wrong=(f"it is not said: {p}",))
            if operator.main("rebuild", ["--partition", str(p["partition"]), "--admin", worker.admin_url], said):
                tally += Tally(wrong=(f"rebuild failed: {said.getvalue()}",))
    world.wait_folded(rebuilt=True)
    return tally + Tally.of(world.compare(rebuilt=True), trials=0, faults=0)


def _broken(workers: Sequence[UicWorker]) -> int:
    """How many partitions have stopped because their log is another one."""
    return sum(p["phase"] == "broken" for worker in workers for p in partitions(worker))


def what_retention_removed_is_a_gap_and_nothing_else_is_missing(stage: Stage, size: Size) -> Tally:
    """Records are removed that were not folded, while the worker is dead, and while it lives but sleeps: five times
    each (fast: once). Gaps are counted and kept in progress, touched states are `partial`, all else is folded."""
    trials = [(asleep, n) for n in range(5 if size == "full" else 1) for asleep in (False, True)]
    return side_by_side(partial(_gap, stage, stage.valkey().address), trials, 2)


def _gap(stage: Stage, url: str, part: tuple[bool, int]) -> Tally:
    asleep, n = part
    name = f"retention-{'asleep' if asleep else 'dead'}-{n}"
    # The sleeper wakes with its lease, and finds its position gone; the dead one's end is waited for.
    lease_s = "60" if asleep else "2"
    with stage.passing_world(name, url, partitions=N, UIC_FOLD__LEASE_S=lease_s) as world:
        heir = worker = world.worker()
        world.produce(200)
        world.wait_folded()
        if asleep:
            worker.freeze()
            # By looks, not by the clock: the broker, too, needs that time, and a machine that stalls gives it none.
            looks = count()
            until(lambda: next(looks) > 50, "its open fetch has been answered", within_s=60)
        else:
            worker.kill()
        world.produce(400)
        log = world.log()
        at = {p: progress.next_offset for p in range(N) if (progress := world.progress(p)) is not None}
        starts = {p: offset + 1 + world.random.randrange(20) for p, offset in at.items()}
        world.dead = {(p, r.offset) for p in range(N) for r in log.records[p] if at[p] <= r.offset < starts[p]}
        admin = KafkaAdminClient(bootstrap_servers=world.topics.bootstrap)
        admin.delete_records({TopicPartition(world.topics.events, p): offset for p, offset in starts.items()})
        admin.close()
        if asleep:
            worker.thaw()
        else:
            heir = world.worker()
        world.wait_folded(60, since=starts)
        gaps = metric(heir, "uic_data_gaps_total")
        wrong = [] if gaps == N else [f"{name}: {gaps:.0f} gaps counted, not {N}"]
        for p, start in starts.items():
            progress = world.progress(p)
            if progress is None or (progress.gaps, progress.gap_end) != (1, start):
                wrong.append(f"{name}: progress of partition {p} does not keep the gap up to {start}: {progress}")
        return Tally.of(world.compare(since=starts)) + Tally(wrong=tuple(wrong))
