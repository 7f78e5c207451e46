"""A disk that a command fills: a file system in memory of a few MB, which only the command and its children see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support.skips import NO_SMALL_DISK

_MOUNTED = """
mount -t tmpfs -o "size=$1" tmpfs "$2" || exit 99
cd / && listed=$3 disk=$2 && shift 3
"$@"
status=$?
( cd "$disk" && find . -mindepth 1 | sort ) > "$listed"
exit $status
"""
_ALONE = ("unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNTED, "sh")
_CTR = "import sys; from ctr_cli.__main__ import main; sys.exit(main())"


@dataclass(frozen=True)
class OnDisk:
    """How a command ended."""

    status: int
    out: str
    err: str
    left: list[str]
    """Files and folders on the disk afterwards."""


def ctr_on_disk(disk: Path, size: str, *arguments: str, environment: Mapping[str, str] | None = None) -> OnDisk:
    """`ctr` where `disk` is a file system of `size` bytes (as mount reads it)."""
    return on_disk(disk, size, [sys.executable, "-c", _CTR, *arguments], environment)


def on_disk(disk: Path, size: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> OnDisk:
    """Run a command where `disk` is a file system of `size` bytes. Skips the test where none can be mounted."""
    disk.mkdir(exist_ok=True)
    listed = disk.with_name(f"{disk.name}.left")
    if not _can_mount(str(disk), str(listed)):
        pytest.skip(NO_SMALL_DISK)
    ended = _run(size, str(disk), str(listed), command, environment)
    return OnDisk(ended.returncode, ended.stdout, ended.stderr, listed.read_text().splitlines())


@cache
def _can_mount(disk: str, listed: str) -> bool:
    return shutil.which("unshare") is not None and _run("1m", disk, listed, ["true"], None).returncode == 0


def _run(
    size: str, disk: str, listed: str, command: Sequence[str], environment: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_ALONE, size, disk, listed, *command],
        env=dict(os.environ) | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def no_room_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full for files of this name that are written whole or not at all."""
    made = tempfile.mkdtemp

    def full(*, prefix: str, suffix: str, dir: Path) -> str:
        own = made(prefix=prefix, suffix=suffix, dir=dir)
        if prefix == f".{name}.":
            Path(own, name).symlink_to("/dev/full")
        return own

    monkeypatch.setattr(tempfile, "mkdtemp", full)
