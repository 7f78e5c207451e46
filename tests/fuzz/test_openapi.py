"""RTP's answers are what its OpenAPI documents say, on a real process. `make openapi` makes 20,000 cases of it."""

from __future__ import annotations

import pytest

from fuzz import openapi
from fuzz.openapi_hooks import fitting


@pytest.mark.servers
def test_every_answer_of_both_doors_is_a_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--cases", "300"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "sent"),
    [
        ("", ""),
        ("é" * 64, "é" * 64),
        ("é" * 128, "é" * 64),
        ("x" + "é" * 99, "x" + "é" * 63),
        ("é" * 129, "é" * 129),
        ("x" * 129, "x" * 129),
        (5, 5),
    ],
    ids=["none", "as many as fit", "too many", "an odd one", "more than the schema takes", "and in ASCII", "a number"],
)
def test_a_user_id_that_fits_by_its_characters_is_cut_to_its_bytes_and_one_that_does_not_stays(
    made: object, sent: object
) -> None:
    """What `make openapi` found: a schema's maxLength counts characters, and RTP's limit is in bytes."""
    assert fitting({"user_id": made, "candidates": []}) == {"user_id": sent, "candidates": []}
