"""One training by several processes, as `torchrun` starts them: each computes its share of every batch.

All processes draw the same windows in the same order and hold the same weights. Of a batch, process r of n computes the
windows r, r + n, r + 2n and so on; gradients are added up before the step, so a batch is the same batch for any number
of processes, and settings keep their meaning. gloo connects processes on CPUs, nccl those on GPUs, one GPU each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import nn as distributed_nn  # noqa: F401  before a group exists: see `joined`

F = TypeVar("F", np.float32, np.float64)


@dataclass(frozen=True)
class Processes:
    """This process among those of a training."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Which rows of a batch are this process's."""
        return slice(self.rank, None, self.count)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes through the block alone, then all others do: what it writes, they find.

        If it fails, `torchrun` ends the others.
        """
        if not self.first:
            dist.barrier()
        yield
        if self.first and self.count > 1:
            dist.barrier()

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place. The same bits everywhere."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def add_up_scores(self, scores: NDArray[F]) -> NDArray[F]:
        """The sum over all processes of arrays where each has its own scores and 0 elsewhere. [n] → [n]"""
        return scores if self.count == 1 else self.add_up(torch.from_numpy(scores).to(self.device)).cpu().numpy()

    def add_up_gradients(self, dense: Sequence[nn.Parameter], sparse: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients; of the `sparse` ones only the rows that they have.

        A parameter without a gradient anywhere stays without one.
        """
        if self.count == 1:
            return
        for table in sparse:
            self._add_up_rows(table)
        # One message for all: the gradients behind one another, then how many processes have each.
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in dense]
        having = torch.tensor([float(one.grad is not None) for one in dense], device=self.device)
        flat = self.add_up(torch.cat([*(one.reshape(-1) for one in gradients), having]))
        *sums, having = torch.split(flat, [*(one.numel() for one in dense), len(dense)])
        for parameter, total, anywhere in zip(dense, sums, having.tolist(), strict=True):
            parameter.grad = total.view_as(parameter) if anywhere else None

    def _add_up_rows(self, table: nn.Parameter) -> None:
        rows = torch.empty(0, dtype=torch.int64, device=self.device)
        values = torch.empty(0, table.shape[1], device=self.device)
        if table.grad is not None:
            mine = table.grad.coalesce()
            rows, values = mine.indices()[0], mine.values()
        lengths = self._gathered(torch.tensor([len(rows)], device=self.device))
        counts = [int(length) for length in lengths]
        most = max(counts)
        # A collective moves tensors of one size: shorter lists are filled up, and cut again.
        every_rows = self._gathered(torch.cat([rows, rows.new_zeros(most - len(rows))]))
        every_value = self._gathered(torch.cat([values, values.new_zeros(most - len(values), values.shape[1])]))
        all_rows = torch.cat([part[:count] for part, count in zip(every_rows, counts, strict=True)])
        all_values = torch.cat([part[:count] for part, count in zip(every_value, counts, strict=True)])
        whole = torch.sparse_coo_tensor(all_rows.unsqueeze(0), all_values, table.shape, check_invariants=False)
        table.grad = whole.coalesce()

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(parts, mine)
        return parts


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that `torchrun` started, connected meanwhile; one alone without it.

    Functions of `torch.distributed.nn` have the group of the time of its import as a default, and `torch.optim` imports
    it on first use. Imported after the group was made, it would keep the group, and gloo's threads with it. One of them
    could then touch Python while the interpreter ends, which aborts the process. So this module imports it first.
    """
    cuda = torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=torch.device("cuda" if cuda else "cpu"))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(rank, count, device)
    finally:
        dist.destroy_process_group()


ALONE = Processes()
