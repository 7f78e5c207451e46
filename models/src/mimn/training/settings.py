"""The settings of training that all tasks share."""

from __future__ import annotations

from typing import Literal

import msgspec

AUTO_EPOCHS = 500
"""The most epochs of a training run whose end validation chooses."""


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[training]`."""

    seed: int = 0
    epochs: int | Literal["auto"] = 20
    """The most epochs. `auto` lets validation choose the schedule: it trains until `patience` runs out (at most
    `AUTO_EPOCHS`) and lowers the learning rate only after epochs that were not the best so far."""
    patience: int = 5
    """Training stops after this many epochs in a row without a better validation AUC."""
    windows_per_batch: int = 32
    learning_rate: float = 3e-3
    learning_rate_decay: float = 1.0
    """The learning rate is multiplied by this after every epoch; with `epochs = "auto"`, after every epoch that was not
    the best so far."""
    embeddings: Literal["dense", "sparse"] = "dense"
    """How the embedding tables learn: every row in every step, or only the rows that a batch looks up, at a cost that
    follows their number (`mimn.training.optimizers`)."""
    embedding_l2: float = 1e-5
    """Weight decay of the embedding tables, inside Adam; with sparse embeddings, of the rows that a batch looks up."""
    gradient_clip: float = 5.0
    """Largest norm of a step's gradient."""
    validation_length: int = 200
    """Events of history that validation reads."""
    compile: bool = False
    """Compile the step that runs once per event. MIMN compiles in seconds and then trains ten times as fast; the steps
    of other models take minutes to compile. Without a C++ compiler nothing is compiled."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "windows_per_batch", "validation_length"):
            if getattr(self, name) != "auto" and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "learning_rate_decay", "gradient_clip"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.seed < 0 or not self.embedding_l2 >= 0.0:
            raise ValueError("seed and embedding_l2 must be 0 or more")

    @property
    def most_epochs(self) -> int:
        """How many epochs training may have."""
        return AUTO_EPOCHS if self.epochs == "auto" else self.epochs
