"""The part of the package that pyproject.toml has no words for: the C of `mimn.rows`, for two kinds of processor.

Both are optional: without a C compiler, or on another processor, the package installs without them, and onnxruntime and
Python serve.
"""

import platform

from setuptools import Extension, setup

FOLDER = "src/mimn/rows"
SOURCES = ("rows.c", "lanes.c", "states.c", "stored.c", "records.c", "lookups.c", "head.c", "candidate_list.c")
COMMON = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-wrapv"]
"""Python's own options come first. Of them, -fwrapv would make a step two thirds slower."""
AVX2 = [*COMMON, "-mavx2", "-mfma", "-mf16c", "-mpclmul"]
FLAGS = {"avx512": [*AVX2, "-mavx512f", "-mprefer-vector-width=512"], "avx2": AVX2}
"""By variant. All give the same bits; `mimn.rows.library` chooses one by the processor."""

setup(
    ext_modules=[
        Extension(
            f"mimn.rows._{variant}",
            sources=[f"{FOLDER}/{source}" for source in SOURCES],
            depends=[f"{FOLDER}/rows.h"],
            extra_compile_args=flags,
            libraries=["m"],
            optional=True,
        )
        for variant, flags in FLAGS.items()
        if platform.machine() in ("x86_64", "AMD64")
    ]
)
