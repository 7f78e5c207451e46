"""`make fuzz`: every decoder for ten minutes, guided by coverage where atheris is installed, by structure elsewhere.

Targets that held are kept under `.fuzz/<commit>` and not run again for the same commit, so a run may be stopped at any
time. What is found is written there too: mend it, and keep the input in `tests/fuzz/corpus/<target>` under a name that
says what it was. The exit status is 0 if everything held, else 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from fuzz.targets import TARGETS, Target
from fuzz.trial import attempt, fuzz
from suite import ROOT, tree

GUIDED_SHARE = 0.8
"""Of the time; the rest is for the same mutations without instrumentation, which are several times as many."""


@dataclass(frozen=True)
class Result:
    """What came of one target."""

    inputs: int
    slowest_s: float
    found: tuple[str, ...]
    """In words, each with the file that holds the input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the targets one after another, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz every decoder.")
    parser.add_argument("--seconds", type=float, default=600, help="for each target (default %(default)s)")
    parser.add_argument("--only", metavar="WORD", default="", help="targets whose name contains this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=ROOT / ".fuzz", help="where results are kept")
    told = parser.parse_args(arguments)
    chosen = [target for target in TARGETS if told.only in target.name]
    if not chosen:
        parser.error(f"no target's name contains {told.only!r}")
    commit, changed = tree()
    folder: Path = told.results / commit
    held = True
    for target in chosen:
        kept = folder / f"{target.name}-{told.seconds:g}s-{told.seed}.json"
        if not changed and kept.exists():
            result = Result(**json.loads(kept.read_text()) | {"found": ()})
        else:
            result = run(target, told.seconds, told.seed, folder / target.name)
            if not changed and not result.found:
                kept.write_text(json.dumps(asdict(result)))
        held &= not result.found
        print(f"{target.name:16} {result.inputs:9} inputs, slowest {result.slowest_s * 1000:6.2f} ms", flush=True)
        for what in result.found:
            print(f"    {what}", flush=True)
    return 0 if held else 1


def run(target: Target, seconds: float, seed: int, folder: Path) -> Result:
    """Fuzz one target, guided first if that can be had."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    guided = seconds * GUIDED_SHARE if find_spec("atheris") else 0.0
    inputs = guide(target, guided, seed, folder, found) if guided else 0
    outcome = fuzz(target, seconds - guided, seed)
    if outcome.what:
        (folder / "found").write_bytes(outcome.found or b"")
        found.append(f"{outcome.what} ({folder / 'found'})")
    return Result(inputs + outcome.inputs, outcome.slowest_s, tuple(found))


def guide(target: Target, seconds: float, seed: int, folder: Path, found: list[str]) -> int:
    """How many inputs libFuzzer tried; what it found, and is found without instrumentation too, is added to `found`."""
    for old in (path for path in folder.iterdir() if path.is_file()):
        old.unlink()
    command = [sys.executable, "-m", "fuzz.guided", target.name, "--seconds", str(max(1, round(seconds))),
               "--seed", str(seed), "--folder", str(folder)]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            attempt(target, path.read_bytes(), memory=True)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error} ({path})")
    if ended.returncode and not found:
        found.append(f"libFuzzer ended with {ended.returncode}: {ended.stderr[-500:]}")
    said = dict(line[6:].split(":") for line in ended.stderr.splitlines() if line.startswith("stat::"))
    return int(said.get("number_of_executed_units", "0"))


if __name__ == "__main__":
    sys.exit(main())
