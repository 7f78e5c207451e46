"""The store dies, forgets, is emptied or damaged; UIC must bring it back to what the log says, and no operator helps.

Each fault comes under load, and with the load stopped before it: then no commit meets the damage, and only reading back
finds it. Some partitions are idle in both cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import redis
from redis.sentinel import Sentinel

from judge import Differs
from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import UicWorker
from localstack.valkey import Valkey
from localstack.wait import until
from mimn.state import partition_of
from support.sentinel_node import SentinelNode
from support.world import World
from torture.fleet import producing
from torture.stage import Size, Stage, Tally, side_by_side
from torture.watching import metric, readiness, wait_well

N = 8
IDLE = (0, 5)
"""Partitions that get no event once the load begins."""
USERS = [f"user-{i}" for i in range(60)]
BUSY = [user for user in USERS if partition_of(user.encode(), N) not in IDLE]
WITHIN_S = 30
LANES = 4


@dataclass
class Scene:
    """A world on a store that may be harmed."""

    world: World
    store: Valkey
    heir: Valkey | None = None
    """The replica."""
    sentinel: SentinelNode | None = None


def killed_and_the_end_of_its_file_lost(scene: Scene) -> None:
    """SIGKILL with AOF everysec, and what a power cut takes: the end of the file."""
    scene.store.kill()
    (log,) = (scene.store.folder / "appendonlydir").glob("*.incr.aof")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size * 4 // 5)
    scene.store.start()


def killed_with_snapshots_only(scene: Scene) -> None:
    """SIGKILL without AOF: it comes back as of the last snapshot (see `_remember`)."""
    scene.store.kill()
    scene.store.start()


def a_lagging_replica_is_promoted(scene: Scene) -> None:
    """The primary is lost. UIC says so, until Sentinel names a replica that had stopped following it (see
    `_remember`)."""
    scene.store.kill()
    (worker,) = scene.world.workers
    until(lambda: _store_unavailable(worker), "UIC is ready, and says that the store is away", within_s=60)
    _name_the_heir(scene)


def a_primary_is_replaced_and_goes_on_answering(scene: Scene) -> None:
    """Sentinel names the replica, which had stopped following; the old primary still takes writes."""
    _name_the_heir(scene)
    scene.world.client.connection_pool.get_master_address()  # the judge leaves the old one


def _store_unavailable(worker: UicWorker) -> bool:
    status, said = readiness(worker)
    return status == 200 and "store_unavailable" in said


def _name_the_heir(scene: Scene) -> None:
    if scene.sentinel is None or scene.heir is None:
        raise AssertionError("no replica was started")
    with redis.Redis.from_url(scene.sentinel.address, protocol=2) as client:
        client.execute_command("SENTINEL REMOVE", "states")
        client.execute_command("SENTINEL MONITOR", "states", LOOPBACK, scene.heir.port, 1)


def everything_flushed(scene: Scene) -> None:
    """FLUSHALL."""
    scene.world.client.flushall()


def one_progress_key_deleted(scene: Scene) -> None:
    """Of a partition that is idle and of one that is not; the states stay."""
    for p in (IDLE[0], next(p for p in range(N) if p not in IDLE)):
        assert scene.world.client.delete(scene.world.keys.progress(p)) == 1


def one_state_corrupted(scene: Scene) -> None:
    """A flipped byte in a state that UIC has in memory: the user's next event repairs it, here during the load."""
    user = BUSY[0]
    key = scene.world.keys.state(partition_of(user.encode(), N), user)
    value = bytearray(scene.world.client.get(key))
    value[len(value) // 2] ^= 0x40
    scene.world.client.set(key, bytes(value))
    scene.world.send(user).get(timeout=60)


Fault = Callable[[Scene], None]
FAULTS: tuple[Fault, ...] = (
    killed_and_the_end_of_its_file_lost,
    killed_with_snapshots_only,
    a_lagging_replica_is_promoted,
    a_primary_is_replaced_and_goes_on_answering,
    everything_flushed,
    one_progress_key_deleted,
    one_state_corrupted,
)


def the_store_dies_forgets_or_is_damaged(stage: Stage, size: Size) -> Tally:
    """Seven faults, under load and idle; in full three times each. Back to the golden states within 30 s of the fault;
    then UIC says that all is well, and has counted that the store had lost writes."""
    rounds = 3 if size == "full" else 1
    parts = [(fault, loaded, n) for n in range(rounds) for fault in FAULTS for loaded in (True, False)]
    return side_by_side(partial(_trial, stage), parts, LANES)


def _trial(stage: Stage, part: tuple[Fault, bool, int]) -> Tally:
    fault, loaded, n = part
    name = f"{fault.__name__}-{'loaded' if loaded else 'idle'}-{n}"
    with ExitStack() as ending:
        scene = _scene(stage, fault, name, ending)
        world = scene.world
        ending.callback(world.close)
        world.produce(600, USERS)
        worker = world.worker()
        world.wait_folded()
        if loaded:
            with producing(world, BUSY, a_second=200) as produced:
                until(lambda: produced() >= 200, "the load has begun", within_s=60)
                _remember(scene, fault)
                stored, known = produced(), _folded(world)
                until(
                    lambda: produced() >= stored + 200 and _folded(world) > known,
                    "there is something to forget",
                    within_s=60,
                )
                fault(scene)
                began, at = time.monotonic(), produced()
                until(lambda: produced() >= at + 200, "the load goes on", within_s=60)
        else:
            _remember(scene, fault)
            world.produce(300, BUSY)
            world.wait_folded()
            fault(scene)
            began = time.monotonic()
        try:
            world.wait_folded(WITHIN_S - (time.monotonic() - began))
        except Differs as late:
            return Tally.failed(late, of=name)
        took_s = time.monotonic() - began
        wait_well([worker], N)
        lost = metric(worker, "uic_rewinds_total")
        wrong = (f"{name}: {lost:.0f} rewinds counted",) if (lost > 0) is (fault is one_state_corrupted) else ()
        figures = {f"back after the fault, s ({fault.__name__})": took_s}
        return Tally.of(world.compare(), figures=figures) + Tally(wrong=wrong)


def _folded(world: World) -> int:
    """How many records the store's progress covers."""
    return sum(world.positions().values())


def _scene(stage: Stage, fault: Fault, name: str, ending: ExitStack) -> Scene:
    aof = "everysec" if fault is killed_and_the_end_of_its_file_lost else "off"
    store = ending.enter_context(Valkey(stage.folder / f"{name}-store", appendfsync=aof))
    if fault not in (a_lagging_replica_is_promoted, a_primary_is_replaced_and_goes_on_answering):
        return Scene(stage.world(name, store.address, partitions=N), store)
    heir = ending.enter_context(Valkey(stage.folder / f"{name}-replica", appendfsync="off"))
    with redis.Redis.from_url(heir.address, protocol=2) as client:
        client.execute_command("REPLICAOF", LOOPBACK, store.port)
    sentinel = ending.enter_context(SentinelNode(stage.folder / f"{name}-sentinel", store))
    watcher: Sentinel = Sentinel([(LOOPBACK, sentinel.port)])  # type: ignore[no-untyped-call]  # redis-py leaves it bare
    told = {
        "UIC_REDIS__MODE": "sentinel",
        "UIC_REDIS__SENTINELS": f"{LOOPBACK}:{sentinel.port}",
        "UIC_REDIS__SENTINEL_SERVICE": "states",
    }
    client = watcher.master_for("states", protocol=2, socket_timeout=20)  # type: ignore[no-untyped-call]  # as above
    return Scene(stage.world(name, store.address, partitions=N, client=client, **told), store, heir, sentinel)


def _remember(scene: Scene, fault: Fault) -> None:
    """From here on the store has something to forget."""
    if fault is killed_with_snapshots_only:
        scene.world.client.save()
    elif scene.heir is not None:
        with redis.Redis.from_url(scene.heir.address, protocol=2) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up", "it follows", within_s=60)
            client.execute_command("REPLICAOF", "NO", "ONE")
