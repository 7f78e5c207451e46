"""Compares the baselines with a package that also has them: two programs, same rows, features, sizes and optimizer.

    python -m mimn.table.peers --dataset complete_journey --output models/experiments/peers

The rows of one fold are written to a file: the protocol's train instances, with another of their four popularity
negatives each epoch, and its test instances. The package's models (`models/peers`) are trained on it in a separate
environment, ours in this one. `<dataset>_<model>.csv` gives the difference of the test AUCs, with a 95 % interval over
users and seeds.

Rows are unrolled one by one, without the table's windows, which the package does not have. So these figures use fewer
targets and shorter histories than `AUC.md`; they compare two programs, not two models.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimn import metrics, run
from mimn.baselines import ModelConfig, model_config
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data.instances import NEGATIVES
from mimn.data.split import Part
from mimn.data.vocabulary import EmbeddingIds
from mimn.data.windows import histories
from mimn.data_set import DataSet, load_data
from mimn.nn.baselines.attention import ActivationUnit
from mimn.nn.checkpoint import untrained
from mimn.nn.head import COUNT_SCALE
from mimn.nn.model import Batch, ClickModel
from mimn.run_config import RunConfig, read_config

PEERS = Path("models/peers")
CONFIGS = Path("models/configs")
KINDS = {"pooling": "pooling", "din": "din_product", "dien": "dien_product"}
"""The models that both sides have, and our configurations of them."""
BATCH = 64
"""Positives per step, each with one negative."""
LEARNING_RATE = 2e-3

Rows = dict[str, NDArray[Any]]


def export_rows(config: RunConfig, data: DataSet, ids: EmbeddingIds, *, length: int, targets: int) -> Rows:
    """The training and test data of both sides, as arrays of table rows.

    n train and r test positives, e = 4 epochs, T = `length`; part is `train` or `test`:

    <part>_items, <part>_categories [n, T] · <part>_lengths [n] · train_candidate_items, -_categories [e, n, 2] ·
    test_candidate_items, -_categories [r, 2] · order [e, n]: the order of the rows in each epoch
    """
    item_rows, category_rows = ids.item_rows(data.events.item_id), ids.category_rows(data.events.category_id)
    rng = np.random.default_rng(config.training.seed)
    rows: Rows = {}
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        instances = data.instances.of(part)
        if part == "train" and len(instances) > targets:
            mask = np.zeros(len(instances), bool)
            mask[rng.permutation(len(instances))[:targets]] = True
            instances = instances.select(mask)
        items, categories, lengths = histories(instances.begin, instances.end, item_rows, category_rows, length)
        rows |= {f"{part}_items": items, f"{part}_categories": categories, f"{part}_lengths": lengths}
        all_rows = instances.candidates("popularity", NEGATIVES)
        shape = (len(instances), NEGATIVES + 1)
        candidates = (ids.item_rows(all_rows.item).reshape(shape), ids.category_rows(all_rows.category).reshape(shape))
        for name, values in zip(("items", "categories"), candidates, strict=True):
            by_epoch = np.stack([values[:, [0, k]] for k in range(1, NEGATIVES + 1)])
            rows[f"{part}_candidate_{name}"] = by_epoch if part == "train" else by_epoch[0]
    architecture = config.architecture
    sizes = {
        "item_rows": len(ids.items) + 1,
        "category_rows": len(ids.categories) + 1,
        "embedding_dim": architecture.embedding_dim,
        "head_units": architecture.head_units,
        "attention_units": getattr(architecture, "attention_units", 0),
        "count_scale": COUNT_SCALE,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
    }
    rows |= {name: np.array(value) for name, value in sizes.items()}
    rows["order"] = np.stack([rng.permutation(len(rows["train_items"])) for _ in range(NEGATIVES)])
    return rows


def train_ours(architecture: ModelConfig, rows: Rows, seed: int, *, random_start: bool) -> NDArray[np.float32]:
    """Scores of the test rows by our model, trained on the same rows as the peers. → [r, 2]

    `random_start`: DIN's activation unit starts from random weights, as in the package, instead of the product of
    candidate and event.
    """
    torch.manual_seed(seed)
    model = untrained(architecture, int(rows["item_rows"]), int(rows["category_rows"]))
    if random_start:
        _start_at_random(model)
    fit(model, rows, batch_of)
    return scores_of(model, rows, lambda chosen: None)


def fit(model: ClickModel, rows: Rows, batch: Callable[..., Batch]) -> None:
    """Train on the rows in their order. `batch`: takes what `batch_of` does."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for order, items, categories in zip(
        rows["order"], rows["train_candidate_items"], rows["train_candidate_categories"], strict=True
    ):
        model.train()
        for chosen in np.array_split(order, len(order) // BATCH):
            losses = model.loss(batch(rows, chosen, items, categories))
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.inference_mode()
def scores_of(
    model: ClickModel, rows: Rows, context: Callable[[NDArray[np.int64]], Tensor | None]
) -> NDArray[np.float32]:
    """Scores of the test rows. `context`: the vectors of the requests of some rows, None for a model without."""
    model.eval()
    scores: list[Tensor] = []
    for chosen in np.array_split(np.arange(len(rows["test_items"])), 64):
        read = (torch.from_numpy(rows[f"test_{name}"][chosen]) for name in ("items", "categories", "lengths"))
        candidates = (torch.from_numpy(rows[f"test_candidate_{name}"][chosen]) for name in ("items", "categories"))
        scores.append(model.scorer(*read)(*candidates, context=context(chosen)))
    return torch.cat(scores).numpy()


def _start_at_random(model: ClickModel) -> None:
    for module in model.modules():
        if isinstance(module, ActivationUnit):
            limit = (6 / (4 * module.first.shape[1] + module.first.shape[2])) ** 0.5
            torch.nn.init.uniform_(module.first, -limit, limit)
            torch.nn.init.xavier_uniform_(module.second.weight)


def batch_of(rows: Rows, chosen: NDArray[np.int64], items: NDArray[np.int64], categories: NDArray[np.int64]) -> Batch:
    """Windows with one occasion each, at their end."""
    lengths = torch.from_numpy(rows["train_lengths"][chosen])
    labels = torch.zeros(len(chosen), 1, 2)
    labels[..., 0] = 1.0
    return Batch(
        items=torch.from_numpy(rows["train_items"][chosen]),
        categories=torch.from_numpy(rows["train_categories"][chosen]),
        lengths=lengths,
        positions=lengths.unsqueeze(-1),
        candidate_items=torch.from_numpy(items[chosen]).unsqueeze(1),
        candidate_categories=torch.from_numpy(categories[chosen]).unsqueeze(1),
        labels=labels,
    )


def environment(folder: Path) -> Path:
    """The Python interpreter of the peers' environment, which is created if it does not exist.

    It has the packages of `models/peers/requirements.txt` and uses this environment's torch and numpy, so both sides
    compute with the same build.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        requirements = ("--requirement", str(PEERS / "requirements.txt"))
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *requirements], check=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "torch_of_the_other.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return python


def train_theirs(python: Path, kind: str, rows: Path, seed: int) -> NDArray[np.float32]:
    """Scores of the test rows by the package's model. → [r, 2]"""
    target = rows.with_name(f"{kind}-{seed}.npy")
    subprocess.run([python, str(PEERS / "deepctr.py"), str(rows), str(target), kind, str(seed)], check=True)
    scores: NDArray[np.float32] = np.load(target, allow_pickle=False)
    return scores.reshape(-1, 2)


def compared(
    labels: NDArray[np.int64],
    users: NDArray[np.int64],
    ours: list[NDArray[np.float64]],
    theirs: list[NDArray[np.float64]],
) -> dict[str, Any]:
    """The mean AUC over the seeds of each side, and the difference with its interval.

    Both sides use the same resampled users, and each draws its own seeds, because two runs of one program differ, too.
    """
    sides = [[metrics.auc(labels, scores) for scores in side] for side in (ours, theirs)]
    resampled = [np.array([metrics.resampled_aucs(labels, s, users) for s in side]) for side in (ours, theirs)]
    rng = np.random.default_rng(0)
    resampled = [np.take_along_axis(aucs, rng.integers(len(aucs), size=aucs.shape), 0).mean(0) for aucs in resampled]
    means = [float(np.mean(side)) for side in sides]
    found = metrics.interval(means[0] - means[1], resampled[0] - resampled[1])
    return {
        "ours": round(means[0], 4),
        "theirs": round(means[1], 4),
        "difference": round(found.difference, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "ours_by_seed": " ".join(f"{auc:.4f}" for auc in sides[0]),
        "theirs_by_seed": " ".join(f"{auc:.4f}" for auc in sides[1]),
    }


def compare(kind: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lines of a model's record; DIN has a second line with the package's initialization.

    Raises:
        ConfigError, DataError: a configuration or the data set cannot be used.
        subprocess.CalledProcessError: the peers' environment cannot be made, or their training fails.
    """
    runs: Path = options.runs
    runs.mkdir(parents=True, exist_ok=True)
    python = environment(runs / "environment")
    config = read_config(CONFIGS / f"{options.dataset}_{KINDS[kind]}.toml").with_seed(options.fold)
    data = load_data(msgspec.structs.replace(config.data, fold=options.fold))
    ids = data.vocabulary.embedding_ids(config.data.min_users)
    rows = export_rows(config, data, ids, length=options.length, targets=options.targets)
    file = runs / f"{options.dataset}-{kind}-{options.fold}.npz"
    np.savez(file, **rows)  # type: ignore[arg-type]  # as in evaluate
    theirs = [train_theirs(python, kind, file, seed) for seed in options.seeds]
    # The head without the parts that the package lacks: the product, batch normalization, dropout.
    architecture = model_config(config.model | {"history_product": False, "head_norm": "none", "head_dropout": 0.0})
    test = data.instances.of("test").candidates("popularity")
    for random_start in (False, True) if kind == "din" else (False,):
        ours = [train_ours(architecture, rows, seed, random_start=random_start) for seed in options.seeds]
        flat = [[scores.reshape(-1).astype(np.float64) for scores in side] for side in (ours, theirs)]
        yield {
            "model": kind + (", started at random" if random_start else ""),
            "package": (PEERS / "requirements.txt").read_text("utf-8").split()[-1],
            "dataset": options.dataset,
            "fold": options.fold,
            "length": options.length,
            "train_positives": len(rows["train_items"]),
            "test_rows": len(test.label),
            "commit": run.commit(),
        } | compared(test.label, test.user_id, *flat)


def main(arguments: list[str] | None = None) -> int:
    """Compare; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.peers", description="Our baselines and a package's.")
    parser.add_argument("--dataset", default="complete_journey", help="default complete_journey")
    parser.add_argument("--models", nargs="+", default=list(KINDS), choices=tuple(KINDS))
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--length", type=int, default=100, help="events of history (default 100)")
    parser.add_argument("--targets", type=int, default=20_000, help="at most this many train positives")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"), help="rows, scores and the environment")
    parser.add_argument("--output", type=Path, required=True, help="folder of the record")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        for kind in options.models:
            lines = []
            for line in compare(kind, options):
                print(line, flush=True)
                lines.append(line)
            with (options.output / f"{options.dataset}_{kind}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)
    except (ConfigError, DataError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
