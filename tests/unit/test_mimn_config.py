"""The configuration: what it refuses, and that it survives a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mimn.config import ConfigError, MimnConfig, state_layout
from mimn.run_config import read_config
from mimn.state import LayoutError

CONFIGS = Path(__file__).parents[2] / "models" / "configs"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slots": 0}, "slots must be at least 1, not 0"),
        ({"variant": "papre"}, "variant must be one of paper, official, pooling, ledger, not 'papre'"),
        ({"rebalance": "shift", "slots": 2}, "slots must be at least 3"),
        ({"padding": "run"}, "padding 'run' does not exist in variant 'paper'"),
        ({"variant": "official", "rebalance": "shift"}, "padding 'hold' does not exist in variant 'official'"),
        ({"head_dropout": 1.0}, r"head_dropout must be in \[0, 1\)"),
        ({"utilization_weight": float("nan")}, "utilization_weight must be 0 or more"),
        ({"context_features": ["hour", "hour"]}, "context_features must be distinct"),
        ({"head_units": [200]}, "head_units must be two positive widths"),
        ({"slots": True}, "slots must be like 4, not True"),
        ({"slotz": 4}, "unknown field slotz"),
        ({"variant": "pooling"}, "it has no memory"),
        ({"sketch_item_cells": -1}, "sketch_item_cells must be 0 to 65536, not -1"),
        ({"sketch_category_cells": 7}, "sketch_category_cells must be even, not 7"),
        ({"sketch_half_lives": [30, 30]}, "sketch_half_lives must be distinct days"),
        ({"sketch_half_lives": [0, 1 << 63]}, "sketch_half_lives must be distinct days, 0 to 36500"),
        ({"member_half_lives": [0, 30]}, "member_half_lives must be distinct days, 1 to 36500"),
        ({"sketch_half_lives": [0.5]}, r"sketch_half_lives must be like \(0, 30\), not \[0.5\]"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MimnConfig.from_mapping(values)


@pytest.mark.parametrize(
    "config",
    [MimnConfig(), MimnConfig.official(padding="reset"), MimnConfig.pooling(context_features=("hour",))],
)
def test_a_configuration_survives_a_mapping(config: MimnConfig) -> None:
    assert MimnConfig.from_mapping(asdict(config)) == config


@pytest.mark.parametrize(
    ("config", "floats", "half_floats"),
    [
        # The sizes of the specification's table, plus the count.
        (MimnConfig(memory_induction=False, utilization=False), 256 + 1, 192),
        (MimnConfig(memory_induction=False), 260 + 1, 192),
        (MimnConfig(), 388 + 1, 320),
        (MimnConfig(slots=6), 518 + 1, 448),
        (MimnConfig(slots=8), 648 + 1, 576),
        (MimnConfig.pooling(), 33, 0),
    ],
)
def test_the_state_has_the_size_that_the_equations_need(config: MimnConfig, floats: int, half_floats: int) -> None:
    assert state_layout(config).floats == floats
    assert state_layout(config).half_floats == 0
    assert state_layout(config, "float16").half_floats == half_floats


def test_a_state_fits_its_budget() -> None:
    """At most 2 KiB in float32 and 1.1 KiB in float16, header included."""
    assert 80 + state_layout(MimnConfig()).stored_bytes <= 2048
    assert 80 + state_layout(MimnConfig(), "float16").stored_bytes <= 1.1 * 1024


@pytest.mark.parametrize("name", ["complete_journey", "online_retail"])
@pytest.mark.parametrize("kind", ["mimn", "pooling"])
def test_a_state_with_a_committed_sketch_fits_its_budget(name: str, kind: str) -> None:
    """At most 6 KiB, header included."""
    config = read_config(CONFIGS / f"{name}_{kind}_sketch.toml").architecture
    assert isinstance(config, MimnConfig)
    assert config.sketch is not None
    assert 80 + state_layout(config).stored_bytes <= 6 * 1024


def test_float16_needs_an_even_number_of_values() -> None:
    with pytest.raises(LayoutError, match="odd number"):
        state_layout(MimnConfig(controller_units=31), "float16")
