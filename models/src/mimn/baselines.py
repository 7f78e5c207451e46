"""Hyper-parameters of the models other than MIMN: the others in the paper's Table 2, SIM, and two other memories.

Form `paper` follows their papers, made as strong as we could; form `official` is what MIMN's authors ran
(UIC-Paper/MIMN, commit 5cd5ccf), without its padding, which windows do not need. Each form shares embeddings, features
and MLP with the same form of MIMN, and all are trained on whole windows; `mimn.nn.baselines` has a file for each.
`model_config` uses `variant` to distinguish their `[model]` tables from MIMN's.

`hashed` and `delta` are memories of constant size, like MIMN's, and were tried in its place
(`models/plans/memories.toml`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mimn.config import ConfigError, MimnConfig, SharedConfig, Variant, at_least_one, one_of, state_layout
from mimn.state.layout import Block, StateLayout

BaselineVariant = Literal["dnn", "din", "gru4rec", "arnn", "rum", "dien", "sim", "hashed", "delta"]
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
    """m: slots of RUM and `hashed`, rows of `delta`."""
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
        at_least_one(self, "units", "slots", "found", "recent")
        if self.attention_units < 2:
            raise ConfigError(f"attention_units must be at least 2, not {self.attention_units}")
        if self.auxiliary_loss and self.variant != "dien":
            raise ConfigError(f"auxiliary_loss must be false in variant {self.variant!r}: only 'dien' has one")
        if self.variant == "dnn" and self.form == "paper":
            raise ConfigError("form must be 'official' in variant 'dnn': the other one is MIMN's variant 'pooling'")
        if self.form == "official":
            self._check_official()

    def _check_official(self) -> None:
        if self.variant in ("sim", "hashed", "delta"):
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
        raise ConfigError(f"variant must be one of {known}, not {variant!r}")
    return MimnConfig.from_mapping(values)


def state_bytes(config: ModelConfig) -> int | None:
    """Bytes of a user's stored state; None for a model that needs the events themselves."""
    if isinstance(config, MimnConfig):
        return state_layout(config).stored_bytes
    D, H, m = config.width, config.units, config.slots
    # Some read the events without the candidate, so a state is enough: recurrent values, mean, count, sketch.
    recurrent = {"gru4rec": D, "rum": H + D + m * D, "hashed": m * H, "delta": m * D}.get(config.variant)
    if recurrent is None:
        return None
    blocks = [Block("recurrent", (recurrent,)), Block("history_mean", (D,)), Block("count", (1,))]
    if config.sketch is not None:
        blocks = [config.sketch.first_block, *blocks, config.sketch.last_block]
    if config.ledger is not None:
        blocks.append(config.ledger.block)
    return StateLayout(tuple(blocks)).stored_bytes


def check_reads_fields(config: ModelConfig) -> None:
    """Raises ConfigError if a model of `config` reads ids and history alone."""
    official = config.form == "official" if isinstance(config, BaselineConfig) else config.variant == "official"
    if official:
        raise ConfigError("the published models read no fields: choose another variant or form, or remove [fields]")
