"""MovieLens 100K: films that 942 people liked, no film twice; prepared from a package that ships it.

    python -m mimn.data convert movielens-100k --output data/movielens_100k [--from recbole-1.2.1-py3-none-any.whl]

GroupLens does not allow the data to be redistributed, so neither the data nor anything that lists its users or films is
part of this repository. The package RecBole ships two files of it. `--from` names its wheel or a folder with the two
files; without it, the installed package is read, not imported:

    pip install --no-deps recbole==1.2.1

A behavior is a like: a rating of 4 or 5. The category of a film is the first of its genres, in the order of the file.
Likes of one second (people rated a page of films at a time) are a basket, and have no order among them: they are sorted
by

    sha256("order-v1:" + basket_id + ":" + item_id)          (ids in decimal, hex digests compared as text)

Each film is liked at most once, so every target is new to its user: negatives must be new as well
(`negatives_exclude = "history"`), or "not liked before" gives the answer away.

Harper, F. M. and Konstan, J. A. (2015), The MovieLens Datasets: History and Context, ACM TiiS 5(4).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np

from mimn.arrow import pa, pc, pcsv
from mimn.data.convert import Converted, new_folder, write_tables
from mimn.data.events import DataError

PACKAGE = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k"
"""Where the files are in the package."""
LIKED = 4.0
"""The lowest rating that is a like."""


def convert(output: Path, source: Path | None = None) -> Converted:
    """Write `events.parquet` into the new folder `output`, from a wheel, a folder, or the installed package.

    Raises:
        DataError: the files are not there or cannot be read, or `output` exists.
    """
    events = events_of(_file("ml-100k.inter", source), _file("ml-100k.item", source))
    with new_folder(output) as folder:
        return write_tables(folder, {"events": events})


def events_of(ratings: bytes, films: bytes) -> pa.Table:
    """The likes in the common form, from the two tab-separated files."""
    table, film = _tab_separated(ratings), _tab_separated(films)
    table = table.filter(pc.greater_equal(table["rating:float"].cast(pa.float64()), LIKED))
    user, item, time = (
        table[name].cast(pa.float64()).to_numpy().astype(np.int64)
        for name in ("user_id:token", "item_id:token", "timestamp:float")
    )
    # One number for each second of a user, by rising (user, second).
    _, basket = np.unique(np.stack([user, time]), axis=1, return_inverse=True)
    basket = basket.reshape(-1) + 1
    tie = np.array(
        [hashlib.sha256(f"order-v1:{b}:{i}".encode()).hexdigest() for b, i in zip(basket, item, strict=True)]
    )
    order = np.lexsort([tie, time, user])
    genre = [genres.split(" ")[0] for genres in film["class:token_seq"].to_pylist()]
    rank = {name: place + 1 for place, name in enumerate(sorted(set(genre)))}
    category = dict(zip(map(int, film["item_id:token"].to_pylist()), (rank[name] for name in genre), strict=True))
    return pa.table(
        {
            "user_id": user[order],
            "item_id": item[order],
            "category_id": np.array([category[i] for i in item[order].tolist()]),
            "timestamp": time[order],
            "basket_id": basket[order],
        }
    )


def _tab_separated(data: bytes) -> pa.Table:
    """A table of strings."""
    header = data.split(b"\n", 1)[0].decode("ascii").strip().split("\t")
    return pcsv.read_csv(
        io.BytesIO(data),
        parse_options=pcsv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pcsv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False),
    )


def _file(name: str, source: Path | None) -> bytes:
    """The bytes of a file, from a wheel, a folder, or the installed package."""
    if source is None:
        spec = importlib.util.find_spec("recbole")
        if spec is None or spec.submodule_search_locations is None:
            raise DataError(
                f"the package that ships MovieLens 100K is not installed: `pip install --no-deps {PACKAGE}`, or name "
                f"its wheel with --from (`pip download --no-deps {PACKAGE}`)"
            )
        source = Path(next(iter(spec.submodule_search_locations))).parent / FOLDER
    try:
        if source.is_dir():
            return (source / name).read_bytes()
        with zipfile.ZipFile(source) as wheel:
            return wheel.read(f"{FOLDER}/{name}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} has no {name} that can be read ({error}): use {PACKAGE}") from error
