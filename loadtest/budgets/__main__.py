"""Measure each budget on this machine, on a stack of its own, and say which hold: a table, a JSON file, an exit status.

    python -m loadtest.budgets                    some five minutes
    python -m loadtest.budgets --full             the sample sizes that the budgets name
    python -m loadtest.budgets --only one_user    one of them
    LOADTEST_BUNDLE=models/bundles/online-retail/1 python -m loadtest.budgets    of another bundle than the served one

Two things that are compared are measured in turn in one run. Absolute times belong to the machine they were taken on.
SIGTERM and Ctrl-C take the stack down; figures that were not written yet are lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loadtest.budgets import Budget, Sizes
from loadtest.budgets.bare_loop import bare_loop
from loadtest.budgets.beside_backfill import beside_backfill
from loadtest.budgets.beside_fold import beside_fold, beside_fold_in_real_time
from loadtest.budgets.dien import dien_head, dien_request, dien_request_under_load
from loadtest.budgets.fields import request_fields
from loadtest.budgets.fold import fold_rate, one_user
from loadtest.budgets.fold_against_streams import fold_against_streams
from loadtest.budgets.freshness import freshness, freshness_busy, freshness_quiet
from loadtest.budgets.length_ratio import length_ratio
from loadtest.budgets.open_loop import open_loop
from loadtest.budgets.quiet import quiet_worker
from loadtest.budgets.stored_bytes import bytes_float16, bytes_float32, bytes_ledger
from loadtest.budgets.takeover import takeover
from loadtest.origin import commit, dated, machine
from loadtest.population import measured_bundle
from loadtest.stacks import NotMeasured
from localstack.signals import signals_unwind
from localstack.wait import NotReady

BUDGETS = (
    length_ratio, open_loop, bare_loop, dien_head, dien_request, dien_request_under_load, request_fields, fold_rate,
    fold_against_streams, one_user, freshness, freshness_busy, freshness_quiet, beside_fold, beside_fold_in_real_time,
    beside_backfill, takeover, quiet_worker, bytes_float32, bytes_float16, bytes_ledger,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0 when every measured budget holds."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.budgets", description=__doc__)
    parser.add_argument("--full", action="store_true", help="sample sizes as the budgets name them")
    parser.add_argument("--only", action="append", choices=[b.key for b in BUDGETS], help="measure these only")
    parser.add_argument("--output", type=Path, help="folder of the JSON file (default: results/<date>_budgets)")
    asked = parser.parse_args(arguments)
    sizes = Sizes.full() if asked.full else Sizes()
    with signals_unwind():
        rows = [measured(one, sizes) for one in BUDGETS if not asked.only or one.key in asked.only]
    written = (asked.output or dated("budgets")) / "budgets.json"
    written.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(),
        "commit": commit(),
        "full": asked.full,
        "bundle": str(measured_bundle()),
        "rows": rows,
    }
    written.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"written to {written}")
    return 0 if all(row["holds"] for row in rows) else 1


def measured(budget: Budget, sizes: Sizes) -> dict[str, object]:
    """What the JSON file says of a budget; printed as well."""
    described = {"key": budget.key, "what": budget.what, "unit": budget.unit, "rule": budget.rule}
    began = time.monotonic()
    try:
        figure = budget.measure(sizes)
    except (NotMeasured, NotReady) as reason:
        print(f"{budget.what:<72}  not measured: {reason}", flush=True)
        return {"budget": described, "figure": None, "reason": str(reason), "holds": False}
    holds = budget.holds(figure.value)
    print(
        f"{budget.what:<72}  {figure.value:>12,.4g} {budget.unit:<9} {budget.rule:<18} "
        f"{'holds' if holds else 'MISSED':<7} {figure.spread}  ({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    return {"budget": described, "figure": asdict(figure), "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
