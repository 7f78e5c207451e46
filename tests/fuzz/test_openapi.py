"""RTP's answers are what its OpenAPI documents say, on a real process. `make openapi` makes 20,000 cases of it."""

from __future__ import annotations

import pytest

from fuzz import openapi


@pytest.mark.servers
def test_every_answer_of_both_doors_is_a_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--cases", "300"]) == 0, capsys.readouterr().out
