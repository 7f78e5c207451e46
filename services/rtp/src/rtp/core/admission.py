"""Whether a request may begin: refuse early what could not be answered in time, so that the rest is.

Requests are scored one after another, so a request waits for the line before it. Its length is the sum of two measures:
the costs of the admitted work, which show a burst at once, and the line's age (how long the first in it has waited),
which also shows whatever else keeps the processor busy. In a lasting overload this holds the line at half of what it
may take where costs are right, at two thirds where costs are estimated at half of what they are, and never at the
length where every answer is just too late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rtp.errors import DeadlineMissed, Draining, Overloaded

IN_A_ROW_S: Final = 0.0005
"""How long the head may always run in one pass of the event loop, if more than once; in seconds of expected cost. With
what a request takes besides, a pass is about three times as long."""

MOST_IN_A_ROW_S: Final = 0.05
"""How long it may run in one pass at the most, however long refusals took in the one before: the machine may have
stalled meanwhile."""

FOR_THE_LINE = 2 / 3
"""Share of the rest of a deadline that the line may take. With more, a request would be let in that has no time left to
ask the store (`rtp.scorer.PATIENCE`), and gets a worse answer than another process could give."""


@dataclass
class Admission:
    """Counts the admitted requests and their expected costs, in seconds.

    Invariant: at most `max_in_flight` are admitted, and, except for a request that is alone, none for which the costs
    up to its own and the line's age exceed `FOR_THE_LINE` of the rest of its deadline.
    """

    max_in_flight: int
    draining: bool = False
    in_flight: int = field(default=0, init=False)
    ahead_s: float = field(default=0.0, init=False)
    _expected: int = field(default=0, init=False)
    """Requests that were let in before their cost was known, and are not admitted yet."""
    _usual_s: float = field(default=0.0, init=False)
    """The cost of the last admitted request."""
    _came: int = field(default=0, init=False)
    """Requests that were admitted or refused since `refused_share` was asked."""
    _refused: int = field(default=0, init=False)

    def refused_share(self) -> float:
        """Of the requests that came since this was last asked, the share that was refused as overloaded; 0 of none."""
        share = self._refused / self._came if self._came else 0.0
        self._came = self._refused = 0
        return share

    def expect(self, remaining_s: float, age_s: float, share_s: float = IN_A_ROW_S) -> None:
        """Let in a request whose cost is not known yet, at the usual cost. `admitting` follows.

        Before it is admitted the head may run for `share_s`, or once, which shortens its deadline and makes the line
        older. There must be time for that too: otherwise it would wait for that only to be refused.

        Raises: as `admit`.
        """
        self._check(self._usual_s, remaining_s, age_s, run_s=max(self._usual_s, min(self.ahead_s, share_s)))
        self._expected += 1

    def admitting(self) -> None:
        """The expected requests are admitted from now on."""
        self._expected = 0

    def admit(self, cost_s: float, remaining_s: float, age_s: float = 0.0) -> None:
        """Count the request in; `leave` must follow with the same cost. `age_s`: how long the line's first has waited.

        Raises:
            Draining: this process takes no more requests.
            DeadlineMissed: nothing is left of the deadline.
            Overloaded: too many requests, or too much work, are ahead of it.
        """
        self._check(cost_s, remaining_s, age_s)
        self._came += 1
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
        line_s = self.ahead_s + self._expected * self._usual_s + age_s + run_s
        if others >= self.max_in_flight:
            why = f"{others} requests are being answered already"
        elif others and line_s + cost_s > FOR_THE_LINE * (remaining_s - run_s):
            why = "too many requests are ahead of this one to answer it by its deadline"
        else:
            return
        self._came += 1
        self._refused += 1
        raise Overloaded(f"{why}; try again later or elsewhere")
