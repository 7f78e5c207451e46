"""What the Sentinels' answers mean, for both services."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from process.sentinels import Named, login_refused, none_named, sentinel_login, too_few

MASTER = ("10.0.0.1", 6379)
BEFORE = Named(MASTER)


def asked(*failed: tuple[str, str], watched: bool = False, before: Named = BEFORE) -> Named:
    return none_named(before, "RTP_REDIS", "shop", 2, failed, watched=watched)


def test_while_none_answers_the_master_that_was_named_last_is_gone_on_with() -> None:
    said = asked(("a:1", "timed out"), ("b:1", "timed out"))
    assert (said.master, said.silent) == (MASTER, True)
    assert "RTP_REDIS__SENTINELS" in said.trouble
    assert "a:1, b:1 (timed out)" in said.trouble


def test_without_a_master_named_before_there_is_none() -> None:
    assert Named().master is None
    assert asked(("a:1", "timed out"), ("b:1", "timed out"), before=Named()).master is None


@pytest.mark.parametrize(("watched", "trouble"), [(True, "to be down"), (False, "watch no master 'shop'")])
def test_a_master_that_one_answers_for_and_none_names_is_not_used(watched: bool, trouble: str) -> None:
    said = asked(("a:1", "timed out"), watched=watched)
    assert (said.master, said.silent) == (None, False)
    assert trouble in said.trouble
    assert "RTP_REDIS__SENTINEL_SERVICE" in said.trouble
    assert asked(("a:1", "timed out"), ("b:1", "timed out"), before=said).master == MASTER


def test_too_few_are_told_in_their_words_and_another_answer_tells_nothing() -> None:
    words = "NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority"
    assert words in too_few(words, "a:1", "shop")
    assert too_few("OK 3 usable Sentinels", "a:1", "shop") == ""
    assert too_few(TimeoutError("late"), "a:1", "shop") == ""


def test_a_login_that_is_refused_names_the_setting() -> None:
    assert "UIC_REDIS__SENTINEL_PASSWORD" in login_refused("UIC_REDIS", {})
    login = sentinel_login("u", SecretStr("hush"))
    assert login == {"username": "u", "password": "hush"}
    assert "UIC_REDIS__SENTINEL_PASSWORD" in login_refused("UIC_REDIS", login)
    assert sentinel_login("u", None) == {}
