"""What a service asks Sentinels, and what their answers mean: which master they name, and whether they can replace it.

A Sentinel that names the master may be the last one, and replace nothing. It takes another one for missing once that
has been silent for the `down-after-milliseconds` of the master.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import SecretStr

from process.addresses import joined
from process.tls_causes import by_cause

QUORUM: Final = ("SENTINEL", "CKQUORUM")
"""The command that asks whether they are enough; its argument is the master's name. It needs the right
`+sentinel|ckquorum`."""
_TOO_FEW: Final = "NOQUORUM"
"""How the answer begins if they are too few, for the quorum or for a majority."""


class Named(NamedTuple):
    """What the Sentinels said when they were asked last."""

    last: tuple[str, int] | None = None
    """Host and port of the master that they named last."""
    trouble: str = ""
    """Why none named a master; empty if one did."""
    silent: bool = False
    """Whether none answered."""

    @property
    def master(self) -> tuple[str, int] | None:
        """The master to use. While none answers, the one that they named last is gone on with; None if there was none,
        or if they answer and name none."""
        return None if self.trouble and not self.silent else self.last


def none_named(
    before: Named, group: str, service: str, asked: int, failed: Sequence[tuple[str, str]], *, watched: bool
) -> Named:
    """That none of the Sentinels named a master, and why.

    Args:
        before:  what they said before.
        group:   how the names of the store's settings begin, such as `UIC_REDIS`.
        service: the master's name.
        asked:   how many were asked.
        failed:  address and reason of those that did not answer.
        watched: whether one of the others watches the master.
    """
    silent = len(failed) == asked
    if silent:
        trouble = f"no Sentinel of {group}__SENTINELS answers: {'; '.join(by_cause(failed))}"
    elif watched:
        trouble = f"the Sentinels take the master {service!r} ({group}__SENTINEL_SERVICE) to be down"
    else:
        trouble = f"the Sentinels watch no master {service!r}, the name in {group}__SENTINEL_SERVICE"
    return Named(before.last, trouble, silent)


def too_few(answer: object, address: str, service: str) -> str:
    """That the Sentinels are too few for a failover; empty if they are enough, or if that is not told.

    Args:
        answer:  to `QUORUM`, or the error that it was answered with.
        address: who answered.
        service: the master's name.
    """
    said = str(answer)
    if not said.startswith(_TOO_FEW):
        return ""
    return f"the Sentinels are too few to replace the master {service!r} if it fails: {address} says {said}"


def address_of(options: Mapping[str, Any]) -> str:
    """`host:port` of a Sentinel, by the options of redis-py's connections to it."""
    return joined(options["host"], options["port"])


def sentinel_login(username: str, password: SecretStr | None) -> dict[str, str]:
    """How a service logs in at Sentinels, as options of redis-py's connections; none without a password. The login in
    the store's URL is that of the master, and is not sent to them.

    Args:
        username: empty for the user `default`.
        password: None if the Sentinels ask for none.
    """
    if password is None:
        return {}
    return {"password": password.get_secret_value()} | ({"username": username} if username else {})


def login_refused(group: str, options: Mapping[str, Any]) -> str:
    """That a Sentinel refuses the login, and which setting to correct.

    Args:
        group:   as for `none_named`.
        options: of redis-py's connections to it.
    """
    setting = f"{group}__SENTINEL_PASSWORD"
    if options.get("password"):
        return f"it refuses the user or password: correct {setting}"
    return f"it asks for a password: set {setting}"
