"""Who may ask which route: one table a door, looked at before anything else happens to a request.

A route that its table does not name stops the start, so that none is open by oversight. Without keys, which
`rtp.__main__` allows on loopback alone, nobody is asked and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.routing import BaseRoute
from starlette.types import Scope

from access import Admission, Door, KeyRing, Rule, check_rules, refusal
from access import Scope as May
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
}


class Guard:
    """Judges requests by their path, whatever their method. A path that no route has needs a key of any scope."""

    def __init__(self, rules: Mapping[str, Rule], keys: KeyRing, metrics: Metrics) -> None:
        self._rules = rules
        self._keys = keys
        self._denied = metrics.denied

    def __call__(self, scope: Scope) -> RtpError | None:
        """Why the request is not let in, None if it is."""
        rule = self._rules.get(scope["path"], Door.ANY_KEY)
        credentials = [value for name, value in scope["headers"] if name == b"authorization"]
        # Two of them are one too many: a proxy may have looked at the other one.
        admission = self._keys.judge(b",".join(credentials) if credentials else None, rule)
        if admission is Admission.GRANTED:
            return None
        self._denied[admission].inc()
        denial = Forbidden if admission is Admission.WRONG_SCOPE else Unauthenticated
        return denial(refusal(admission, rule))


def check_routes(routes: Iterable[BaseRoute], rules: Mapping[str, Rule]) -> None:
    """Make sure that every route has a rule.

    Raises:
        LookupError: names those that have none.
    """
    check_rules((getattr(route, "path", repr(route)) for route in routes), rules, "rtp.doors.guard")
