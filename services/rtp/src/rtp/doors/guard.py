"""Which key may use which route: one table for each door, consulted before anything else happens to a request.

A route that its table does not name stops the start, so that none is open by oversight. Without keys, which
`rtp.app.serve` allows on loopback alone, no authentication is required and none of this runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from access import AccessDecision, Door, KeyRing, Rule, check_rules, refusal
from access import Scope as May
from rtp.doors.problems import STATUS_TABLE, Answer, Headers, headers_of, problem, send_answer
from rtp.doors.request_id import NAME, given_id
from rtp.errors import Forbidden, RtpError, Unauthenticated
from rtp.metrics import Metrics

_EVERY_DOOR: Final[Mapping[str, Rule]] = {
    "/livez": Door.OPEN,
    "/readyz": Door.OPEN,
    "/openapi.json": Door.ANY_KEY,
    "/docs": Door.ANY_KEY,
    "/docs/oauth2-redirect": Door.ANY_KEY,
    "/redoc": Door.ANY_KEY,
}
PUBLIC_RULES: Final[Mapping[str, Rule]] = {**_EVERY_DOOR, "/predict": May.PREDICT, "/v1/predict": May.PREDICT}
ADMIN_RULES: Final[Mapping[str, Rule]] = {
    **_EVERY_DOOR,
    "/metrics": May.METRICS,
    "/bundle": May.ADMIN,
    "/bundle/reload": May.ADMIN,
    "/releases": May.ROLLOUT_READ,
    "/releases/look": May.ROLLOUT_WRITE,
}


class Guard:
    """Judges requests by their path, whatever their method. A path that no route has needs a key of any scope."""

    def __init__(self, rules: Mapping[str, Rule], keys: KeyRing, metrics: Metrics) -> None:
        self._rules = rules
        self._keys = keys
        self._denied = metrics.denied

    def __call__(self, path: str, headers: Headers) -> RtpError | None:
        """Why a request is not let in, None if it is."""
        rule = self._rules.get(path, Door.ANY_KEY)
        credentials = [value for name, value in headers if name == b"authorization"]
        # Two are refused: a proxy in front may have checked the other one.
        decision = self._keys.judge(b",".join(credentials) if credentials else None, rule)
        if decision is AccessDecision.GRANTED:
            return None
        self._denied[decision].inc()
        denial = Forbidden if decision is AccessDecision.WRONG_SCOPE else Unauthenticated
        return denial(refusal(decision, rule))


def check_routes(routes: Iterable[BaseRoute], rules: Mapping[str, Rule]) -> None:
    """Make sure that every route has a rule.

    Raises:
        LookupError: names those that have none.
    """
    check_rules((getattr(route, "path", repr(route)) for route in routes), rules, "rtp.doors.guard")


def protect(app: GuardedApp, rules: Mapping[str, Rule], keys: KeyRing | None, metrics: Metrics) -> None:
    """Require what `rules` say of each route of `app`; without `keys`, only make sure that they name every route.

    Raises:
        LookupError: names the routes without a rule.
    """
    check_routes(app.routes, rules)
    if keys is not None:
        app.guard = Guard(rules, keys, metrics)


class GuardedApp(FastAPI):
    """FastAPI that answers only requests that its guard admits; all of them while it has no guard."""

    guard: Callable[[str, Headers], RtpError | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and (denial := self.denial(scope["path"], scope["headers"])) is not None:
            await send_answer(scope, send, *denial)
        else:
            await self.admitted(scope, receive, send)

    def denial(self, path: str, headers: Headers) -> Answer | None:
        """The answer to a request that the guard does not admit; None if it does."""
        if self.guard is None or (error := self.guard(path, headers)) is None:
            return None
        row = STATUS_TABLE[type(error)]
        given = given_id(headers)
        echo = [] if given is None else [(NAME, given.encode())]
        return row.status, headers_of(row) + echo, problem(row, error)

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, of requests that the guard admitted."""
        await super().__call__(scope, receive, send)
