"""Backfill, snapshot, restore and drop are killed by SIGKILL just after each of their steps, again and again.

After each kill what counts in the store must be the fold of as much of the log as its progress says; the next run of
the same command must finish, and UIC must go on from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import httpx

from localstack.services import RtpProcess
from localstack.wait import until
from mimn.state import namespace, partition_of
from support.bulk_running import KILLED, finished, killed
from support.world import World
from torture.stage import Size, Stage, Tally, side_by_side
from torture.watching import metric, readiness, wait_well

LANES = 3
N = 4
EVENTS = 400
USERS = [f"user-{i}" for i in range(40)]
BACKFILL = ("job", "fold", "seal", "claim", "states", "hand_over")
CREATE = ("partition", "seal")
RESTORE = ("claim", "states", "hand_over")
DROP = ("progress", "slice", "keys")
WATCHED = ("states", "hand_over")
"""Steps of loads after which some of what is stored does not count yet."""


def bulk_jobs_killed_at_each_step_are_finished_by_the_next_run(stage: Stage, size: Size) -> Tally:
    """20 kills after each step of a backfill, a snapshot, a restore and a drop (1 in the fast size). In the first round
    an RTP watches loads from the beginning: it is not ready before there is a namespace, says `warm` of no user whose
    partition is not handed over, and of all once UIC has gone on, which says that all is well."""
    rounds = 20 if size == "full" else 1
    store = stage.valkey()
    parts = [
        *((backfill, step) for step in BACKFILL),
        *((snapshot, step) for step in (*CREATE, *RESTORE)),
        *((drop, step) for step in DROP),
    ]
    trials: list[tuple[int, Play, str]] = [(n, play, step) for n in range(rounds) for play, step in parts]
    return side_by_side(partial(_trial, stage, store.address), trials, LANES)


def _trial(stage: Stage, url: str, trial: tuple[int, Play, str]) -> Tally:
    n, play, step = trial
    with stage.passing_world(f"bulk-{play.__name__}-{step}-{n}", url, partitions=N) as world, ExitStack() as ending:
        world.random.seed(n)
        world.produce(EVENTS, USERS)
        watch = _Watch(world)
        if watched := n == 0 and step in WATCHED:  # what RTP says is the same in every round
            ending.callback(watch.rtp.stop)
            watch.begin()
        tally = play(world, step, n, watch)
        world.produce(50, USERS)
        worker = world.worker()
        world.wait_folded(60)
        wait_well([worker], N)
        if metric(worker, "uic_take_ups_total") != metric(worker, "uic_take_ups_total", 'decision="go_on"'):
            tally += Tally(wrong=("UIC did not only go on where the command ended",))
        if watched:
            until(lambda: set(watch.states().values()) == {"warm"}, "RTP says that all is well", within_s=60)
        worker.stop()
        return tally


class _Watch:
    """An RTP that serves the namespace, if it was begun."""

    def __init__(self, world: World) -> None:
        self._world = world
        told = {"RTP_STATE__REFRESH_EVERY_S": "0.2"}
        self.rtp = RtpProcess("rtp", world.folder / "rtp", replace(world.surroundings, rtp=told))

    def begin(self) -> None:
        """Start it while there is no namespace: it answers, and is not ready."""
        self.rtp.spawn()
        until(lambda: readiness(self.rtp)[0] == 503, "RTP is not ready", within_s=60)

    def states(self) -> dict[str, str]:
        """User → what RTP says that the scores rest on."""
        bodies = ({"user_id": user, "candidates": [{"item_id": 1, "category_id": 1}]} for user in USERS)
        answers = (httpx.post(f"{self.rtp.address}/predict", json=body, timeout=10).json() for body in bodies)
        return {user: answer["state"]["status"] for user, answer in zip(USERS, answers, strict=True)}

    def untrue(self) -> list[str]:
        """Wait until RTP knows what is stored, and say what it says that is not so."""
        if not self.rtp.alive():
            return []
        handed_over = self._world.progress_records().keys()

        def known() -> bool:
            aged = not math.isnan(metric(self.rtp, "rtp_oldest_partition_age_seconds"))
            claimed = bool(self._world.client.exists(self._world.keys.meta))
            return aged is (len(handed_over) == N) and (readiness(self.rtp)[0] == 200 or not claimed)

        until(known, "RTP knows how far the namespace is", within_s=60)
        early = [
            user
            for user, state in self.states().items()
            if state == "warm" and partition_of(user.encode(), N) not in handed_over
        ]
        return [f"{len(early)} users are warm before their partition is handed over"] if early else []


Play = Callable[[World, str, int, _Watch], Tally]


def backfill(world: World, step: str, n: int, watch: _Watch) -> Tally:
    """Kill a backfill after `step`, in one of the partitions, and run it again."""
    told = dict(world.new_worker().environment())
    work = ("--work", str(world.folder / "work"), "--workers", "1")
    once = step in ("job", "fold", "seal")
    return _killed_and_finished(world, watch, told, ("backfill", step, 0 if once else n % N), work)


def snapshot(world: World, step: str, n: int, watch: _Watch) -> Tally:
    """Kill the taking of a snapshot, or its restoring into an empty store, after `step`, and run it again."""
    worker = world.worker()
    world.wait_folded(60)
    told = dict(worker.environment())
    folder = str(world.folder / "snapshots")
    create, restore = ("create", "--to", folder), ("restore", "--from", folder)
    if step in CREATE:
        tally = _killed_and_finished(world, watch, told, ("snapshot", step, 0 if step == "seal" else n % N), create)
    else:
        tally = Tally()
        finished(told, "snapshot", *create)
    worker.stop()
    for key in world.client.scan_iter(match=f"{world.keys.prefix}:*", count=1000):
        world.client.delete(key)
    if step in RESTORE:
        return tally + _killed_and_finished(world, watch, told, ("snapshot", step, n % N), restore)
    finished(told, "snapshot", *restore)
    return tally + Tally.of(world.compare(), faults=0)


def drop(world: World, step: str, n: int, watch: _Watch) -> Tally:
    """Kill the dropping of a namespace after `step`, beside one that is folded, and run it again."""
    worker = world.worker()
    other = namespace(world.bundle.manifest.fingerprint, 1)
    told = dict(worker.environment())
    work = ("--work", str(world.folder / "work"), "--workers", "1")
    finished(told | {"UIC_BUNDLE__GENERATION": "1"}, "backfill", *work)
    arguments = ("drop", other, "--yes", "--force")
    if killed(told, "namespaces", step, 0, *arguments) != KILLED:
        raise AssertionError(f"the drop did not end by its fault after {step}")
    wait_well([worker], N)
    finished(told, "namespaces", *arguments)
    left = [key for key in world.client.scan_iter(match=f"{world.keys.prefix}:*", count=1000) if other.encode() in key]
    world.wait_folded(60)
    worker.stop()
    return Tally.of(world.compare(), faults=1) + Tally(wrong=(f"{len(left)} keys are left",) if left else ())


def _killed_and_finished(
    world: World, watch: _Watch, told: dict[str, str], kill: tuple[str, str, int], arguments: tuple[str, ...]
) -> Tally:
    verb, step, count = kill
    status = killed(told, verb, step, count, *arguments)
    if status != KILLED:
        raise AssertionError(f"{verb} ended with {status} and not by its fault after {step}")
    found = world.compare(snapshot=True)
    found.wrong = [f"killed after {step}: {what}" for what in (*found.wrong, *watch.untrue())]
    finished(told, verb, *arguments)
    watch.untrue()
    return Tally.of(found) + Tally.of(world.compare(), faults=0)
