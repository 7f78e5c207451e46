"""Training by several processes, and after a kill: real processes, started as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from localstack.wait import until
from mimn import run
from mimn import train as task
from mimn.config import ConfigError
from mimn.data_set import load_data
from mimn.impressions.__main__ import main as impressions
from mimn.run_config import decode_config, read_config
from mimn.train import DrawnNegatives, to_tensors
from mimn.train import main as train
from mimn.training import loop
from mimn.training.processes import ALONE, Processes
from support.trainings import drawn, labelled

pytestmark = pytest.mark.torch

DEADLINE_S = 240


def alone(arguments: list[str], output: Path) -> dict[str, Any]:
    """Train in this process; returns what `metrics.json` says."""
    _, module, *rest = arguments
    assert {"mimn.train": train, "mimn.impressions": impressions}[module]([*rest, "--output", str(output)]) == 0
    return recorded(output)


def by_two(arguments: list[str], output: Path, *, refused: bool = False) -> dict[str, Any]:
    """Train in two processes, by `torchrun`; returns what `metrics.json` says. `refused`: a row of the data is."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, *arguments, "--output", str(output)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count('"validation_auc"') == 1, "only the first process says anything"
    for said in ("rows are left out", "is the best on validation"):
        lines = [line for line in done.stderr.splitlines() if said in line]
        assert len(set(lines)) == len(lines), "only the first process warns"
        assert all(line.startswith("warning: ") for line in lines)
    if refused:
        assert "1 rows are left out" in done.stderr
    return recorded(output)


def recorded(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / run.METRICS).read_text("utf-8"))
    return record


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("task", "embeddings", "apart"), [("drawn", "dense", 1e-4), ("taught", "dense", 1e-4), ("labelled", "sparse", 1e-5)]
)
def test_two_processes_give_the_loss_of_one(task: str, embeddings: str, apart: float, tmp_path: Path) -> None:
    arguments = (
        drawn(tmp_path, embeddings=embeddings, teachers=1 if task == "taught" else 0)
        if task != "labelled"
        else labelled(tmp_path, epochs=2, learning_rate=1e-4, embeddings=embeddings)
    )
    if task == "labelled":
        with (tmp_path / "shown.csv").open("a") as shown:
            shown.write("1,1,1,1,0,0\n")  # in 1970
    one = alone(arguments, tmp_path / "by 1")
    two = by_two(arguments, tmp_path / "by 2", refused=task == "labelled")
    assert len(one["curve"]) == len(two["curve"]) == 2
    for epoch, same in zip(one["curve"], two["curve"], strict=True):
        assert abs(epoch["loss"] - same["loss"]) < 1e-3
        assert {k: v for k, v in epoch.items() if isinstance(v, int)} == {
            k: v for k, v in same.items() if isinstance(v, int)
        }
    # Weights differ by rounding alone: the same samples, in the same steps. Of rounding, where a gradient is nearly 0,
    # Adam makes steps as large as the learning rate, so what is apart grows with that.
    assert abs(one["curve"][0]["loss"] - two["curve"][0]["loss"]) < apart
    assert {path.name for path in (tmp_path / "by 1").iterdir()} == {
        path.name for path in (tmp_path / "by 2").iterdir()
    }


THREADS_LEFT = """
import os
import sys
from pathlib import Path
import torch
from mimn.training.processes import joined

with joined() as processes:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    processes.add_up_gradients([weight], [])
    optimizer.step()
names = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
Path(sys.argv[1], str(processes.rank)).write_text(" ".join(name for name in names if "gloo" in name), "utf-8")
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc, which only Linux has")
def test_no_thread_of_the_group_is_left_when_a_process_ends(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(THREADS_LEFT, "utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(program),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [(tmp_path / rank).read_text("utf-8") for rank in ("0", "1")] == ["", ""]


def test_the_shares_of_a_batch_add_up_to_its_gradient(tmp_path: Path) -> None:
    drawn(tmp_path)
    config = read_config(tmp_path / "drawn.toml")
    text = config.to_toml().replace("auxiliary_loss = false", "auxiliary_loss = true")
    config = decode_config(text.replace("negatives = 1", "negatives = 2"), "here")
    assert config.windows.negatives == 2
    data = load_data(config.data)
    task = DrawnNegatives(config, data, ALONE)
    torch.manual_seed(0)
    model = task.untrained().double()
    batch = next(iter(task._sampler.epoch(np.random.default_rng(0), 32)))
    assert batch.target_item.shape[-1] == 3

    def gradient(share: slice) -> torch.Tensor:
        model.zero_grad()
        tensors = to_tensors(batch.share(share), auxiliary=True)
        part = loop._weights(tensors) / whole
        loop._weighted(model.loss(tensors), part).backward()  # type: ignore[no-untyped-call]
        return torch.cat(
            [(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1) for one in model.parameters()]
        )

    whole = loop._weights(to_tensors(batch, auxiliary=True))
    together = gradient(slice(None))
    apart = sum(gradient(Processes(rank, 3).share) for rank in range(3))
    assert isinstance(apart, torch.Tensor)
    assert float(together.abs().max()) > 1e-3
    torch.testing.assert_close(apart, together, rtol=1e-6, atol=1e-8)


def test_batch_statistics_of_one_process_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    drawn(tmp_path)
    config = read_config(tmp_path / "drawn.toml")
    config = decode_config(config.to_toml().replace('head_norm = "none"', 'head_norm = "batch"'), "here")
    with pytest.raises(ConfigError, match="head_norm = 'batch'"):
        task.train(config, tmp_path / "run", loop.Running(Processes(0, 2)))
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_run_on_impressions_that_was_killed_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    arguments = [sys.executable, *labelled(tmp_path, epochs=8, embeddings="sparse")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*arguments, "--output", str(whole)], check=True, capture_output=True, timeout=DEADLINE_S)

    process = subprocess.Popen(
        [*arguments, "--output", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = killed / run.LOG

    def goes_on() -> None:
        assert process.poll() is None, "it ended before it could be killed"

    until(lambda: log.exists() and "epoch 2:" in log.read_text("utf-8"), "epoch 2", within_s=DEADLINE_S, alive=goes_on)
    process.kill()
    assert process.wait() != 0
    assert (killed / run.CHECKPOINT).exists()
    assert not (killed / run.METRICS).exists()

    again = [*arguments, "--output", str(killed), "--resume"]
    subprocess.run(again, check=True, capture_output=True, timeout=DEADLINE_S)
    assert "resumed after epoch" in log.read_text("utf-8")
    assert (killed / run.MODEL).read_bytes() == (whole / run.MODEL).read_bytes()
    first, second = (json.loads((folder / run.METRICS).read_text("utf-8")) for folder in (whole, killed))
    for record in (first, second):
        for epoch in record["curve"]:
            del epoch["cpu_s"]
    assert first == second
