"""Why a connection to a broker fails, and which setting to correct, in words for operators. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from kafka.errors import (
    Cancelled,
    IllegalSaslStateError,
    InvalidReceiveError,
    KafkaConnectionError,
    KafkaProtocolError,
    KafkaTimeoutError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from process.tls_causes import RESET, bounded, by_cause, cause_behind
from uic.settings import KAFKA_TLS

SETTINGS: Final = "UIC_KAFKA"
"""How the names of the log's settings begin."""
_PROTOCOL: Final = KAFKA_TLS.address
_LOGIN: Final = f"correct {SETTINGS}__SASL_USERNAME or {SETTINGS}__SASL_PASSWORD"
_MECHANISM: Final = f"{SETTINGS}__SASL_MECHANISM"
_CERTIFICATE: Final = KAFKA_TLS.cert_file
_NO_BROKER: Final = f"start Kafka there, or correct {SETTINGS}__BOOTSTRAP_SERVERS"
_SILENT: Final = f"see whether Kafka hangs there, or correct {SETTINGS}__BOOTSTRAP_SERVERS"
_SYSTEM_ERROR: Final = re.compile(r"(\d+) [A-Z]+")
"""How kafka-python says that the system refused to connect."""
_FRAME: Final = re.compile(r"Invalid frame length: (\d+)")
"""How it says that what came cannot be the beginning of an answer."""
_TLS_ALERT: Final = 0x1503
"""The first two bytes of a TLS alert, which is what a server with TLS answers to plain text."""
_TIMED_OUT: Final = re.compile(r"Request timed out after (\d+) ms")
"""How it says that it has waited for an answer."""
BEFORE_ANY_ANSWER: Final = (
    IllegalSaslStateError,
    KafkaProtocolError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
"""Errors that end a connection, and that its questions get. No broker has refused one of these: a login is refused
before anything may be asked, and what cannot be read is no answer."""
_CLASS_NAME: Final = re.compile(r"^(\[Error \d+\] )?(\w+Error: )+")


class NoConnection(NamedTuple):
    """Why there is no connection to a broker."""

    said: str
    """In the words of OpenSSL, the system, the broker or its client."""
    fix: str
    """What to correct; empty if that is not known."""
    answered: bool
    """Whether something answers at that address."""
    telling: bool = True
    """False: it only says that time was over, and what was seen before may say more."""

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.said, self.fix)))


class ConnectionsFailed(Exception):
    """What lies behind the error of a client that has no connection."""

    def __init__(
        self, failures: Mapping[str, NoConnection], *, found_none: bool = False, brokers: Collection[str] = ()
    ) -> None:
        """
        Args:
            failures: by address, `host:port`.
            found_none: whether the client was looking for a first broker; else one had answered, and another one that
                it needs has not.
            brokers: addresses of all that the client knows, by which they know each other; empty if it knows none yet.
        """
        super().__init__("; ".join(by_cause((address, str(why)) for address, why in failures.items())))
        self.failures = dict(failures)
        self.found_none = found_none
        self.brokers = frozenset(brokers)


def why_no_connection(error: BaseException, protocol: str) -> NoConnection:
    """Why a connection failed.

    Args:
        error: as the client raised it.
        protocol: the value of `UIC_KAFKA__SECURITY_PROTOCOL`.
    """
    match error:
        case SaslAuthenticationFailedError():
            return NoConnection(bounded(words_of(error)), _LOGIN, answered=True)
        case UnsupportedSaslMechanismError():
            return NoConnection("the broker does not know this SASL mechanism", f"correct {_MECHANISM}", answered=True)
        case IllegalSaslStateError():
            return NoConnection("the broker asks for no login at this port", f"correct {_PROTOCOL}", answered=True)
        case RequestTimedOutError() if waited := _TIMED_OUT.fullmatch(words_of(error)):
            seconds = round(int(waited[1]) / 1000)
            return NoConnection(f"no answer for {seconds} s", _SILENT, answered=False, telling=False)
        case KafkaTimeoutError() | RequestTimedOutError() | Cancelled():
            return NoConnection(bounded(words_of(error)), _SILENT, answered=False, telling=False)
        case InvalidReceiveError() if answers_with_tls(error):
            return NoConnection("the broker answers with TLS", f"correct {_PROTOCOL}", answered=True)
    # The library keeps some errors of the system as an argument of its own.
    behind = next((one for one in error.args if isinstance(one, BaseException)), error)
    if (cause := cause_behind(behind, KAFKA_TLS._replace(at_each_try=_at_each_try(protocol)))) is not None:
        return NoConnection(cause.said, cause.fix, answered=True)
    said = words_of(error)
    if said == "socket disconnected":
        return NoConnection(RESET, _at_each_try(protocol), answered=True)
    if known := _SYSTEM_ERROR.fullmatch(said):
        return NoConnection(os.strerror(int(known[1])), _NO_BROKER, answered=False)
    if isinstance(error, KafkaConnectionError):
        return NoConnection(bounded(said), _NO_BROKER, answered=False, telling=bool(error.args) and "timed" not in said)
    return NoConnection(bounded(said), "", answered=True)


def answers_with_tls(error: InvalidReceiveError) -> bool:
    """Whether what came in place of an answer is a TLS alert."""
    frame = _FRAME.search(str(error))
    return frame is not None and int(frame[1]) >> 16 == _TLS_ALERT


def words_of(error: BaseException) -> str:
    """The client's words, without the names of classes in front of them, which the library repeats."""
    return _CLASS_NAME.sub("", str(error)) or type(error).__name__


def _at_each_try(protocol: str) -> str:
    """What may be wrong if a broker ends each connection without a word, as it does when it expects another protocol,
    up to TLS 1.2 when it refuses our certificate, and often when it refuses a login."""
    refuses = f"it refuses the certificate of {_CERTIFICATE}, or asks for one"
    login = f"it refuses the login: {_LOGIN} or {_MECHANISM}"
    expects = {
        "PLAINTEXT": f"that port wants TLS or a login: correct {_PROTOCOL}",
        "SASL_PLAINTEXT": f"{login}; or that port wants TLS: correct {_PROTOCOL}",
        "SSL": f"that port speaks no TLS, or wants a login: correct {_PROTOCOL}; or {refuses}",
        "SASL_SSL": f"{login}; or that port speaks no TLS: correct {_PROTOCOL}; or {refuses}",
    }
    return f"if each try ends so, {expects[protocol]}"
