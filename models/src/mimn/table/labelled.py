"""A line on what models of real labelled impressions reach, from the results of `python -m mimn.impressions table`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from mimn.table.wording import mean

RESULTS, PAGE = Path("coupon_mail.json"), "COUPONS.md"
ROWS = ("pooling + sketch + ledger", "MIMN + sketch + ledger", "gradient boosting on counts")


def labelled(records: Path) -> list[str]:
    """The first page's line on the coupon mail: the mean test AUC over seeds; none without its results.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    path = records / RESULTS
    if not path.exists():
        return []
    done = json.loads(path.read_text("utf-8"))
    found = {row: [one["groups"]["all"]["auc"]["value"] for one in done if one["row"] == row] for row in ROWS}
    said = ", ".join(f"{row} {mean([statistics.fmean(aucs)])}" for row, aucs in found.items() if aucs)
    return [f"* Labelled impressions ([coupon mail]({PAGE})), test AUC of all impressions: {said}."] if said else []
