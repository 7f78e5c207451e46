"""Training keeps freed memory: a large array costs page faults once, not at each step."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from mimn.training.memory import keep_freed_memory

STEPS = """
import resource, sys
import numpy as np
from mimn.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(16 << 20, np.float32)
before = faults()
for _ in range(10):
    np.ones(16 << 20, np.float32)
print(faults() - before)
"""


def faults(how: str) -> int:
    """Page faults of ten arrays of 64 MiB, made and freed one after another."""
    ran = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc: it has no mallopt")
def test_a_large_array_takes_the_pages_of_the_one_before() -> None:
    assert faults("keep") < faults("give back") / 10
