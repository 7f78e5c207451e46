"""The model's hyper-parameters: one frozen value, written into every run folder and every bundle.

Training, export and the parity tests read it; the services never do (they read the bundle's layout and graphs).
Switches are named in the paper's vocabulary; the published code's choices are one preset, `official`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Variant = Literal["paper", "official"]
Rebalance = Literal["none", "shift", "transfer"]


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message names the field and the fix."""


@dataclass(frozen=True, kw_only=True)
class MimnConfig:
    """Sizes and switches of MIMN.

    `paper` is the paper's equations, completed where they are silent; `official` is the authors' published code, bug
    for bug. The event vector is item embedding ++ category embedding, so the width D is twice the embedding size E, and
    D is also the width of a memory slot and of an interest channel.
    """

    variant: Variant = "paper"
    embedding_dim: int = 16
    """E: width of one id's embedding."""
    controller_units: int = 32
    """H: units of the controller GRU."""
    slots: int = 4
    """m: memory slots, and interest channels when `memory_induction` is on."""
    memory_induction: bool = True
    """MIU: one interest channel a slot (paper, eq. 9)."""
    utilization: bool = True
    """MUR: re-balance the write weights by past utilization, and regularize it (paper, eq. 6 to 8)."""
    rebalance: Rebalance = "transfer"
    """How MUR re-balances: `transfer` = the paper's weight transfer matrix, `shift` = the published code's shift and
    sharpen. Read only with `utilization`."""
    utilization_weight: float = 1e-3
    """lambda of the utilization loss."""
    auxiliary_loss: bool = False
    """Predict the next event from each step's output (DIEN's auxiliary loss)."""
    auxiliary_weight: float = 1.0
    context_features: tuple[str, ...] = ()
    """Names of numeric request features that the head reads beside the candidate and the state."""
    attention_units: tuple[int, int] = (80, 40)
    """Hidden widths of the channel attention."""
    head_units: tuple[int, int] = (200, 80)
    """Hidden widths of the MLP."""
    head_dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in ("embedding_dim", "controller_units", "slots"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.variant not in ("paper", "official"):
            raise ConfigError(f"variant must be 'paper' or 'official', not {self.variant!r}")
        if self.rebalance not in ("none", "shift", "transfer"):
            raise ConfigError(f"rebalance must be 'none', 'shift' or 'transfer', not {self.rebalance!r}")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ConfigError(f"head_dropout must be in [0, 1), not {self.head_dropout}")

    @property
    def width(self) -> int:
        """D: width of an event vector, a memory slot and an interest channel."""
        return 2 * self.embedding_dim
