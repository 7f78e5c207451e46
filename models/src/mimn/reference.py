"""The equations of variant `paper` in plain numpy, one user, one slot, one candidate at a time.

Export refuses a bundle that disagrees with this. It is written from the equations and shares no code with `mimn.nn`:
float64, no batching, no factored products, no precomputation. Slow on purpose.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.baselines import ModelConfig, step_layout
from mimn.bundle.fields import FieldSpec
from mimn.config import MimnConfig, SharedConfig
from mimn.reference_heads import TWINS
from mimn.state.layout import BlockType

Array = NDArray[np.float64]
Blocks = dict[str, Array]


class StateReference(ABC):
    """What the twins of all models with a state share: blocks, and a score from features.

    Args:
        config: of a model with a state.
        weights: the model's weights by name, as in its `state_dict`.
        state_dtype: `float16` rounds the recurrent blocks after every step, as such a bundle does.
        request_fields, item_fields: what the head reads beside the state, in order.
    """

    top: str
    """Where the weights of the layers above the features are, by the beginning of their names."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, NDArray[Any]],
        state_dtype: BlockType = "float32",
        request_fields: Sequence[FieldSpec] = (),
        item_fields: Sequence[FieldSpec] = (),
    ):
        self.shared: SharedConfig = config
        self._fields = {"request": request_fields, "item": item_fields}
        self.layout = step_layout(config, state_dtype)
        self._weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}

    @abstractmethod
    def initial(self) -> Blocks:
        """The state of a user without events."""

    @abstractmethod
    def step(self, event: Array, old: Blocks) -> tuple[Blocks, float]:
        """The blocks after `event` [D], and the gap between the two largest read weights (the largest chooses a
        channel; infinite where nothing is chosen)."""

    @abstractmethod
    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """What the model reads of a state beside mean and count: of the user, and for the candidate q."""

    def event(self, vector: Array, action: int, rule: float | str) -> Array:
        """What the cell reads of an event: the vector [D] of its ids times the weight of its action, or plus the vector
        of its action, by its number on the wire and its rule."""
        if rule == "embedding":
            return np.asarray(vector + self._weights["actions.vectors"][action])
        return np.asarray(vector * float(rule))

    def fold(self, events: Sequence[Array] | Array, blocks: Blocks) -> tuple[Blocks, float]:
        """The blocks after all `events` [T, D], and the smallest gap of all steps."""
        smallest = np.inf
        for event in events:
            blocks, gap = self.step(np.asarray(event, np.float64), blocks)
            smallest = min(smallest, gap)
        return blocks, smallest

    def score(
        self,
        blocks: Blocks,
        candidate: Array,
        context: Array,
        counts: Array | None = None,
        of_item: Array | None = None,
        *,
        reads: Array | None = None,
    ) -> float:
        """The score of one candidate [D] with the request's vector [K], with a sketch its `scaled` cells [A, S],
        with item fields their vector [W], and with a ledger what is read of it [R]."""
        c, q = self.shared, np.asarray(candidate, np.float64)
        user = [blocks["history_mean"]] if "history_mean" in blocks else []
        count = blocks["count"]
        user.append(np.log(1 + (np.minimum(count, c.count_limit) if c.count_limit else count)) / 7)
        of_user, of_candidate = self.interest(blocks, q)
        user, q = user + of_user, q[: c.width]
        features = [q, *of_candidate]
        if c.history_product:
            features.append(q * blocks["history_mean"])
        if counts is not None:
            rows, read = list(counts), []
            if c.sketch_category_cells:
                read.append(np.log(1 + rows.pop(0)))
            if c.sketch_item_cells:
                read.append(np.log(1 + np.array([min(one, other) for one, other in zip(*rows, strict=True)])))
            features.append(np.concatenate(read))
        if reads is not None:
            features.append(reads)
        item = np.zeros(0) if of_item is None else of_item
        if c.head != "paper":
            return float(sigmoid(np.array(self._field_head(user, features, context, item))))
        return float(sigmoid(self._mlp(np.concatenate([*user, context]), np.concatenate([*features, item]))))

    def flat(self, blocks: Blocks) -> NDArray[np.float32]:
        """The flat float32 vector [F] of `blocks`."""
        return self.layout.flatten({name: value.astype(np.float32) for name, value in blocks.items()})

    def blocks(self, flat: NDArray[np.float32]) -> Blocks:
        """The inverse of `flat`."""
        return {name: value.astype(np.float64) for name, value in self.layout.view(flat).items()}

    def _stored(self, blocks: Blocks) -> Blocks:
        half = {block.name for block in self.layout.blocks if block.dtype == "float16"}
        return {
            name: value.astype(np.float32).astype(np.float16).astype(np.float64) if name in half else value
            for name, value in blocks.items()
        }

    def _mlp(self, user: Array, candidate: Array) -> float:
        W = self._weights
        if self.shared.head_norm == "batch":
            user, candidate = self._normalized("user", user), self._normalized("candidate", candidate)
        x = np.concatenate([user, candidate])
        first = np.concatenate([W[f"{self.top}by_user.weight"], W[f"{self.top}by_candidate.weight"]], 1)
        x = prelu(first @ x + W[f"{self.top}by_user.bias"], W[f"{self.top}first_slope.weight"])
        x = prelu(W[f"{self.top}second.weight"] @ x + W[f"{self.top}second.bias"], W[f"{self.top}second_slope.weight"])
        return float((W[f"{self.top}third.weight"] @ x + W[f"{self.top}third.bias"])[0])

    def _field_head(self, user: list[Array], candidate: list[Array], request: Array, item: Array) -> float:
        """A field head over fields and read-outs: an event vector's width makes two fields, any other one."""
        E, prefix = self.shared.embedding_dim, f"{self.top}over."
        W = {name.removeprefix(prefix): value for name, value in self._weights.items() if name.startswith(prefix)}

        def fields(side: str, pieces: list[Array]) -> list[Array]:
            out: list[Array] = []
            for at, piece in enumerate(pieces):
                if len(piece) == 2 * E:
                    out += [piece[:E], piece[E:]]
                else:
                    out.append(W[f"{side}.{at}.weight"] @ piece + W[f"{side}.{at}.bias"])
            return out

        of_request, by_request = self._cut("request", request)
        of_item, by_item = self._cut("item", item)
        if "by_candidate.weight" in W:
            by_item += float((W["by_candidate.weight"] @ candidate[0] + W["by_candidate.bias"])[0])
        head = {name.removeprefix("head."): value for name, value in W.items() if name.startswith("head.")}
        twin = TWINS[self.shared.head]
        shared, own = of_request + fields("user", user), of_item + fields("candidate", candidate)
        return twin(head, shared, own, (by_request, by_item))

    def _cut(self, side: str, vector: Array) -> tuple[list[Array], float]:
        """The vectors of the fields of one side, and the sum of their first-order weights, which stand in front."""
        at, scalars, vectors, first = 0, 0, [], 0.0
        for spec in self._fields[side]:
            directions = self._weights[f"fields.{side}.directions"]
            if spec.tabled:
                one = vector[at : at + directions.shape[1]]
            else:
                one, scalars = vector[at] * directions[scalars], scalars + 1
            at += len(one) if spec.tabled else 1
            before = len(one) - self.shared.embedding_dim
            first += float(one[:before].sum())
            vectors.append(one[before:])
        return vectors, first

    def _normalized(self, piece: str, x: Array) -> Array:
        W, name = self._weights, f"{self.top}{piece}_norm.norm"
        x = (x - W[f"{name}.running_mean"]) / np.sqrt(W[f"{name}.running_var"] + 1e-5)
        return x * W[f"{name}.weight"] + W[f"{name}.bias"]


