"""`make torture`: run every scenario in full, part by part, and report what was lost and what was doubled.

The result of a part that held is kept under `.torture/<commit>` and not repeated for the same commit, so a run may be
stopped at any time. The exit status is 0 if every requested part held, 1 if one did not, 2 if there is no Kafka.
`torture.json` and `torture.md` in the same folder list all parts, those without a result included.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from support import skips
from support.scripted_broker import ScriptedBroker
from torture import report
from torture.scenarios import SCENARIOS, Part
from torture.stage import BROKER_SETTINGS, Size, Stage, Tally

REPOSITORY = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print the table, write it as JSON, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m torture", description="Play every scenario, in full.")
    parser.add_argument("--size", choices=("full", "fast"), default="full")
    parser.add_argument("--only", metavar="WORD", default="", help="scenarios whose name, or name.part, contains this")
    parser.add_argument("--results", type=Path, default=REPOSITORY / ".torture", help="where results are kept")
    told = parser.parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)
    logging.basicConfig(level=logging.CRITICAL)  # clients lament every fault
    commit, clean = tree()
    folder = told.results / f"{commit}{'' if clean else '-changed'}-{told.size}"
    folder.mkdir(parents=True, exist_ok=True)
    played: dict[str, Tally] = {}
    with ExitStack() as ending:
        try:
            bootstrap = kafka(ending)
        except LookupError as missing:
            print(f"torture {missing}", file=sys.stderr)
            return 2
        for name, part in parts(told.size):
            if told.only in name:
                kept = recall(folder / f"{name}.json") if clean else None
                held = kept is not None and kept.held
                played[name] = kept if kept and held else play(part, told.size, bootstrap, folder / f"{name}.json")
    if not played:
        parser.error(f"no scenario's name contains {told.only!r}")
    print(report.table(by_scenario(played)))
    names = [name for name, _ in parts(told.size)]
    everything = {name: played.get(name) or (recall(folder / f"{name}.json") if clean else None) for name in names}
    rows = by_scenario({name: tally for name, tally in everything.items() if tally is not None})
    unplayed = [name for name, tally in everything.items() if tally is None]
    found = report.written(rows, unplayed, commit=commit, changed=not clean, size=told.size)
    (folder / "torture.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "torture.md").write_text(report.page(found, rows))
    print(f"written to {folder / 'torture.json'} and {folder / 'torture.md'}")
    return 0 if all(tally.held for tally in played.values()) else 1


def parts(size: Size) -> list[tuple[str, Part]]:
    """All that is played, by name, in order."""
    return [
        (f"{scenario.name}.{part.name}", part)
        for scenario in SCENARIOS
        for part in (scenario.parts if size == "full" else (Part("whole", scenario.play),))
    ]


def by_scenario(found: Mapping[str, Tally]) -> dict[str, Tally]:
    """The sums over parts."""
    rows: dict[str, Tally] = {}
    for name, tally in found.items():
        scenario = name.rpartition(".")[0]
        rows[scenario] = rows.get(scenario, Tally()) + tally
    return rows


def tree() -> tuple[str, bool]:
    """(commit, whether the tree is exactly that)."""
    git = ["git", "-C", str(REPOSITORY)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "no-commit", False
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    return head.stdout.strip(), not changed.strip()


def kafka(ending: ExitStack) -> str:
    """The bootstrap address of a real Kafka, started if need be.

    Raises:
        LookupError: there is none; the message says what to set.
    """
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return bootstrap
    script = os.environ.get("CTR_KAFKA_BROKER")
    if not script:
        raise LookupError(skips.NO_REAL_KAFKA)
    folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="torture-kafka-"))
    broker = ScriptedBroker(Path(script), Path(folder) / "cluster")
    ending.callback(broker.stop)
    return broker.start(*BROKER_SETTINGS)


def recall(kept: Path) -> Tally | None:
    """The result of an earlier run, if there is one."""
    try:
        found = json.loads(kept.read_text())
    except FileNotFoundError:
        return None
    return Tally(**found | {"wrong": tuple(found["wrong"])})


def play(part: Part, size: Size, bootstrap: str, keep: Path) -> Tally:
    """Play a part and keep its result. What the servers wrote is kept only if it did not hold."""
    print(f"{keep.stem} ...", flush=True)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        with Stage(folder, bootstrap, seed=part.seed) as stage:
            tally = part.play(stage, size)
    except Exception as error:  # the door of a part: the others are played all the same
        tally = Tally.failed(error)
    if tally.held:
        shutil.rmtree(folder)
    else:
        print(f"  did not hold; the servers' logs are in {folder}", flush=True)
    took = round(time.monotonic() - began, 1)
    tally += Tally(figures={report.PLAYED: [took], report.LOAD: [round(os.getloadavg()[0], 1)]})
    keep.write_text(json.dumps(asdict(tally)) + "\n")
    return tally


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: the servers end with us
    sys.exit(main())
