"""How large is a stored value, at most? Zeros are left out."""

from __future__ import annotations

from pathlib import Path

from loadtest.budgets import Figure, Sizes, budget
from localstack.stack import BUNDLE as SHIPPED
from mimn.bundle import load_bundle
from mimn.state import Block, StateLayout
from mimn.state.codec import HEADER_BYTES

MIMN = Path("models/bundles/online-retail/1")
"""Without counters, whatever bundle the other budgets are measured with."""


@budget("stored value of MIMN in float32", "bytes", at_most=2048)
def bytes_float32(_: Sizes) -> Figure:
    """Bytes of the largest stored value of MIMN's."""
    return Figure(HEADER_BYTES + load_bundle(MIMN).layout.stored_bytes)


@budget("the same in float16", "bytes", at_most=1126)
def bytes_float16(_: Sizes) -> Figure:
    """The same with the recurrent blocks in float16: every block that lies in [-1, 1]."""
    layout = load_bundle(MIMN).layout
    recurrent = {"controller", "read", "memory", "channels"}
    halved = StateLayout(
        tuple(Block(b.name, b.shape, "float16" if b.name in recurrent else "float32") for b in layout.blocks)
    )
    return Figure(HEADER_BYTES + halved.stored_bytes)


@budget("stored value of the demo's model, with a ledger", "bytes", at_most=6144)
def bytes_ledger(_: Sizes) -> Figure:
    """Bytes of the largest stored value of the model that is shipped."""
    return Figure(HEADER_BYTES + load_bundle(SHIPPED).layout.stored_bytes)
