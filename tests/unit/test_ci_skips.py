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

def test_needs_a_server_that_cannot_be_installed():
    pytest.skip({skips.NO_REAL_KAFKA!r})

@pytest.mark.xfail(reason="a known gap", strict=True)
def test_of_a_known_gap():
    raise AssertionError

def test_runs():
    pass
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CTR_KAFKA_BROKER", raising=False)
    pytester.makeconftest(CONFTEST.read_text())
    pytester.syspathinsert(CONFTEST.parent)
    return pytester


@pytest.mark.parametrize("broker", [None, "a script"])
def test_in_ci_only_a_skip_for_what_is_not_there_is_accepted(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, broker: str | None
) -> None:
    monkeypatch.setenv("CI", "true")
    if broker:
        monkeypatch.setenv("CTR_KAFKA_BROKER", broker)
    inner.makepyfile(TESTS)
    result = inner.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, xfailed=1, skipped=0 if broker else 1, failed=2 if broker else 1)
    result.stdout.fnmatch_lines(["*was skipped in CI, where it can run: *the thing is not installed*"])


def test_elsewhere_a_skip_is_a_skip(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    inner.makepyfile(TESTS)
    inner.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1, xfailed=1, skipped=2)


def test_a_module_that_skips_itself_fails_in_ci(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    inner.makepyfile("import pytest\npytest.importorskip('a_package_that_is_not_there')")
    result = inner.runpytest("-p", "no:cacheprovider")
    assert result.ret != pytest.ExitCode.OK
    result.assert_outcomes(errors=1)


def test_logging_is_after_each_test_as_it_was_before(inner: pytest.Pytester) -> None:
    inner.makepyfile("""
        import logging

        def test_of_a_service_in_this_process(capsys):
            from uic.logs import configure
            configure("error", "logfmt")

        def test_after_it(capsys):
            logging.getLogger("mimn.training").warning("a line")
            assert capsys.readouterr().err == ""
            assert logging.getLogger("kafka").level == logging.NOTSET

        def test_that_looks_at_log_lines(caplog):
            logging.getLogger("mimn.training").warning("a line")
            assert caplog.messages == ["a line"]
    """)
    inner.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=3)
