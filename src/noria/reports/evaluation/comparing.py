"""Systems compared on the same tasks, and two states of one report compared number by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noria.core.errors import DataError
from noria.core.statistics.corrections import holm
from noria.core.statistics.intervals import paired_difference, paired_p_value
from noria.reports.document.bundle import Bundle


def compare_scores(
    first: Mapping[str, Mapping[str, float | None]],
    second: Mapping[str, Mapping[str, float | None]],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Paired differences of each metric over the tasks that both systems have, with 95 % intervals, corrected (Holm).

    Args:
        first, second: scores by metric, by task.
        names: metrics to compare.

    Raises:
        DataError: no task is in both.
    """
    tasks = sorted(first.keys() & second.keys())
    if not tasks:
        raise DataError(
            "no task has the same id in both",
            where=f"{', '.join([*first][:2])} … and {', '.join([*second][:2])} …",
            mend="give scores of the same tasks",
        )
    rows: list[dict[str, Any]] = []
    for name in names:
        pairs = [
            (a, b)
            for task in tasks
            if (a := first[task].get(name)) is not None and (b := second[task].get(name)) is not None
        ]
        ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        interval = paired_difference(ours, theirs) if len(pairs) > 1 else None
        rows.append(
            {
                "metric": name,
                "tasks": len(pairs),
                "first": sum(ours) / len(ours) if ours else None,
                "second": sum(theirs) / len(theirs) if theirs else None,
                "difference": interval.effect if interval else None,
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                "p": paired_p_value(ours, theirs) if interval else None,
            }
        )
    known: list[float | None] = [
        None if row["p"] is None or row["p"] != row["p"] else row["p"] for row in rows
    ]
    for row, adjusted in zip(rows, holm(known), strict=True):
        row["p_holm"] = adjusted
    return rows


def changed_numbers(before: Bundle, after: Bundle) -> list[dict[str, str]]:
    """Numbers that changed between two states of a report, those that are in one of them only included.

    A fact is the same by entity, measure and period; a derived number by its formula and the facts it is from.
    """
    old, new = _numbers(before), _numbers(after)
    rows = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            names = dict(zip(("entity", "measure", "period"), key, strict=True))
            rows.append(names | {"before": old.get(key, ""), "after": new.get(key, "")})
    return rows


def _numbers(bundle: Bundle) -> dict[tuple[str, str, str], str]:
    facts = bundle.book.facts
    known = {(f.entity, f.measure, f.period): f.raw for f in facts.values()}
    for one in bundle.book.derived.values():
        parts = [facts[id] for id in one.operands if id in facts]
        names = (
            ", ".join(dict.fromkeys(getattr(f, name) for f in parts))
            for name in ("entity", "measure", "period")
        )
        entity, measure, period = (name[:120] for name in names)
        known[entity, f"{one.operation} of {measure}", period] = f"{one.value:f} {one.unit}".strip()
    return known
