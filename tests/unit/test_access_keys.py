"""Keys, the file that holds them, the judgement, and the command that makes and revokes them."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from access import (
    AccessDecision,
    BadKeys,
    Door,
    Key,
    KeyRing,
    Scope,
    is_loopback,
    judge,
    key_file,
    make_key,
    parse_keys,
)
from access import __main__ as command_module
from access import ring as ring_module
from access.__main__ import main
from access.keys import MAX_FILE_BYTES
from localstack.wait import until


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def test_a_key_is_let_in_by_its_scopes_alone() -> None:
    secret, key = make_key([Scope.PUBLISH, Scope.ERASE], "shop")
    keys = parse_keys(key.line())
    granted = {scope for scope in Scope if judge(keys, bearer(secret), scope) is AccessDecision.GRANTED}
    assert granted == {Scope.PUBLISH, Scope.ERASE}
    assert judge(keys, bearer(secret), Scope.READ) is AccessDecision.WRONG_SCOPE
    assert judge(keys, bearer(secret), Door.ANY_KEY) is AccessDecision.GRANTED
    assert judge(keys, None, Door.ANY_KEY) is AccessDecision.NO_KEY
    assert judge(keys, None, Door.OPEN) is AccessDecision.GRANTED


def test_a_secret_that_differs_in_one_place_is_no_key() -> None:
    secret, key = make_key([Scope.PREDICT], "k")
    keys = parse_keys(key.line())
    for i in range(len(secret)):
        other = secret[:i] + ("0" if secret[i] != "0" else "1") + secret[i + 1 :]
        assert judge(keys, bearer(other), Scope.PREDICT) is AccessDecision.BAD_KEY
    for wrong in (secret[:-1], secret + "0", secret.upper(), secret + "\n", " " + secret, ""):
        assert judge(keys, bearer(wrong), Scope.PREDICT) is AccessDecision.BAD_KEY


@given(st.binary(max_size=400))
def test_whatever_a_caller_sends_is_judged_without_an_error(sent: bytes) -> None:
    _, key = make_key([Scope.PREDICT], "k")
    keys = parse_keys(key.line())
    for credential in (sent, b"Bearer " + sent, b"Basic " + sent, b"Bearer ctr_" + key.id.encode() + b"_" + sent):
        assert judge(keys, credential, Scope.PREDICT) is AccessDecision.BAD_KEY


def test_the_hash_of_no_key_admits_no_caller() -> None:
    _, key = make_key([Scope.PREDICT], "k")
    assert judge(parse_keys(key.line()), bearer("ctr_000000000000_" + "0" * 64), Door.ANY_KEY) is AccessDecision.BAD_KEY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no keys"),
        ("# only a comment\n\n", "has no keys"),
        ("{id}  {digest}  predict", "line 1"),
        ("{id}  {digest}  predict  name  more", "line 1"),
        ("\n{id}  {digest}  predict,fly  name", "line 2: an unknown scope"),
        ("{id}  {digest}    name", "line 1"),
        ("XYZ  {digest}  predict  name", "line 1"),
        ("{id}  {short}  predict  name", "line 1"),
        ("{id}  {digest}  predict  na/me", "line 1: a name"),
        ("# a\r\n \u2028# b\x85{id}  {digest}  predict", "line 4: not `<id>"),
        ("{id}  {digest}  predict  a\n{id}  {digest}  admin  b", "line 2: its id occurs twice"),
    ],
)
def test_a_file_with_a_wrong_line_is_refused_by_line_and_shows_nothing_of_it(text: str, says: str) -> None:
    _, key = make_key([Scope.PREDICT], "k")
    filled = text.format(id=key.id, digest=key.digest.hex(), short=key.digest.hex()[:-1])
    with pytest.raises(BadKeys, match=says) as refused:
        parse_keys(filled)
    assert key.digest.hex()[:-1] not in str(refused.value)


# The file under a running process


def test_a_ring_takes_up_what_was_added_and_drops_what_was_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    (old, old_key), (new, new_key) = make_key([Scope.PREDICT], "old"), make_key([Scope.PREDICT], "new")
    file.write_text(old_key.line())
    ring = KeyRing(file)
    assert ring.look() is None
    file.write_text(f"{old_key.line()}\n{new_key.line()}\n")
    assert ring.look() is True
    assert [ring.judge(bearer(s), Scope.PREDICT) for s in (old, new)] == [
        AccessDecision.GRANTED,
        AccessDecision.GRANTED,
    ]
    file.write_text(new_key.line())
    assert ring.look() is True
    assert [ring.judge(bearer(s), Scope.PREDICT) for s in (old, new)] == [
        AccessDecision.BAD_KEY,
        AccessDecision.GRANTED,
    ]
    assert len(ring) == 1


@pytest.mark.parametrize("spoil", ["garbage", "empty", "gone", "binary"])
def test_a_file_that_is_spoiled_changes_nothing_and_is_told_once(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    secret, key = make_key([Scope.PREDICT], "k")
    file.write_text(key.line())
    ring = KeyRing(file)
    if spoil == "gone":
        file.unlink()
    else:
        file.write_bytes({"garbage": b"what", "empty": b"", "binary": b"\xff\xfe"}[spoil])
    assert [ring.refused, ring.look(), ring.look(), ring.refused] == [False, False, None, True]
    assert ring.judge(bearer(secret), Scope.PREDICT) is AccessDecision.GRANTED
    assert caplog.text.count("the earlier 1 keys stay in effect") == 1
    file.write_text(key.line())
    assert [ring.look(), ring.refused] == [True, False], "the same keys as before"
    assert ring.look() is None


def test_the_watch_notices_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(make_key([Scope.PREDICT], "a")[1].line())
    ring = KeyRing(file)
    heard: list[bool] = []
    ring.watch(heard.append, every_s=0.01)
    try:
        file.write_text(make_key([Scope.PREDICT], "b")[1].line())
        until(lambda: True in heard, "the change is noticed", within_s=60)
    finally:
        ring.close()


def test_a_fifo_in_the_files_place_is_refused_and_the_file_that_follows_it_is_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    (old, old_key), (_, new_key) = make_key([Scope.PREDICT], "old"), make_key([Scope.PREDICT], "new")
    file.write_text(old_key.line())
    ring = KeyRing(file)
    heard: list[bool] = []
    ring.watch(heard.append, every_s=0.01)
    try:
        file.unlink()
        os.mkfifo(file)
        until(lambda: ring.refused, "the FIFO is noticed", within_s=60)
        file.unlink()
        file.write_text(new_key.line())
        until(lambda: not ring.refused, "the file is taken up", within_s=60)
        assert ring.judge(bearer(old), Scope.PREDICT) is AccessDecision.BAD_KEY
        assert heard[0] is False
    finally:
        ring.close()


@pytest.mark.parametrize("what", ["fifo", "directory"])
def test_what_is_no_regular_file_is_refused_at_the_start(tmp_path: Path, what: str) -> None:
    file = tmp_path / "keys"
    os.mkfifo(file) if what == "fifo" else file.mkdir()
    with pytest.raises(BadKeys, match=r"not a regular file|Is a directory"):
        KeyRing(file)


class HangingMount:
    """Takes the place of the read, and hangs between `hang` and `answer`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self._read = ring_module._read
        self._answers = threading.Event()
        self._answers.set()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(ring_module, "_read", self)

    def __call__(self, path: Path) -> str:
        self.begun += 1
        assert self._answers.wait(60)
        return self._read(path)

    def hang(self) -> None:
        self._answers = threading.Event()
        self._monkeypatch.setattr(ring_module, "READ_S", 0.01)

    def answer(self) -> None:
        self._answers.set()


