"""Which key may call what: one table for the gRPC port, one for the admin port, and the check that both use.

A method or path that is missing from its table stops the start, so that none is open by mistake. Without keys, which
`uic.app` allows on loopback only, no authentication is required.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from access import AccessDecision, Door, KeyRing, Rule, Scope, refusal
from uic.errors import Forbidden, Unauthenticated
from uic.metrics import Metrics

_UIC: Final = "/ctr.uic.v1.UserInterestCenter/"
GRPC_RULES: Final[Mapping[str, Rule]] = {
    f"{_UIC}PublishBehaviors": Scope.PUBLISH,
    f"{_UIC}GetUserState": Scope.READ,
    f"{_UIC}EraseUser": Scope.ERASE,
    f"{_UIC}EraseItem": Scope.ERASE,
    "/grpc.health.v1.Health/Check": Door.OPEN,
    "/grpc.health.v1.Health/List": Door.OPEN,
    "/grpc.health.v1.Health/Watch": Door.OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Door.ANY_KEY,
}
ADMIN_RULES: Final[Mapping[str, Rule]] = {
    "/livez": Door.OPEN,
    "/readyz": Door.OPEN,
    "/metrics": Scope.METRICS,
    "/partitions": Scope.OPERATE,
    "/partitions/<p>/continue": Scope.OPERATE,
    "/partitions/<p>/rebuild": Scope.OPERATE,
}


class Guard:
    """Checks calls of both ports against one ring of keys. Safe to call from several threads."""

    def __init__(self, keys: KeyRing, metrics: Metrics) -> None:
        self._keys = keys
        self._denied = metrics.denied

    def check(self, authorization: str | bytes | None, rule: Rule) -> None:
        """Return if the call is allowed.

        Args:
            authorization: the header or metadata entry of that name, None if there is none.
            rule: what the method or path requires.

        Raises:
            Unauthenticated, Forbidden: it is not allowed.
        """
        sent = authorization.encode("latin-1", "replace") if isinstance(authorization, str) else authorization
        decision = self._keys.judge(sent, rule)
        if decision is AccessDecision.GRANTED:
            return
        self._denied[decision].inc()
        denial = Forbidden if decision is AccessDecision.WRONG_SCOPE else Unauthenticated
        raise denial(refusal(decision, rule))
