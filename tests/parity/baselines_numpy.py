"""The baselines' equations in plain numpy: float64, one user, one event and one candidate at a time.

Shares nothing with `mimn.nn` but the names of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mimn.baselines import BaselineConfig

Vector = NDArray[np.float64]
Event = tuple[int, int]
"""An item's row and a category's."""


def sigmoid(x: Vector) -> Vector:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def cosine(a: Vector, b: Vector, epsilon: float) -> float:
    return float(a @ b / (math.sqrt((a @ a) * (b @ b)) + epsilon))


class Naive:
    """One baseline with given weights."""

    def __init__(self, config: BaselineConfig, weights: Mapping[str, NDArray[np.float32 | np.float64]]) -> None:
        self.config = config
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}

    def vector(self, event: Event) -> Vector:
        item, category = event
        return np.concatenate([self.weights["items.weight"][item], self.weights["categories.weight"][category]])

    def logit(self, history: list[Event], candidate: Event, counts: Vector | None = None) -> float:
        """The click logit of a candidate after a history, which is not empty; its cells hold `counts` [A, S]."""
        q, events = self.vector(candidate), [self.vector(event) for event in history]
        mean = sum(events) / len(events)
        user, by_candidate = self.interest(history, candidate)
        if self.config.form == "official":
            total = sum(events, np.zeros_like(q))
            product = [q * total] if self.config.history_product else []
            return self.official_mlp(np.concatenate([q, total, *user, *by_candidate, *product]))
        by_candidate = [q, *by_candidate, *([q * mean] if self.config.history_product else [])]
        if counts is not None:
            by_candidate += [np.log1p(counts[0]), np.log1p(np.minimum(counts[1], counts[2]))]
        return self.mlp(np.concatenate([mean, [math.log(1 + len(history)) / 7], *user]), np.concatenate(by_candidate))

    def interest(self, history: list[Event], candidate: Event) -> tuple[list[Vector], list[Vector]]:
        """What the variant knows of the user, and of the candidate."""
        config, q = self.config, self.vector(candidate)
        events = [self.vector(event) for event in history]
        if config.variant == "dnn":
            return [], []
        if config.variant == "din":
            return [], [self.attention("interest.attention", q, events)]
        if config.variant == "sim":
            same = [vector for vector, event in zip(events, history, strict=True) if event[1] == candidate[1]]
            found, recent = same[-config.found :], events[-config.recent :]
            return [], [
                self.attention("interest.of_found", q, found) if found else np.zeros_like(q),
                self.attention("interest.of_recent", q, recent),
            ]
        if config.variant == "rum":
            return self.rum(q, events)
        if config.variant == "hashed":
            return [], self.hashed(history, candidate)
        if config.variant == "delta":
            return [], self.delta(q, events)
        if config.variant == "buckets":
            return [], self.buckets(q, events)
        states = self.gru_states("interest.first" if config.variant == "dien" else "interest.gru", events)
        if config.variant == "gru4rec":
            return [states[-1]], []
        if config.variant == "arnn":
            return [states[-1]], [self.attention("interest.attention", q, states)]
        if config.form == "official":
            attention = softmax([self.official_fit("interest.attention", q, state) for state in states])
        else:
            attention = softmax([float(state @ self.weights["interest.fit"] @ q) for state in states])
        evolved = np.zeros(config.units)
        for state, weight in zip(states, attention, strict=True):
            update, candidate_state = self.gru_parts("interest.second", state, evolved)
            kept = (1 - weight) * (1 - update) if config.form == "official" else 1 - weight * update
            evolved = kept * evolved + (1 - kept) * candidate_state
        return [], [evolved]

    def gru_parts(self, name: str, x: Vector, state: Vector) -> tuple[Vector, Vector]:
        """Update gate and candidate; the reset gate acts before the product."""
        units = len(state)
        from_event = x @ self.weights[f"{name}.event"] + self.weights[f"{name}.bias"]
        gates = sigmoid(from_event[: 2 * units] + state @ self.weights[f"{name}.gates"])
        reset, update = gates[:units], gates[units:]
        return update, np.tanh(from_event[2 * units :] + (reset * state) @ self.weights[f"{name}.candidate"])

    def gru_states(self, name: str, events: list[Vector]) -> list[Vector]:
        states = [np.zeros(self.config.width)]
        for x in events:
            update, candidate = self.gru_parts(name, x, states[-1])
            states.append((1 - update) * states[-1] + update * candidate)
        return states[1:]

    def rum(self, q: Vector, events: list[Vector]) -> tuple[list[Vector], list[Vector]]:
        w, D, H, m = self.weights, self.config.width, self.config.units, self.config.slots
        published = self.config.form == "official"
        h, r, memory = np.zeros(H), np.zeros(D), [w["interest.initial_memory"][i].copy() for i in range(m)]
        if published:
            r, memory = np.tanh(w["interest.initial_read"]), [np.tanh(slot) for slot in memory]
        for x in events:
            total = (
                x @ w["interest.controller.event"] + r @ w["interest.controller.side"] + w["interest.controller.bias"]
            )
            gates = sigmoid(total[: 2 * H] + h @ w["interest.controller.gates"])
            reset, keep = gates[:H], gates[H:]
            h = keep * h + (1 - keep) * np.tanh(total[2 * H :] + (reset * h) @ w["interest.controller.candidate"])
            controls = w["interest.controls.weight"] @ h + w["interest.controls.bias"]
            if published:
                controls = np.clip(controls, -20, 20)
            read_key, write_key = np.tanh(controls[:D]), np.tanh(controls[D : 2 * D])
            read_strength, write_strength = np.log1p(np.exp(controls[2 * D : 2 * D + 2])) + 1
            erase, add = sigmoid(controls[2 * D + 2 : 3 * D + 2]), np.tanh(controls[3 * D + 2 :])
            epsilon = 1e-8 if published else 0.0
            read_weights = softmax([read_strength * cosine(read_key, slot, epsilon) for slot in memory])
            write_weights = softmax([write_strength * cosine(write_key, slot, epsilon) for slot in memory])
            r = sum((read_weights[i] * memory[i] for i in range(m)), np.zeros(D))
            memory = [memory[i] * (1 - write_weights[i] * erase) + write_weights[i] * add for i in range(m)]
        return [h], [self.attention("interest.attention", q, memory)]

    def hashed(self, history: list[Event], candidate: Event) -> list[Vector]:
        slots = [np.zeros(self.config.units) for _ in range(self.config.slots)]
        for event in history:
            slot = event[1] % self.config.slots
            update, new = self.gru_parts("interest.gru", self.vector(event), slots[slot])
            slots[slot] = (1 - update) * slots[slot] + update * new
        read = slots[candidate[1] % self.config.slots]
        return [read, read * self.dense("interest.likeness", self.vector(candidate))]

    def delta(self, q: Vector, events: list[Vector]) -> list[Vector]:
        memory = np.zeros((self.config.slots, self.config.width))
        for x in events:
            key, (keep, write) = self.key(x), sigmoid(self.dense("interest.gates", x))
            erase = np.eye(self.config.slots) - write * np.outer(key, key)
            memory = keep * erase @ memory + write * np.outer(key, self.dense("interest.value", x))
        read = self.key(q) @ memory
        return [read, read * self.dense("interest.value", q)]

    def buckets(self, q: Vector, events: list[Vector]) -> list[Vector]:
        """SDIM without a state: the events whose signs are those of the candidate, for each hash function."""
        directions = self.weights["interest.directions"].reshape(len(q), self.config.hash_functions, -1)

        def signs(x: Vector, function: int) -> list[bool]:
            return [float(product) > 0 for product in x @ directions[:, function]]

        near, number = np.zeros_like(q), 0.0
        for function in range(self.config.hash_functions):
            met = [x for x in events if signs(x, function) == signs(q, function)]
            total = np.sum(met, axis=0) if met else np.zeros_like(q)
            near += total / max(math.sqrt(total @ total), 1e-6) / self.config.hash_functions
            number += len(met) / self.config.hash_functions
        return [near, near * q, np.array([near @ q, math.log1p(number)])]

    def key(self, x: Vector) -> Vector:
        key = self.dense("interest.key", x)
        return np.asarray(key / math.sqrt(key @ key))

    def dense(self, name: str, x: Vector) -> Vector:
        return np.asarray(self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"])

    def attention(self, name: str, q: Vector, facts: list[Vector]) -> Vector:
        fit = self.official_fit if self.config.form == "official" else self.fit
        scores = [fit(name, q, fact) for fact in facts]
        return sum((share * fact for share, fact in zip(softmax(scores), facts, strict=True)), np.zeros_like(q))

    def fit(self, name: str, q: Vector, fact: Vector) -> float:
        w = self.weights
        compared = np.concatenate([q, fact, q - fact, q * fact])
        hidden = compared @ np.concatenate(list(w[f"{name}.first"])) + w[f"{name}.first_bias"]
        hidden = np.where(hidden > 0, hidden, w[f"{name}.slope.weight"] * hidden)
        return float(w[f"{name}.second.weight"][0] @ hidden + w[f"{name}.second.bias"][0])

    def official_fit(self, name: str, q: Vector, fact: Vector) -> float:
        w = self.weights
        hidden = np.concatenate([q, fact, q - fact, q * fact]) @ np.concatenate(list(w[f"{name}.first"]))
        hidden = sigmoid(hidden + w[f"{name}.first_bias"])
        hidden = sigmoid(w[f"{name}.second.weight"] @ hidden + w[f"{name}.second.bias"])
        return float(w[f"{name}.third.weight"][0] @ hidden + w[f"{name}.third.bias"][0])

    def official_mlp(self, features: Vector) -> float:
        w = self.weights
        hidden = features * w["mlp.norm.scale"] / math.sqrt(1.001) + w["mlp.norm.shift"]
        for layer in ("first", "second"):
            hidden = w[f"mlp.{layer}.weight"] @ hidden + w[f"mlp.{layer}.bias"]
            hidden = np.where(hidden > 0, hidden, w[f"mlp.{layer}_slope.weight"] * hidden)
        click, no_click = w["mlp.third.weight"] @ hidden + w["mlp.third.bias"]
        return float(click - no_click)

    def mlp(self, user: Vector, candidate: Vector) -> float:
        w = self.weights
        hidden = w["mlp.by_user.weight"] @ self.norm("mlp.user_norm.norm", user) + w["mlp.by_user.bias"]
        hidden = hidden + w["mlp.by_candidate.weight"] @ self.norm("mlp.candidate_norm.norm", candidate)
        hidden = np.where(hidden > 0, hidden, w["mlp.first_slope.weight"] * hidden)
        hidden = w["mlp.second.weight"] @ hidden + w["mlp.second.bias"]
        hidden = np.where(hidden > 0, hidden, w["mlp.second_slope.weight"] * hidden)
        return float(w["mlp.third.weight"][0] @ hidden + w["mlp.third.bias"][0])

    def norm(self, name: str, x: Vector) -> Vector:
        if self.config.head_norm == "none":
            return x
        w = self.weights
        normalized = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
        return np.asarray(normalized * w[f"{name}.weight"] + w[f"{name}.bias"])

    def auxiliary_terms(self, history: list[Event], others: list[Event]) -> list[float]:
        """-log P(next event) - log(1 - P(other)) for each event but the first."""
        states = self.gru_states("interest.first", [self.vector(event) for event in history])
        terms = []
        for t in range(1, len(history)):
            follows, other = (self.follows(states[t - 1], self.vector(e)) for e in (history[t], others[t]))
            terms.append(-math.log(follows) - math.log(1 - other))
        return terms

    def follows(self, state: Vector, event: Vector) -> float:
        w = self.weights
        hidden = np.concatenate([state, event])
        if self.config.form == "official":
            hidden = hidden * w["auxiliary.norm.scale"] / math.sqrt(1.001) + w["auxiliary.norm.shift"]
        for layer in (0, 2):
            hidden = sigmoid(w[f"auxiliary.layers.{layer}.weight"] @ hidden + w[f"auxiliary.layers.{layer}.bias"])
        last = w["auxiliary.layers.4.weight"] @ hidden + w["auxiliary.layers.4.bias"]
        return softmax(list(last))[0] + 1e-6 if self.config.form == "official" else float(sigmoid(last)[0])
