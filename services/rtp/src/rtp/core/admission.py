"""Whether a request may begin: refuse early what could not be answered in time, so that the rest is.

Work is done one request after another, so what is ahead of a request is the sum of the admitted costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rtp.errors import DeadlineMissed, Draining, Overloaded


@dataclass
class Admission:
    """Counts the admitted requests and their expected costs, in seconds.

    Invariant: at most `max_in_flight` are admitted, and none whose expected end lies behind its deadline.
    """

    max_in_flight: int
    draining: bool = False
    in_flight: int = field(default=0, init=False)
    ahead_s: float = field(default=0.0, init=False)

    def admit(self, cost_s: float, remaining_s: float) -> None:
        """Count the request in; `leave` must follow with the same cost.

        Raises:
            Draining: this process takes no more requests.
            DeadlineMissed: nothing is left of the deadline.
            Overloaded: too many requests, or too much work, are ahead of it.
        """
        if self.draining:
            raise Draining("this process is shutting down; send the request to another one")
        if remaining_s <= 0:
            raise DeadlineMissed("the deadline passed before the request could begin")
        if self.in_flight >= self.max_in_flight:
            raise Overloaded(f"{self.in_flight} requests are being answered already; try again later or elsewhere")
        if self.in_flight and self.ahead_s + cost_s > remaining_s:
            raise Overloaded("the work ahead of this request takes longer than its deadline; try again later")
        self.in_flight += 1
        self.ahead_s += cost_s

    def leave(self, cost_s: float) -> None:
        """Count an admitted request out."""
        self.in_flight -= 1
        self.ahead_s = self.ahead_s - cost_s if self.in_flight else 0.0
