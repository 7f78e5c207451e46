"""Who may ask the services what: keys and their scopes, the file that holds them, and TLS for listeners.

Both services use it, so that one file of keys and one rule about addresses hold for both. It knows no protocol: each
door asks `KeyRing.judge` in its own way, and answers with its own status. Standard library only.
"""

from access.address import is_loopback
from access.keys import BadKeys, Key, Scope, make_key, parse_keys
from access.ring import KeyRing
from access.rules import Door, Rule, Verdict, check_rules, judge, refusal
from access.tls import BadTls, ListenerTls

__all__ = [
    "BadKeys",
    "BadTls",
    "Door",
    "Key",
    "KeyRing",
    "ListenerTls",
    "Rule",
    "Scope",
    "Verdict",
    "check_rules",
    "is_loopback",
    "judge",
    "make_key",
    "parse_keys",
    "refusal",
]
