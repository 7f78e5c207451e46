"""Train field models of deepctr-torch on exported rows; `python -m mimn.table.head_peers` starts this.

    python models/peers/deepctr_heads.py ROWS.npz FOLDER deepfm,nfm 0,1,2

writes the test scores of each model and seed as FOLDER/<model>-<seed>.npy.

As `deepctr.py`: nothing from this repository is imported, the package provides the model, and all else comes with the
rows. The package has no FNN: it is put together from the package's factorization machine and its network.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# On import the package checks its index for a newer version, but not without `requests`.
sys.modules.setdefault("requests", types.ModuleType("requests"))

from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat  # noqa: E402  (after the line above)
from deepctr_torch.layers import DNN  # noqa: E402
from deepctr_torch.models import AFM, DCN, NFM, PNN, WDL, DeepFM  # noqa: E402

STD = 0.1
"""Of embeddings at the start, as on the other side."""
CROSS_LAYERS = 3


def columns(rows: dict[str, Any]) -> list[Any]:
    """Item and category of the candidate, every field, and the mean of the events' items and categories."""
    length, size = rows["train_items"].shape[1], int(rows["embedding_dim"])
    vocabularies = {"item": int(rows["item_rows"]) + 1, "category": int(rows["category_rows"]) + 1}
    fields = zip(rows["field_names"].tolist(), rows["field_rows"].tolist(), strict=True)
    found: list[Any] = [SparseFeat(of, n, size, embedding_name=of) for of, n in vocabularies.items()]
    found += [SparseFeat(f"field_{name}", n, size) for name, n in fields]
    found += [
        VarLenSparseFeat(
            SparseFeat(f"mean_{of}", n, size, embedding_name=of), length, combiner="mean", length_name="count"
        )
        for of, n in vocabularies.items()
    ]
    return found


def inputs(rows: dict[str, Any], part: str, candidates: Any) -> torch.Tensor:
    """One row per candidate, in the order of `columns`: [n C, .]. Id 0 is padding, so each table row is one higher."""
    items, categories = candidates
    each, own = items.shape[1], rows["embedding_rows"]
    lengths = rows[f"{part}_lengths"]
    real = np.arange(rows[f"{part}_items"].shape[1]) < lengths[:, np.newaxis]
    past = (own[rows[f"{part}_items"]], rows[f"{part}_categories"])
    means = [np.repeat(np.where(real, ids + 1, 0), each, 0) for ids in past]
    values = [
        own[items].reshape(-1, 1) + 1,
        categories.reshape(-1, 1) + 1,
        np.repeat(rows[f"{part}_request"], each, 0),
        rows["item_values"][items.reshape(-1)],
        means[0],
        np.repeat(lengths, each)[:, np.newaxis],
        means[1],
    ]
    return torch.from_numpy(np.concatenate(values, 1).astype(np.float32))


class Fnn(nn.Module):
    """The package's network over what its factorization machine learned: first-order weights and vectors."""

    def __init__(self, machine: Any, found: list[Any], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.machine, self.found = machine, found
        width = machine.compute_input_dim(found) + 1
        self.dnn = DNN(width, hidden, activation="relu", init_std=STD)
        self.last = nn.Linear(hidden[-1], 1)
        reset(self.dnn)
        reset(self.last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """→ [n, 1]"""
        vectors, _ = self.machine.input_from_feature_columns(x, self.found, self.machine.embedding_dict)
        read = torch.cat([torch.cat(vectors, 1).flatten(1), self.machine.linear_model(x)], 1)
        return torch.sigmoid(self.last(self.dnn(read)))


def build(head: str, found: list[Any], rows: dict[str, Any], seed: int) -> Any:
    """The package's model, with the sizes in `rows`."""
    hidden = tuple(rows["head_units"].tolist())
    linear = {"l2_reg_linear": 0.0, "l2_reg_embedding": 0.0, "init_std": STD, "seed": seed}
    deep = linear | {"dnn_hidden_units": hidden, "dnn_activation": "relu"}
    products = {name: value for name, value in deep.items() if name != "l2_reg_linear"}
    match head:
        case "mlp":
            model = PNN(found, use_inner=False, **products)
        case "pnn_inner":
            model = PNN(found, use_inner=True, **products)
        case "pnn_outer":
            model = PNN(found, use_inner=False, use_outter=True, kernel_type="mat", **products)
        case "wide_deep":
            model = WDL(found, found, **deep)
        case "deepfm":
            model = DeepFM(found, found, **deep)
        case "dcn":
            model = DCN([], found, cross_num=CROSS_LAYERS, **deep)
        case "dcn_v2":
            model = DCN([], found, cross_num=CROSS_LAYERS, cross_parameterization="matrix", **deep)
        case "nfm":
            model = NFM(found, found, **deep)
        case "afm":
            model = AFM(found, found, attention_factor=hidden[-1], **linear)
        case "fm":
            model = AFM(found, found, use_attention=False, **linear)
        case _:
            raise ValueError(f"{head} is no model of the package")
    reset(model)
    return model


def reset(model: nn.Module) -> None:
    """The package initializes dense layers with 1e-4, and these few steps would not be enough to leave that."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def train(model: Any, rows: dict[str, Any], what: str) -> None:
    """Epoch by epoch in the rows' order."""
    optimizer = torch.optim.Adam(model.parameters(), lr=float(rows["learning_rate"]))
    for order, items, categories in zip(
        rows["order"], rows["train_candidate_items"], rows["train_candidate_categories"], strict=True
    ):
        model.train()
        data = inputs(rows, "train", (items, categories)).view(len(items), 2, -1)
        for chosen in np.array_split(order, len(order) // int(rows["batch"])):
            batch = data[torch.from_numpy(chosen)].flatten(0, 1)
            labels = torch.tensor([1.0, 0.0]).repeat(len(chosen))
            loss = nn.functional.binary_cross_entropy(model(batch).squeeze(-1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"deepctr-torch {what}: last loss {loss.item():.4f}", flush=True)


def scores_of(head: str, rows: dict[str, Any], seed: int) -> Any:
    """Train one model on the rows and score the test rows. → [2 r]"""
    torch.manual_seed(seed)
    found = columns(rows)
    if head == "fnn":
        machine = build("fm", found, rows, seed)
        train(machine, rows, f"fm, seed {seed}")
        model: Any = Fnn(machine, found, tuple(rows["head_units"].tolist()))
    else:
        model = build(head, found, rows, seed)
    train(model, rows, f"{head}, seed {seed}")
    model.eval()
    data = inputs(rows, "test", (rows["test_candidate_items"], rows["test_candidate_categories"]))
    with torch.inference_mode():
        return torch.cat([model(batch).squeeze(-1) for batch in data.split(512)]).numpy()


def main(arguments: list[str]) -> None:
    """Every model with every seed."""
    source, folder, heads, seeds = arguments
    torch.set_num_threads(1)
    with np.load(source, allow_pickle=False) as archive:
        rows = dict(archive)
    for head in heads.split(","):
        for seed in map(int, seeds.split(",")):
            np.save(Path(folder) / f"{head}-{seed}.npy", scores_of(head, rows, seed))


if __name__ == "__main__":
    main(sys.argv[1:])
