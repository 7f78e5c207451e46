"""Train and test one model by the MIMN authors' own protocol, to compare with their tables; their leaks are in it.

    python -m mimn.paper --config models/reproduce/mimn.toml --description models/datasets/taobao-paper.toml \
        --output runs/taobao-mimn [--seed 19]

The rows are those of the description's preset (`mimn.data.presets`). As in the authors' scripts there is one pass over
the train users in random order, Adam, and a test every `test_every` batches; what they publish is the **best** of these
tests, so the test users choose the checkpoint. `metrics.json` has that figure and the one after the last batch.
Histories are not padded: the published MIMN runs its cell over the padding, ours has none.

For everything else train by the clean protocol: `mimn.train`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mimn import metrics, run
from mimn.baselines import ModelConfig, model_config
from mimn.config import ConfigError
from mimn.data.events import DataError, Events
from mimn.data.preparation import cache_folder, prepare
from mimn.data.prepared import Prepared
from mimn.data.presets import PaperInstances, paper_instances
from mimn.data.vocabulary import EmbeddingIds
from mimn.nn.checkpoint import untrained
from mimn.nn.model import Batch, ClickModel
from mimn.options import whole_number
from mimn.toml_text import NotToml, parsed

Ints = NDArray[np.int64]
TEST_ROWS = 512
"""Rows that are scored together."""
DRAWS = 20
"""Rounds of drawing items outside of a history."""


class PaperTraining(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[training]`."""

    rows_per_batch: int = 256
    """The authors: 256 on Taobao, 128 on Amazon."""
    passes: int = 1
    learning_rate: float = 1e-3
    test_every: int = 100
    """Batches between two tests."""

    def __post_init__(self) -> None:
        for name in ("rows_per_batch", "passes", "test_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")


class PaperConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configuration file of `models/reproduce`."""

    name: str
    """The row of the table."""
    model: dict[str, Any]
    """As in `mimn.run_config.RunConfig`."""
    training: PaperTraining = PaperTraining()

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration."""
        return model_config(self.model)


class PaperFailed(Exception):
    """Training cannot start or go on; the message says why and what to do."""


