"""The equations of the other models with a state in plain numpy: GRU4REC, RUM, slots by hash, the delta rule and
buckets by hash.

As `mimn.reference`: float64, one user and one candidate at a time, and no code shared with `mimn.nn`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.baselines import BaselineConfig, BaselineVariant, ModelConfig
from mimn.bundle.fields import FieldSpec
from mimn.reference import (
    Array,
    Blocks,
    Reference,
    StateReference,
    cosine,
    mean_after,
    prelu,
    sigmoid,
    softmax,
    softplus,
)
from mimn.state.layout import BlockType


class FoldedReference(StateReference):
    """What these models share: zero at the start, and the mean and the count of the events."""

    top = "mlp."

    def __init__(self, config: BaselineConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)
        self.config = config

    def initial(self) -> Blocks:
        """Zero."""
        return self._stored({block.name: np.zeros(block.shape) for block in self.layout.blocks})

    def step(self, event: Array, old: Blocks) -> tuple[Blocks, float]:
        """As `StateReference.step`, of an event [D + X]; nothing is chosen."""
        count = old["count"] + 1
        mean = mean_after(old["history_mean"], event[: self.config.width], count)
        return self._stored(self.remembered(event, old) | {"history_mean": mean, "count": count}), np.inf

    @abstractmethod
    def remembered(self, event: Array, old: Blocks) -> Blocks:
        """The blocks of the model's own after `event`."""

    def dense(self, name: str, x: Array) -> Array:
        """A linear layer."""
        return np.asarray(self._weights[f"{name}.weight"] @ x + self._weights[f"{name}.bias"])

    def gru(self, x: Array, state: Array) -> Array:
        """Cho et al.: the reset gate acts before the product, the update gate says what is replaced."""
        W, n = self._weights, len(state)
        inputs = x @ W["interest.gru.event"] + W["interest.gru.bias"]
        gates = sigmoid(inputs[: 2 * n] + state @ W["interest.gru.gates"])
        reset, update = gates[:n], gates[n:]
        candidate = np.tanh(inputs[2 * n :] + (reset * state) @ W["interest.gru.candidate"])
        return np.asarray((1 - update) * state + update * candidate)


class Gru4RecReference(FoldedReference):
    """The state of a GRU (Hidasi et al., ICLR 2016)."""

    def remembered(self, event: Array, old: Blocks) -> Blocks:
        """One step of the GRU."""
        return {"hidden": self.gru(event, old["hidden"])}

    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """The GRU's state, whatever the candidate."""
        return [blocks["hidden"]], []


class RumReference(FoldedReference):
    """A memory that a candidate attends to (Chen et al., WSDM 2018)."""

    def initial(self) -> Blocks:
        """Zero, but for slots that are distinct."""
        return self._stored(super().initial() | {"memory": self._weights["interest.initial_memory"]})

    def remembered(self, event: Array, old: Blocks) -> Blocks:
        """Controller, reading and writing."""
        W, D, M, n = self._weights, self.config.width, old["memory"], self.config.units
        name = "interest.controller"
        inputs = event @ W[f"{name}.event"] + old["read"] @ W[f"{name}.side"] + W[f"{name}.bias"]
        gates = sigmoid(inputs[: 2 * n] + old["controller"] @ W[f"{name}.gates"])
        candidate = np.tanh(inputs[2 * n :] + (gates[:n] * old["controller"]) @ W[f"{name}.candidate"])
        h = gates[n:] * old["controller"] + (1 - gates[n:]) * candidate

        p = self.dense("interest.controls", h)
        strengths = softplus(p[2 * D : 2 * D + 2]) + 1
        erase, add = sigmoid(p[2 * D + 2 : 3 * D + 2]), np.tanh(p[3 * D + 2 :])
        read, write = (
            softmax(np.array([beta * cosine(np.tanh(key), slot) for slot in M]))
            for beta, key in zip(strengths, (p[:D], p[D : 2 * D]), strict=True)
        )
        return {
            "controller": h,
            "read": np.array(sum(w * slot for w, slot in zip(read, M, strict=True))),
            "memory": np.array([slot * (1 - w * erase) + w * add for w, slot in zip(write, M, strict=True)]),
        }

    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """The controller, and the slots weighted by an activation unit (DIN, eq. 3)."""
        W, name = self._weights, "interest.attention"
        scores = []
        for slot in blocks["memory"]:
            hidden = np.concatenate([q, slot, q - slot, q * slot]) @ np.concatenate(list(W[f"{name}.first"]))
            hidden = prelu(hidden + W[f"{name}.first_bias"], W[f"{name}.slope.weight"])
            scores.append(float(self.dense(f"{name}.second", hidden)[0]))
        weighted = zip(softmax(np.array(scores)), blocks["memory"], strict=True)
        return [blocks["controller"]], [np.array(sum(w * slot for w, slot in weighted))]


