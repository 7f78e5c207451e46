"""Backfill, snapshot, restore and drop are killed by SIGKILL just after each of their steps, again and again.

After each kill what counts in the store must be the fold of as much of the log as its progress says; the next run of
the same command must finish, and UIC must go on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from localstack.uic_and_rtp import RtpProcess
from localstack.wait import until
from localstack.web import web
from mimn.state import namespace, partition_of
from support.bulk_running import finished, kill
from support.world import World
from torture.stage import Size, Stage, Tally, side_by_side
from torture.watching import metric, readiness, wait_well

LANES = 3
PATIENT = {"x-request-deadline-ms": "30000"}
"""How long RTP takes is not what is judged here."""
N = 4
EVENTS = 400
USERS = [f"user-{i}" for i in range(40)]
BACKFILL = ("job", "fold", "seal", "claim", "states", "hand_over")
CREATE = ("partition", "seal")
RESTORE = ("claim", "states", "hand_over")
DROP = ("progress", "slice", "keys", "name")
WATCHED = ("states", "hand_over")
"""Steps of loads after which some of what is stored does not count yet."""


def bulk_jobs_killed_at_each_step_are_finished_by_the_next_run(stage: Stage, size: Size) -> Tally:
    """20 kills after each step of a backfill, a snapshot, a restore and a drop, each followed by a run that must
    finish. In the fast size one job is killed after one step, again after the next, and so on, and then finishes. In
    the first round an RTP watches loads from the beginning: it is not ready before there is a namespace, says `warm` of
    no user whose partition is not handed over, and of all once UIC has gone on, which says that all is well."""
    store = stage.valkey()
    jobs: list[tuple[Play, Steps]] = [(backfill, BACKFILL), (create, CREATE), (restore, RESTORE), (drop, DROP)]
    trials: list[tuple[int, Play, Steps]]
    if size == "full":
        trials = [(n, play, (step,)) for n in range(20) for play, steps in jobs for step in steps]
    else:
        trials = [(0, play, steps) for play, steps in jobs]
    return side_by_side(partial(_trial, stage, store.address), trials, LANES)


def _trial(stage: Stage, url: str, trial: tuple[int, Play, Steps]) -> Tally:
    n, play, steps = trial
    name = f"bulk-{play.__name__}-{steps[0]}-{n}"
    with stage.passing_world(name, url, partitions=N) as world, ExitStack() as ending:
        world.random.seed(n)
        world.produce(EVENTS, USERS)
        watch = _Watch(world)
        if watched := n == 0 and not set(WATCHED).isdisjoint(steps):  # what RTP says is the same in every round
            ending.callback(watch.rtp.stop)
            watch.begin()
        tally = play(world, steps, n, watch)
        world.produce(50, USERS)
        worker = world.worker()
        world.wait_folded(120)
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
        told = {"RTP_STATE__REFRESH_EVERY_S": "0.2", "RTP_DEADLINE__MAX_MS": PATIENT["x-request-deadline-ms"]}
        self.rtp = RtpProcess("rtp", world.folder / "rtp", replace(world.surroundings, rtp=told))

    def begin(self) -> None:
        """Start it while there is no namespace: it answers, and is not ready."""
        self.rtp.spawn()
        until(lambda: readiness(self.rtp)[0] == 503, "RTP is not ready", within_s=60)

    def states(self) -> dict[str, str]:
        """User → what RTP says that the scores rest on."""
        return {user: said["status"] for user, said in self._said().items()}

    def _said(self) -> dict[str, dict[str, Any]]:
        bodies = ({"user_id": user, "candidates": [{"item_id": 1, "category_id": 1}]} for user in USERS)
        url = f"{self.rtp.address}/predict"
        answers = [web().post(url, json=body, headers=PATIENT, timeout=60) for body in bodies]
        assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
        return {user: answer.json()["state"] for user, answer in zip(USERS, answers, strict=True)}

    def untrue(self) -> list[str]:
        """Wait until RTP knows what is stored, and say what it says that is not so."""
        if not self.rtp.alive():
            return []
        handed_over = self._world.progress_records().keys()

        def known() -> bool:
            whole = {user for user, state in self._said().items() if not state["partial"]}
            claimed = bool(self._world.client.exists(self._world.keys.meta))
            there = {user for user in USERS if partition_of(user.encode(), N) in handed_over}
            return whole == there and (readiness(self.rtp)[0] == 200 or not claimed)

        until(known, "RTP knows how far the namespace is", within_s=60)
        early = [
            user
            for user, state in self.states().items()
            if state == "warm" and partition_of(user.encode(), N) not in handed_over
        ]
        return [f"{len(early)} users are warm before their partition is handed over"] if early else []


Steps = tuple[str, ...]
Play = Callable[[World, Steps, int, _Watch], Tally]


def backfill(world: World, steps: Steps, n: int, watch: _Watch) -> Tally:
    """Kill a backfill after `steps`, in one of the partitions, and run it again."""
    told = dict(world.new_worker().environment())
    work = ("--work", str(world.folder / "work"), "--workers", "1")
    once = ("job", "fold", "seal")
    return _killed_and_finished(world, watch, told, "backfill", [(s, 0 if s in once else n % N) for s in steps], work)


def create(world: World, steps: Steps, n: int, watch: _Watch) -> Tally:
    """Kill the taking of a snapshot after `steps`, run it again, and restore it into an empty store."""
    worker = world.worker()
    world.wait_folded(120)
    told, folder = dict(worker.environment()), str(world.folder / "snapshots")
    kills = [(step, 0 if step == "seal" else n % N) for step in steps]
    tally = _killed_and_finished(world, watch, told, "snapshot", kills, ("create", "--to", folder))
    worker.stop()
    world.empty_store()
    finished(told, "snapshot", "restore", "--from", folder)
    return tally + Tally.of(world.compare(), faults=0)


def restore(world: World, steps: Steps, n: int, watch: _Watch) -> Tally:
    """Kill the restoring of a snapshot into an empty store after `steps`, and run it again."""
    worker = world.worker()
    world.wait_folded(120)
    told, folder = dict(worker.environment()), str(world.folder / "snapshots")
    finished(told, "snapshot", "create", "--to", folder)
    worker.stop()
    world.empty_store()
    kills = [(step, n % N) for step in steps]
    return _killed_and_finished(world, watch, told, "snapshot", kills, ("restore", "--from", folder))


def drop(world: World, steps: Steps, n: int, watch: _Watch) -> Tally:
    """Kill the dropping of a namespace after `steps`, beside one that is folded, and run it again."""
    worker = world.worker()
    other = namespace(world.bundle.manifest.fingerprint, 1)
    told = dict(worker.environment())
    work = ("--work", str(world.folder / "work"), "--workers", "1")
    finished(told | {"UIC_BUNDLE__GENERATION": "1"}, "backfill", *work)
    arguments = ("drop", other, "--yes", "--force")
    for step in steps:
        kill(told, "namespaces", step, 0, *arguments)
    wait_well([worker], N)
    finished(told, "namespaces", *arguments)
    left = [key for key in world.client.scan_iter(match=f"{world.keys.prefix}:*", count=1000) if other.encode() in key]
    world.wait_folded(120)
    worker.stop()
    wrong = (f"{len(left)} keys are left",) if left else ()
    return Tally.of(world.compare(), faults=len(steps)) + Tally(wrong=wrong)


def _killed_and_finished(
    world: World,
    watch: _Watch,
    told: dict[str, str],
    verb: str,
    kills: Sequence[tuple[str, int]],
    arguments: tuple[str, ...],
) -> Tally:
    tally = Tally()
    for step, count in kills:
        kill(told, verb, step, count, *arguments)
        found = world.compare(snapshot=True)
        found.wrong = [f"killed after {step}: {what}" for what in (*found.wrong, *watch.untrue())]
        tally += Tally.of(found)
    finished(told, verb, *arguments)
    watch.untrue()
    return tally + Tally.of(world.compare(), faults=0)