class Reference(StateReference):
    """MIMN's equations: variants `paper`, `pooling` and `ledger`."""

    top = "head.mlp."

    def __init__(self, config: MimnConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)
        self.config = config

    def initial(self) -> Blocks:
        """Zero, but for a learned read vector and the blank memory."""
        blocks = {block.name: np.zeros(block.shape) for block in self.layout.blocks}
        if self.config.variant == "paper":
            blocks["read"] = np.tanh(self._weights["cell.initial_read"])
            blocks["memory"] = np.tanh(self._weights["cell.initial_memory"])
        return self._stored(blocks)

    def step(self, event: Array, old: Blocks) -> tuple[Blocks, float]:
        """As `StateReference.step`."""
        if self.config.variant == "ledger":
            return {"count": old["count"] + 1}, np.inf
        if self.config.variant == "pooling":
            count = old["count"] + 1
            return {"history_mean": mean_after(old["history_mean"], event, count), "count": count}, np.inf
        c, W = self.config, self._weights
        m, D = c.slots, c.width
        M = old["memory"]
        share = old["shares"] if c.utilization else np.zeros(m)

        h = self._gru("cell.controller", event, old["read"], old["controller"])
        p = self._controls(h, share)
        beta_r, beta_w = 2 * (softplus(p[0]) + 1), 2 * (softplus(p[1]) + 1)
        k_r, k_w, add, erase = (
            np.tanh(p[2 : 2 + D]),
            np.tanh(p[2 + D : 2 + 2 * D]),
            p[2 + 2 * D : 2 + 3 * D],
            p[2 + 3 * D : 2 + 4 * D],
        )
        a, e = np.tanh(add), sigmoid(erase)
        if c.bounded_writes:
            a = e * a

        w_r = self._address(k_r, beta_r, M)
        w_w = self._address(k_w, beta_w, M)
        if c.transfers:
            logits = W["cell.transfer.weight"] @ share + W["cell.transfer.bias"]
            P = np.array([softmax(logits[i * m : (i + 1) * m]) for i in range(m)])
            w_w = np.array([sum(w_w[i] * P[i, j] for i in range(m)) for j in range(m)])
        if c.shifts:
            q = softmax(p[2 + 4 * D : 5 + 4 * D])
            gamma = 4 * (softplus(p[5 + 4 * D]) + 1)
            moved = np.array([q[0] * w_w[i] + q[1] * w_w[(i - 1) % m] + q[2] * w_w[(i + 1) % m] for i in range(m)])
            powers = (moved / moved.max()) ** gamma
            w_w = powers / powers.sum()

        new = {"controller": h, "read": np.array(sum(w_r[i] * M[i] for i in range(m)))}
        if c.memory_induction:
            i = int(np.argmax(w_r))
            new["channels"] = old["channels"].copy()
            new["channels"][i] = self._gru("cell.channel", event, M[i], old["channels"][i])
        new["memory"] = np.array([M[i] * (1 - w_w[i] * e) + w_w[i] * a for i in range(m)])
        new["count"] = old["count"] + 1
        if c.utilization:
            new["shares"] = mean_after(old["shares"], w_w, new["count"])
        new["add_mean"] = mean_after(old["add_mean"], a, new["count"])
        new["history_mean"] = mean_after(old["history_mean"], event, new["count"])
        top = np.sort(w_r)[::-1]
        return self._stored(new), float(top[0] - top[1]) if c.memory_induction and m > 1 else np.inf

    def interest(self, blocks: Blocks, q: Array) -> tuple[list[Array], list[Array]]:
        """What is read of the memory and of the channels."""
        if self.config.variant != "paper":
            return [], []
        read = [blocks["add_mean"] * q, self._read_out(blocks, q)]
        return [], [*read, self._attention(q, blocks["channels"])] if self.config.memory_induction else read

    def _gru(self, name: str, event: Array, side: Array, state: Array) -> Array:
        W, n = self._weights, len(state)
        Wx, Ws, b = W[f"{name}.event"], W[f"{name}.side"], W[f"{name}.bias"]
        inputs = event @ Wx + side @ Ws + b
        gates = sigmoid(inputs[: 2 * n] + state @ W[f"{name}.gates"])
        R, U = gates[:n], gates[n:]
        C = np.tanh(inputs[2 * n :] + (R * state) @ W[f"{name}.candidate"])
        return np.asarray(U * state + (1 - U) * C)

    def _controls(self, h: Array, share: Array) -> Array:
        inputs = np.concatenate([h, share]) if self.config.shifts else h
        return np.asarray(inputs @ self._weights["cell.controls.weight"] + self._weights["cell.controls.bias"])

    def _address(self, k: Array, beta: float, M: Array) -> Array:
        keys = np.tanh(self._weights["cell.slot_keys"])
        return softmax(np.array([beta * (cosine(k, keys[i]) + cosine(k, M[i])) / 2 for i in range(len(M))]))

    def _read_out(self, blocks: Blocks, q: Array) -> Array:
        c, W, D = self.config, self._weights, self.config.width
        M = blocks["memory"]
        share = blocks["shares"] if c.utilization else np.zeros(c.slots)
        h = self._gru("cell.controller", q, blocks["read"], blocks["controller"])
        p = self._controls(h, share)
        w = self._address(np.tanh(p[2 : 2 + D]), 2 * (softplus(p[0]) + 1), M)
        r = sum(w[i] * M[i] for i in range(c.slots))
        return np.asarray(W["head.output.weight"] @ np.concatenate([h, r]) + W["head.output.bias"])

    def _attention(self, q: Array, channels: Array) -> Array:
        W = self._weights
        first = W["head.attention.first"]
        first = first.reshape(-1, first.shape[-1])
        scores = []
        for f in channels:
            hidden = sigmoid(np.concatenate([q, f, q - f, q * f]) @ first + W["head.attention.first_bias"])
            hidden = sigmoid(W["head.attention.second.weight"] @ hidden + W["head.attention.second.bias"])
            scores.append((W["head.attention.third.weight"] @ hidden + W["head.attention.third.bias"])[0])
        return np.array(sum(w * f for w, f in zip(softmax(np.array(scores)), channels, strict=True)))


