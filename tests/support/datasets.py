"""The data sets that tests use: Online Retail of this repository, and a small made-up one with its description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mimn.data import synthetic
from mimn.data.events import Events
from mimn.data.preparation import cache_folder, prepare
from mimn.data.split import PARTS, parts_of

DATASETS = Path(__file__).parents[2] / "models/datasets"
SMOKE = Path(__file__).parents[2] / "models/configs/synthetic_mimn.toml"
"""The committed configuration of a smoke test."""


FIELDS = """
[users]
files = ["users.parquet"]
key = "user_id"

[items]
files = ["items.parquet"]
key = "item_id"

[fields.user]
taste = { kind = "categorical", min_count = 1 }

[fields.context]
weekday = { kind = "categorical", vocabulary = 7 }

[fields.item]
brand = { kind = "categorical", min_count = 1 }
price = { kind = "numeric" }
"""
"""Of the made-up data set."""
NEW_ITEM = 4711
"""An item of the made-up data set that has fields and that is in no event."""


def retail() -> Events:
    """The events of Online Retail."""
    return prepare(DATASETS / "online-retail.toml", cache_folder()).events


def made_up(folder: Path, users: int = synthetic.USERS) -> Path:
    """The description of the made-up data set in `folder`, written with its file if it is not there."""
    path = folder / "synthetic.toml"
    if path.exists():
        return path
    synthetic.convert(folder / "synthetic", users)
    path.write_text((DATASETS / "synthetic.toml").read_text("utf-8").replace("../../data/", ""), "utf-8")
    return path


def smoke_text(folder: Path) -> str:
    """The committed smoke configuration on the made-up data set in `folder`."""
    return SMOKE.read_text("utf-8").replace("models/datasets/synthetic.toml", str(made_up(folder)))


def made_up_with_fields(folder: Path) -> Path:
    """The description of the made-up data set with fields: a user's taste is the category that they buy most."""
    path = made_up(folder)
    file = folder / "synthetic/events.parquet"
    table = pq.read_table(file)
    weekday = table["timestamp"].to_numpy() // 86400 % 7
    pq.write_table(table.append_column("weekday", pa.array(weekday)), file)
    user, item, category = (table[name].to_numpy() for name in ("user_id", "item_id", "category_id"))
    users = np.unique(user)
    taste = [int(np.bincount(category[user == one]).argmax()) for one in users]
    train = parts_of(users) == PARTS.index("train")
    texts = [f"likes {t}" if known else f"only {u} likes {t}" for u, t, known in zip(users, taste, train, strict=True)]
    pq.write_table(pa.table({"user_id": users, "taste": texts}), folder / "users.parquet")
    items, first = np.unique(item, return_index=True)
    of = [*category[first].tolist(), 1]
    pq.write_table(
        pa.table(
            {
                "item_id": [*items.tolist(), NEW_ITEM],
                "brand": [f"brand {c}" for c in of],
                "price": [float(c) for c in of],
            }
        ),
        folder / "items.parquet",
    )
    path = folder / "with-fields.toml"
    path.write_text(
        (folder / "synthetic.toml").read_text("utf-8").replace('"synthetic"', '"with-fields"') + FIELDS, "utf-8"
    )
    return path
