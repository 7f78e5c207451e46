"""Adam for a click model: one for all weights, or one whose cost for the embedding tables follows the rows touched.

embeddings = "dense"    torch's Adam for everything. Every row of every table moves in every step: its moments decay,
                        and `embedding_l2` pulls it towards zero, touched or not.
embeddings = "sparse"   `RowAdam` for the tables, torch's Adam for the rest. A row that a batch does not look up is
                        not read, not written, and does not age.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mimn.nn.model import ClickModel
from mimn.training.processes import Processes
from mimn.training.settings import TrainingSettings

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Adam's β₁, β₂ and ε, as in torch."""


class RowAdam(Optimizer):
    """Adam by rows, each with a clock of its own, for tables with sparse gradients.

    A row's weights are exactly what Adam makes of the steps that touched the row, in their order, as if there had been
    no others: its moments decay and its bias corrections advance once a touch, and weight decay is applied with a
    touch. Source: Kingma and Ba, ICLR 2015, algorithm 1, for each row.

    Memory for a table of R rows and E columns: 8 R E + 4 R bytes beside its weights. A step costs what k touched rows
    cost, for any R.
    """

    def __init__(
        self,
        tables: Iterable[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(tables, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a closure has no use here
        """Update the rows that have a gradient. A table's gradient is a coalesced sparse tensor [R, E]."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, table.grad, group)

    def _step(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state_of(table)
        rows, g = gradient.indices()[0], gradient.values()
        weights = table[rows]
        if group["weight_decay"]:
            g = g.add(weights, alpha=group["weight_decay"])
        touches = state["touches"][rows] + 1
        first = state["first"][rows].lerp_(g, 1 - FIRST_DECAY)
        second = state["second"][rows].mul_(SECOND_DECAY).addcmul_(g, g, value=1 - SECOND_DECAY)
        # In float64: late bias corrections are differences from 1.
        age = touches.to(torch.float64)
        first_bias, second_bias = ((1 - decay**age).to(g.dtype).unsqueeze(-1) for decay in (FIRST_DECAY, SECOND_DECAY))
        denominator = (second / second_bias).sqrt_().add_(EPSILON)
        weights.sub_(first.div(first_bias).div_(denominator), alpha=group["lr"])
        for whole, part in (
            (table, weights),
            (state["touches"], touches),
            (state["first"], first),
            (state["second"], second),
        ):
            whole.index_copy_(0, rows, part)

    def state_of(self, table: Tensor) -> dict[str, Tensor]:
        """The table's moments `first` and `second` [R, E] and its rows' ages `touches` [R] int32, zeros at first."""
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state["touches"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
            state |= {"first": torch.zeros_like(table), "second": torch.zeros_like(table)}
        return state


class Optimizers:
    """What moves a model's weights in one step."""

    def __init__(self, model: ClickModel, settings: TrainingSettings) -> None:
        """Adam with weight decay for the embedding tables alone; with sparse embeddings the tables have `RowAdam`.
        Weights that need no gradient stay.

        Sets the tables' modules to give sparse gradients, or dense ones.
        """
        self.sparse = settings.embeddings == "sparse"
        modules = [model.items, model.categories]
        if model.fields is not None:
            modules += [module for module in model.fields.modules() if isinstance(module, nn.Embedding)]
        for module in modules:
            module.sparse = self.sparse
        weights = {id(module.weight) for module in modules}
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self.tables = [one for one in self.parameters if id(one) in weights]
        self.others = [one for one in self.parameters if id(one) not in weights]
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        rate, decay = settings.learning_rate, settings.embedding_l2
        self.all: list[Optimizer]
        if self.sparse:
            rows = [RowAdam(self.tables, rate, weight_decay=decay)] if self.tables else []
            self.all = [*rows, torch.optim.Adam(self.others, lr=rate)]
        else:
            groups: list[dict[str, Any]] = [{"params": self.tables, "weight_decay": decay}, {"params": self.others}]
            self.all = [torch.optim.Adam(groups, lr=rate)]

    def set_learning_rate(self, rate: float) -> None:
        """Of the next steps."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def add_up_gradients(self, processes: Processes) -> None:
        """Give every process the sum of all processes' gradients."""
        if self.sparse:
            processes.add_up_gradients(self.others, self.tables)
        else:
            processes.add_up_gradients(self.parameters, ())

    def clip(self, most: float) -> None:
        """Scale all gradients so that their common norm is at most `most`; sparse ones become coalesced."""
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                gradients.append(parameter.grad.values())
            else:
                gradients.append(parameter.grad)
        # As `clip_grad_norm_`, which takes no sparse gradients.
        scale = (most / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp_(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)

    def step(self) -> None:
        """Move the weights by their gradients."""
        for optimizer in self.all:
            optimizer.step()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All moments and counts, by `<parameter>/<name>`: what continuing exactly needs."""
        for optimizer in self.all:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    yield f"{self._names[id(parameter)]}/{name}", value

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set what `tensors` gave.

        Raises:
            KeyError: a tensor is of no parameter.
        """
        states = {
            self._names[id(parameter)]: (parameter, optimizer.state)
            for optimizer in self.all
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for key, value in tensors.items():
            name, _, part = key.rpartition("/")
            parameter, state = states[name]
            # torch's Adam counts its steps on the CPU.
            state[parameter][part] = value if part == "step" else value.to(parameter.device)
