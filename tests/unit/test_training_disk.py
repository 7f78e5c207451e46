"""A full disk is told with its folder, by whichever library it is found."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from mimn.training.disk import DiskFull, named_if_full

pytestmark = pytest.mark.torch

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("500000 requested and 8176 written"),  # numpy.save
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["os", "quota", "numpy", "safetensors"])
def test_a_full_disk_is_told_with_the_folder_and_what_to_do(error: Exception) -> None:
    with pytest.raises(DiskFull) as told, named_if_full(Path("runs/x"), "wait"):
        raise error
    assert str(told.value) == "runs/x cannot be written, because its disk is full: make room there, then wait"


def test_the_outermost_says_what_to_do() -> None:
    outer, inner = named_if_full(Path("search"), "search again"), named_if_full(Path("search/trial"), "wait")
    with pytest.raises(DiskFull, match=r"^search cannot be written, .* then search again$"), outer, inner:
        raise FULL[0]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied"), SafetensorError("Error while deserializing header"), OSError()],
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, named_if_full(Path("runs/x"), "wait"):
        raise error
    assert found.value is error
