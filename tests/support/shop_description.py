"""The description of a small shop in two Parquet files, to which a test adds fields and a split."""

from __future__ import annotations

TOML = """
name = "shop"
[events]
files = ["events.parquet"]
user = "uid"
item = "sku"
time = "ts"
time_unit = "ms"
[impressions]
files = ["impressions.parquet"]
user = "uid"
item = "sku"
time = "ts"
time_unit = "ms"
label = "clicked"
window = "30m"
"""
