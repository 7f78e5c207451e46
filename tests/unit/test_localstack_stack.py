"""The launcher's bookkeeping: pid files, order, ports that are taken, half-way failures; no real server is started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localstack import stack as stack_module
from localstack.ports import LOOPBACK, accepts, free_port, shared_listener
from localstack.process import Child, Ended, Identity
from localstack.server import Server, read_pid, write_pid
from localstack.stack import (
    DOCUMENTED_PORTS,
    FOLDER,
    Options,
    Ports,
    Stack,
    StackError,
    addresses_of,
    command,
    living,
    take_down,
    wipe,
)
from localstack.wait import NotReady, until

LISTENER = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""


class Listener(Server):
    """Listens on its port and does nothing else."""

    ready_s = 60.0
    program = LISTENER

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.program, str(self.port)]

    def ready(self) -> bool:
        return accepts(self.port)


def test_a_server_keeps_its_port_from_its_first_start_on(tmp_path: Path) -> None:
    with Listener("one", tmp_path, {"it": 0}) as server:
        port = server.port
        assert port > 0
        server.kill()
        assert not server.alive()
        assert server.start() == f"{LOOPBACK}:{port}"


def test_a_signal_that_comes_while_a_process_starts_waits_until_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> Child:
        child = Child(*arguments, **options)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        return child

    monkeypatch.setattr("localstack.server.Child", interrupted)
    server = Listener("one", tmp_path, {"it": 0})
    with pytest.raises(KeyboardInterrupt):
        server.spawn()
    assert server.alive()
    assert read_pid(tmp_path) is not None
    server.stop()
    assert not server.alive()


def test_a_server_that_another_program_answers_for_is_not_ready(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(Ended, match="Address already in use"):
            Listener("given", tmp_path, {"it": taken}).start()


def test_a_free_port_that_was_taken_by_chance_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        offered = iter([[other.getsockname()[1]], [free_port()]])
        monkeypatch.setattr("localstack.server.free_ports", lambda count: next(offered) if count else [])
        with Listener("lucky", tmp_path, {"it": 0}) as server:
            assert server.port != other.getsockname()[1]


def test_a_server_that_never_becomes_ready_is_stopped_and_its_pid_forgotten(tmp_path: Path) -> None:
    class Mute(Listener):
        ready_s = 0.3
        program = "import time; time.sleep(600)"

        def says(self) -> str:
            return "; it waits"

    mute = Mute("mute", tmp_path, {"it": 0})
    mute.log.write_text("no broker\n")
    with pytest.raises(NotReady, match=r"(?s)mute\.log.*it waits.*no broker"):
        mute.start()
    assert mute.child
    assert not mute.child.identity.alive()
    assert read_pid(tmp_path) is None


def test_what_a_dead_launcher_left_is_ended_doors_first(tmp_path: Path) -> None:
    servers = [Listener(name, tmp_path / name, {"it": 0}) for name in ("valkey", "uic-1", "rtp-1", "broker")]
    for server in servers:
        server.start()
    (tmp_path / "stale").mkdir()
    write_pid(tmp_path / "stale", "stale", Identity(os.getpid(), 1.0))  # a pid that is now another program's: ours
    assert list(living(tmp_path)) == ["rtp-1", "uic-1", "broker", "valkey"]
    lines: list[str] = []
    assert take_down(tmp_path, say=lines.append) == 4
    assert [line.split()[0] for line in lines] == ["rtp-1", "uic-1", "broker", "valkey"]
    assert not any(server.alive() for server in servers)
    assert living(tmp_path) == {}
    assert not list(tmp_path.glob("*/pid.json"))
    assert take_down(tmp_path, say=lines.append) == 0


def test_a_running_stack_is_not_wiped_and_not_started_twice(tmp_path: Path) -> None:
    folder, bundle = tmp_path / "stack", tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    with Listener("valkey", folder / "valkey", {"it": 0}):
        with pytest.raises(StackError, match=rf"down --folder {folder}"):
            wipe(folder)
        with pytest.raises(StackError, match="a stack runs"):
            Stack(Options(folder=folder, bundle=bundle)).start()
    wipe(folder)
    assert not folder.exists()


def test_a_missing_bundle_is_named_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="nowhere"):
        Stack(Options(folder=tmp_path / "stack", bundle=tmp_path / "nowhere")).start()
    assert not (tmp_path / "stack").exists()


def test_a_failure_half_way_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(stack_module, "Valkey", lambda folder, **_: Listener("valkey", folder, {"it": 0}))
    monkeypatch.setattr(stack_module, "DevBroker", lambda folder, **_: Listener("broker", folder, {"it": 0}))

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(stack_module, "create_topics", interrupted)
    stack = Stack(Options(folder=tmp_path / "stack", bundle=tmp_path))
    with pytest.raises(KeyboardInterrupt):
        stack.start()
    assert len(stack.members()) == 2
    assert not any(member.alive() for member in stack.members())
    assert living(tmp_path / "stack") == {}


def test_the_signals_that_end_a_launcher_take_its_stack_down(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
from pathlib import Path
from typing import Any
from localstack.signals import signals_unwind
from test_localstack_stack import Listener
import time
with signals_unwind(), Listener("valkey", Path({str(tmp_path)!r}) / "valkey", {{"it": 0}}):
    print("up", flush=True)
    time.sleep(600)
"""
    for sign, status in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)):
        command = ["env", f"--default-signal={sign.name.removeprefix('SIG')}", sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
            assert launcher.stdout
            assert launcher.stdout.readline() == "up\n"
            identity = read_pid(tmp_path / "valkey")
            assert identity
            assert identity.alive()
            launcher.send_signal(sign)
            assert launcher.wait(60) == status
        assert not identity.alive()


def test_two_launchers_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with stack_module._locked(tmp_path), pytest.raises(StackError, match="another launcher is using"):
        take_down(tmp_path, say=print)


def test_addresses_of_a_stack_that_does_not_run_say_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StackError, match=f"`.* up --folder {tmp_path}` starts one"):
        addresses_of(tmp_path)
    with pytest.raises(StackError, match=r"`.* -m localstack up` starts one"):
        addresses_of(FOLDER)


