"""pyarrow does not import pandas, which drops a Ctrl-C that comes meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

USES = """
import sys
import numpy as np
from mimn.arrow import pa, pc, pq

column = pa.array([True, None, False])
assert column.is_null().to_numpy(zero_copy_only=False).tolist() == [False, True, False]
assert pc.equal(pa.array(np.arange(3)), 2).to_pylist() == [False, False, True]
assert pa.chunked_array([pa.array(["a", None]).dictionary_encode()]).to_pylist() == ["a", None]
pq.write_table(pa.table({"a": [1, None], "b": ["x", "y"]}), sys.argv[1])
assert pq.read_table(sys.argv[1])["a"].to_numpy(zero_copy_only=False)[0] == 1
assert "pandas" not in sys.modules
import pandas
assert pandas.there
"""


def test_pyarrow_does_without_pandas_and_the_program_may_import_it(tmp_path: Path) -> None:
    package = tmp_path / "pandas"
    package.mkdir()
    (package / "__init__.py").write_text("there, __version__ = True, '3.0'\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", USES, str(tmp_path / "some.parquet")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
