"""What the pages of several verbs are made of: tables, intervals, numbers in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noria.core.pages.charts import Figure, number

__all__ = ["dash", "dropped", "figure_table", "intervals", "percent", "signed"]


def figure_table(
    title: str,
    records: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str | Callable[[Any], Any]],
    caption: str = "",
) -> Figure:
    """A table with a row a record; a column that is empty in all of them is left out.

    Args:
        title: of the table.
        records: of the rows.
        columns: by heading, a key of the records or a function of one.
        caption: words under the table.
    """
    cells = {
        name: [record[what] if isinstance(what, str) else what(record) for record in records]
        for name, what in columns.items()
    }
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