def test_a_file_system_that_hangs_is_told_as_a_file_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    (old, old_key), (_, new_key) = make_key([Scope.PREDICT], "old"), make_key([Scope.PREDICT], "new")
    file.write_text(old_key.line())
    mount = HangingMount(monkeypatch)
    ring = KeyRing(file)
    mount.hang()
    file.write_text(new_key.line())
    assert [ring.look(), ring.look(), ring.refused] == [False, None, True]
    assert caplog.text.count("no answer within 0.01 s: does its file system hang?; the earlier 1 keys stay") == 1
    assert ring.judge(bearer(old), Scope.PREDICT) is AccessDecision.GRANTED
    assert mount.begun == 2, "one thread hangs, however often we look"
    mount.answer()
    until(lambda: ring.look() is True, "the read that hung is taken up when it ends", within_s=60)
    assert ring.refused is False
    assert ring.judge(bearer(old), Scope.PREDICT) is AccessDecision.BAD_KEY


def test_a_look_that_is_asked_for_does_not_wait_for_a_read_that_hangs_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(make_key([Scope.PREDICT], "old")[1].line())
    mount = HangingMount(monkeypatch)
    ring = KeyRing(file)
    mount.hang()
    file.write_text(make_key([Scope.PREDICT], "new")[1].line())
    assert ring.look() is False
    monkeypatch.setattr(ring_module, "_read", mount._read)  # mounted again; what hangs goes on to hang
    assert ring.look() is None
    until(lambda: ring.look(asked=True) is True, "SIGHUP reads what is there now", within_s=60)
    mount.answer()


