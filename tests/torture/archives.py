"""Archive and import are killed by SIGKILL just after each of their steps, again and again.

After each kill the archive must be a beginning of the log, and the topic of an import must hold a beginning of each
user's records, each once. The next run of the same command must finish: then the archive is the log, and the topic
holds all records and the notes of all erasures. In the first round UIC folds it, and the judge compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from judge import Findings
from mimn.state import partition_of
from support.archived_log import archived, by_user, noted_erasures, records_of
from support.bulk_running import finished, kill
from support.world import World
from torture.stage import Size, Stage, Tally, side_by_side
from torture.watching import wait_well
from uic.bulk.archive import Archive, open_archive
from uic.bulk.folder import Folder

LANES = 3
N = 4
EVENTS = 300
USERS = 40
ERASED = ("user-1", "user-2", "user-3")
"""Users who are erased in the middle of the log, and come again."""
RECORDS_A_FILE = 30
ARCHIVE = ("file", "manifest")
IMPORT = ("scan", "record", "send", "note")
Steps = tuple[str, ...]
Play = Callable[..., Tally]


def archive_and_import_killed_at_each_step_are_finished_by_the_next_run(
    stage: Stage, size: Size, steps: Sequence[str] = (*ARCHIVE, *IMPORT)
) -> Tally:
    """20 kills after each step of an archive and of an import into twice the partitions, each followed by a run that
    must finish. In the fast size one job is killed after one step, again after the next, and so on, and then finishes.
    """
    store = stage.valkey()
    jobs: list[tuple[Play, Steps]] = [
        (play, tuple(step for step in of if step in steps)) for play, of in ((archive, ARCHIVE), (bring, IMPORT))
    ]
    trials: list[tuple[int, Play, Steps]]
    if size == "full":
        trials = [(n, play, (step,)) for n in range(20) for play, of in jobs for step in of]
    else:
        trials = [(0, play, of) for play, of in jobs if of]
    return side_by_side(partial(_trial, stage, store.address), trials, LANES)


def _trial(stage: Stage, url: str, trial: tuple[int, Play, Steps]) -> Tally:
    n, play, steps = trial
    name = f"{play.__name__}-{steps[0]}-{n}"
    with stage.passing_world(name, url, partitions=N) as old:
        old.random.seed(n)
        _produce(old)
        if play is archive:
            return archive(old, steps, n)
        with stage.passing_world(f"{name}-to", url, partitions=2 * N) as new:
            return bring(old, new, steps, n)


def archive(world: World, steps: Steps, n: int) -> Tally:
    """Kill an archive after `steps` of one of its files, run it again, and once more when the log has grown."""
    told, to = world.environment(), str(world.folder / "archive")
    command = ("--to", to, "--records-a-file", str(RECORDS_A_FILE))
    tally = Tally()
    for step in steps:
        kill(told, "archive", step, n % (EVENTS // RECORDS_A_FILE), *command)
        tally += Tally.of(_archive_against_log(to, world, whole=False))
    finished(told, "archive", *command)
    done = _archive_against_log(to, world, whole=True)
    world.produce(50, USERS)
    finished(told, "archive", *command)
    grown = _archive_against_log(to, world, whole=True)
    return tally + Tally.of(done, trials=0, faults=0) + Tally.of(grown, trials=0, faults=0)


def bring(old: World, new: World, steps: Steps, n: int) -> Tally:
    """Kill an import of an archive into a topic of more partitions after `steps`, run it again, and fold what came."""
    to = str(old.folder / "archive")
    finished(old.environment(), "archive", "--to", to)
    told, command = new.environment(), ("--archive", to)
    due, tally = by_user(records_of(old.topics)), Tally()
    for step in steps:
        kill(told, "import_history", step, (n + 1) * EVENTS // 21 if step == "record" else 0, *command)
        tally += Tally.of(_differences(due, by_user(records_of(new.topics)), whole=False))
    finished(told, "import_history", *command)
    there = records_of(new.topics)
    done = _differences(due, by_user(there), whole=True)
    if any(partition_of(r.key, 2 * N) != p for p, some in there.items() for r in some if r.key is not None):
        done.say("a record is in a partition of another user")
    erasures = {(r.key, r.offset) for some in there.values() for r in some if r.value is None}
    if noted_erasures(new.topics) != erasures or len(erasures) != len(ERASED):
        done.say("the notes of erasures are not those of the topic")
    if n == 0:  # what a user's fold sees is the same in every round
        worker = new.worker()
        new.wait_folded(120)
        wait_well([worker], 2 * N)
    return tally + Tally.of(done, trials=0, faults=0)


def _produce(world: World) -> None:
    world.produce(EVENTS // 2, USERS)
    for user in ERASED:
        world.producer.send(world.topics.events, key=user.encode(), value=None)
    world.produce(EVENTS // 2, USERS)


def _archive_against_log(to: str, world: World, *, whole: bool) -> Findings:
    """How the archive differs from the log, or with `whole` False from a beginning of it."""
    held = _held(open_archive(Folder(to)), world.topics.events, whole=whole)
    log = records_of(world.topics)
    return _differences({str(p): log[p] for p in log}, {str(p): held.get(p, []) for p in log}, whole=whole)


def _held(archive: Archive, topic: str, *, whole: bool) -> Mapping[int, Sequence[Any]]:
    """The archive's records. A killed run may leave partitions without a manifest, and files that none names."""
    if whole:
        return archived(archive, topic)
    for p in range(archive.partitions):
        if (manifest := archive.manifest(p)) is not None:
            archive.tidy(p, manifest)
    started = [p for p in range(archive.partitions) if archive.manifest(p) is not None]
    return archived(archive, topic, started)


def _differences(due: Mapping[Any, Sequence[Any]], found: Mapping[Any, Sequence[Any]], *, whole: bool) -> Findings:
    """What each list lacks or has too often; without `whole` it may end early."""
    findings = Findings()
    for name in due.keys() | found.keys():
        wanted, there = list(due.get(name, ())), list(found.get(name, ()))
        if not whole:
            wanted = wanted[: len(there)]
        if wanted == there:
            continue
        lacking, doubled = Counter(wanted) - Counter(there), Counter(there) - Counter(wanted)
        findings.lost += lacking.total()
        findings.doubled += doubled.total()
        findings.say(f"{name!r}: {lacking.total()} records lost, {doubled.total()} doubled or not in order")
    return findings
