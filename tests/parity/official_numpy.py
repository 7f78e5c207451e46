"""The published code's computation (UIC-Paper/MIMN, commit 5cd5ccf) in plain numpy, one user at a time.

Written from what that code computes, bugs included, and not from `mimn.nn.official`: it keeps the published code's own
shape (a list of step outputs, a matrix of add sums by slot, all channels evaluated and masked, two logits).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.config import MimnConfig

Array = NDArray[np.float64]


@dataclass
class User:
    """What the published graph carries for one user from step to step."""

    h: Array
    r: Array
    M: Array
    g: Array
    A: Array
    channels: list[Array]


class Published:
    """The graph with one model's weights. Names follow the published variables, shapes are [in, out]."""

    def __init__(self, config: MimnConfig, weights: dict[str, NDArray[np.float32]]) -> None:
        self.c = config
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}
        self.key_M = np.tanh(self.w["cell.slot_keys"])

    def zero_state(self) -> User:
        m, D = self.c.slots, self.c.width
        return User(
            h=np.zeros(self.c.controller_units),
            r=np.tanh(self.w["cell.initial_read"]),
            M=np.tanh(self.w["cell.initial_memory"]),
            g=np.zeros(m),
            A=np.zeros((m, D)),
            channels=[np.zeros(D) for _ in range(m)],
        )

    def gru(self, name: str, inputs: Array, h: Array) -> Array:
        """TF 1's GRUCell: one kernel over [inputs; h], reset gate first."""
        n = len(h)
        into = np.concatenate([self.w[f"{name}.event"], self.w[f"{name}.side"]])
        gate_kernel = np.concatenate([into[:, : 2 * n], self.w[f"{name}.gates"]])
        candidate_kernel = np.concatenate([into[:, 2 * n :], self.w[f"{name}.candidate"]])
        bias = self.w[f"{name}.bias"]
        value = sigmoid(np.concatenate([inputs, h]) @ gate_kernel + bias[: 2 * n])
        reset, keep = value[:n], value[n:]
        c = np.tanh(np.concatenate([inputs, reset * h]) @ candidate_kernel + bias[2 * n :])
        return np.asarray(keep * h + (1 - keep) * c)

    def address(self, k: Array, beta: float, M: Array) -> Array:
        similarity = [
            0.5
            * (
                k @ key / (np.linalg.norm(k) * np.linalg.norm(key) + 1e-8)
                + k @ slot / (np.linalg.norm(k) * np.linalg.norm(slot) + 1e-8)
            )
            for key, slot in zip(self.key_M, M, strict=True)
        ]
        powers = np.exp(beta * np.array(similarity))
        return np.asarray(powers / powers.sum())

    def overflow(self, w: Array, s: Array, gamma: float) -> Array:
        m = len(w)
        moved = np.array([s[0] * w[i] + s[1] * w[i - 1] + s[2] * w[(i + 1) % m] for i in range(m)])
        return np.asarray(moved**gamma / (moved**gamma).sum())

    def cell(self, x: Array, old: User) -> tuple[Array, User, list[Array], float]:
        """Output, new state, the list of channel outputs, and the gap between the two largest read weights."""
        c, D = self.c, self.c.width
        h = self.gru("cell.controller", np.concatenate([x, old.r]), old.h)
        c_par = np.concatenate([h, old.g / 400.0]) if c.utilization else h
        p = np.clip(c_par @ self.w["cell.controls_weight"] + self.w["cell.controls_bias"], -20, 20)
        per_head = D + 6
        heads = [p[:per_head], p[per_head : 2 * per_head]]
        erase, add = sigmoid(p[2 * per_head : 2 * per_head + D]), np.tanh(p[2 * per_head + D :])
        weights = [self.address(np.tanh(q[:D]), (softplus(q[D]) + 1) * 2, old.M) for q in heads]
        counted = weights[1]
        if c.utilization:
            s, gamma = softmax(heads[1][D + 2 : D + 5]), 2 * (softplus(heads[1][-1]) + 1) * 2
            weights[1] = self.overflow(weights[1], s, gamma)
            counted = self.overflow(weights[1], s, gamma)
        r = np.asarray(sum(w * slot for w, slot in zip(weights[0], old.M, strict=True)))

        outputs, channels = [], []
        if c.memory_induction:
            chosen = int(np.argmax(weights[0]))
            for i in range(c.slots):
                mask = 1.0 if i == chosen else 0.0
                new = self.gru("cell.channel", np.concatenate([x, old.M[i] * mask]), old.channels[i])
                channels.append(new * mask + old.channels[i] * (1 - mask))
                outputs.append(new * mask + np.zeros(D) * (1 - mask))
        else:
            channels = old.channels

        w = weights[1][:, np.newaxis]
        M = old.M * (1 - w * erase) + w * add
        o = np.clip(np.concatenate([h, r]) @ self.w["cell.output_weight"] + self.w["cell.output_bias"], -20, 20)
        top = np.sort(weights[0])
        gap = float(top[-1] - top[-2]) if c.slots > 1 else np.inf
        return o, User(h, r, M, old.g + counted, old.A + w * add, channels), outputs, gap

    def run(self, x: Array, mask: NDArray[np.bool_]) -> tuple[User, list[Array], list[Array], float]:
        """All steps of one user [T, D]: final state, the outputs of all steps, the last channel outputs, least gap."""
        state, least = self.zero_state(), np.inf
        outputs: list[Array] = []
        last: list[Array] = []
        for t in range(len(x)):
            o, state, last, gap = self.cell(x[t] * mask[t], state)
            if self.c.padding == "reset" and not mask[t]:
                start = self.zero_state()
                state.h, state.M, state.A, state.channels = start.h, start.M, start.A, start.channels
            outputs.append(o)
            least = min(least, gap)
        return state, outputs, last, least

    def predict(self, x: Array, mask: NDArray[np.bool_], q: Array) -> tuple[Array, User, list[Array], float]:
        """The softmax over [click, no click] + 1e-8 of one user and one target; state, outputs, least gap."""
        state, outputs, last, gap = self.run(x, mask)
        read_out, _, _, _ = self.cell(q, state)
        pieces = [q, np.sum(x * mask[:, np.newaxis], 0), read_out]
        if self.c.memory_induction:
            pieces.append(self.attention(q, last))
        pieces.append(state.A.mean(0) * q)
        w = self.w
        z = np.concatenate(pieces) * w["head.mlp.norm.scale"] / np.sqrt(1.001) + w["head.mlp.norm.shift"]
        z = prelu(w["head.mlp.first.weight"] @ z + w["head.mlp.first.bias"], w["head.mlp.first_slope.weight"])
        z = prelu(w["head.mlp.second.weight"] @ z + w["head.mlp.second.bias"], w["head.mlp.second_slope.weight"])
        return softmax(w["head.mlp.third.weight"] @ z + w["head.mlp.third.bias"]) + 1e-8, state, outputs, gap

    def attention(self, q: Array, rows: list[Array]) -> Array:
        w = self.w
        first = np.concatenate(list(w["head.attention.first"]))
        scores = []
        for f in rows:
            z = sigmoid(np.concatenate([q, f, q - f, q * f]) @ first + w["head.attention.first_bias"])
            z = sigmoid(w["head.attention.second.weight"] @ z + w["head.attention.second.bias"])
            scores.append((w["head.attention.third.weight"] @ z + w["head.attention.third.bias"])[0])
        return np.asarray(sum(a * f for a, f in zip(softmax(np.array(scores)), rows, strict=True)))

    def auxiliary(self, o: Array, e: Array) -> float:
        """The auxiliary net's probability of `e` after output `o`."""
        w = self.w
        z = np.concatenate([o, e]) * w["auxiliary.norm.scale"] / np.sqrt(1.001) + w["auxiliary.norm.shift"]
        for layer in (0, 2):
            z = sigmoid(w[f"auxiliary.layers.{layer}.weight"] @ z + w[f"auxiliary.layers.{layer}.bias"])
        return float(softmax(w["auxiliary.layers.4.weight"] @ z + w["auxiliary.layers.4.bias"])[0] + 1e-6)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


def softmax(x: Array) -> Array:
    return np.asarray(np.exp(x) / np.exp(x).sum())


def prelu(x: Array, slope: Array) -> Array:
    return np.maximum(x, 0) + slope * np.minimum(x, 0)
