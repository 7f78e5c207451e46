"""Backfill, snapshot, restore and drop are killed by SIGKILL just after each of their steps, again and again.

After each kill what counts in the store must be the fold of as much of the log as its progress says; the next run of
the same command must finish, and UIC must go on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mimn.state import namespace
from support.bulk_running import KILLED, finished, killed
from support.world import World
from torture.stage import Size, Stage, Tally, side_by_side

LANES = 3
N = 4
EVENTS = 400
BACKFILL = ("job", "fold", "seal", "claim", "states", "hand_over")
CREATE = ("partition", "seal")
RESTORE = ("claim", "states", "hand_over")
DROP = ("progress", "slice", "keys")


def bulk_jobs_killed_at_each_step_are_finished_by_the_next_run(stage: Stage, size: Size) -> Tally:
    """20 kills after each step of a backfill, a snapshot, a restore and a drop (1 in the fast size)."""
    rounds = 20 if size == "full" else 1
    store = stage.valkey()
    parts = [
        *((backfill, step) for step in BACKFILL),
        *((snapshot, step) for step in (*CREATE, *RESTORE)),
        *((drop, step) for step in DROP),
    ]
    trials = [(n, play, step) for n in range(rounds) for play, step in parts]
    return side_by_side(partial(_trial, stage, store.address), trials, LANES)


def _trial(stage: Stage, url: str, trial: tuple[int, Callable[[World, str, int], Tally], str]) -> Tally:
    n, play, step = trial
    with stage.passing_world(f"bulk-{play.__name__}-{step}-{n}", url, partitions=N) as world:
        world.random.seed(n)
        world.produce(EVENTS)
        tally = play(world, step, n)
        world.produce(50)
        worker = world.worker()
        world.wait_folded(60)
        worker.stop()
        return tally


def backfill(world: World, step: str, n: int) -> Tally:
    """Kill a backfill after `step`, in one of the partitions, and run it again."""
    told = dict(world.new_worker().environment())
    work = ("--work", str(world.folder / "work"), "--workers", "1")
    once = step in ("job", "fold", "seal")
    return _killed_and_finished(world, told, ("backfill", step, 0 if once else n % N), work)


def snapshot(world: World, step: str, n: int) -> Tally:
    """Kill the taking of a snapshot, or its restoring into an empty store, after `step`, and run it again."""
    worker = world.worker()
    world.wait_folded(60)
    told = dict(worker.environment())
    folder = str(world.folder / "snapshots")
    create, restore = ("create", "--to", folder), ("restore", "--from", folder)
    if step in CREATE:
        tally = _killed_and_finished(world, told, ("snapshot", step, 0 if step == "seal" else n % N), create)
    else:
        tally = Tally()
        finished(told, "snapshot", *create)
    worker.stop()
    for key in world.client.scan_iter(match=f"{world.keys.prefix}:*", count=1000):
        world.client.delete(key)
    if step in RESTORE:
        return tally + _killed_and_finished(world, told, ("snapshot", step, n % N), restore)
    finished(told, "snapshot", *restore)
    return tally + Tally.of(world.compare(), faults=0)


def drop(world: World, step: str, n: int) -> Tally:
    """Kill the dropping of a namespace after `step`, beside one that is folded, and run it again."""
    worker = world.worker()
    other = namespace(world.bundle.manifest.fingerprint, 1)
    told = dict(worker.environment())
    work = ("--work", str(world.folder / "work"), "--workers", "1")
    finished(told | {"UIC_BUNDLE__GENERATION": "1"}, "backfill", *work)
    arguments = ("drop", other, "--yes", "--force")
    if killed(told, "namespaces", step, 0, *arguments) != KILLED:
        raise AssertionError(f"the drop did not end by its fault after {step}")
    finished(told, "namespaces", *arguments)
    left = [key for key in world.client.scan_iter(match=f"{world.keys.prefix}:*", count=1000) if other.encode() in key]
    world.wait_folded(60)
    worker.stop()
    return Tally.of(world.compare(), faults=1) + Tally(wrong=(f"{len(left)} keys are left",) if left else ())


def _killed_and_finished(
    world: World, told: dict[str, str], kill: tuple[str, str, int], arguments: tuple[str, ...]
) -> Tally:
    verb, step, count = kill
    status = killed(told, verb, step, count, *arguments)
    if status != KILLED:
        raise AssertionError(f"{verb} ended with {status} and not by its fault after {step}")
    found = world.compare(snapshot=True)
    found.wrong = [f"killed after {step}: {what}" for what in found.wrong]
    finished(told, verb, *arguments)
    return Tally.of(found) + Tally.of(world.compare(), faults=0)
