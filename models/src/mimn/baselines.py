"""Hyper-parameters of the models that are not MIMN: the others of the paper's Table 2, SIM, and two other memories.

Form `paper` is what their papers say, made as strong as we could; form `official` is what MIMN's authors ran
(UIC-Paper/MIMN, commit 5cd5ccf), but for the padding that it needs and windows have not. They share embeddings,
features and MLP with MIMN, each form with its own, and are trained on whole windows; `mimn.nn.baselines` has a file
for each. `model_config` tells their `[model]` tables from MIMN's by `variant`.

`hashed` and `delta` are memories of constant size as MIMN's is, tried in its place (`models/plans/memories.toml`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from mimn.config import ConfigError, HeadNorm, MimnConfig, SketchOptions, state_layout, typed_fields
from mimn.state.layout import Block, StateLayout

BaselineVariant = Literal["dnn", "din", "gru4rec", "arnn", "rum", "dien", "sim", "hashed", "delta"]
Form = Literal["paper", "official"]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(SketchOptions):
    """Sizes and switches of one baseline; a field that its variant does not read has no effect."""

    variant: BaselineVariant = "din"
    form: Form = "paper"
    """`official`: attention, AUGRU, head and losses of MIMN's authors, the events' sum in place of their mean."""
    embedding_dim: int = 16
    """E: width of one id's embedding; an event vector is D = 2E wide, and so are the states of GRU4REC, ARNN and DIEN's
    first GRU."""
    units: int = 32
    """H: units of RUM's controller, of DIEN's second GRU and of a slot of `hashed`."""
    slots: int = 4
    """m: slots of RUM and `hashed`, rows of `delta`."""
    found: int = 32
    """SIM: how many of the latest events of the candidate's category are read."""
    recent: int = 32
    """SIM: how many of the latest events are read whatever their category."""
    auxiliary_loss: bool = False
    """DIEN: predict the next event from each state of the first GRU."""
    auxiliary_weight: float = 1.0
    history_product: bool = False
    """The head also reads the candidate times the mean event vector (see `MimnConfig`), or `official` their sum."""
    attention_units: int = 36
    """Hidden width of the activation unit of DIN, ARNN, RUM and SIM, at least 2."""
    head_units: tuple[int, int] = (200, 80)
    """Hidden widths of the MLP."""
    head_norm: HeadNorm = "none"
    head_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.variant not in get_args(BaselineVariant):
            raise ConfigError(f"variant must be one of {', '.join(get_args(BaselineVariant))}, not {self.variant!r}")
        if self.form not in get_args(Form):
            raise ConfigError(f"form must be one of {', '.join(get_args(Form))}, not {self.form!r}")
        if self.variant == "dnn" and self.form == "paper":
            raise ConfigError("form must be 'official' in variant 'dnn': the other one is MIMN's variant 'pooling'")
        if self.variant in ("sim", "hashed", "delta") and self.form == "official":
            raise ConfigError(f"form must be 'paper' in variant {self.variant!r}: MIMN's authors did not run it")
        if self.form == "official" and self.variant != "dnn" and self.history_product != (self.variant == "dien"):
            wanted = "true" if self.variant == "dien" else "false"
            raise ConfigError(f"history_product must be {wanted} in form 'official' of variant {self.variant!r}")
        self.check_sketch()
        if self.form == "official" and self.sketch is not None:
            raise ConfigError("sketch cells must be 0 in form 'official': MIMN's authors had none")
        for field in ("embedding_dim", "units", "slots", "found", "recent"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.attention_units < 2:
            raise ConfigError(f"attention_units must be at least 2, not {self.attention_units}")
        if len(self.head_units) != 2 or min(self.head_units) < 1:
            raise ConfigError(f"head_units must be two positive widths, not {self.head_units}")
        if self.head_norm not in get_args(HeadNorm):
            raise ConfigError(f"head_norm must be one of {', '.join(get_args(HeadNorm))}, not {self.head_norm!r}")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ConfigError(f"head_dropout must be in [0, 1), not {self.head_dropout}")
        if not self.auxiliary_weight >= 0.0:
            raise ConfigError(f"auxiliary_weight must be 0 or more, not {self.auxiliary_weight}")
        if self.auxiliary_loss and self.variant != "dien":
            raise ConfigError(f"auxiliary_loss must be false in variant {self.variant!r}: only 'dien' has one")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The config that a parsed TOML table holds; the inverse of `dataclasses.asdict`.

        Raises:
            ConfigError: an unknown field, a value of the wrong type, or one that cannot be used.
        """
        return cls(**typed_fields(cls, values))

    @property
    def width(self) -> int:
        """D: width of an event vector."""
        return 2 * self.embedding_dim

    @property
    def context_features(self) -> tuple[str, ...]:
        """None: the baselines read the candidate and the history alone."""
        return ()


ModelConfig = MimnConfig | BaselineConfig


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a `[model]` table holds, of the kind that its `variant` names.

    Raises:
        ConfigError: an unknown field, a value of the wrong type, or one that cannot be used.
    """
    if values.get("variant") in get_args(BaselineVariant):
        return BaselineConfig.from_mapping(values)
    return MimnConfig.from_mapping(values)


def state_bytes(config: ModelConfig) -> int | None:
    """Bytes of a user's state as it is stored; None for a model that needs the events themselves."""
    if isinstance(config, MimnConfig):
        return state_layout(config).stored_bytes
    D, H, m = config.width, config.units, config.slots
    # Some know the events without the candidate, so a state would do for them: theirs, mean and count, and the sketch.
    recurrent = {"gru4rec": D, "rum": H + D + m * D, "hashed": m * H, "delta": m * D}.get(config.variant)
    if recurrent is None:
        return None
    blocks = [Block("recurrent", (recurrent,)), Block("history_mean", (D,)), Block("count", (1,))]
    if config.sketch is not None:
        blocks = [config.sketch.first_block, *blocks, config.sketch.last_block]
    return StateLayout(tuple(blocks)).stored_bytes
