"""What folding needs of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.state import Actions, Ledger, StateLayout, rest_of
from uic.core.ports import Compiled, Counting, Forget, Step, Vectors


@dataclass(frozen=True, slots=True)
class Model:
    """A step, what it reads, and the states that it makes."""

    step: Step
    vectors: Vectors
    forget: Forget
    initial_state: NDArray[np.float32]
    layout: StateLayout
    fingerprint: bytes
    counting: Counting | None = None
    """With a sketch only."""
    actions: Actions | None = None
    """Which actions are folded, and how; None: all, alike."""
    ledger: Ledger | None = None
    compiled: Compiled | None = None
    """What C does for the events of a batch; None: Python does it."""
    text_ids: bool = False
    """Whether events may name items and categories by text."""

    @property
    def rest(self) -> slice:
        """The place in a flat state of what the step reads and writes."""
        return rest_of(None if self.counting is None else self.counting.sketch, self.ledger)
