"""The field heads' equations in plain numpy: float64, one candidate at a time, every product as the papers write it.

Export refuses a bundle that disagrees with this (`mimn.reference`). It shares nothing with `mimn.nn.heads` but the
names of the weights: no split of users and candidates, no closed forms. Each function takes the weights, the vectors
[E] of the user's fields and of the candidate's, and the sums of their first-order weights, and returns the click logit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Weights = Mapping[str, Vector]


def relu(x: Vector) -> Vector:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def split(weights: Weights, name: str, x: Vector) -> Vector:
    """A linear layer over the concatenation, whose weights are stored in two parts."""
    both = np.concatenate([weights[f"{name}.by_shared"], weights[f"{name}.by_own"]])
    return np.asarray(x @ both + weights[f"{name}.bias"])


def layer(weights: Weights, name: str, x: Vector) -> Vector:
    """A linear layer."""
    return np.asarray(weights[f"{name}.weight"] @ x + weights[f"{name}.bias"])


def tower(weights: Weights, x: Vector) -> float:
    """ReLU layers and one logit."""
    hidden, at = split(weights, "tower.first", x), 0
    while f"tower.rest.{at}.weight" in weights:
        hidden, at = layer(weights, f"tower.rest.{at}", relu(hidden)), at + 1
    return float(hidden[0])


def pair_sum(vectors: list[Vector]) -> Vector:
    """The sum of the products of all pairs."""
    return np.asarray(sum((a * b for a, b in combinations(vectors, 2)), np.zeros_like(vectors[0])))


def mlp(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """Embedding&MLP: a tower over the fields."""
    return tower(weights, np.concatenate([*shared, *own]))


def deep_crossing(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """Deep Crossing: residual units (Shan et al., KDD 2016, eq. 3)."""
    x, unit = np.concatenate([*shared, *own]), 0
    while f"outer.{unit}.weight" in weights:
        inner = split(weights, "first", x) if unit == 0 else layer(weights, f"inner.{unit - 1}", x)
        x, unit = relu(x + layer(weights, f"outer.{unit}", relu(inner))), unit + 1
    return float(layer(weights, "last", x)[0])


def fm(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """A factorization machine (Rendle, ICDM 2010, eq. 1)."""
    return sum(first) + sum(float(a @ b) for a, b in combinations([*shared, *own], 2))


def fnn(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """FNN: a tower over a factorization machine's weights and vectors (Zhang, Du and Wang, ECIR 2016)."""
    return tower(weights, np.concatenate([[first[0]], *shared, [first[1]], *own]))


def pnn_inner(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """PNN with inner products (Qu et al., ICDM 2016)."""
    of_user = [float(a @ b) for a, b in combinations(shared, 2)]
    mixed = [float(b @ a) for b in own for a in shared]
    among = [float(a @ b) for a, b in combinations(own, 2)]
    return tower(weights, np.concatenate([*shared, of_user, *own, mixed, among]))


def pnn_outer(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """PNN with the outer product of the sum (Qu et al., ICDM 2016, eq. 12 and 13)."""
    vectors = [*shared, *own]
    # The sum over all ordered pairs of e_i e_j^T.
    products = sum((np.outer(a, b) for a in vectors for b in vectors), np.zeros((len(own[0]), len(own[0]))))
    return tower(weights, np.concatenate([*vectors, products.reshape(-1)]))


def wide_deep(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """Wide & Deep (Cheng et al., DLRS 2016, eq. 3)."""
    return sum(first) + mlp(weights, shared, own, first)


def deepfm(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """DeepFM (Guo et al., IJCAI 2017, eq. 1)."""
    return fm(weights, shared, own, first) + mlp(weights, shared, own, first)


def dcn(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """DCN (Wang et al., ADKDD 2017, eq. 3)."""
    x0 = np.concatenate([*shared, *own])
    x, columns = x0, weights["weights"]
    for at, bias in enumerate(weights["biases"]):
        x = x0 * float(x @ columns[:, at]) + bias + x
    return float(x @ columns[:, -1]) + tower(weights, x0)


def dcn_v2(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """DCN-V2, parallel (Wang et al., WWW 2021, eq. 1)."""
    x0, at = np.concatenate([*shared, *own]), 0
    x = x0 * split(weights, "first", x0) + x0
    while f"others.{at}.weight" in weights:
        x, at = x0 * layer(weights, f"others.{at}", x) + x, at + 1
    return float(layer(weights, "last", x)[0]) + tower(weights, x0)


def nfm(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """NFM (He and Chua, SIGIR 2017, eq. 5)."""
    hidden, at = pair_sum([*shared, *own]), 0
    while f"layers.{at}.weight" in weights:
        hidden, at = layer(weights, f"layers.{at}", hidden if at == 0 else relu(hidden)), at + 1
    return sum(first) + float(hidden[0])


def afm(weights: Weights, shared: list[Vector], own: list[Vector], first: tuple[float, float]) -> float:
    """AFM (Xiao et al., IJCAI 2017, eq. 6)."""
    products = [a * b for a, b in combinations([*shared, *own], 2)]
    scores = [float(relu(layer(weights, "attention", product)) @ weights["h"][:, 0]) for product in products]
    powers = np.exp(np.array(scores) - max(scores))
    pooled = sum((power * product for power, product in zip(powers, products, strict=True)), np.zeros_like(own[0]))
    return sum(first) + float(pooled / powers.sum() @ weights["p"][:, 0])


TWINS: dict[str, Callable[[Weights, list[Vector], list[Vector], tuple[float, float]], float]] = {
    "mlp": mlp,
    "deep_crossing": deep_crossing,
    "fm": fm,
    "fnn": fnn,
    "pnn_inner": pnn_inner,
    "pnn_outer": pnn_outer,
    "wide_deep": wide_deep,
    "deepfm": deepfm,
    "dcn": dcn,
    "dcn_v2": dcn_v2,
    "nfm": nfm,
    "afm": afm,
}
