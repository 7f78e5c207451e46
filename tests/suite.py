"""`make test` and `make test-full`: run the checks and the tests, and print one table of what ran.

A full run also ends by writing its record, docs/full-run.json, and what is made from it: docs/torture.md and a row of
README.md. The exit status is 0 if everything held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support import skips
from torture import report
from torture.stage import Tally

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "full-run.json"
PAGE = ROOT / "docs" / "torture.md"
README = ROOT / "README.md"
README_ROW = "| injected faults survived"
CHECKS = ("static", "slim")
"""Targets of the Makefile that are no tests of pytest."""
SPREAD = ("--numprocesses=3", "--dist=loadfile", "--no-loadscope-reorder")
"""Three workers on two cores, because tests of servers wait; a file's tests stay together."""
PHASES = (
    ("not alone", "tests/unit", "tests/parity", *SPREAD),
    ("not alone", "tests/contract", "tests/fuzz", "tests/integration", "tests/e2e", *SPREAD),
    ("not alone", "tests/torture", "--numprocesses=3", "--maxschedchunk=1"),
    ("alone", "tests"),
)
"""A mark expression and pytest's options each."""
UNTESTED = """\
Without a real Kafka these promises were not tested: exactly once over groups of several workers, a topic made again
under its name, lost brokers, leaders and tails of the log, imports that shut out earlier runs, users and their rights,
and all of the torture. Set KAFKA_HOME to a Kafka distribution (and install Java 17 or newer): then all of them run.
With KAFKA_BOOTSTRAP_SERVERS, a broker that runs already, those run that harm no broker."""


@dataclass(frozen=True)
class Outcome:
    """One test and what came of it."""

    test: str
    """Its node id."""
    outcome: str
    """"passed", "failed" or "skipped"."""
    reason: str = ""
    """Of a skip."""
    torture: dict[str, Any] | None = None
    """The tally of a scenario in full."""

    @property
    def group(self) -> str:
        """Its folder below tests/."""
        return self.test.split("/")[1]


