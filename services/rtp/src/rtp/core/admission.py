"""Whether a request may begin: refuse early what could not be answered in time, so that the rest is.

Work is done one request after another, so what a request waits for is the line before it: the costs of the admitted work,
which know of a burst at once. What else keeps the processor busy they do not know; the line's age does, which is how long
the first in it has waited already. The two are added. So a lasting overload holds the line at half a deadline where costs
are right, and at two thirds where they are thought half as high as they are, and never where every answer is just too late.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rtp.errors import DeadlineMissed, Draining, Overloaded


@dataclass
class Admission:
    """Counts the admitted requests and their expected costs, in seconds.

    Invariant: at most `max_in_flight` are admitted, and, but for a request that is alone, none for which the costs up to
    its own and the line's age exceed what is left of its deadline.
    """

    max_in_flight: int
    draining: bool = False
    in_flight: int = field(default=0, init=False)
    ahead_s: float = field(default=0.0, init=False)

    def check(self, remaining_s: float, age_s: float, cost_s: float = 0.0) -> None:
        """Make sure that a request may begin; without its cost, that any may. `age_s` is the line's.

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
        if self.in_flight and self.ahead_s + age_s + cost_s > remaining_s:
            raise Overloaded("the line before this request is too long for its deadline; try again later or elsewhere")

    def admit(self, cost_s: float, remaining_s: float, age_s: float = 0.0) -> None:
        """Count the request in; `leave` must follow with the same cost.

        Raises: as `check`.
        """
        self.check(remaining_s, age_s, cost_s)
        self.in_flight += 1
        self.ahead_s += cost_s

    def leave(self, cost_s: float) -> None:
        """Count an admitted request out."""
        self.in_flight -= 1
        self.ahead_s = self.ahead_s - cost_s if self.in_flight else 0.0
