"""How many rows a second `ctr data check` reads of Parquet, by CPU time, and how much memory it takes.

    python tests/bench/data_check.py --rows 10000000 --folder /tmp/shop

The foreign shop's logs (`tests/support/foreign_shop.py`) as Parquet, once with texts as ids and once with whole
numbers; each is checked by a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import foreign_shop


def as_parquet(folder: Path, shop: Path, *, numbers: bool) -> Path:
    """The logs in `shop` as Parquet in `folder`, with ids as whole numbers if `numbers`; the description's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(shop.glob("*.csv")):
        reader = pcsv.open_csv(path, parse_options=pcsv.ParseOptions(delimiter=";"))
        writer: pq.ParquetWriter | None = None
        for batch in reader:
            table = pa.Table.from_batches([batch])
            for name in ("visitor", "article", "range") if numbers else ():
                digits = pc.cast(pc.replace_substring_regex(table[name], r".*?(\d+)\D*$", r"\1"), pa.int64())
                from_1 = pc.add(digits, 1)  # item 0 is a finding
                table = table.set_column(table.schema.get_field_index(name), name, from_1)
            writer = writer or pq.ParquetWriter(folder / f"{path.stem}.parquet", table.schema)
            writer.write_table(table, row_group_size=1 << 17)
        if writer is not None:
            writer.close()
    text = (shop / "dataset.toml").read_text("utf-8").replace(".csv", ".parquet")
    (folder / "dataset.toml").write_text(text.replace('ids = "string"', 'ids = "uint64"') if numbers else text, "utf-8")
    return folder / "dataset.toml"


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description="Measure `ctr data check` on Parquet.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    shop = options.folder / "csv"
    if not (shop / "dataset.toml").exists():
        foreign_shop.write(shop, options.rows, labelled=True)
    paths = {
        name: as_parquet(options.folder / name, shop, numbers=numbers)
        for name, numbers in (("texts", False), ("numbers", True))
    }
    for _ in range(options.repeats):
        for name, path in paths.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "mimn.data", "check", path], stdout=subprocess.DEVNULL, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            rate = options.rows / cpu_s / 1e6
            print(f"{name}: {cpu_s:.1f} CPU s, {rate:.2f} million rows a CPU second, {after.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
