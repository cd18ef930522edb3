"""The page of a training, drawn from what is in its folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import write_run_report
from noria.core.runs.run import read_config, read_metrics

__all__ = ["Rows", "write_run_page"]

Rows = list[dict[str, Any]]


def write_run_page(folder: Path, *, stopped: str = "") -> Path:
    """Write `report.html` of a training from its settings, metrics and score.

    Args:
        folder: the run's.
        stopped: why it ended early, if it did.

    Raises:
        RunError: there is no run, or the disk refuses.
        DataError: its log is damaged.
    """
    config, rows = read_config(folder), read_metrics(folder)
    done = max([0, *(int(row["step"]) for row in rows)])
    intro = (
        f"A router for the table {config.get('table')}, policy {config.get('policy')}, calibration "
        f"{config.get('calibration')}: {done:,} steps of {config.get('prompts')} questions, "
        f"{config.get('group')} rollouts each."
    )
    sections: list[tuple[str, Sequence[Figure | str]]] = []
    score = _read(folder / "score.json")
    if score:
        sections.append(("On questions it did not see", _score(score)))
    if config.get("policy") == "network":  # it cannot be unreadable
        rows = [{key: v for key, v in row.items() if not key.endswith("/form")} for row in rows]
    sections.append(("Learning", _learning(rows) or ["Nothing was logged yet."]))
    signal = _signal(rows)
    if signal:
        sections.append(("What the learning signal is made of", signal))
    return write_run_report(folder, "routing", "Router", sections, intro=intro, stopped=stopped)


# -- parts ------------------------------------------------------------------------------------------------------------


def _score(score: Mapping[str, Any]) -> list[Figure | str]:
    arms = {"this policy": score["policy"], **score.get("baselines", {})}
    sets = list(score["policy"]["accuracy"])
    extra = [n for n in ("form", "calls") if score["policy"].get(n) is not None]
    header = ["router", "macro accuracy", "micro accuracy", "cost a question", "regret to the oracle", *extra]
    return [
        Figure.table(
            "Beside the baselines",
            header,
            [
                [
                    name,
                    *(s.get(key) for key in ("macro", "micro", "cost", "regret")),
                    *(s.get(k) for k in extra),
                ]
                for name, s in arms.items()
            ],
        ),
        Figure.table(
            "Accuracy by data set",
            ["router", *sets],
            [[name, *(s["accuracy"].get(n) for n in sets)] for name, s in arms.items()],
        ),
    ]


def _learning(rows: Rows) -> list[Figure | str]:
    blocks: list[Figure | str] = []
    for title, names, label, caption in (
        (
            "On held-out questions",
            {"eval/macro": "macro accuracy", "eval/micro": "micro accuracy", "eval/form": "well-formed"},
            "share",
            "The most probable choice of the policy.",
        ),
        (
            "Rewards of rollouts",
            {"reward/form": "form", "reward/answer": "answer", "reward/thrift": "thrift"},
            "mean reward",
            "Over what was scored; a rollout whose model was lost is left out.",
        ),
        ("Entropy", {"entropy": "entropy"}, "nats", "Of the policy's choices."),
        ("Cost", {"eval/cost": "held-out", "rollout/cost": "rollouts"}, "cost a question", ""),
    ):
        points = series(rows, names)
        if points:
            blocks.append(Figure.chart(title, lines(points, y=label), caption))
    return blocks


def _signal(rows: Rows) -> list[Figure | str]:
    shares = _names(rows, "calibration/share/")
    sets = _names(rows, "calibration/energy/")
    blocks: list[Figure | str] = []
    for title, names, label, caption in (
        (
            "Shares of the advantage",
            shares,
            "share of Σ |advantage|",
            "What each component adds to the learning signal.",
        ),
        (
            "Conflict, dead groups, trivial groups",
            {
                "calibration/conflict": "rollouts whose components pull apart",
                "calibration/dead": "groups without a signal",
                "calibration/trivial": "energy of groups with one odd row",
            },
            "share",
            "",
        ),
        (
            "Effective weight",
            {f"calibration/weight_{w}": w for w in ("min", "mean", "max")},
            "variance weight",
            "Of groups; 1 where the calibration has none.",
        ),
        (
            "Shares of the gradient by data set",
            sets,
            "share of Σ advantage²",
            "Even shares are 1 over the number of data sets.",
        ),
        (
            "Effective weight by data set",
            _names(rows, "calibration/weight/"),
            "mean variance weight",
            "1 where the calibration has none.",
        ),
        ("Dead groups by data set", _names(rows, "calibration/dead/"), "share of groups", ""),
    ):
        points = _smooth(series(rows, names))
        if points:
            blocks.append(Figure.chart(title, lines(points, y=label), caption))
    return blocks


def _names(rows: Rows, start: str) -> dict[str, str]:
    found = dict.fromkeys(key for row in rows for key in row if key.startswith(start))
    return {key: key.removeprefix(start) or "(no name)" for key in found}


def _smooth(points: Rows, window: int = 10) -> Rows:
    """Running means, since a batch's shares are noisy."""
    found, last = [], {}  # type: ignore[var-annotated]
    for point in points:
        before = last.setdefault(point["name"], [])
        before.append(point["value"])
        recent = before[-window:]
        found.append(point | {"value": sum(recent) / len(recent)})
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except FileNotFoundError:
        return None
