"""What is wrong with values that can be read and must not be used, and what to do: the same words from `check`, which
reports them, and from preparation, which stops.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimn.data.description import ImpressionsTable

LARGEST_ID = (1 << 63) - 1


def large_id(column: str, ids: NDArray[np.uint64]) -> str | None:
    """What is wrong with whole numbers as ids, if one is too large."""
    if not bool((ids > LARGEST_ID).any()):
        return None
    return (
        f'column {column} has the id {int(ids.max())}: ids reach from 0 to {LARGEST_ID}: set `ids = "string"`, which '
        "reads whole numbers as texts, or write smaller ones"
    )


def weight_not_above_0(table: ImpressionsTable, weights: NDArray[np.float64]) -> str | None:
    """What is wrong with the weights of impressions, if one is not above 0."""
    bad = weights[~(weights > 0)]
    if not len(bad):
        return None
    return (
        f"`impressions.weight`: column {table.weight} of {', '.join(table.files)} has the weight {bad[0]}: weights are "
        "above 0; leave rows out that must not count"
    )


def nothing_folded() -> str:
    """What is wrong with actions none of which is folded."""
    return "`[actions]`: no event has an action of weight above 0, so nothing is folded"


def nothing_to_learn(table: ImpressionsTable, clicks: int, impressions: int, late: int) -> str:
    """What is wrong with labels that are all alike; `late` clicks came after their windows."""
    fix = "check the column, and that the files hold both kinds"
    if late and not clicks:
        fix = f"all {late} clicks came after the window: check `impressions.label_time`, or make the window longer"
    return (
        f"`impressions.label`, column {table.label} of {', '.join(table.files)}: {clicks} of {impressions} impressions "
        f"are clicked, so there is nothing to learn: {fix}"
    )
