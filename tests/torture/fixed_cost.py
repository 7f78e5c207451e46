"""RTP with a head that takes HEAD_S (seconds, from the environment) and no processor time: what a large model is
to its server, on a machine that also runs the load generator.

    python -m torture.fixed_cost [--fd N]        (otherwise as python -m rtp)
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import rtp.app
from mimn.bundle import Bundle, load_bundle
from rtp.__main__ import main
from rtp.runtime import OnnxModel

SMOOTHING = 0.1


class FixedCost(OnnxModel):
    """Scores as the bundle does, and takes `head_s` for it."""

    def __init__(self, bundle: Bundle, head_s: float) -> None:
        super().__init__(bundle)
        self.took_s = self._head_s = head_s

    def score(self, *request: Any) -> Any:
        """See `rtp.core.ports.Model`."""
        began = time.perf_counter()
        scores = super().score(*request)
        time.sleep(max(0.0, began + self._head_s - time.perf_counter()))
        self.took_s += SMOOTHING * (time.perf_counter() - began - self.took_s)
        return scores

    def cost_s(self, candidates: int) -> float:
        """A moving average of what it took, as `OnnxModel` has it."""
        return self.took_s


def load(path: Path, head_s: float) -> FixedCost:
    """In place of `rtp.runtime.load_model`."""
    return FixedCost(load_bundle(path.resolve()), head_s)


if __name__ == "__main__":
    rtp.app.load_model = partial(load, head_s=float(os.environ["HEAD_S"]))  # type: ignore[attr-defined]  # RTP has no setting for this, and wants none
    sys.exit(main())
