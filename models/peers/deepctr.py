"""Train a model of deepctr-torch on exported rows and write its test scores; `python -m mimn.table.peers` starts this.

    python models/peers/deepctr.py ROWS.npz SCORES.npy din SEED

Runs in the peers' environment, so nothing from this repository can be imported. The package provides the model; the
optimizer, the order of the rows and the sizes come with the rows and match the model that it is compared with.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

# On import the package checks its index for a newer version, but not without `requests`.
sys.modules.setdefault("requests", types.ModuleType("requests"))

from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat  # noqa: E402  (after the line above)
from deepctr_torch.models import DIEN, DIN, PNN  # noqa: E402


def columns(rows: dict[str, Any], pooled: bool) -> list[Any]:
    """Item and category of candidate and history, log of the count, and, with `pooled`, the history's mean."""
    length, size = rows["train_items"].shape[1], int(rows["embedding_dim"])
    vocabularies = {"item": int(rows["item_rows"]) + 1, "category": int(rows["category_rows"]) + 1}

    def feature(name: str, of: str) -> Any:
        return SparseFeat(name, vocabularies[of], size, embedding_name=of)

    found: list[Any] = [feature(of, of) for of in vocabularies]
    for prefix in ("hist", "mean") if pooled else ("hist",):
        found += [
            VarLenSparseFeat(feature(f"{prefix}_{of}", of), length, combiner="mean", length_name="count")
            for of in vocabularies
        ]
    return [*found, DenseFeat("log_count", 1)]


def inputs(rows: dict[str, Any], part: str, candidates: Any, pooled: bool) -> torch.Tensor:
    """One row per candidate, in the order of `columns`: [n C, .]. Id 0 is padding, so each table row is one higher."""
    items, categories, lengths = (rows[f"{part}_{name}"] for name in ("items", "categories", "lengths"))
    each = candidates[0].shape[1]
    real = np.arange(items.shape[1]) < lengths[:, np.newaxis]
    histories = [np.repeat(np.where(real, ids + 1, 0), each, 0) for ids in (items, categories)]
    count = np.repeat(lengths, each)[:, np.newaxis]
    first, second = histories
    values = [*(ids.reshape(-1, 1) + 1 for ids in candidates), first, count, second]
    if pooled:
        values += [first, second]
    return torch.from_numpy(np.concatenate([*values, np.log1p(count) * rows["count_scale"]], 1).astype(np.float32))


def build(kind: str, rows: dict[str, Any], seed: int) -> Any:
    """The package's model, with the sizes in `rows`."""
    history, hidden = ["item", "category"], tuple(rows["head_units"].tolist())
    common: dict[str, Any] = {"l2_reg_embedding": 0.0, "init_std": 0.1, "seed": seed}
    common |= {"dnn_hidden_units": hidden, "dnn_activation": "prelu"}
    if kind == "pooling":
        # Its PNN without products is the plain network over embeddings, including the history's mean.
        model = PNN(columns(rows, pooled=False), use_inner=False, **common)
    elif kind == "din":
        model = DIN(
            columns(rows, pooled=True),
            history,
            att_hidden_size=(int(rows["attention_units"]),),
            att_activation="prelu",
            att_weight_normalization=True,
            **common,
        )
    else:
        model = DIEN(columns(rows, pooled=False), history, gru_type="AUGRU", **common)
    # The package initializes dense layers with 1e-4, and these few steps would not be enough to leave that.
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return model


def main(arguments: list[str]) -> None:
    """Train on the rows, epoch by epoch in their order, and score the test rows."""
    source, target, kind, seed = Path(arguments[0]), Path(arguments[1]), arguments[2], int(arguments[3])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with np.load(source, allow_pickle=False) as archive:
        rows = dict(archive)
    model, pooled = build(kind, rows, seed), kind == "din"
    optimizer = torch.optim.Adam(model.parameters(), lr=float(rows["learning_rate"]))
    for order, items, categories in zip(
        rows["order"], rows["train_candidate_items"], rows["train_candidate_categories"], strict=True
    ):
        model.train()
        data = inputs(rows, "train", (items, categories), pooled).view(len(items), 2, -1)
        for chosen in np.array_split(order, len(order) // int(rows["batch"])):
            batch = data[torch.from_numpy(chosen)].flatten(0, 1)
            labels = torch.tensor([1.0, 0.0]).repeat(len(chosen))
            loss = torch.nn.functional.binary_cross_entropy(model(batch).squeeze(-1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"deepctr-torch {kind}, seed {seed}: last loss {loss.item():.4f}", flush=True)
    model.eval()
    candidates = (rows["test_candidate_items"], rows["test_candidate_categories"])
    data = inputs(rows, "test", candidates, pooled)
    with torch.inference_mode():
        scores = torch.cat([model(batch).squeeze(-1) for batch in data.split(512)])
    np.save(target, scores.numpy())


if __name__ == "__main__":
    main(sys.argv[1:])
