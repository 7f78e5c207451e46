"""How an engine is asked: the path, headers and body of its protocol, and where its answer has the scores. Pure.

A request of the population becomes the engine's once, before anything is timed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

JSON = {"Content-Type": "application/json"}
TENSORS_HEAD_BYTES = 512
"""Length of the JSON part of a body of tensors, filled up with spaces, so that one header suits all of them."""


@dataclass(frozen=True)
class Wire:
    """A protocol."""

    path: str
    body: Callable[[bytes], bytes]
    """Of RTP's body, this engine's."""
    scores: Callable[[bytes], NDArray[np.float32]]
    """Of this engine's answer, the scores. [C]"""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)

    def requests(self, bodies: Sequence[bytes]) -> str:
        """The file of `python -m loadtest --requests` that asks what `bodies` ask."""
        encoded = [base64.b64encode(self.body(body)).decode() for body in bodies]
        return json.dumps({"path": self.path, "headers": dict(self.headers), "bodies": encoded})


def tensors(body: bytes) -> bytes:
    """The body in Triton's protocol (KServe v2) with its extension for binary tensors: a head of JSON, then bytes."""
    asked = json.loads(body)
    user = asked["user_id"].encode()
    candidates = asked["candidates"]
    parts = {
        "user_id": ("BYTES", [1, 1], len(user).to_bytes(4, "little") + user),
        **{
            name: ("UINT64", [1, len(candidates)], np.array([one[name] for one in candidates], "<u8").tobytes())
            for name in ("item_id", "category_id")
        },
    }
    head: dict[str, Any] = {
        "inputs": [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, (kind, shape, data) in parts.items()
        ],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
    told = json.dumps(head, separators=(",", ":")).encode()
    if len(told) > TENSORS_HEAD_BYTES:
        raise ValueError(f"the head of {len(told)} bytes is longer than {TENSORS_HEAD_BYTES}")
    return told.ljust(TENSORS_HEAD_BYTES) + b"".join(data for _, _, data in parts.values())


def tensor_scores(answer: bytes) -> NDArray[np.float32]:
    """The scores of an answer whose one output is binary: the bytes behind its head of JSON."""
    head, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    size: int = head["outputs"][0]["parameters"]["binary_data_size"]
    return np.frombuffer(answer, "<f4", size // 4, end)


def json_scores(answer: bytes) -> NDArray[np.float32]:
    """The scores of an answer like RTP's."""
    return np.array(json.loads(answer)["scores"], np.float32)


PLAIN = Wire("/predict", lambda body: body, json_scores)
"""RTP's own."""
LISTED = Wire(
    "/predict", lambda body: b"[" + body + b"]", lambda answer: np.array(json.loads(answer)[0]["scores"], np.float32)
)
"""One request as a list of one, which is what BentoML can join to batches."""
TENSORS = Wire(
    "/v2/models/predict/infer", tensors, tensor_scores,
    {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(TENSORS_HEAD_BYTES)},
)  # fmt: skip
