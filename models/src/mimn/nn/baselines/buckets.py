"""Buckets by locality-sensitive hashing, as in SDIM (Cao et al., CIKM 2022): attention whose kernel is not learned.

Each of G hash functions sorts vectors into b buckets by the signs of log2 b products with fixed random directions, so
vectors at a small angle often meet. A bucket keeps the sum and the number of its events. A candidate reads its own
bucket of each function: on average events count by how near they are to it. The weights of embeddings and head are
learned; hash functions are not, so the state is a sum, and a window's states are running sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimn.baselines import BaselineConfig
from mimn.nn import addressing
from mimn.nn.baselines.interest import Features, FoldedInterest, Occasions, Window

SEED = 20220
"""Of the random directions: they are the same in every model of equal sizes."""


class Buckets(FoldedInterest):
    """The mean over hash functions of the direction of the candidate's bucket, its likeness to the candidate element by
    element, their product, and the logarithm of how many events met the candidate."""

    directions: Tensor
    """[D, G * log2 b]"""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        D, self.functions, self.buckets = config.width, config.hash_functions, config.slots
        self.bits = (self.buckets - 1).bit_length()
        self.candidate_width = 2 * D + 2
        self.shape = (self.functions, self.buckets, D + 1)
        random = torch.Generator().manual_seed(SEED)
        self.register_buffer("directions", torch.randn(D, self.functions * self.bits, generator=random))

    def initial(self) -> Tensor:
        """Empty buckets. → [G * b * (D + 1)]"""
        return self.directions.new_zeros(self.functions * self.buckets * (self.config.width + 1))

    def mine(self, vectors: Tensor) -> Tensor:
        """1 for the bucket of each function, 0 for the others. [..., D] → [..., G, b]"""
        positive = (vectors.detach() @ self.directions > 0).to(vectors.dtype)
        signs = torch.unflatten(positive, -1, (self.functions, self.bits))
        place = (signs * 2.0 ** torch.arange(self.bits, device=signs.device, dtype=signs.dtype)).sum(-1, keepdim=True)
        return (place == torch.arange(self.buckets, device=signs.device)).to(vectors.dtype)

    def project(self, events: Tensor) -> Tensor:
        """What an event adds: to its bucket of each function its vector and 1. [..., D] → [..., G * b * (D + 1)]"""
        added = torch.cat([events, torch.ones_like(events[..., :1])], -1)
        return (self.mine(events).unsqueeze(-1) * added[..., None, None, :]).flatten(-3)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """[B, R], [B, R] → [B, R]"""
        return state + projected

    def encode(self, events: Tensor) -> Tensor:
        """The events: `forward` sums those that met a candidate, which is cheaper than a state after each event."""
        return events

    def forward(self, window: Window, occasions: Occasions) -> Features:
        """As `read` of the states, from the events that precede each occasion."""
        added = torch.cat([window.events, torch.ones_like(window.events[..., :1])], -1)
        written, asked = self.mine(window.events), self.mine(occasions.candidates)
        met = torch.einsum("btgk,bpcgk->bpcgt", written, asked)
        met = met * occasions.before(window.events.shape[1])[:, :, None, None, :]
        return self.features(torch.einsum("bpcgt,btd->bpcgd", met, added), occasions.candidates)

    def read(self, states: Tensor, candidates: Tensor) -> Features:
        """→ candidate [2D + 2]"""
        buckets = torch.unflatten(states, -1, self.shape)
        found = (self.mine(candidates).unsqueeze(-1) * buckets.unsqueeze(-4)).sum(-2)
        return self.features(found, candidates)

    def features(self, found: Tensor, candidates: Tensor) -> Features:
        """The candidates' buckets [..., C, G, D + 1] as the head reads them. → candidate [2D + 2]"""
        near = addressing.direction(found[..., :-1]).mean(-2)
        product = near * candidates
        number = torch.log1p(found[..., -1].mean(-1, keepdim=True))
        return Features([], [torch.cat([near, product, product.sum(-1, keepdim=True), number], -1)])
