"""What a running service says of itself on its admin port: for waiting and for figures, never for a verdict on UIC."""

from __future__ import annotations

from typing import Any

import httpx

from localstack.services import RtpProcess, UicWorker


def metric(worker: UicWorker | RtpProcess, name: str, label: str = "") -> float:
    """The sum over a metric's labels, or over those that carry `label` (`name="value"`)."""
    lines = httpx.get(f"{worker.admin_url}/metrics", timeout=5).text.splitlines()
    found = [line for line in lines if line.startswith((name + " ", name + "{")) and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def partitions(worker: UicWorker) -> list[dict[str, Any]]:
    """Those that are assigned to the worker; none while it does not answer."""
    try:
        found: list[dict[str, Any]] = httpx.get(f"{worker.admin_url}/partitions", timeout=5).json()["partitions"]
    except httpx.TransportError:
        return []
    return found


def owned(worker: UicWorker) -> int:
    """How many partitions it folds."""
    return sum(p["phase"] == "folding" for p in partitions(worker))