def test_a_file_system_that_hangs_refuses_the_start_and_does_not_keep_a_process_from_ending(tmp_path: Path) -> None:
    program = """
import sys, threading
from pathlib import Path
from access import BadKeys, KeyRing, ring
file = Path(sys.argv[1])
read, hangs = ring._read, threading.Event()
keys = KeyRing(file)
ring._read = lambda path: (hangs.set(), threading.Event().wait())
ring.CLOSE_S = ring.READ_S = 0.01
keys.watch(lambda taken_up: None, every_s=0.01)
hangs.wait()
keys.close()
try:
    KeyRing(file)
except BadKeys as error:
    print(error)
"""
    file = tmp_path / "keys"
    file.write_text(make_key([Scope.PREDICT], "k")[1].line())
    ended = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"{file}: no answer within 0.01 s" in ended.stdout


def test_a_file_that_every_user_may_write_to_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(make_key([Scope.PREDICT], "k")[1].line())
    file.chmod(0o666)
    with pytest.raises(BadKeys, match="chmod o-w"):
        KeyRing(file)
    with pytest.raises(BadKeys, match="cannot be read"):
        KeyRing(tmp_path / "absent")


# The command


def test_the_command_prints_the_secret_once_and_stores_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    assert main(["make", str(file), "--scope", "predict", "--scope", "metrics", "--name", "ad-server"]) == 0
    said = capsys.readouterr()
    secret = said.out.strip()
    assert re.fullmatch(r"ctr_[0-9a-f]{12}_[0-9a-f]{64}", secret)
    assert secret not in said.err
    text = file.read_text()
    assert secret.rpartition("_")[2] not in text
    assert sha256(secret.encode()).hexdigest() in text
    assert file.stat().st_mode & 0o777 == 0o644
    assert KeyRing(file).judge(bearer(secret), Scope.METRICS) is AccessDecision.GRANTED
    assert main(["list", str(file)]) == 0
    listed = capsys.readouterr().out
    assert re.fullmatch(r"[0-9a-f]{12}  metrics,predict  ad-server\n", listed)


def test_rotation_by_command_keeps_comments_and_the_files_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours")
    identity = file.stat().st_ino
    for name in ("old", "new"):
        assert main(["make", str(file), "--scope", "predict", "--name", name]) == 0
    old, new = capsys.readouterr().out.split()
    assert main(["revoke", str(file), old.split("_")[1]]) == 0
    ring = KeyRing(file)
    assert [ring.judge(bearer(s), Scope.PREDICT) for s in (old, new)] == [
        AccessDecision.BAD_KEY,
        AccessDecision.GRANTED,
    ]
    assert file.read_text().startswith("# ours\n")
    assert file.stat().st_ino == identity, "a container that has the file mounted would not see another one"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revoke", "{file}", "000000000000"], "there is no key 000000000000"),
        (["list", "{file}x"], "No such file"),
        (["revoke", "{file}", "{id}"], "{id} is the file's last key and is still valid: make the new key first"),
    ],
)
def test_the_command_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    file = tmp_path / "keys"
    _, key = make_key([Scope.PREDICT], "only")
    file.write_text(f"# ours\n{key.line()}")
    assert main([word.format(file=file, id=key.id) for word in arguments]) == 1
    err = capsys.readouterr().err
    assert str(file) in err
    assert said.format(id=key.id) in err
    assert len(KeyRing(file)) == 1


