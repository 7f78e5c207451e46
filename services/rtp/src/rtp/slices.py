"""How soon a thread that wakes up runs on processors that others use, too.

Linux lets a process run for a slice before it looks for another one to run, and a process that wakes up waits for the
end of the running one's slice unless its own slice is shorter. A request sleeps and wakes up several times: for its
bytes, for the store's reply. A short slice shortens each wait, takes no processor time from others, and needs
no privilege (decision 144).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_ATTRIBUTES = struct.Struct("<IIQiIQQQ")
"""sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period; times in ns."""
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""sched_setattr and sched_getattr, for which there is no function in every C library."""


def ask_for_slices(slice_us: int, thread: int = 0) -> bool:
    """Let the kernel run a thread (0: this one), and those that it starts later, in slices of so many microseconds.

    0 is the kernel's own length.

    Returns:
        Whether the kernel does so: Linux 6.12 or newer, and no other policy than the usual one was set.
    """
    calls = _CALLS.get(platform.machine()) if platform.system() == "Linux" else None
    if calls is None or os.sched_getscheduler(thread) != os.SCHED_OTHER:
        return False
    syscall = ctypes.CDLL(None).syscall
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, slice_us * 1000, 0, 0)
    if syscall(calls[0], thread, asked, 0):
        return False
    return not slice_us or current_slice_us(thread) == slice_us


def current_slice_us(thread: int = 0) -> int | None:
    """The slices of a thread (0: this one) in microseconds; None where the kernel does not say, 0 where it is older."""
    calls = _CALLS.get(platform.machine()) if platform.system() == "Linux" else None
    told = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if calls is None or ctypes.CDLL(None).syscall(calls[1], thread, told, _ATTRIBUTES.size, 0):
        return None
    runtime_ns: int = _ATTRIBUTES.unpack(told.raw)[5]
    return runtime_ns // 1000
