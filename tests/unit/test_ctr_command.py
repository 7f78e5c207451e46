"""The command `ctr`: it imports only what a subcommand needs, says what is missing, and ends as shells expect."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from email.message import Message
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest

from ctr_cli import licenses
from ctr_cli.__main__ import main
from ctr_cli.commands import COMMANDS
from ctr_cli.licenses import Package, license_of
from localstack.process import Identity
from localstack.server import write_pid
from localstack.stack import Addresses
from uic.__main__ import COMMANDS as UIC_COMMANDS

ROOT = Path(__file__).parents[2]
CTR = [sys.executable, "-m", "ctr_cli"]
HEAVY = {
    "torch",
    "numpy",
    "kafka",
    "onnxruntime",
    "redis",
    "grpc",
    "pyarrow",
    "mimn",
    "uic",
    "rtp",
    "localstack",
    "access",
}
"""What `ctr` must not import before a subcommand runs."""


def ctr(*arguments: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CTR, *arguments], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )


def imported(*arguments: str) -> set[str]:
    """Top-level packages that are loaded once `ctr` has run with these arguments."""
    program = (
        "import sys; from ctr_cli.__main__ import main; status = main(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), status, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["licenses", "--json"], set()),
        (["keys", "list", "/nowhere"], {"access"}),
        (["data", "convert", "--help"], {"mimn", "pyarrow", "numpy"}),
        (["partitions", "--help"], {"uic"}),
    ],
)
def test_a_subcommand_imports_only_its_own_part(arguments: list[str], needed: set[str]) -> None:
    loaded = imported(*arguments) & HEAVY
    assert loaded >= needed
    assert not loaded - needed - ({"numpy", "mimn", "access"} if "uic" in needed else set())


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_subcommand_has_its_own_help(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([name, "--help"]) == 0
    assert "usage:" in capsys.readouterr().out


def test_each_command_of_uic_but_the_service_is_a_subcommand_of_the_same_name() -> None:
    passed_on = {command.name: command.leading for command in COMMANDS if command.module == "uic.__main__"}
    assert passed_on == {name: (name,) for name in UIC_COMMANDS if name != "serve"}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [([], 2), (["nonsense"], 2), (["up", "--nonsense"], 2), (["data"], 2), (["keys", "list", "/nowhere"], 1)],
)
def test_wrong_usage_is_2_and_a_failure_is_1_with_a_line_on_stderr(arguments: list[str], status: int) -> None:
    done = ctr(*arguments)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert arguments == [] or done.stderr


def test_a_package_that_is_not_installed_is_named_with_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("mimn.")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["train", "--config", "x", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ctr train needs torch")
    assert "'models[serve,train]'" in said


def without_fsspec(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; sys.modules['fsspec'] = None; from ctr_cli.__main__ import main; sys.exit(main())"
    own = {name: value for name, value in os.environ.items() if not name.startswith("UIC_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env=own, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["archive", "namespaces"])
def test_help_of_the_commands_in_bulk_needs_nothing_that_only_they_use(name: str) -> None:
    done = without_fsspec(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout


def test_a_command_in_bulk_says_what_it_needs(tmp_path: Path) -> None:
    done = without_fsspec("--folder", str(tmp_path), "import", "--archive", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("ctr import needs fsspec")


def test_a_stack_whose_addresses_are_damaged_is_told_without_a_traceback(stack: Path) -> None:
    (stack / "stack.json").write_text("")
    own = {name: value for name, value in os.environ.items() if not name.startswith("UIC_")}
    for command in (["status"], ["namespaces"]):
        done = subprocess.run(
            [*CTR, "--folder", str(stack), *command], cwd=ROOT, env=own, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"(ctr )?{command[0]}: .*stack\.json .*\n", done.stderr)


def test_a_start_that_cannot_be_is_told_without_a_traceback() -> None:
    for folder, variables, words in (
        ("/proc/none", {}, "up: /proc/none "),
        ("/proc/none", {"REDIS_URL": "localhost:6379"}, "up: REDIS_URL "),
    ):
        done = ctr(
            "--folder", folder, "up", "--empty", env={"REDIS_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""} | variables
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(words)
        assert done.stderr.count("\n") == 1


def test_a_closed_pipe_leaves_no_traceback() -> None:
    """`ctr licenses | head -1`: the reader goes away while there is more to write."""
    program = f"{sys.executable} -m ctr_cli licenses --json | head -1; echo ${{PIPESTATUS[0]}}"
    for buffered in ("", "1"):  # written at once, or when the process ends
        done = subprocess.run(
            ["bash", "-c", program], cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": buffered},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout.splitlines()[0] == "["
        assert done.stdout.splitlines()[1] in ("0", "1", str(128 + signal.SIGPIPE))


WAKES = """
import os, signal
woken, waking = os.pipe()
os.set_blocking(waking, False)
signal.set_wakeup_fd(waking)
"""
"""Lets a read of `woken` end with the next signal, also one that comes just before the read begins."""
WAITING = """
import sys
from pathlib import Path
import ctr_cli.__main__ as ctr

