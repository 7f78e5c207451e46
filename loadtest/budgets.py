"""Measure each budget on this machine, on a stack of its own, and say which hold: a table, a JSON file, an exit status.

    python -m loadtest.budgets                    some five minutes
    python -m loadtest.budgets --full             the sample sizes that the budgets name
    python -m loadtest.budgets --only one_user    one of them

Two things that are compared are measured in turn in one run. Absolute times belong to the machine they were taken on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest import measures
from loadtest.measures import Sizes
from localstack.wait import NotReady

RESULTS = Path("loadtest/results")


@dataclass(frozen=True)
class Budget:
    """One promise: what is measured, and the bound that the figure must keep."""

    key: str
    what: str
    unit: str
    bound: float
    at_most: bool
    measure: Callable[[Sizes], measures.Figure]

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        return value <= self.bound if self.at_most else value >= self.bound

    @property
    def rule(self) -> str:
        """The bound in words."""
        return f"{'≤' if self.at_most else '≥'} {self.bound:g} {self.unit}".rstrip()


BUDGETS = (
    Budget(
        "length_ratio",
        "/predict p50, history 10,000 to 10 (95 %, lower end)",
        "x",
        1.02,
        True,
        measures.length_ratio,
    ),
    Budget("open_loop", "500 requests/s of 100 candidates, open loop, p99", "ms", 10.0, True, measures.open_loop_p99),
    Budget("bare_loop", "request rate against a bare ASGI loop", "x", 0.7, False, measures.against_bare_loop),
    Budget("dien_head", "DIEN's head at history 1,000 over MIMN's, CPU", "x", 100, False, measures.dien_head),
    Budget("dien_request", "the same of a whole request, server CPU", "x", 50, False, measures.dien_request),
    Budget("fold_rate", "UIC, one process, backlog to committed", "events/s", 50_000, False, measures.fold_rate),
    Budget(
        "fold_against_streams",
        "the same over Kafka Streams' with exactly_once_v2",
        "x",
        1.0,
        False,
        measures.fold_against_streams,
    ),
    Budget("one_user", "one user's consecutive events", "events/s", 5_000, False, measures.one_user_rate),
    Budget(
        "freshness",
        "event produced → visible at 2,000 events/s, p99",
        "ms",
        100.0,
        True,
        measures.freshness,
    ),
    Budget("beside_fold", "/predict p99 beside a backlog, against without", "x", 2.0, True, measures.beside_fold),
    Budget("takeover", "worker killed → its partitions fold elsewhere", "s", 15.0, True, measures.takeover),
    Budget("bytes_float32", "stored value of MIMN in float32", "bytes", 2048, True, measures.bytes_float32),
    Budget("bytes_float16", "the same in float16", "bytes", 1126, True, measures.bytes_float16),
    Budget(
        "bytes_sketch", "stored value of the demo's model, with a sketch", "bytes", 6144, True, measures.bytes_sketch
    ),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; 0 when every measured budget holds."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.budgets", description=__doc__)
    parser.add_argument("--full", action="store_true", help="sample sizes as the budgets name them")
    parser.add_argument("--only", action="append", choices=[b.key for b in BUDGETS], help="measure these only")
    parser.add_argument("--output", type=Path, help="folder of the JSON file (default: results/<date>_budgets)")
    asked = parser.parse_args(arguments)
    sizes = Sizes.full() if asked.full else Sizes()
    folder = asked.output or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}_budgets"
    rows = []
    for budget in BUDGETS:
        if asked.only and budget.key not in asked.only:
            continue
        began = time.monotonic()
        try:
            figure = budget.measure(sizes)
        except (measures.NotMeasured, NotReady) as reason:
            print(f"{budget.what:<72}  not measured: {reason}", flush=True)
            rows.append({"budget": described(budget), "figure": None, "reason": str(reason), "holds": False})
            continue
        holds = budget.holds(figure.value)
        print(
            f"{budget.what:<72}  {figure.value:>12,.4g} {budget.unit:<9} {budget.rule:<18} "
            f"{'holds' if holds else 'MISSED':<7} {figure.spread}  ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        rows.append({"budget": described(budget), "figure": asdict(figure), "holds": holds})
    folder.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "commit": commit(), "full": asked.full, "rows": rows}
    (folder / "budgets.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {folder / 'budgets.json'}")
    return 0 if all(row["holds"] for row in rows) else 1


def described(budget: Budget) -> dict[str, object]:
    """What the JSON file says of a budget."""
    return {"key": budget.key, "what": budget.what, "unit": budget.unit, "rule": budget.rule}


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def commit() -> str:
    """The commit measured, with `+changes` when files differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


if __name__ == "__main__":
    sys.exit(main())