def read_config(path: Path) -> PaperConfig:
    """The configuration in a file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or a field is unknown, missing or of the wrong type.
    """
    try:
        config = msgspec.convert(parsed(path.read_text("utf-8")), PaperConfig)
        model_config(config.model)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (NotToml, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


@dataclass(frozen=True)
class _Rows:
    """The instances of one part, with ids as rows of the tables."""

    instances: PaperInstances
    events: tuple[Ints, Ints]
    """Items and categories of all events."""
    candidates: tuple[Ints, Ints]
    catalogue: tuple[Ints, Ints]
    """Distinct items and their categories."""

    def tensors(self, chosen: Ints) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Histories and candidates. [k] → items [k, T], categories [k, T], lengths [k], item [k, 1], category [k, 1]"""
        items, categories, lengths = self.instances.histories(chosen, self.events, self.candidates)
        item, category = (rows[chosen, np.newaxis] for rows in self.candidates)
        return tuple(map(torch.from_numpy, (items, categories, lengths, item, category)))  # type: ignore[return-value]


def train(
    config: PaperConfig, data: Prepared, output: Path, seed: int, *, progress_bar: bool = False
) -> dict[str, Any]:
    """Train and test `config` on a data set with a preset; write `metrics.json` into `output` and return what it says.

    Raises:
        DataError: the description has no preset, or it cannot be used.
        PaperFailed: the folder has a run, the model has a sketch, or the loss is not finite.
    """
    protocol = data.description.protocol
    if protocol is None:
        raise DataError(f"{data.description.name}: the description has no `[protocol]`: train with mimn.train")
    if (output / run.METRICS).exists():
        raise PaperFailed(f"{output} holds a run already: choose another folder")
    if config.architecture.sketch is not None:
        raise PaperFailed("[model] the paper's models have no sketch: set its cells to 0")
    torch.set_num_threads(1)
    events = data.events
    instances = paper_instances(events, protocol)
    # Ids of train and test users alike, as the authors number them.
    ids = EmbeddingIds.of(events.item_id, events.category_id)
    torch.manual_seed(seed)
    model = untrained(config.architecture, len(ids.items) + 1, len(ids.categories) + 1)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    began = time.process_time()
    parts = _rows(instances, events, ids)
    tests = _train(config, model, *parts, seed=seed, progress_bar=progress_bar)
    best = max(tests, key=lambda test: test[1])
    record = {
        "name": config.name,
        "dataset": data.description.name,
        "protocol": f"official: {protocol.preset}, checkpoint chosen on the test users",
        "candidate_in_history": instances.candidate_last,
        "seed": seed,
        "commit": run.commit(),
        "data_sha256": events.sha256,
        "model": asdict(config.architecture),
        "rows": {"train": len(instances.of("train")), "test": len(instances.of("test"))},
        "test_auc_best": best[1],
        "test_auc_best_after_batches": best[0],
        "test_auc_last": tests[-1][1],
        "tests": [{"batches": batches, "auc": auc} for batches, auc in tests],
        "cpu_s": round(time.process_time() - began, 1),
    }
    output.mkdir(parents=True, exist_ok=True)
    run.write_json(output / run.METRICS, record)
    return record


def _rows(instances: PaperInstances, events: Events, ids: EmbeddingIds) -> tuple[_Rows, _Rows]:
    """The train rows and the test rows."""
    of_events = ids.item_rows(events.item_id), ids.category_rows(events.category_id)
    distinct, first = np.unique(of_events[0], return_index=True)

    def rows(chosen: PaperInstances) -> _Rows:
        candidates = ids.item_rows(chosen.item), ids.category_rows(chosen.category)
        return _Rows(chosen, of_events, candidates, (distinct, of_events[1][first]))

    return rows(instances.of("train")), rows(instances.of("test"))


def _train(
    config: PaperConfig, model: ClickModel, train_rows: _Rows, test_rows: _Rows, *, seed: int, progress_bar: bool
) -> list[tuple[int, float]]:
    """Every test: batches seen, AUC on the test users."""
    settings = config.training
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    rng = np.random.default_rng(seed)
    tests: list[tuple[int, float]] = []
    batches = 0
    for _ in range(settings.passes):
        order = rng.permutation(len(train_rows.instances))
        starts = range(0, len(order), settings.rows_per_batch)
        for start in tqdm(starts, disable=not progress_bar, unit="batch", leave=False):
            model.train()
            batch = _batch(train_rows, order[start : start + settings.rows_per_batch], model.config, rng)
            losses = model.loss(batch.to(model.items.weight.device))
            if not math.isfinite(float(losses.total.detach())):
                raise PaperFailed(f"the loss is not finite in batch {batches + 1}: lower training.learning_rate")
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            batches += 1
            if batches % settings.test_every == 0:
                tests.append((batches, auc_on(model, test_rows)))
    if not tests or tests[-1][0] != batches:
        tests.append((batches, auc_on(model, test_rows)))
    return tests


def _batch(rows: _Rows, chosen: Ints, config: ModelConfig, rng: np.random.Generator) -> Batch:
    items, categories, lengths, item, category = rows.tensors(chosen)
    foreign: tuple[Tensor, Tensor] | None = None
    if config.auxiliary_loss:
        # For each event an item that is not in the row's history, uniformly from all: drawn again where it is.
        distinct = len(rows.catalogue[0])
        place = rng.integers(distinct, size=tuple(items.shape))
        for _ in range(DRAWS):
            drawn = torch.from_numpy(rows.catalogue[0][place])
            inside = (drawn.unsqueeze(-1) == items.unsqueeze(1)).any(-1).numpy()
            if not inside.any():
                break
            place[inside] = rng.integers(distinct, size=int(inside.sum()))
        foreign = torch.from_numpy(rows.catalogue[0][place]), torch.from_numpy(rows.catalogue[1][place])
    return Batch(
        items=items,
        categories=categories,
        lengths=lengths,
        positions=lengths.unsqueeze(-1),
        candidate_items=item.unsqueeze(1),
        candidate_categories=category.unsqueeze(1),
        labels=torch.from_numpy(rows.instances.label[chosen].astype(np.float32)).view(-1, 1, 1),
        negative_items=None if foreign is None else foreign[0],
        negative_categories=None if foreign is None else foreign[1],
    )


@torch.inference_mode()
def auc_on(model: ClickModel, rows: _Rows) -> float:
    """AUC over all test rows."""
    model.eval()
    device = model.items.weight.device
    scores = np.empty(len(rows.instances))
    for start in range(0, len(scores), TEST_ROWS):
        chosen = np.arange(start, min(start + TEST_ROWS, len(scores)))
        items, categories, lengths, item, category = (tensor.to(device) for tensor in rows.tensors(chosen))
        scores[chosen] = model.scorer(items, categories, lengths)(item, category).squeeze(1).cpu().numpy()
    return metrics.auc(rows.instances.label, scores)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m mimn.paper", description="One row of the authors' own tables.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file of models/reproduce")
    parser.add_argument("--description", type=Path, required=True, help="dataset.toml with [protocol]")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--seed", type=whole_number(0), default=19, help="of weights and order (%(default)s, the authors')"
    )
    parser.add_argument(
        "--rows-per-batch", type=int, help="instead of the configuration's; the authors had 128 on Amazon"
    )
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="where prepared data is kept (%(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Train and test one model; see the module's text."""
    options = parser().parse_args(arguments)
    try:
        config = read_config(options.config)
        if options.rows_per_batch is not None:
            try:
                training = msgspec.structs.replace(config.training, rows_per_batch=options.rows_per_batch)
            except ValueError as error:
                raise ConfigError(f"--rows-per-batch: {error}") from error
            config = msgspec.structs.replace(config, training=training)
        data = prepare(options.description, options.cache)
        record = train(config, data, options.output, options.seed, progress_bar=sys.stderr.isatty())
    except (ConfigError, DataError, PaperFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = ("name", "dataset", "protocol", "seed", "rows", "test_auc_best", "test_auc_last")
    print(json.dumps({name: record[name] for name in shown}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
