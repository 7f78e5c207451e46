"""API keys with scopes, the file that stores them, and TLS for listeners.

Both services use it, so one key file and one rule about addresses apply to both. It knows no protocol: each port calls
`KeyRing.judge`, and answers with a status of its own. Standard library only.
"""

from access.address import is_loopback
from access.client_certificates import ClientCertificates
from access.keys import BadKeys, Key, Scope, make_key, parse_keys
from access.ring import KeyRing
from access.rules import AccessDecision, Door, Rule, check_rules, judge, refusal
from access.tls import BadTls, ListenerTls

__all__ = [
    "AccessDecision",
    "BadKeys",
    "BadTls",
    "ClientCertificates",
    "Door",
    "Key",
    "KeyRing",
    "ListenerTls",
    "Rule",
    "Scope",
    "check_rules",
    "is_loopback",
    "judge",
    "make_key",
    "parse_keys",
    "refusal",
]