class HashedReference(FoldedReference):
    """A GRU's state for each group of categories; vectors have their slot as a last value."""

    def remembered(self, event: Array, old: Blocks) -> Blocks:
        """One step of the GRU in one slot."""
        slots, at = old["slots"].copy(), int(event[-1])
        slots[at] = self.gru(event[:-1], slots[at])
        return {"slots": slots}

    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """The candidate's slot, and its likeness to the candidate."""
        slot = blocks["slots"][int(q[-1])]
        return [], [np.concatenate([slot, slot * self.dense("interest.likeness", q[:-1])])]


class DeltaReference(FoldedReference):
    """The gated delta rule (Yang et al., ICLR 2025)."""

    def remembered(self, event: Array, old: Blocks) -> Blocks:
        """S = a (I - b k k^T) S + b k v^T"""
        key = self.key(event)
        kept, written = sigmoid(self.dense("interest.gates", event))
        erase = np.eye(self.config.slots) - written * np.outer(key, key)
        value = self.dense("interest.value", event)
        return {"memory": kept * erase @ old["memory"] + written * np.outer(key, value)}

    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """The value for the candidate's key, and its likeness to the candidate's own."""
        read = self.key(q) @ blocks["memory"]
        return [], [np.concatenate([read, read * self.dense("interest.value", q)])]

    def key(self, x: Array) -> Array:
        """A direction."""
        key = self.dense("interest.key", x)
        return np.asarray(key / max(float(np.linalg.norm(key)), 1e-6))


class BucketsReference(FoldedReference):
    """Sums and numbers of events by locality-sensitive hash (SDIM: Cao et al., CIKM 2022)."""

    def places(self, x: Array) -> list[int]:
        """The bucket of each hash function: the signs of its products, as a number."""
        bits = (self.config.slots - 1).bit_length()
        signs = (x @ self._weights["interest.directions"] > 0).reshape(self.config.hash_functions, bits)
        return [sum(int(sign) << bit for bit, sign in enumerate(function)) for function in signs]

    def remembered(self, event: Array, old: Blocks) -> Blocks:
        """The event and 1 more in one bucket of each function."""
        buckets = old["buckets"].copy()
        for function, place in enumerate(self.places(event)):
            buckets[function, place] += np.append(event, 1.0)
        return {"buckets": buckets}

    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """The mean direction of the candidate's buckets, its likeness to the candidate, and how many events it has."""
        found = [blocks["buckets"][function, place] for function, place in enumerate(self.places(q))]
        near = np.mean([x[:-1] / max(float(np.linalg.norm(x[:-1])), 1e-6) for x in found], axis=0)
        number = np.log1p(np.mean([x[-1] for x in found]))
        return [], [np.concatenate([near, near * q, [near @ q, number]])]


TWINS: dict[BaselineVariant, type[FoldedReference]] = {
    "gru4rec": Gru4RecReference,
    "rum": RumReference,
    "hashed": HashedReference,
    "delta": DeltaReference,
    "buckets": BucketsReference,
}


def reference_of(
    config: ModelConfig,
    weights: Mapping[str, NDArray[Any]],
    state_dtype: BlockType = "float32",
    request_fields: Sequence[FieldSpec] = (),
    item_fields: Sequence[FieldSpec] = (),
) -> StateReference:
    """The twin of any model with a state; arguments as `mimn.reference.StateReference`."""
    given = weights, state_dtype, request_fields, item_fields
    if isinstance(config, BaselineConfig):
        return TWINS[config.variant](config, *given)
    return Reference(config, *given)
