"""Messages are reviewed in one snapshot."""

from __future__ import annotations

from pathlib import Path

from support.messages import messages, raised

SNAPSHOT = Path(__file__).parents[1] / "golden" / "messages.txt"


def test_a_changed_message_is_seen_in_the_snapshot() -> None:
    again = "PYTHONPATH=tests python -m support.messages > tests/golden/messages.txt"
    assert messages() == SNAPSHOT.read_text("utf-8"), f"review the difference: {again}"


def test_texts_are_found_however_they_are_put_together() -> None:
    code = 'def f(a):\n  if a: raise E(f"{a} is " + "wrong")\n  raise E(a, "no", 1) from None'
    assert sorted(raised(code)) == ["no", "{} is wrong"]
