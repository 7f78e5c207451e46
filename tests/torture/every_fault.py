"""Three workers, a broker and a store meet every fault in one run, and a topic that is another one in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from kafka import KafkaAdminClient

from localstack.wait import NotReady, until
from support.world import World
from torture.fleet import MOST, Fleet, let_pass, producing
from torture.logs import make_anew
from torture.stage import Size, Stage, Tally
from torture.watching import wait_stopped, wait_well

N = 16
MOVES_WITHIN_S = 30
USERS = 200
Fault = tuple[str, Callable[[], object]]


def workers_go_on_after_each_fault(stage: Stage, size: Size) -> Tally:
    """Two rounds under load (fast: one) of joins, kills, freezes of one and of all, the only broker stopped, killed and
    frozen, the store restarted and killed, and churn drawn from the stage's seed. 30 s after a fault has ended no
    partition stands still. After each round the states are the log's; then the topic is made anew, and workers go on
    after an operator's `rebuild`. At last the topic gets more partitions: all workers stop by name."""
    rounds, away_s, churn, a_second = (2, 20, 20, 600) if size == "full" else (1, 2, 3, 200)
    broker, store = stage.own_kafka(), stage.valkey(appendfsync="always")
    world = stage.world("fleet", store.address, partitions=N, bootstrap=broker.address, UIC_FOLD__MAX_WAVES="16")
    fleet = Fleet(world, stage.lease_s)
    faults: tuple[Fault, ...] = (
        ("three join", lambda: fleet.scale(MOST)),
        ("one is killed", fleet.kill),
        ("one joins", lambda: fleet.scale(MOST)),
        ("one is frozen", lambda: fleet.freeze(least=1.5)),
        ("all are frozen", fleet.freeze_all),
        ("one leaves", lambda: fleet.scale(MOST)),
        ("the broker is stopped", partial(_away, broker.stop, away_s, broker.start)),
        ("the broker is killed", partial(_away, broker.kill, away_s, broker.start)),
        ("the broker is frozen", partial(_away, broker.freeze, away_s, broker.thaw)),
        ("the store is restarted", store.restart),
        ("the store is killed", partial(_away, store.kill, away_s, store.start)),
        ("churn", lambda: fleet.suffer(churn)),
    )
    tally = Tally()
    for n in range(rounds):
        with producing(world, USERS, a_second=a_second):
            tally += _all_move_after(world, faults)
        world.wait_folded(120, rebuilt=n > 0)
        wait_well(fleet.running, N)
        tally += Tally.of(world.compare(rebuilt=n > 0), faults=churn - 1)
        tally += make_anew(world, fleet.running, 600)
    with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
        admin.create_partitions({world.topics.events: N + 1})
    wait_stopped(fleet.running, "partition_count")
    return tally + Tally.of(world.compare(snapshot=True, rebuilt=True))


def _away(harm: Callable[[], None], seconds: float, mend: Callable[[], object]) -> None:
    harm()
    let_pass(seconds)
    mend()


def _all_move_after(world: World, faults: Iterable[Fault]) -> Tally:
    """What stands still after any of the faults: progress is where it was when the fault ended, and the log goes on."""
    tally = Tally()
    for what, fault in faults:
        fault()
        ended, at, ends = time.monotonic(), world.positions(), world.log().ends

        def still(at: dict[int, int] = at, ends: dict[int, int] = ends) -> list[int]:
            now = world.positions()
            return [p for p in range(N) if now.get(p, 0) <= at.get(p, 0) and now.get(p, 0) < ends[p]]

        left_s = ended + MOVES_WITHIN_S - time.monotonic()
        with suppress(NotReady):
            until(lambda still=still: not still(), what, within_s=left_s, every_s=0.1)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        took_s = round(time.monotonic() - ended, 2)
        wrong = (f"{MOVES_WITHIN_S} s after: {what}: partitions {found} stand still",) if (found := still()) else ()
        tally += Tally(faults=1, wrong=wrong, figures={f"all partitions move after {what}, s": [took_s]})
    return tally
