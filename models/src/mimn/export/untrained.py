"""Models before any training, with random values for all that a run would bring: what `--untrained` exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from mimn.baselines import ModelConfig, model_config
from mimn.bundle import ItemTable, MemberIndex
from mimn.bundle.fields import FIRST, FieldSpec, check_fields, code_of
from mimn.bundle.item_table import STATISTICS, Neighbors
from mimn.config import ConfigError, MimnConfig
from mimn.export.parts import Ids
from mimn.nn.checkpoint import model_fields, untrained
from mimn.nn.fields import FieldValues
from mimn.nn.model import ClickModel
from mimn.toml_text import NotToml, parsed


def config_of(path: Path | None) -> ModelConfig:
    """The `[model]` table of a TOML file, the default sizes without one.

    Raises:
        ConfigError: it cannot be used.
    """
    if path is None:
        return MimnConfig()
    try:
        table = parsed(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, NotToml) as error:
        raise ConfigError(f"--config: {path} cannot be read as TOML: {error}") from error
    return model_config(table.get("model", {}))


def specs_of(path: Path | None) -> tuple[FieldSpec, ...]:
    """The fields that a JSON file describes, such as a run's `fields.json`; none without one.

    Raises:
        ConfigError: it cannot be used.
    """
    if path is None:
        return ()
    try:
        specs = msgspec.json.decode(path.read_bytes(), type=tuple[FieldSpec, ...])
        check_fields(specs)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"--fields: {path} does not describe fields: {error}") from error
    return specs


def untrained_model(
    config: ModelConfig, items: int, categories: int, seed: int, specs: Sequence[FieldSpec] = ()
) -> ClickModel:
    """A model of `config` before training, with the given numbers of items and categories, and fields."""
    torch.manual_seed(seed)
    fields = model_fields(config, specs, drawn_values(specs, items + 1)) if specs else None
    return untrained(config, items + 1, categories + 1, fields)


def drawn_values(specs: Sequence[FieldSpec], items: int) -> FieldValues:
    """Random values of the items' fields, two in each list."""
    own = [spec for spec in specs if spec.source == "item"]
    single = [torch.randint(spec.rows, (items,)) for spec in own if spec.tabled and spec.kind != "multi"]
    return FieldValues(
        rows=torch.stack(single, -1) if single else torch.empty(items, 0, dtype=torch.int64),
        lists=tuple(torch.randint(spec.rows, (items, 2)) for spec in own if spec.kind == "multi"),
        numbers=torch.randn(items, sum(not spec.tabled for spec in own)),
    )


def drawn_codes(specs: Sequence[FieldSpec]) -> dict[str, Ids]:
    """The codes of the values "0", "1" and so on of listed fields."""
    return {
        spec.name: np.sort(np.array([code_of(str(value)) for value in range(spec.rows - FIRST)], np.uint64))
        for spec in specs
        if spec.listed
    }


def drawn_table(config: ModelConfig, item_ids: Ids, random: np.random.Generator) -> ItemTable | None:
    """A table of items with random values; None for one that reads none."""
    if config.ledger is None or not config.read_groups:
        return None
    rows = len(item_ids) + 1
    neighbors = None
    if "neighbors" in config.read_groups:
        shape = rows, config.ledger_neighbors
        drawn = random.integers(0, rows, shape, dtype=np.int32)
        neighbors = Neighbors(drawn, random.normal(size=shape).astype(np.float32))
    return ItemTable(
        ids=item_ids,
        statistics=random.gamma(2.0, 1.0, (rows, len(STATISTICS))).astype(np.float32),
        types=random.integers(0, 9, (rows, len(config.ledger_types)), dtype=np.int32),
        vectors=random.normal(size=(rows, config.ledger_vectors)).astype(np.float32),
        neighbors=neighbors,
    )


def drawn_members(config: ModelConfig, item_ids: Ids, random: np.random.Generator) -> MemberIndex | None:
    """An index in which half of the items stand for three others each; None without `member_reads`."""
    if config.ledger is None or not config.member_reads:
        return None
    candidates = np.repeat(item_ids[::2], 3)
    return MemberIndex.of(config.ledger, candidates, random.choice(item_ids, len(candidates)))