@dataclass(frozen=True)
class Run:
    """What a run did; a full one is kept as the record."""

    commit: str
    changed: bool
    """Whether the tree had changes that no commit has."""
    date: str
    machine: str
    minutes: float
    checks: dict[str, bool]
    counts: dict[str, dict[str, int]]
    """Group → outcome → tests."""
    skipped: dict[str, int]
    """Reason → tests."""
    failed: list[str]
    scenarios: dict[str, Any] = field(default_factory=dict)
    """Scenario of the torture → its tally, in full."""

    @property
    def held(self) -> bool:
        """Whether everything did."""
        return all(self.checks.values()) and not self.failed and bool(self.counts or self.scenarios)

    def total(self, outcome: str) -> int:
        """How many tests ended so."""
        return sum(of.get(outcome, 0) for of in self.counts.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m suite", description="Run the checks and the tests.")
    parser.add_argument("--full", action="store_true", help="every test, the torture in full included")
    full: bool = parser.parse_args(arguments).full
    began = time.monotonic()
    commit, changed = tree()
    make = ["make", "--no-print-directory", "--jobs", "2", "--output-sync=line", f"VENV={sys.prefix}"]
    checks = {name: not subprocess.run([*make, name], cwd=ROOT, check=False).returncode for name in CHECKS}
    outcomes = [one for phase in PHASES for one in tests(*phase, full=full)]
    run = summed(outcomes, commit, changed, checks, (time.monotonic() - began) / 60)
    if full:
        write(run)
    print(table(run, None if full else last_record()))
    return 0 if run.held else 1


def tests(marked: str, *options: str, full: bool) -> list[Outcome]:
    """Run the tests that a mark expression selects; a run that breaks off counts as a failed test."""
    profile, tier = ("full", marked) if full else ("test", f"not full and {marked}")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "outcomes.json"
        command = [sys.executable, "-m", "pytest", "--quiet", "--durations", "10", "-m", tier, *options]
        command += ["--hypothesis-profile", profile, "--outcomes", str(written)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        found = [Outcome(**one) for one in json.loads(written.read_text())] if written.exists() else []
    if status and not any(one.outcome == "failed" for one in found):
        found.append(Outcome(f"tests/pytest/{' '.join(options)} ended with {status}", "failed"))
    return found


def summed(outcomes: Sequence[Outcome], commit: str, changed: bool, checks: Mapping[str, bool], minutes: float) -> Run:
    """The counts of a run."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    scenarios: dict[str, Tally] = {}
    for one in outcomes:
        counts[one.group][one.outcome] += 1
        if one.torture:
            name = one.torture["scenario"]
            scenarios[name] = scenarios.get(name, Tally()) + _tally(one.torture["tally"])
    return Run(
        commit=commit,
        changed=changed,
        date=datetime.now(UTC).date().isoformat(),
        machine=report.machine(),
        minutes=round(minutes, 1),
        checks=dict(checks),
        counts={group: dict(sorted(counts[group].items())) for group in sorted(counts)},
        skipped=dict(Counter(one.reason for one in outcomes if one.outcome == "skipped")),
        failed=sorted(one.test for one in outcomes if one.outcome == "failed"),
        scenarios={name: asdict(tally) for name, tally in sorted(scenarios.items())},
    )


def table(run: Run, record: Run | None) -> str:
    """What ran, for a terminal. `record`: the last full run, beside a run that was none."""
    lines = ["", f"{'':24}{'passed':>8}{'failed':>8}{'skipped':>9}"]
    lines += [f"{name:24}{'yes' if held else '':>8}{'' if held else 'YES':>8}" for name, held in run.checks.items()]
    for group, of in run.counts.items():
        lines.append(f"{group:24}{of.get('passed', 0):8}{of.get('failed', 0):8}{of.get('skipped', 0):9}")
    lines += [f"  failed: {test}" for test in run.failed]
    lines += [f"  {count} skipped: {reason}" for reason, count in sorted(run.skipped.items())]
    if any(skips.NO_KAFKA in reason for reason in run.skipped):
        lines.append(UNTESTED)
    if record:
        faults = sum(tally["faults"] for tally in record.scenarios.values())
        more = record.total("passed") - run.total("passed")
        lines.append(
            f"Only `make test-full` has {f'{more} more tests, among them ' if record.counts else ''}"
            f"the torture in full: {len(record.scenarios)} scenarios, {faults:,} faults."
        )
        lines.append(f"Its last record: {described(record)}; {'held' if record.held else 'DID NOT HOLD'}.")
    lines.append(f"{run.minutes:.0f} minutes at commit {run.commit}{' with changes' if run.changed else ''}")
    lines.append(f"{run.total('passed')} passed, {run.total('failed')} failed, {run.total('skipped')} skipped")
    return "\n".join(lines)


def described(run: Run) -> str:
    """Commit, date, machine and duration."""
    changed = " with changes" if run.changed else ""
    return f"commit `{run.commit}`{changed}, {run.date}, {run.machine}, {run.minutes:.0f} minutes"


def last_record() -> Run | None:
    """The last full run, if there is one."""
    return Run(**json.loads(RECORD.read_text("utf-8"))) if RECORD.exists() else None


def write(run: Run) -> None:
    """Keep a full run as the record, and write what is made from it."""
    RECORD.write_text(json.dumps(asdict(run), indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(run), "utf-8")
    README.write_text(with_row(README.read_text("utf-8"), run), "utf-8")


def page(run: Run) -> str:
    """docs/torture.md."""
    about = f"Written by `make test-full`: {described(run)}."
    if run.counts:
        about += f" Of its tests {run.total('passed'):,} passed and {run.total('failed'):,} failed."
    return report.page(about, {name: _tally(of) for name, of in run.scenarios.items()}, run.failed)


def with_row(readme: str, run: Run) -> str:
    """README's text with the row of this run."""
    tallies = [_tally(of) for of in run.scenarios.values()]
    faults, survived = sum(t.faults for t in tallies), sum(t.faults for t in tallies if t.held)
    lost, doubled = sum(t.lost for t in tallies), sum(t.doubled for t in tallies)
    row = (
        f"{README_ROW} (kills, freezes, lost writes, outages), commit `{run.commit}`, {run.date} "
        f"| {survived:,} of {faults:,}, {lost:,} events lost, {doubled:,} doubled ³ | | | `make test-full` |"
    )
    return "\n".join(row if line.startswith(README_ROW) else line for line in readme.split("\n"))


def tree() -> tuple[str, bool]:
    """(commit, whether files that it knows were changed since)."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "none", True
    changed = [*git, "status", "--porcelain", "--untracked-files=no"]
    return head.stdout.strip(), bool(subprocess.run(changed, capture_output=True, text=True, check=True).stdout.strip())


def _tally(kept: Mapping[str, Any]) -> Tally:
    return Tally(**{**kept, "wrong": tuple(kept["wrong"])})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