def wait(module):
    def main(arguments, **_):
        try:
            print("waiting", flush=True)
            while True:
                os.read(woken, 1)
        finally:
            Path(sys.argv[1]).write_text("ended in order")
    return main

ctr._entry = wait
sys.exit(ctr.main(["licenses"]))
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order_without_a_traceback(tmp_path: Path, sign: signal.Signals) -> None:
    command = ["env", "--default-signal=INT,TERM,HUP", sys.executable, "-c", WAKES + WAITING, str(tmp_path / "trace")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stderr
        assert running.stdout.readline() == "waiting\n"
        running.send_signal(sign)
        assert running.wait(60) == 128 + sign
        assert running.stderr.read() == ""
    assert (tmp_path / "trace").read_text() == "ended in order"


SLOW = """
print("importing", flush=True)
while True:
    try:
        os.read(woken, 1)
    except BaseException as dropped:
        print("dropped", dropped)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("slow", ["typer", "uic.tools.doctor.command"])
def test_a_signal_during_imports_ends_it_at_once(tmp_path: Path, sign: signal.Signals, slow: str) -> None:
    """Imports drop exceptions in places, and one that is left half done may hold Python's import lock."""
    package = tmp_path / slow.partition(".")[0] / "__init__.py"
    package.parent.mkdir()
    package.write_text(WAKES + SLOW)
    if slow == "uic.tools.doctor.command":
        package.write_text(f"__path__.append({str(ROOT / 'services/uic/src/uic')!r})")
        (package.parent / "tools/doctor").mkdir(parents=True)
        (package.parent / "tools/__init__.py").write_text("")
        (package.parent / "tools/doctor/__init__.py").write_text("")
        (package.parent / "tools/doctor/command.py").write_text(WAKES + SLOW)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = ["env", "--default-signal=INT,TERM,HUP", *CTR, "doctor"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as running:
        assert running.stdout
        assert running.stderr
        try:
            assert running.stdout.readline() == "importing\n"
            running.send_signal(sign)
            assert running.wait(60) == 128 + sign
            assert (running.stdout.read(), running.stderr.read()) == ("", "")
        finally:
            running.kill()


def test_the_folder_is_passed_on_to_the_commands_of_the_stack(tmp_path: Path) -> None:
    done = ctr("--folder", str(tmp_path), "down")
    assert (done.returncode, str(tmp_path) in done.stdout) == (0, True)
    assert json.loads(ctr("--folder", str(tmp_path), "down", "--json").stdout)["ended"] == 0
    assert "up --folder" in ctr("status", "--folder", str(tmp_path)).stderr


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """The folder of a stack that runs: its one member is this process."""
    at = Addresses(
        predict="http://127.0.0.1:8000", rtp_admin=[], uic=["127.0.0.1:8001"], uic_admin=["http://127.0.0.1:8003"],
        bootstrap="127.0.0.1:9092", redis_url="redis://127.0.0.1:6379/0", topic="events", prefix="uic", bundle="/b/1",
    )  # fmt: skip
    (tmp_path / "stack.json").write_text(json.dumps(asdict(at)))
    (tmp_path / "uic-1").mkdir()
    write_pid(tmp_path / "uic-1", "uic-1", Identity.of(os.getpid()))
    return tmp_path


def variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, status: int = 0, given: dict[str, str] | None = None
) -> dict[str, str]:
    """The UIC_... variables that a command runs with, where `given` were set."""
    seen: dict[str, str] = {}

    def entry(_: str) -> Callable[..., int]:
        def run(arguments: list[str]) -> int:
            seen.update({name: value for name, value in os.environ.items() if name.startswith("UIC_")})
            return status

        return run

    monkeypatch.setattr("ctr_cli.__main__._entry", entry)
    own = {name: value for name, value in os.environ.items() if not name.startswith("UIC_")}
    with mock.patch.dict(os.environ, own | (given or {}), clear=True):
        assert main(["--folder", str(folder), *(arguments or ["namespaces"])]) == status
    return seen


def test_a_command_works_on_the_stack_that_runs_and_says_so(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = variables(stack, monkeypatch)
    assert seen["UIC_KAFKA__BOOTSTRAP_SERVERS"] == "127.0.0.1:9092"
    assert seen["UIC_REDIS__URL"] == "redis://127.0.0.1:6379/0"
    assert seen["UIC_BUNDLE__PATH"] == "/b/1"
    said = capsys.readouterr()
    assert (said.out, str(stack) in said.err) == ("", True)
    assert variables(stack, monkeypatch, "namespaces", "--help") == {}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UIC_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092"),
        ("UIC_REDIS__URL", "redis://elsewhere:6379/0"),
        ("UIC_REDIS__SENTINELS", "elsewhere:26379"),
        ("UIC_KAFKA", '{"bootstrap_servers": "elsewhere:9092"}'),
        ("UIC_BUNDLE__PATH", "/elsewhere"),
    ],
)
def test_a_system_that_variables_name_is_not_replaced_by_the_stack(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    """Not in part, either: a replay would read one log, and write into another."""
    assert variables(stack, monkeypatch, given={name: value}) == {name: value}
    assert capsys.readouterr().err == ""


def test_other_settings_of_the_user_win_over_those_of_the_stack(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = variables(stack, monkeypatch, given={"UIC_BUNDLE__GENERATION": "1", "UIC_KAFKA__TOPIC": "mine"})
    assert (seen["UIC_BUNDLE__GENERATION"], seen["UIC_KAFKA__TOPIC"]) == ("1", "mine")
    assert seen["UIC_KAFKA__BOOTSTRAP_SERVERS"] == "127.0.0.1:9092"


def test_a_command_that_fails_says_that_no_stack_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variables(tmp_path, monkeypatch, status=2) == {}
    assert str(tmp_path) in capsys.readouterr().err
    variables(tmp_path, monkeypatch, status=2, given={"UIC_REDIS__URL": "redis://elsewhere:6379/0"})
    assert capsys.readouterr().err == ""


def described(**fields: str | list[str]) -> Message:
    message = Message()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT", "License": "the whole text"}, "MIT"),
        ({"Classifier": ["License :: OSI Approved :: BSD License", "Topic :: x"], "License": "y"}, "BSD License"),
        ({"License": "Copyright " + "x" * 100}, licenses.UNKNOWN),
        ({}, licenses.UNKNOWN),
    ],
)
def test_a_license_is_what_the_package_says_most_precisely(fields: dict[str, str | list[str]], expected: str) -> None:
    assert license_of(described(**fields)) == expected  # type: ignore[arg-type] # the protocol that Message fulfills


