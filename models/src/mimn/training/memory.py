"""Freed memory stays with the process while a model is trained.

glibc asks the system for each large tensor and gives it back when the tensor is freed. The system clears every page
again at the next step. Where attention over long windows makes tensors of 50 MB and more, that is half of the time.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""As in glibc's malloc.h."""
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for tensors to come; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
