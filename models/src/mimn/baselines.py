"""Hyper-parameters of the models other than MIMN: the others in the paper's Table 2, SIM, and two other memories.

Form `paper` follows their papers, made as strong as we could; form `official` is what MIMN's authors ran
(UIC-Paper/MIMN, commit 5cd5ccf), without its padding, which windows do not need. Each form shares embeddings, features
and MLP with the same form of MIMN, and all are trained on whole windows; `mimn.nn.baselines` has a file for each.
`model_config` uses `variant` to distinguish their `[model]` tables from MIMN's.

`hashed`, `delta` and `buckets` are memories of constant size, like MIMN's, and were tried in its place
(`models/plans/memories.toml`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mimn.config import ConfigError, MimnConfig, SharedConfig, Variant, at_least_one, cell_layout, one_of, whole_state
from mimn.state.layout import Block, BlockType, StateLayout

BaselineVariant = Literal["dnn", "din", "gru4rec", "arnn", "rum", "dien", "sim", "hashed", "delta", "buckets"]
Form = Literal["paper", "official"]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(SharedConfig):
    """Sizes and switches of one baseline; fields that its variant does not read have no effect."""

    variant: BaselineVariant = "din"
    form: Form = "paper"
    """`official`: attention, AUGRU, head and losses of MIMN's authors, and the events' sum instead of their mean."""
    units: int = 32
    """H: units of RUM's controller, of DIEN's second GRU and of a slot of `hashed`."""
    slots: int = 4
    """m: slots of RUM and `hashed`, rows of `delta`, buckets of each hash function of `buckets`."""
    hash_functions: int = 4
    """G: hash functions of `buckets`."""
    found: int = 32
    """SIM: how many of the latest events of the candidate's category are read."""
    recent: int = 32
    """SIM: how many of the latest events of any category are read."""
    attention_units: int = 36
    """Hidden width of the activation unit of DIN, ARNN, RUM and SIM, at least 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "variant", BaselineVariant)
        one_of(self, "form", Form)
        at_least_one(self, "units", "slots", "hash_functions", "found", "recent")
        if self.variant == "buckets" and (self.slots < 2 or self.slots & (self.slots - 1)):
            raise ConfigError(f"slots must be a power of two, 2 or more, in variant 'buckets', not {self.slots}")
        if self.attention_units < 2:
            raise ConfigError(f"attention_units must be at least 2, not {self.attention_units}")
        if self.auxiliary_loss and self.variant != "dien":
            raise ConfigError(f"auxiliary_loss must be false in variant {self.variant!r}: only 'dien' has one")
        if self.variant == "dnn" and self.form == "paper":
            raise ConfigError("form must be 'official' in variant 'dnn': the other one is MIMN's variant 'pooling'")
        if self.form == "official":
            self._check_official()

    def _check_official(self) -> None:
        if self.variant in ("sim", "hashed", "delta", "buckets"):
            raise ConfigError(f"form must be 'paper' in variant {self.variant!r}: MIMN's authors did not run it")
        if self.variant != "dnn" and self.history_product != (self.variant == "dien"):
            wanted = "true" if self.variant == "dien" else "false"
            raise ConfigError(f"history_product must be {wanted} in form 'official' of variant {self.variant!r}")
        if self.sketch is not None or self.ledger is not None:
            raise ConfigError(
                "sketch cells and ledger_buckets must be 0 in form 'official': MIMN's authors had neither"
            )
        if self.head != "paper":
            raise ConfigError(f"head must be 'paper' in form 'official', not {self.head!r}")

    @property
    def context_features(self) -> tuple[str, ...]:
        """None: the baselines read only the candidate and the history."""
        return ()

    @property
    def shifts(self) -> bool:
        """No: no baseline sharpens its write weights."""
        return False


ModelConfig = MimnConfig | BaselineConfig


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration in a `[model]` table; `variant` decides its class.

    Raises:
        ConfigError: an unknown field, or a value of the wrong type or out of range.
    """
    variant = values.get("variant", MimnConfig.variant)
    if variant in get_args(BaselineVariant):
        return BaselineConfig.from_mapping(values)
    if variant not in get_args(Variant):
        known = ", ".join((*get_args(Variant), *get_args(BaselineVariant)))
        raise ConfigError(f"variant must be one of {known} (MIMN is paper), not {variant!r}")
    return MimnConfig.from_mapping(values)


def folded_blocks(config: BaselineConfig, dtype: BlockType = "float32") -> tuple[Block, ...]:
    """What a baseline remembers of a user beside the mean and the count of the events; none if it reads the events."""
    D, H, m = config.width, config.units, config.slots
    parts: dict[str, dict[str, tuple[int, ...]]] = {
        "gru4rec": {"hidden": (D,)},
        "rum": {"controller": (H,), "read": (D,), "memory": (m, D)},
        "hashed": {"slots": (m, H)},
        "delta": {"memory": (m, D)},
        "buckets": {"buckets": (config.hash_functions, m, D + 1)},
    }
    return tuple(Block(name, shape, dtype) for name, shape in parts.get(config.variant, {}).items())


def step_layout(config: ModelConfig, dtype: BlockType = "float32") -> StateLayout:
    """The blocks of a state that the step graph of any model reads and writes; `dtype` as in `cell_layout`.

    Raises:
        ConfigError: a variant that reads the events, so a state of constant size cannot hold what it knows.
        LayoutError: as `cell_layout`.
    """
    if isinstance(config, MimnConfig):
        return cell_layout(config, dtype)
    parts = folded_blocks(config, dtype)
    if not parts:
        raise ConfigError(f"variant {config.variant!r} reads the events themselves: it has no state of constant size")
    return StateLayout((*parts, Block("history_mean", (config.width,)), Block("count", (1,))))


def user_layout(config: ModelConfig, dtype: BlockType = "float32") -> StateLayout:
    """The blocks of a user's state under any model: `step_layout` with sketch and ledger around it.

    Raises:
        ConfigError, LayoutError: as `step_layout`.
    """
    return whole_state(step_layout(config, dtype), config)


def state_bytes(config: ModelConfig) -> int | None:
    """Bytes of a user's stored state without its header; None for a model that needs the events themselves."""
    if isinstance(config, BaselineConfig) and not folded_blocks(config):
        return None
    return user_layout(config).stored_bytes


def check_reads_fields(config: ModelConfig) -> None:
    """Raises ConfigError if a model of `config` reads ids and history alone."""
    official = config.form == "official" if isinstance(config, BaselineConfig) else config.variant == "official"
    if official:
        raise ConfigError("the published models read no fields: choose another variant or form, or remove [fields]")