def test_a_package_without_a_license_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(licenses, "installed", lambda _: [Package("good", "1", "MIT"), Package("bad", "2", "unknown")])
    assert licenses.main([]) == 1
    assert "bad" in capsys.readouterr().out
    monkeypatch.setattr(licenses, "installed", lambda _: [Package("good", "1", "MIT")])
    assert licenses.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "good", "version": "1", "license": "MIT"}]


def test_every_package_that_serving_installs_names_its_license() -> None:
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements-serving.txt").read_text(), re.M)
    here = {d.metadata["Name"].lower().replace("_", "-").replace(".", "-"): d for d in metadata.distributions()}
    found = {name: license_of(here[name].metadata) for name in locked if name in here}
    assert len(found) > 40
    assert licenses.UNKNOWN not in found.values()


@pytest.mark.parametrize(
    "arguments",
    [["-x", "--", "--", "-dash"], ["--no-such", "a", "--help"], []],
    ids=" ".join,
)
def test_a_command_gets_its_arguments_as_they_were_given(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []
    monkeypatch.setattr(importlib.import_module("uic.__main__"), "main", lambda given, **_: got.append(given))
    assert main(["erase", *arguments]) == 0
    assert got == [["erase", *arguments]]


def test_a_user_whose_id_begins_with_a_dash_can_be_named(free_port: Callable[[], int]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    for command in (["erase", "--yes"], ["state"]):
        done = ctr(*command, "--grpc", nobody, "--", "-dash")
        assert done.returncode == 1, done.stderr
        assert "required" not in done.stderr
