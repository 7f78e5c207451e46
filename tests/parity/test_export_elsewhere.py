"""A checkpoint has one fingerprint: whatever instruction set the export runs on, states keep their meaning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mimn.bundle import load_bundle
from mimn.bundle.manifest import STATE_FILES
from mimn.nn.constants import item_vectors, tanh
from mimn.nn.fields import FieldTables, ItemMembers, ModelFields

pytestmark = pytest.mark.torch

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = MODELS / "bundles" / "online-retail" / "1"
WEIGHTS = MODELS / "experiments" / "online-retail-1" / "model.safetensors"
"""The bundle's weights: trained, because with drawn ones PyTorch's functions happen to agree."""
WITHOUT_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
PROCESSORS = {
    "this one": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "NPY_DISABLE_CPU_FEATURES": WITHOUT_AVX512},
    "no vectors": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": f"{WITHOUT_AVX512} AVX2 FMA3",
    },
}
"""Settings of the libraries that PyTorch and numpy compute with."""


@pytest.mark.parametrize(
    "processor", ["this one", *(pytest.param(name, marks=pytest.mark.full) for name in ("AVX2", "no vectors"))]
)
def test_each_instruction_set_exports_the_shipped_bytes(processor: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mimn.export", "--again", str(SHIPPED), "--weights", str(WEIGHTS)]
    command += ["--output", str(tmp_path), "--name", "again", "--version", "1"]
    subprocess.run(command, check=True, env=os.environ | PROCESSORS[processor], timeout=300, stdout=subprocess.DEVNULL)
    again = tmp_path / "again" / "1"
    for file in STATE_FILES["recurrent"]:
        assert (again / file).read_bytes() == (SHIPPED / file).read_bytes(), file
    assert load_bundle(again).fingerprint == load_bundle(SHIPPED).fingerprint


def test_a_tangent_is_correctly_rounded() -> None:
    values = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(3)), torch.randn(200) * 1e-5])
    values = torch.cat([values, torch.tensor([0.0, 1e-30, 15.0, -1e30, torch.inf])])
    np.testing.assert_array_equal(tanh(values), np.tanh(values.numpy().astype(np.float64)).astype(np.float32))
    assert np.isnan(tanh(torch.tensor([torch.nan]))).all()


@pytest.mark.parametrize("tied", [False, True])
def test_vectors_of_items_with_members_are_what_the_model_reads(tied: bool) -> None:
    random = np.random.default_rng(0)
    sizes = np.array([0, 3, 0, 200, 1])
    members = ItemMembers(
        torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])), torch.from_numpy(random.integers(5, size=204))
    )
    none = FieldTables((), 8, first_order=False)
    fields = ModelFields(none, none, None, torch.tensor([0, 1, 2, 0, 4]) if tied else None, members)
    table = nn.Embedding(5, 8)
    want = fields.item_embeddings(table, torch.arange(5)).detach().numpy()
    made = item_vectors(table.weight, fields)
    np.testing.assert_allclose(made, want, atol=1e-6)
    assert (made[0] == want[0]).all()
