"""What a running service says of itself on its admin port: for waiting and for figures, and whether it is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import httpx

from localstack.uic_and_rtp import RtpProcess, UicWorker
from localstack.wait import NotReady, until
from localstack.web import web


class Watch:
    """Looks in the background, every few seconds while it is entered and once more at its end."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _go_on(self) -> None:
        ended = False
        while not ended:
            ended = self._ending.wait(self._every_s)
            self.look()

    def look(self) -> None:
        """What is seen at one moment."""
        raise NotImplementedError


class Stalls(Watch):
    """When the machine did not let this process run, as a thread sees that wakes up all the time. A delay then says
    nothing of the product."""

    EVERY_S = 0.02
    SHORTEST_S = 0.2
    """Shorter ones are not told apart from the product's own time."""

    def __init__(self) -> None:
        super().__init__(self.EVERY_S)
        self._seen: list[tuple[float, float]] = []
        self._at = time.monotonic()

    def look(self) -> None:
        """Whether it has just been kept from running."""
        began, self._at = self._at, time.monotonic()
        if self._at - began >= self.SHORTEST_S:
            self._seen.append((began, self._at))

    def within(self, began: float, ended: float) -> float:
        """For how many seconds it stalled between two times of `time.monotonic`."""
        return sum(max(0.0, min(end, ended) - max(begin, began)) for begin, end in self._seen)


def metric(worker: UicWorker | RtpProcess, name: str, label: str = "") -> float:
    """The sum over a metric's labels, or over those that carry `label` (`name="value"`)."""
    lines = web().get(f"{worker.admin_url}/metrics", timeout=60).text.splitlines()
    found = [line for line in lines if line.startswith((name + " ", name + "{")) and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def samples(worker: UicWorker | RtpProcess, *names: str) -> dict[str, float]:
    """Those of some metrics with labels, by name and labels as they are written: `name{label="value"}`."""
    lines = web().get(f"{worker.admin_url}/metrics", timeout=60).text.splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith(tuple(name + "{" for name in names))]
    return {name: float(value) for name, _, value in found}


def partitions(worker: UicWorker) -> list[dict[str, Any]]:
    """Those that are assigned to the worker; none while it does not answer."""
    try:
        found: list[dict[str, Any]] = web().get(f"{worker.admin_url}/partitions", timeout=5).json()["partitions"]
    except httpx.TransportError:
        return []
    return found


def owned(worker: UicWorker) -> int:
    """How many partitions it folds."""
    return sum(p["phase"] == "folding" for p in partitions(worker))


def readiness(process: UicWorker | RtpProcess) -> tuple[int, str]:
    """The status of `/readyz`, 0 without an answer, and what it says is wrong or degraded; empty if nothing is."""
    try:
        answer = web().get(f"{process.admin_url}/readyz", timeout=5)
    except httpx.TransportError as error:
        return 0, str(error)
    said = answer.json()
    return answer.status_code, "; ".join(said.get("degraded", ())) or said.get("detail", "")


def wait_well(workers: Sequence[UicWorker], n: int) -> None:
    """Wait until `/readyz` and the metrics of a group's workers say that all is well: each of the `n` partitions is
    folded by one of them, to the end of the log. Call it once the judge has found that so.

    Raises:
        NotReady: they do not say so in time; the message has what they say.
    """

    def well() -> bool:
        shown = [(metric(w, "uic_partitions"), metric(w, "uic_partitions", 'status="folding"')) for w in workers]
        lag = sum(metric(w, "uic_lag_records") for w in workers)
        folded = all(assigned == folding for assigned, folding in shown) and sum(folding for _, folding in shown) == n
        return folded and lag == 0 and all(readiness(w) == (200, "") for w in workers)

    try:
        until(well, "UIC says that all is well", within_s=60, every_s=0.1)
    except NotReady as late:
        raise NotReady(f"{late}; it says {[(readiness(w), partitions(w)) for w in workers]}") from None


def wait_stopped(workers: Sequence[UicWorker], reason: str) -> None:
    """Wait until each of the workers has stopped and names the reason."""
    for worker in workers:
        # First the reason: a busy machine is late to answer the question whether it is ready, which counts as a no.
        until(lambda log=worker.log: reason in log.read_text(), f"UIC says {reason} in its log", within_s=60)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        until(lambda worker=worker: not worker.ready(), "UIC says NOT_SERVING", within_s=60)  # type: ignore[misc]  # as above


def sees_store(rtp: RtpProcess, *, up: bool) -> bool:
    """Whether `/readyz` and the metrics of RTP agree that the store is there, or that it is away. RTP is ready in both
    cases, because it answers in both."""
    gauges = {metric(rtp, name) for name in ("rtp_store_up", "rtp_rollout_up", "rtp_announced")}
    status, detail = readiness(rtp)
    said = detail == "" if up else detail.startswith("the rollout record cannot be followed")
    return status == 200 and said and gauges == {float(up)}
