"""Where figures come from and where they go: the machine, the commit, and a dated folder for the record."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path("loadtest/results")


def dated(name: str) -> Path:
    """The folder of a record made today."""
    return RESULTS / f"{datetime.now(UTC):%Y-%m-%d}_{name}"


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    about = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", about.read_text("utf-8"), re.M) if about.exists() else None
    cpu = model[1] if model else "unknown"
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def commit() -> str:
    """The commit measured, with `+changes` when files differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
