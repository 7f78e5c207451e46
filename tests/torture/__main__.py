"""`make torture`: play every scenario in full, part by part, and say what was lost and what was doubled.

A part that held is kept under `.torture/<commit>` and not played again for the same commit, so a run may be stopped at
any time. The exit status is 0 if everything held, 1 if something did not, 2 if there is no Kafka to play on.
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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import skips
from localstack.servers import ScriptedBroker
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
    folder = told.results / f"{commit}-{told.size}"
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Tally] = {}
    with ExitStack() as ending:
        try:
            bootstrap = kafka(ending)
        except LookupError as missing:
            print(f"torture {missing}", file=sys.stderr)
            return 2
        for scenario in SCENARIOS:
            parts = scenario.parts if told.size == "full" else (Part("whole", scenario.play),)
            for part in parts:
                name = f"{scenario.name}.{part.name}"
                if told.only in name:
                    tally = recall(folder / f"{name}.json") if clean else None
                    rows[scenario.name] = rows.get(scenario.name, Tally()) + (
                        tally or play(part, told.size, bootstrap, folder / f"{name}.json")
                    )
    if not rows:
        parser.error(f"no scenario's name contains {told.only!r}")
    print(table(rows))
    written = {
        "commit": commit,
        "changed": not clean,
        "size": told.size,
        "held": all(t.held for t in rows.values()),
        "scenarios": {name: asdict(tally) | {"held": tally.held} for name, tally in rows.items()},
    }
    (folder / "table.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"written to {folder / 'table.json'}")
    return 0 if written["held"] else 1


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
    """The result of an earlier run, if it is one that held."""
    try:
        found = json.loads(kept.read_text())
    except FileNotFoundError:
        return None
    tally = Tally(**found | {"wrong": tuple(found["wrong"])})
    return tally if tally.held else None


def play(part: Part, size: Size, bootstrap: str, keep: Path) -> Tally:
    """Play a part and keep its result. What the servers wrote is kept only if it did not hold."""
    print(f"{keep.stem} ...", flush=True)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        with Stage(folder, bootstrap, seed=part.seed) as stage:
            tally = part.play(stage, size)
    except Exception as error:  # the door of a part: the others are played all the same
        tally = Tally.failed(f"{type(error).__name__}: {error}")
    if tally.held:
        shutil.rmtree(folder)
    else:
        print(f"  did not hold; the servers' logs are in {folder}", flush=True)
    tally += Tally(figures={"played, s": [round(time.monotonic() - began, 1)]})
    keep.write_text(json.dumps(asdict(tally)) + "\n")
    return tally


def table(rows: dict[str, Tally]) -> str:
    """For people."""
    width = max(map(len, rows))
    lines = [f"{'scenario':{width}}  trials  faults  lost  doubled  wrong  failed  verdict"]
    for name, t in rows.items():
        verdict = "held" if t.held else "DID NOT HOLD"
        counts = f"{t.lost:4}  {t.doubled:7}  {t.wrong_answers:5}  {t.failed_requests:6}"
        lines.append(f"{name:{width}}  {t.trials:6}  {t.faults:6}  {counts}  {verdict}")
        lines += [f"    {what}" for what in t.wrong[:10]]
        lines += [f"    {what}: {spread(values)}" for what, values in t.figures.items()]
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """One value, or least, median and most of several."""
    some = sorted(values)
    return f"{some[0]:g}" if len(some) == 1 else f"{some[0]:g} to {some[-1]:g}, median {some[len(some) // 2]:g}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: the servers end with us
    sys.exit(main())
