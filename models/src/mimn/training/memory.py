"""Freed memory stays with the process while a model is trained.

glibc asks the system for each large tensor and gives it back when the tensor is freed. The system clears every page
again at the next step. Where attention over long windows makes tensors of 50 MB and more, that is half of the time.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""`M_TRIM_THRESHOLD` and `M_MMAP_MAX` of glibc's malloc.h."""
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for tensors to come; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, NEVER)
