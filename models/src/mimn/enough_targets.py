"""Whether a part has targets enough for its AUC to tell anything, and what is said where it has not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mimn.data.events import DataError
from mimn.data.instances import NEGATIVES
from mimn.data.split import PARTS, Part
from mimn.data_set import DataSet

FEW_TARGETS = 40
"""With fewer, the AUC of scores that say nothing has a standard error above 0.05: even a model of AUC 0.6 is then less
than two of them away from chance, and epochs or configurations that are nearer to each other cannot be told apart."""


def counts_said(data: DataSet, parts: Sequence[Part] = PARTS) -> str:
    """The targets of each part, and how many of its users have one, for the log."""
    return ", ".join(f"{part} {_counted(data, part)}" for part in parts)


def check_any(data: DataSet, part: Part, so: str) -> None:
    """Whether a part has a target at all; `so`: what follows if not.

    Raises:
        DataError: it has none; the message says why and what to do.
    """
    if not len(data.instances.of(part)):
        raise DataError(
            f"no {part} user of {data.name} has a target with enough history, so {so}: {shortage(data, part)}"
        )


def standard_error(targets: int) -> float:
    """Of the AUC of `targets` positives among `NEGATIVES` negatives each, where scores say nothing (Hanley and McNeil,
    Radiology 1982). Targets of one user are alike, so it is at least this."""
    negatives = NEGATIVES * targets
    return math.sqrt((targets + negatives + 1) / (12 * targets * negatives))


def shortage(data: DataSet, part: Part) -> str:
    """Why a part has no or few targets, and what to do."""
    users, long = data.long_enough[part]
    targets, dropped = len(data.instances.of(part)), int(data.instances.unknown[PARTS.index(part)])
    if not users:
        return f"no {part} user is among all {len(data.train_users)}: the data set has too few users"
    if long < users / 2:
        return (
            f"{long} of {users} {part} users have at least {data.min_history} events before their last occasion: lower "
            "`min_history` in `[data]` of the configuration, or add longer histories"
        )
    if dropped > targets:
        return f"{dropped} targets of {part} were dropped, because no train user has their items: add users"
    return f"{users} users are in {part}: add users"


def too_few_to_choose(data: DataSet, parts: Sequence[Part], chosen: str) -> str | None:
    """What is said where validation has too few targets to choose an epoch or a configuration, `chosen`, by; None where
    it has enough, or none at all. `parts`: those that are loaded."""
    targets = len(data.instances.of("validation"))
    if not 0 < targets < FEW_TARGETS:
        return None
    counts = counts_said(data, [part for part in parts if part != "train"])
    return (
        f"too few targets to choose {chosen} by: {counts}. A validation AUC of so few has a standard error of "
        f"{standard_error(targets):.2f} or more; {shortage(data, 'validation')}"
    )


def _counted(data: DataSet, part: Part) -> str:
    mine, (users, _) = data.instances.part == PARTS.index(part), data.long_enough[part]  # counted, and not opened
    return f"{mine.sum()} ({len(np.unique(data.instances.user_id[mine]))} of {users} users)"
