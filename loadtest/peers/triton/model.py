"""The peer on NVIDIA Triton's Python backend: tensors of a request → one GET → the same head → a tensor of scores.

Triton hands over the requests that its scheduler has put together; they share one exchange with the store.
"""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)  # the backend's interpreter does not read it

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

from loadtest.peers.service import BlockingService  # noqa: E402


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, _: dict[str, str]) -> None:
        """Load the bundle, and connect."""
        self._service = BlockingService()

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request, in order: user_id [1, 1], item_id and category_id [1, C] → scores [1, C]."""
        asked = [
            self._service.work.asked(
                _of(request, "user_id")[0].decode(), _of(request, "item_id"), _of(request, "category_id")
            )
            for request in requests
        ]
        return [
            triton.InferenceResponse([triton.Tensor("scores", scores[np.newaxis])])
            for scores in self._service.scores(asked)
        ]


def _of(request: Any, name: str) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = triton.get_input_tensor_by_name(request, name).as_numpy()[0]
    return values