def cells(config: SharedConfig, item: int, category_row: int) -> list[int]:
    """The cells of an item id and a category's row: the category's, then the item's in both hashed rows."""
    K, n = config.sketch_category_cells, config.sketch_item_cells
    x = item
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> 33)) * factor % 2**64
    x ^= x >> 33
    of_item = [K + (x % 2**32) % n, K + n + (x >> 32) % n] if n else []
    return ([category_row % K] if K else []) + of_item


def count(cell: int, half_life_days: int, touched: Sequence[tuple[int, Sequence[int]]], now_ms: int) -> float:
    """The value of a cell at `now_ms`, given events (time in ms, cells). An event counts half after one half-life;
    half-life 0: no decay."""
    return total(half_life_days, [time_ms for time_ms, its in touched if cell in its], now_ms)


def total(half_life_days: int, times_ms: Sequence[int], now_ms: int) -> float:
    """What events at these times add up to at `now_ms`, as in `count`."""
    days = [(now_ms - time_ms) / 86_400_000 for time_ms in times_ms]
    return sum(2.0 ** -(age / half_life_days) if half_life_days else 1.0 for age in days)


def scaled(values: NDArray[np.float32], totals: NDArray[np.float32], limit: float) -> Array:
    """The values of cells [..., S], scaled down where all those of a half-life add up to more than `limit`: then they
    add up to it. `totals` [S]: what they add up to; limit 0: none."""
    return np.asarray(values * np.array([min(1.0, limit / each) if limit and each else 1.0 for each in totals]))


def mean_after(mean: Array, value: Array, count: Array) -> Array:
    """The mean of `count` [1] values, given the last one (`value`) and the `mean` of the others."""
    return (mean * (count - 1) + value) / count


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def softplus(x: Any) -> Any:
    """log(1 + e^x), without overflow."""
    return np.logaddexp(0, x)


def softmax(x: Array) -> Array:
    """e^x divided by its sum, for one vector."""
    powers = np.exp(x - x.max())
    return np.asarray(powers / powers.sum())


def cosine(a: Array, b: Array) -> float:
    """The cosine of two vectors; 0 when one is zero. A vector shorter than 1e-6 counts as that long."""
    lengths = max(math.sqrt(a @ a), 1e-6) * max(math.sqrt(b @ b), 1e-6)
    return float(a @ b) / lengths


def prelu(x: Array, slope: Array) -> Array:
    """x where positive, slope * x elsewhere."""
    return np.where(x > 0, x, slope * x)
