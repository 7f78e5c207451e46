"""How the writes of a user's events are distributed over the memory's slots (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn.data.windows import histories
from mimn.nn import addressing
from mimn.nn.cell import MimnCell
from mimn.nn.model import MimnModel
from mimn.table.plan import Cell
from mimn.table.trained import Trained

LATEST = 200
"""How many of a user's latest events are counted."""
LINE_INCHES = 0.22
"""Of a legend, below the axes: names of rows are long."""


@dataclass(frozen=True)
class SlotShare:
    """The share of writes to a user's n-th most written slot, averaged over users."""

    dataset: str
    row: str
    slot: int
    """1 for the most written one."""
    share: float
    folds: int
    users: int
    """Of all folds and trainings: a user who was tested by two models counts twice."""


@torch.inference_mode()
def slot_shares(models: Iterable[Trained]) -> list[SlotShare]:
    """How the write weights of the latest `LATEST` events are distributed over the slots of each user's memory."""
    shares: dict[str, list[NDArray[np.float64]]] = {}
    cells: dict[str, list[Cell]] = {}
    for one in models:
        if isinstance(one.model, MimnModel) and one.model.config.variant == "paper":
            shares.setdefault(one.row, []).append(_user_shares(one.model, one))
            cells.setdefault(one.row, []).append(one.cell)
    return [
        SlotShare(
            of[0].dataset,
            of[0].config.name,
            slot + 1,
            float(share),
            len({cell.fold for cell in of}),
            sum(map(len, shares[row])),
        )
        for row, of in cells.items()
        for slot, share in enumerate(np.concatenate(shares[row]).mean(0))
    ]


def _user_shares(model: MimnModel, one: Trained) -> NDArray[np.float64]:
    """Each test user's shares of the writes by slot, largest first. [users, m]"""
    test = one.data.instances.of("test")
    _, last = np.unique(test.user_id[::-1], return_index=True)
    rows = len(test) - 1 - last
    events = one.data.events
    item, category, lengths = histories(
        test.begin[rows],
        test.end[rows],
        one.ids.item_rows(events.item_id),
        one.ids.category_rows(events.category_id),
        LATEST,
    )
    weights = write_weights(model, torch.from_numpy(item), torch.from_numpy(category))
    real = np.arange(item.shape[1]) < lengths[:, np.newaxis]
    summed = (weights.numpy().astype(np.float64) * real[..., np.newaxis]).sum(1)
    return -np.sort(-summed / lengths[:, np.newaxis], axis=1)


def write_weights(model: MimnModel, items: Tensor, categories: Tensor) -> Tensor:
    """The write weights of each event of left-aligned histories, by slot: recomputed from the states before and after
    it, because a memory without MUR does not store them. [B, T], [B, T] int64 rows → [B, T, m]"""
    cell = model.cell
    assert isinstance(cell, MimnCell)  # noqa: S101 (variant `paper` has no other)
    states = model.unroll(items, categories)
    before, after = cell.unpack(states[:, :-1].flatten(0, 1)), cell.unpack(states[:, 1:].flatten(0, 1))
    shares = cell.shares(before) if model.config.utilization else None
    controls = cell.controls(after["controller"], shares if model.config.shifts else None)
    marks = addressing.landmarks(before["memory"], cell.keys())
    weights = addressing.content_weights(controls.keys, controls.strengths, marks)[..., 1, :]
    if model.config.transfers:
        weights = addressing.transfer(weights, cell.transfer(shares))
    if model.config.shifts:
        weights = addressing.shift_and_sharpen(weights, controls.shift, controls.gamma)
    return weights.view(*items.shape, -1)


def draw_shares(shares: list[SlotShare], path: Path) -> None:
    """The slots' shares of the writes as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = list(dict.fromkeys(share.row for share in shares))
    figure, axes = pyplot.subplots(figsize=(8, 4 + LINE_INCHES * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        of = [share for share in shares if share.row == row]
        width = 0.8 / len(rows)
        left = (place - (len(rows) - 1) / 2) * width
        axes.bar([share.slot + left for share in of], [share.share for share in of], width, label=row)
    slots = sorted({share.slot for share in shares})
    axes.set(xlabel="a user's slots, the most written first", ylabel="share of the writes", xticks=slots)
    figure.legend(fontsize="small", loc="outside lower center")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
