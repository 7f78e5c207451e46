"""Whether the Sentinels of a master can replace it: one that names the master may be the last one, and replace nothing.

A Sentinel takes another one for missing once that has been silent for the `down-after-milliseconds` of the master.
"""

from __future__ import annotations

from typing import Final

QUESTION: Final = ("SENTINEL", "CKQUORUM")
"""The command, whose argument is the master's name. It needs the right `+sentinel|ckquorum`."""
NOT_ENOUGH: Final = "NOQUORUM"
"""How the answer begins if they are too few, for the quorum or for a majority."""


def too_few(answer: object, address: str, service: str) -> str:
    """That the Sentinels are too few for a failover; empty if they are enough, or if that is not told.

    Args:
        answer: to `QUESTION`, or the error that it was answered with.
        address: who answered.
        service: the master's name.
    """
    said = str(answer)
    if not said.startswith(NOT_ENOUGH):
        return ""
    return f"the Sentinels are too few to replace the master {service!r} if it fails: {address} says {said}"
