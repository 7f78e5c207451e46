"""Whether a request may begin: refuse early what could not be answered in time, so that the rest is.

Work is done one request after another, so what a request waits for is the line before it: the costs of the admitted
work, which know of a burst at once. What else keeps the processor busy they do not know; the line's age does, which is
how long the first in it has waited already. The two are added. So a lasting overload holds the line at half of what it
may take where costs are right, at two thirds where they are thought half as high as they are, and never where every
answer is just too late.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rtp.errors import DeadlineMissed, Draining, Overloaded

FOR_THE_LINE = 2 / 3
"""Share of what is left of a deadline that the line may take. Without the rest a request would be let in that has no
time to ask the store (`rtp.scorer.PATIENCE`), and so is answered worse than it could be elsewhere."""


@dataclass
class Admission:
    """Counts the admitted requests and their expected costs, in seconds.

    Invariant: at most `max_in_flight` are admitted, and, but for a request that is alone, none for which the costs up
    to its own and the line's age exceed `FOR_THE_LINE` of what is left of its deadline.
    """

    max_in_flight: int
    draining: bool = False
    in_flight: int = field(default=0, init=False)
    ahead_s: float = field(default=0.0, init=False)
    _expected: int = field(default=0, init=False)
    """Requests that were let in without their cost, and not admitted yet."""
    _usual_s: float = field(default=0.0, init=False)
    """The cost of the last that was admitted."""

    def expect(self, remaining_s: float, age_s: float) -> None:
        """Let a request in whose cost is not known yet, as if that were the usual one. `admitting` follows.

        Before it is admitted the head may run once, which shortens its deadline and makes the line older. There must be
        time for that as well: else it would wait for that run only to be refused.

        Raises: as `admit`.
        """
        self._check(self._usual_s, remaining_s, age_s, run_s=self._usual_s)
        self._expected += 1

    def admitting(self) -> None:
        """From now on those that are expected come to be admitted."""
        self._expected = 0

    def admit(self, cost_s: float, remaining_s: float, age_s: float = 0.0) -> None:
        """Count the request in; `leave` must follow with the same cost. `age_s` is the line's.

        Raises:
            Draining: this process takes no more requests.
            DeadlineMissed: nothing is left of the deadline.
            Overloaded: too many requests, or too much work, are ahead of it.
        """
        self._check(cost_s, remaining_s, age_s)
        self._usual_s = cost_s
        self.in_flight += 1
        self.ahead_s += cost_s

    def leave(self, cost_s: float) -> None:
        """Count an admitted request out."""
        self.in_flight -= 1
        self.ahead_s = self.ahead_s - cost_s if self.in_flight else 0.0

    def _check(self, cost_s: float, remaining_s: float, age_s: float, run_s: float = 0.0) -> None:
        if self.draining:
            raise Draining("this process is shutting down; send the request to another one")
        if remaining_s <= 0:
            raise DeadlineMissed("the deadline passed before the request could begin")
        others = self.in_flight + self._expected
        if others >= self.max_in_flight:
            raise Overloaded(f"{others} requests are being answered already; try again later or elsewhere")
        line_s = self.ahead_s + self._expected * self._usual_s + age_s + run_s
        if others and line_s + cost_s > FOR_THE_LINE * (remaining_s - run_s):
            raise Overloaded("the line before this request is too long for its deadline; try again later or elsewhere")
