"""What a port requires of its callers, and the check: one hash and one comparison in constant time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from access.keys import LOOKUP_BYTES, Key, Scope


class Door(Enum):
    """The rules that name no scope."""

    OPEN = "open"
    """No key is required: health, which tells nothing about users."""
    ANY_KEY = "any key"
    """A key with any scope: descriptions of the interface, and paths that do not exist."""


Rule = Scope | Door
"""What one route or method requires."""


class AccessDecision(Enum):
    """The result of checking a call's credential."""

    GRANTED = "granted"
    NO_KEY = "no_key"
    BAD_KEY = "bad_key"
    """Unknown, revoked or malformed: a caller cannot tell which."""
    WRONG_SCOPE = "wrong_scope"


MAX_CREDENTIAL_BYTES: Final = 256
"""More is not hashed."""
_NO_DIGEST: Final = bytes(32)
"""No secret has this hash. It is compared when the id is unknown, so that both cases take the same time."""


def refusal(decision: AccessDecision, rule: Rule) -> str:
    """What a rejected caller is told."""
    if decision is AccessDecision.NO_KEY:
        return "no key: send authorization: Bearer <key>"
    if decision is AccessDecision.BAD_KEY:
        return "the key is unknown: it is wrong, or was revoked, or was not sent as authorization: Bearer <key>"
    return f"the key lacks the scope {rule.value}"


def check_rules(names: Iterable[str], rules: Mapping[str, Rule], where: str) -> None:
    """Make sure that every route, method or path has a rule; `where` is the module that holds the rules.

    Raises:
        LookupError: names those without a rule.
    """
    if missing := sorted(set(names) - rules.keys()):
        raise LookupError(f"{', '.join(missing)}: say in {where} which key may call it")


def judge(keys: Mapping[bytes, Key], authorization: bytes | None, rule: Rule) -> AccessDecision:
    """Whether a call with this `authorization` is allowed under `rule`.

    Args:
        keys: as `parse_keys` gives them.
        authorization: the value of the header or metadata entry of that name, `Bearer <secret>`; None if there is none.
        rule: what the route or method requires.
    """
    if rule is Door.OPEN:
        return AccessDecision.GRANTED
    if authorization is None:
        return AccessDecision.NO_KEY
    secret = authorization[7:]
    if authorization[:7].lower() != b"bearer " or len(secret) > MAX_CREDENTIAL_BYTES:
        return AccessDecision.BAD_KEY
    key = keys.get(secret[:LOOKUP_BYTES])
    same = compare_digest(sha256(secret).digest(), _NO_DIGEST if key is None else key.digest)
    if key is None or not same:
        return AccessDecision.BAD_KEY
    return AccessDecision.GRANTED if rule is Door.ANY_KEY or rule in key.scopes else AccessDecision.WRONG_SCOPE