@pytest.mark.parametrize("content", ["", '{"predict": ""}', "\xff"])
def test_a_stack_with_damaged_addresses_can_be_taken_down(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content, "latin-1")
    server = Listener("rtp-1", tmp_path / "rtp-1", {"it": 0})
    server.outlives = True
    server.start()
    try:
        with pytest.raises(StackError, match=r"stack\.json .* down "):
            addresses_of(tmp_path)
        assert take_down(tmp_path, say=print) == 1
    finally:
        server.stop()
    with pytest.raises(StackError, match="no stack runs"):
        addresses_of(tmp_path)


@pytest.mark.parametrize("place", ["/proc/none", "a file/below"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "a file").touch()
    folder = tmp_path / place  # an absolute path stays what it is
    with pytest.raises(StackError, match=f"{folder} .*--folder"):
        Stack(Options(folder=folder, bundle=tmp_path)).start()
    with pytest.raises(StackError, match="no stack runs in"):
        addresses_of(folder)


def test_documented_ports_give_way_where_something_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken, free = other.getsockname()[1], free_port()
        monkeypatch.setattr(stack_module, "DOCUMENTED_PORTS", Ports(rtp=taken, redis=free))
        assert Ports.usual() == Ports(rtp=0, redis=free)
    assert len(set(vars(DOCUMENTED_PORTS).values())) == 6


def test_the_environment_names_servers_that_already_run() -> None:
    given = Options.from_environment(
        {"REDIS_URL": "redis://there:1/0", "KAFKA_BOOTSTRAP_SERVERS": "there:2", "KAFKA_HOME": "/not looked at"}
    )
    assert (given.redis_url, given.bootstrap) == ("redis://there:1/0", "there:2")
    assert Options.from_environment({"REDIS_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""}) == Options()
    assert replace(given, redis_url=None, bootstrap=None) == Options()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://:secret/word@localhost:6379"),
        ("REDIS_URL", "redis://localhost:99999"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:abc"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092,"),
    ],
)
def test_a_wrong_address_is_refused_by_its_variable(name: str, address: str) -> None:
    with pytest.raises(StackError, match=name) as refused:
        Options.from_environment({name: address})
    assert "secret" not in str(refused.value)


def test_a_stack_keeps_the_broker_that_has_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another broker would have no event of the states in the store."""
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(stack_module, "Valkey", lambda folder, **_: Listener("valkey", folder, {"it": 0}))
    monkeypatch.setattr(stack_module, "DevBroker", lambda folder, **_: Listener("broker", folder, {"it": 0}))
    kafka = Options(folder=tmp_path / "one", bundle=tmp_path, kafka_home=tmp_path)
    small = Options(folder=tmp_path / "two", bundle=tmp_path)
    (kafka.folder / "broker").mkdir(parents=True)
    (small.folder / "kafka").mkdir(parents=True)
    for options in (kafka, small):
        with pytest.raises(StackError, match="KAFKA_HOME") as refused:
            Stack(options).start()
        assert command("wipe", options.folder) in str(refused.value)
        assert living(options.folder) == {}


def test_a_given_kafka_is_refused_where_a_broker_of_the_stack_has_the_events(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for log in ("broker", "kafka"):
        options = Options(folder=tmp_path / log, bundle=tmp_path, bootstrap="127.0.0.1:1")
        (options.folder / log).mkdir(parents=True)
        with pytest.raises(StackError, match="unset KAFKA_BOOTSTRAP_SERVERS"):
            Stack(options).start()


@pytest.mark.parametrize("away", ["REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS"])
def test_a_given_server_that_is_away_is_told_as_that_with_what_to_do(
    tmp_path: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    def at_once(condition: Callable[[], object], what: str, **told: Any) -> None:
        until(condition, what, **told | {"within_s": 0})

    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(stack_module, "until", at_once)
    if away != "REDIS_URL":
        monkeypatch.setattr(stack_module, "redis_answers", lambda _: True)
    store = f"redis://{closed_port}/0"
    options = Options(folder=tmp_path / "stack", bundle=tmp_path, redis_url=store, bootstrap=closed_port)
    with pytest.raises(NotReady) as refused:
        Stack(options).start()
    assert f"{away} ({store if away == 'REDIS_URL' else closed_port})" in str(refused.value)


def test_the_kafka_that_was_given_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`down` and `up` without the variable would start an empty broker beside states of another log."""
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(stack_module, "broker_answers", lambda _: True)
    monkeypatch.setattr(stack_module, "redis_answers", lambda _: True)
    monkeypatch.setattr(stack_module, "create_topics", lambda *_: [])
    options = Options(
        folder=tmp_path / "stack", bundle=tmp_path, redis_url="redis://there:1/0", uic_workers=0, rtp_processes=0
    )
    given = replace(options, bootstrap="there:2")
    with Stack(given):
        pass
    take_down(options.folder, say=print)
    for other in (options, replace(options, bootstrap="elsewhere:2"), replace(options, kafka_home=tmp_path)):
        with pytest.raises(StackError, match="KAFKA_BOOTSTRAP_SERVERS=there:2"):
            Stack(other).start()
    with Stack(given):
        pass


def test_a_password_is_not_shown_when_the_store_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stack_module._bare("redis://user:secret@host:6379/0") == "redis://host:6379/0"


def test_a_shared_listener_is_inherited_by_children_and_a_taken_port_is_named() -> None:
    listener = shared_listener()
    port = listener.getsockname()[1]
    fd = listener.fileno()
    script = f"import socket; print(socket.socket(fileno={fd}).getsockname()[1])"
    done = subprocess.run([sys.executable, "-c", script], pass_fds=[fd], capture_output=True, text=True, check=True)
    assert int(done.stdout) == port
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        shared_listener(port)
    listener.close()
    with pytest.raises(OSError, match=r"refused"):
        accepts(port)
