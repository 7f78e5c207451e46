"""The main job, as a user does it: `ctr demo`, `ctr up`, the printed commands pasted into a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from localstack.stack import addresses_of, living, take_down
from localstack.wait import until
from localstack.web import web
from support import proxies

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]


def localstack(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ctr_cli", "--folder", str(folder), *arguments]


def run(folder: Path, *arguments: str, at: Path = ROOT) -> str:
    done = subprocess.run(
        localstack(folder, *arguments), cwd=at, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_folds_real_behaviors_scores_them_and_leaves_nothing_running(tmp_path: Path) -> None:
    text = run(tmp_path, "demo")
    folded = re.search(r"([\d,]+) events produced and folded in ([\d.]+) s; each user's digest", text)
    assert folded
    assert int(folded[1].replace(",", "")) > 5_000
    rows = re.findall(r"^ +(\d+) +([\d,]+) +warm +(\d+) of 100 +(\d\.\d{3})$", text, re.M)
    assert len(rows) == 12
    counts = [int(row[1].replace(",", "")) for row in rows]
    assert counts == sorted(counts)
    assert counts[-1] > 10 * counts[0]
    assert all(1 <= int(row[2]) <= 100 for row in rows)
    near = re.search(r"All (\d+) users: for (\d+) the real next item is in the best tenth", text)
    assert near
    assert int(near[2]) > 0.15 * int(near[1])  # by chance: a tenth
    assert "online-retail-ledger/2" in text
    assert living(tmp_path / "demo") == {}
    assert logging_into(tmp_path) == []


@pytest.mark.full
def test_the_demo_as_json_is_one_document_and_says_the_rest_on_stderr(tmp_path: Path, closed_port: str) -> None:
    """Also behind a proxy, which is asked for nothing of this machine."""
    done = subprocess.run(
        localstack(tmp_path, "demo", "--json"),
        cwd=ROOT, env={**os.environ, **proxies.naming(closed_port)},
        capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert (seen["bundle"], seen["users"], seen["candidates"]) == ("online-retail-ledger/2", 208, 100)
    assert "events produced and folded" in done.stderr


def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    # A test run in the background has Ctrl-C switched off, and so would the demo.
    command = ["env", "--default-signal=INT,TERM,HUP", *localstack(tmp_path, "demo")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as demo:
        until(lambda: "uic-1" in living(tmp_path / "demo"), "UIC is being started", within_s=60)
        running = living(tmp_path / "demo")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(120) == 128 + signal.SIGINT
    assert running
    assert not any(identity.alive() for identity in running.values())
    assert living(tmp_path / "demo") == {}


def logging_into(folder: Path) -> list[str]:
    """Processes with an open file below `folder`, known to the launcher or not: each member has its log."""
    found = []
    for process in psutil.process_iter(["name", "open_files"]):
        if any(Path(file.path).is_relative_to(folder) for file in process.info["open_files"] or ()):
            found.append(process.info["name"])
    return found


def test_up_prints_commands_that_work_when_pasted_and_down_ends_it(
    tmp_path: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind a proxy, which is asked for nothing of this machine."""
    for name, value in proxies.naming(closed_port).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "stack"
    try:
        text = run(folder, "up")
        at = addresses_of(folder)
        assert "ready" in run(folder, "status")
        curl = next(line for line in text.splitlines() if line.startswith("curl "))
        assert shutil.which("curl"), "the printed command needs curl: install it"
        before = json.loads(pasted(curl))
        assert before["state"]["status"] == "warm"
        assert len(before["scores"]) == 3
        producer = re.search(r"^\S+ - <<'EOF'\n.*?\nEOF$", text, re.S | re.M)
        assert producer
        assert "offset=" in pasted(producer.group(0))
        until(
            lambda: json.loads(pasted(curl))["state"]["events"] == before["state"]["events"] + 1,
            "the produced event is visible",
            within_s=60,
        )
        assert web().get(f"{at.predict}/docs", timeout=60).status_code == 200
        seen = json.loads(run(folder, "status", "--json"))
        assert set(seen["running"]) == {"rtp-1", "uic-1", "broker", "valkey"}
        assert all(seen["ready"].values())
        assert "What the state of user" in text
        doctor = subprocess.run(
            localstack(folder, "doctor", "--json"), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert json.loads(doctor.stdout)["verdict"], doctor.stderr  # it found the stack of this folder
        stop = re.search(r"^# stop +(.*)$", text, re.M)
        assert stop
        stopped = pasted(stop[1])
    finally:
        ended = take_down(folder, say=print)
    assert stopped.count(" ended") == 4
    assert ended == 0
    assert "Nothing runs" in run(folder, "down")


def pasted(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
def test_the_demo_cleans_up_on_servers_that_others_use(
    tmp_path: Path, valkey_url: str, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis
    from kafka import KafkaAdminClient

    monkeypatch.setitem(os.environ, "REDIS_URL", valkey_url)
    monkeypatch.setitem(os.environ, "KAFKA_BOOTSTRAP_SERVERS", kafka)
    client, admin = redis.Redis.from_url(valkey_url), KafkaAdminClient(bootstrap_servers=kafka)
    client.set("another user's", "1")
    try:
        run(tmp_path, "demo")
        assert client.get("another user's") == b"1"
        assert not list(client.scan_iter(match="demo-*"))
        assert not [name for name in admin.list_topics() if name.startswith("demo-")]
    finally:
        client.delete("another user's")
        client.close()
        admin.close()


def test_an_own_model_is_started_anywhere_and_the_printed_commands_are_about_its_items(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    bundle = ROOT / "tests/fixtures/bundle_tiny_fields/tiny-fields/1"
    try:
        text = run(folder, "up", "--empty", "--bundle", str(bundle), at=tmp_path)
        curl = next(line for line in text.splitlines() if line.startswith("curl "))
        assert json.loads(pasted(curl))["state"]["status"] == "cold"
        producer = re.search(r"^\S+ - <<'EOF'\n.*?\nEOF$", text, re.S | re.M)
        assert producer
        assert "offset=" in pasted(producer.group(0))
        until(lambda: json.loads(pasted(curl))["state"].get("events") == 1, "the event is visible", within_s=60)
    finally:
        take_down(folder, say=print)