@pytest.mark.parametrize(("first", "second"), [("revoke", "make"), ("make", "revoke")])
def test_commands_that_run_at_once_undo_nothing_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    file = tmp_path / "keys"
    old, stays = (make_key([Scope.PREDICT], name)[1] for name in ("old", "stays"))
    file.write_text(f"{old.line()}\n{stays.line()}\n")
    commands = {
        "make": ["make", str(file), "--scope", "predict", "--name", "new"],
        "revoke": ["revoke", str(file), old.id],
    }
    waits_or_has_ended = threading.Event()
    monkeypatch.setattr("time.sleep", lambda seconds: waits_or_has_ended.set())

    def run_second() -> None:
        main(commands[second])
        waits_or_has_ended.set()

    other = threading.Thread(target=run_second)

    def parse_beside_the_second(text: str) -> Mapping[bytes, Key]:
        """`first` calls it between its read and its write."""
        if other.ident is None:
            other.start()
            assert waits_or_has_ended.wait(60)
        return parse_keys(text)

    monkeypatch.setattr(command_module, "parse_keys", parse_beside_the_second)
    assert main(commands[first]) == 0
    other.join()
    assert [key.name for key in parse_keys(file.read_text()).values()] == ["stays", "new"]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """As by another command."""
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def test_a_file_that_another_program_keeps_locked_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "LOCK_S", 0.01)
    file = tmp_path / "keys"
    file.write_text(make_key([Scope.PREDICT], "only")[1].line())
    before = file.read_bytes()
    with locked(file):
        assert main(["make", str(file), "--scope", "predict", "--name", "new"]) == 1
        said = capsys.readouterr()
        assert "another program has had it locked for 0.01 s: end it and try again" in said.err
        assert said.out == "", "no secret of a key that does not exist"
        assert main(["list", str(file)]) == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_was_replaced_while_a_command_waited_is_the_one_that_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    file = tmp_path / "keys"
    file.write_text(make_key([Scope.PREDICT], "old")[1].line())
    (tmp_path / "other").write_text(make_key([Scope.PREDICT], "other")[1].line())
    waits = threading.Event()
    monkeypatch.setattr("time.sleep", lambda seconds: waits.set())
    make = threading.Thread(target=main, args=(["make", str(file), "--scope", "predict", "--name", "new"],))
    with locked(file):
        make.start()
        assert waits.wait(60)
        (tmp_path / "other").rename(file) if moved else file.unlink()
    make.join()
    assert [key.name for key in parse_keys(file.read_text()).values()] == (["other", "new"] if moved else ["new"])


def test_a_key_that_would_make_the_file_too_large_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    line = f"{make_key([Scope.PREDICT], 'k')[1].line()}\n"
    file.write_text(line + "#" * (MAX_FILE_BYTES - len(line)))
    assert main(["make", str(file), "--scope", "predict", "--name", "one-more"]) == 1
    said = capsys.readouterr()
    assert f"would be larger than {MAX_FILE_BYTES} bytes" in said.err
    assert said.out == ""
    assert len(KeyRing(file)) == 1


@pytest.mark.parametrize(
    ("what", "said"),
    [("bytes", "is not text"), ("fifo", "is not a regular file"), ("open to all", "chmod o-w {file}")],
)
@pytest.mark.parametrize("command", ["list {file}", "make {file} --scope read --name x", "revoke {file} 000000000000"])
def test_a_file_that_services_refuse_is_refused_by_the_command_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, what: str, said: str
) -> None:
    file = tmp_path / "own keys"
    content = b"\xff\xfe\x00" if what == "bytes" else make_key([Scope.READ], "k")[1].line().encode()
    if what == "fifo":
        os.mkfifo(file)
    else:
        file.write_bytes(content)
        file.chmod(0o646 if what == "open to all" else 0o644)
    assert main([word.format(file=file) for word in command.split()]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"ctr-keys: {file}: ")
    assert said.format(file=shlex.quote(str(file))) in err
    assert len(err.splitlines()) == 1
    assert out == ""
    if what != "fifo":
        assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False),  # noqa: S104 (a string to judge)
     ("10.0.0.1", False), ("::", False), ("example.org", False)]
)  # fmt: skip
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
