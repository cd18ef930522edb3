"""A Parquet file with a row a user, and the read-out of its A/B test."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from noria.blending.columns import NameColumn
from noria.blending.logs.arrow import arrow_column
from noria.core.errors import DataError, require
from noria.core.experiments.reading import Measure, read_out
from noria.core.files import check_input, decoding


def experiment_record(path: Path) -> dict[str, Any]:
    """An A/B read-out of every column of numbers but `user`; with CUPED where there is a `NAME_before`.

    Raises:
        DataError: the file cannot be read, or has no column `variant` of names.
        MissingExtra: there is no pyarrow or tea-tasting.
    """
    parquet = require("pyarrow.parquet", "blending")
    check_input(path)
    with decoding(path, "a Parquet file"):
        table = parquet.ParquetFile(path).read()
    if "variant" not in table.column_names:
        raise DataError("there is no column 'variant'", where=str(path))
    columns = {name: arrow_column(table.column(name), name) for name in table.column_names}
    numbers = [n for n, c in columns.items() if isinstance(c, np.ndarray) and c.dtype == np.float64]
    measures = {
        name: Measure(name, before=f"{name}_before" if f"{name}_before" in numbers else None)
        for name in numbers
        if name != "user" and not name.endswith("_before")
    }
    users: dict[str, Any] = {name: columns[name] for name in numbers}
    variant = columns["variant"]
    if not isinstance(variant, NameColumn):
        raise DataError("not names", where=f"{path}, column 'variant'")
    users["variant"] = variant.decode()
    result = read_out(users, measures)
    return {
        "users": result.users,
        "split_p_value": result.split_p_value,
        "effects": [
            asdict(effect) | {"cuped": measures[effect.name].before is not None} for effect in result.effects
        ],
    }
