"""What is wrong now: one table, which `/readyz`, the metric `uic_trouble` and the log read."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import Gauge

from uic.core.trouble import TOPIC, Cause, Trouble
from uic.logs import say

log = logging.getLogger("uic.fold.troubles")


class Troubles:
    """The table. One thread writes it."""

    def __init__(self, gauge: Gauge, begun: Callable[[], None]) -> None:
        """Nothing is wrong.

        Args:
            gauge: 1 for each cause that is set, else 0.
            begun: called when a part of a cause is set that was not.
        """
        self._gauge = gauge
        self._begun = begun
        self._details: dict[tuple[Cause, str], str] = {}
        for cause in Cause:  # an alert sees each before it happens
            gauge.labels(cause.value).set(0)

    def set(self, cause: Cause, detail: str, part: str = "") -> None:
        """This is wrong, or still is. The log has a line when the first part of a cause begins."""
        first, new = cause not in self, (cause, part) not in self._details
        self._details[cause, part] = detail
        if first:
            self._gauge.labels(cause.value).set(1)
            say(log, logging.WARNING, cause.value, detail=detail)
        if new:
            self._begun()

    def clear(self, cause: Cause, part: str = "") -> None:
        """This is not wrong, or not any more. The log has a line when the last part of a cause ends."""
        if self._details.pop((cause, part), None) is not None and cause not in self:
            self._gauge.labels(cause.value).set(0)
            say(log, logging.INFO, f"{cause.value} is over")

    def hear(self, trouble: Trouble) -> None:
        """`set` or `clear`."""
        if trouble.detail:
            self.set(trouble.cause, trouble.detail, trouble.part)
        else:
            self.clear(trouble.cause, trouble.part)

    def __contains__(self, cause: Cause) -> bool:
        """Whether any part of the cause is wrong."""
        return any(one is cause for one, _ in self._details)

    def reasons(self) -> list[str]:
        """What `/readyz` shows: cause and detail. A topic that is away is the whole reason of its cause."""
        return [
            f"{cause.value}: {detail}"
            for (cause, part), detail in self._details.items()
            if part == TOPIC or (cause, TOPIC) not in self._details or cause is not Cause.ERASURES
        ]
