"""RTP asks the kernel for short slices, where the kernel knows them."""

from __future__ import annotations

import os
import threading

import pytest

from rtp.slices import ask_for_slices, current_slice_us


@pytest.fixture(autouse=True)
def kernels_slice() -> None:
    """Another test of this process may have served in it, and so have asked for short slices."""
    ask_for_slices(0)


def in_a_thread_of_its_own(slice_us: int) -> tuple[bool, int | None, int | None]:
    """Whether it was granted, and the slices there and in a thread that was started there."""
    found: list[tuple[bool, int | None, int | None]] = []

    def ask() -> None:
        granted, inner = ask_for_slices(slice_us), []
        child = threading.Thread(target=lambda: inner.append(current_slice_us()))
        child.start()
        child.join()
        found.append((granted, current_slice_us(), inner[0]))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def test_a_slice_is_granted_and_inherited_or_refused_without_harm() -> None:
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    before = current_slice_us()
    granted, ours, childs = in_a_thread_of_its_own(200)
    assert (ours, childs) == ((200, 200) if granted else (before, before))
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice
    assert current_slice_us() == before
