"""Does the latency of `/predict` depend on the length of a history?"""

from __future__ import annotations

import numpy as np

from loadtest.budgets import Figure, Sizes, budget
from loadtest.stacks import Client, predict_body, publish, running


@budget("/predict p50, history 10,000 to 10 (95 %, lower end)", "x", at_most=1.02)
def length_ratio(sizes: Sizes) -> Figure:
    """Lower end of the 95 % interval of p50(history 10,000) / p50(history 10), requests in turn."""
    with running() as stack:
        publish(stack, [("long", 10_000), ("short", 10)])
        client = Client(stack.addresses.predict)
        bodies = {user: predict_body(stack, user) for user in ("short", "long")}
        for _ in range(200):
            for body in bodies.values():
                client.post(body)
        times: dict[str, list[float]] = {"short": [], "long": []}
        for i in range(sizes.requests):
            for user in ("short", "long") if i % 2 else ("long", "short"):
                times[user].append(client.post(bodies[user]))
    pairs = np.array([times["long"], times["short"]])
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(1000):
        drawn = random.integers(pairs.shape[1], size=pairs.shape[1])
        high, low = np.median(pairs[:, drawn], axis=1)
        ratios.append(high / low)
    lower, upper = np.quantile(ratios, [0.025, 0.975])
    p50 = np.median(pairs, axis=1) * 1000
    return Figure(float(lower), f"95 % [{lower:.3f}, {upper:.3f}], p50 {p50[0]:.2f} and {p50[1]:.2f} ms")
