"""Why the store gave no answer, in words for operators."""

from __future__ import annotations

from typing import Final

from redis.exceptions import ResponseError
from redis.sentinel import MasterNotFoundError

from process.store_tls import cause_of
from process.tls_causes import Cause

SETTINGS: Final = "UIC_REDIS"
"""How the names of the store's settings begin."""
MOST_OF_REPLY: Final = 120
"""Characters of what a server says: its errors begin with a code, for example READONLY, LOADING or OOM."""
MOST_OF_FAILURE: Final = 300
"""Characters of why there is no connection: an address, and what OpenSSL or the system says."""


def describe(error: object) -> str:
    """Class, first words, and what to correct if that is known."""
    fix = fix_of(error)
    return f"{words_of(error).rstrip('.')}; {fix}" if fix else words_of(error)


def no_answer(error: object) -> str:
    """That the store does not answer, or with an error, and why."""
    did = "refuses" if isinstance(error, ResponseError) else "does not answer"
    return f"the store {did} ({describe(error)})"


def kind_of(error: object) -> str:
    """What failed, in words that are the same at each try: those of OpenSSL and the system differ by chance."""
    if isinstance(error, MasterNotFoundError):  # behind the colon it says of each Sentinel why it does not answer
        return str(error).partition(": ")[0]
    if isinstance(error, ResponseError):
        return f"{type(error).__name__} {str(error).partition(' ')[0]}"
    return type(error).__name__


def words_of(error: object) -> str:
    """Class and first words."""
    if isinstance(error, MasterNotFoundError):  # the words are ours
        return str(error)
    most = MOST_OF_REPLY if _cause(error) is None else MOST_OF_FAILURE
    return f"{type(error).__name__}: {_begin(str(error), most)}"


def _begin(text: str, most: int) -> str:
    """The first characters of a text, `most` or fewer: up to the end of a sentence or else of a word, if that is not
    much less."""
    if len(text) <= most:
        return text
    if (sentences := text.rfind(". ", 0, most) + 1) > most // 2:
        return text[:sentences]
    words = text.rfind(" ", 0, most)
    return f"{text[: words if words > most // 2 else most - 1]}…"


def fix_of(error: object) -> str:
    """What to correct so that there is a connection; empty if that is not known."""
    cause = _cause(error)
    return "" if cause is None else cause.fix


def describe_connection(error: BaseException) -> str:
    """Why there is none, without the address, which the client's words begin with."""
    return str(_cause(error) or words_of(error))


def _cause(error: object) -> Cause | None:
    """What is behind an error that is no reply."""
    if not isinstance(error, BaseException) or isinstance(error, ResponseError):
        return None
    return cause_of(error, SETTINGS)
