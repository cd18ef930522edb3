"""Tables and notes of the loop's proof: what each arm did on each seed, and what was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noria.assistant.proof.loop.harm import CHAMPION
from noria.assistant.proof.loop.logged import agreement
from noria.assistant.proof.loop.parts import ABSENT, STEPS
from noria.core.statistics.intervals import paired_difference

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure

Rows = Sequence[Mapping[str, Any]]


def tables(rows: Rows) -> list[Figure]:
    """The tables of the report."""
    from noria.core.pages.charts import Figure

    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    values: list[list[str | int | float | None]] = [
        [name, _mean(row[name] for row in rows), *(row[name] for row in rows)] for name in names
    ]
    header = ["arm and words", "mean", *(f"seed {n}" for n in range(len(rows)))]
    return [
        Figure.table("Quality on the exam by the loop and its rivals", header, values),
        _parts(rows),
        _harm(rows),
        _logged(rows),
        _looking(rows),
    ]


def _parts(rows: Rows) -> Figure:
    """What is there less what is left out, with intervals that hold for all of them together."""
    from noria.core.pages.charts import Figure

    names = [name for name in rows[0]["parts"] if name != "everything"]
    level = 1 - 0.05 / len(names)
    lines: list[list[str | int | float | None]] = []
    for name in names:
        own, all_ = [row["parts"][name] for row in rows], [row["parts"]["everything"] for row in rows]
        line: list[str | int | float | None] = [name, _mean(one["quality"] for one in own)]
        for figure in ("quality", "cost", "waiting"):
            found = paired_difference(
                [one[figure] for one in all_], [one[figure] for one in own], level=level
            )
            line.append(f"{found.effect:+.4f} [{found.low:+.4f}, {found.high:+.4f}]")
        lines.append(line)
    lines += [[f"{name}: not measured ({why})", None, "", "", ""] for name, why in ABSENT.items()]
    caption = (
        "Everything less the arm: quality, cost of a thousand answers and seconds of waiting, with intervals over "
        f"seeds at {level:.2%}, so that all hold together with 95 %. Everything is the large model with no router; the "
        f"mean is over the exam in both wordings."
    )
    return Figure.table(
        "Parts in turn", ["arm", "quality", "Δ quality", "Δ cost", "Δ waiting"], lines, caption
    )


def _harm(rows: Rows) -> Figure:
    from noria.core.pages.charts import Figure

    figures = ("effect", "gate", "forced, promoted", "forced, rolled back", "promoted")
    lines: list[list[str | int | float | None]] = [
        [name, *(_mean(row["harm"][name][one] for row in rows) for one in figures)]
        for name in rows[0]["harm"]
    ]
    header = ["candidate", "effect on satisfaction", "gate lets pass", "promoted, forced", "rolled back, forced",
              "promoted through both"]  # fmt: skip
    return Figure.table("Planted candidates, means over seeds", header, lines)


def _logged(rows: Rows) -> Figure:
    from noria.core.pages.charts import Figure

    lines: list[list[str | int | float | None]] = [
        [number, name, one["estimate"], one["test"], one["error"]]
        for number, row in enumerate(rows)
        for name, one in row["logged"].items()
    ]
    header = ["seed", "version", "estimate by the log", "test", "standard error of the test"]
    return Figure.table("What the log said, and the test", header, lines)


def _looking(rows: Rows) -> Figure:
    from noria.core.pages.charts import Figure

    figures = ("right", "grounded", "promoted by ratings alone", "promoted with the guardrail")
    lines: list[list[str | int | float | None]] = [
        [name, *(_mean(row["looking"][name][one] for row in rows) for one in figures)]
        for name in rows[0]["looking"]
    ]
    return Figure.table("Answerers of questions about pictures", ["answerer", *figures], lines)


def notes(rows: Rows) -> list[str]:
    """What a reader needs beside the claims."""
    made = [decision for row in rows for decision in row["decisions"]]
    counts = ", ".join(f"{made.count(name)} {name}" for name in dict.fromkeys(made))
    changed = sum(
        a != b
        for row in rows
        for a, b in zip(row["decisions"], row["decisions without hostile users"], strict=True)
    )
    signs = [agreement(row["logged"]) for row in rows]
    refused = sum(one["estimate"] is None for row in rows for one in row["logged"].values())
    passed = sorted(
        {name for row in rows for name, one in row["harm"].items() if one["gate"] and name != CHAMPION}
    )
    skills = [name for row in rows for name in row["bodies"]["repaired"]]
    bodies = ", ".join(f"{name} on {skills.count(name)}" for name in dict.fromkeys(skills)) or "none"
    few, many = (_mean(row["drawing"][str(steps)] for row in rows) for steps in STEPS)
    stages = [row["imported"]["stage"] for row in rows]
    traces = [(row["imported"]["traces"], row["imported"]["again"]) for row in rows]
    return [
        f"Decisions of the loop's {len(made)} turns: {counts}. {changed} differ without hostile users, those that "
        "promote nothing either way among them.",
        f"Planted candidates that a gate let pass on some seed: {', '.join(passed) or 'none'}.",
        f"Of {sum(all_ for _, all_ in signs)} tests with a sign the log said {sum(right for right, _ in signs)} "
        f"before; it refused {refused} estimates, which count as wrong where the test has a sign.",
        f"Bodies whose repair passed the learner's own gate: {bodies} of {len(rows)} seeds.",
        f"A drawing takes {few:.3f} CPU-seconds in {STEPS[0]} steps and {many:.3f} in {STEPS[1]}.",
        f"Imported logs: {traces[0][0]} traces, {max(again for _, again in traces)} more by a second import; tests "
        f"ended as {', '.join(sorted(set(stages)))}.",
        "Models and tools are trained and real; users, wishes, ratings and corrections are simulated. Answerers of "
        "pictures and their judge are scripted.",
        "The learner of the seasons is that of skill descriptions alone; those of bodies and router are looked at by "
        "themselves. Gateways are killed by noria prove gates.",
    ]


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
