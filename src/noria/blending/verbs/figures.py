"""Parts of the pages of verbs: tables, intervals, numbers in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from noria.core.pages.charts import Figure, number

__all__ = ["dash", "dropped", "intervals", "percent", "signed", "table"]


def table(
    title: str,
    records: Sequence[Mapping[str, Any]],
    columns: str,
    caption: str = "",
    *,
    computed: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Figure:
    """A table with a row a record; a column that is empty in all of them is left out.

    Args:
        title: heading of the table.
        records: values by key, one mapping a row.
        columns: headings apart by `|`, each with its key where that is another: `price of 1,000: price`.
        caption: words under the table.
        computed: functions of a record, by heading, for columns that are no key.
    """
    cells = {}
    for column in columns.split(" | "):
        heading, _, key = column.partition(": ")
        value = (computed or {}).get(heading) or itemgetter(key or heading.replace(" ", "_"))
        cells[heading] = [value(record) for record in records]
    kept = {name: column for name, column in cells.items() if any(cell not in (None, "") for cell in column)}
    rows = [list(row) for row in zip(*kept.values(), strict=True)]
    return Figure.table(title, list(kept), rows, caption)


def intervals(rows: list[dict[str, Any]], field: str, title: str) -> Any:
    """A chart of each plan's value with its interval, from `low` to `high`."""
    import altair as alt

    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("plan:N", title=None, sort=[row["plan"] for row in rows]),
        tooltip=["plan:N", f"{field}:Q", "low:Q", "high:Q"],
    )
    dots = base.mark_point(size=70).encode(x=alt.X(f"{field}:Q", title=title))
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    return (bars + dots).properties(width="container", height=max(60, 26 * len(rows)))


def dropped(reasons: Mapping[str, int]) -> Figure | str:
    """A table of the rows left out, by reason; a sentence where there are none."""
    if not reasons:
        return "Nothing was left out."
    return Figure.table(
        "Rows left out, by reason", ["reason", "rows"], [list(one) for one in reasons.items()]
    )


def dash(value: float | None) -> str:
    """A number as text; a dash for none."""
    return "—" if value is None else number(float(value))


def percent(value: float | None, *, sign: bool = False) -> str:
    """A share as percent; a dash for none."""
    return "—" if value is None else f"{number(100 * value, sign=sign)} %"


def signed(interval: Sequence[float | None] | None, *, percent: bool = False) -> str:
    """An effect with its interval as text, or as percent; a dash for none."""
    if interval is None or interval[0] is None:
        return "—"
    scale, unit = (100.0, " %") if percent else (1.0, "")
    effect, low, high = (None if x is None else number(scale * x, sign=True) + unit for x in interval)
    return f"{effect} ({low} to {high})" if low is not None else str(effect)
