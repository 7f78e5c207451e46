"""CI's rule about skips: a skipped test that CI could have run is a failure there, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import skips

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = f"""
import pytest

def test_needs_what_this_machine_could_have():
    pytest.skip("the thing is not installed")

def test_needs_what_the_machine_says_that_it_has_or_not():
    pytest.skip({skips.NO_WRK!r})

@pytest.mark.xfail(reason="a known gap", strict=True)
def test_of_a_known_gap():
    raise AssertionError

def test_runs():
    pass
"""


def run(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    folder = pytester.mkdir("inner")
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_of_ours.py").write_text(tests)
    pytester.syspathinsert(CONFTEST.parent)
    return pytester.runpytest(folder, "-p", "no:cacheprovider", "--import-mode=importlib")


@pytest.mark.parametrize(("wrk", "failed"), [("", 1), ("1", 2)])
def test_in_ci_only_a_skip_for_what_is_not_there_is_accepted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, wrk: str, failed: int
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("CTR_WRK", wrk)
    result = run(pytester, TESTS)
    result.assert_outcomes(passed=1, xfailed=1, skipped=2 - failed, failed=failed)
    result.stdout.fnmatch_lines(["*was skipped in CI, where it can run: *the thing is not installed*"])


def test_a_module_that_skips_itself_fails_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = run(pytester, "import pytest\npytest.importorskip('a_package_that_is_not_there')")
    assert result.ret != pytest.ExitCode.OK
    result.assert_outcomes(errors=1)
