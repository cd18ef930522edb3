"""The page of a training, drawn from what is in its folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noria.core.errors import DataError
from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import RunPage, RunRecord, run_page

Rows = Sequence[Mapping[str, Any]]

LEARNING: tuple[tuple[str, dict[str, str], str, str], ...] = (
    (
        "On held-out questions",
        {
            "eval/macro": "macro accuracy",
            "eval/micro": "micro accuracy",
            "eval/availability": "available",
            "eval/form": "well-formed",
        },
        "share",
        "The most probable choice of the policy.",
    ),
    (
        "Rewards of rollouts",
        {"reward/form": "form", "reward/answer": "answer", "reward/thrift": "thrift"},
        "mean reward",
        "Over what is known; an answer that a failure kept away is 0.",
    ),
    ("Entropy", {"entropy": "entropy"}, "nats", "Of the policy's choices."),
    ("Cost", {"eval/cost": "held-out", "rollout/cost": "rollouts"}, "cost a question", ""),
)
"""Charts of the learning: title, figures of the log and their names, axis, caption."""

SHARES = {
    "calibration/conflict": "rollouts whose components pull apart",
    "calibration/dead": "groups without a signal",
    "calibration/trivial": "energy of groups with one odd row",
}
WEIGHTS = {f"calibration/weight_{which}": which for which in ("min", "mean", "max")}


def _describe(run: RunRecord) -> RunPage:
    config, rows = run.config, run.rows
    intro = (
        f"A router for the table {config.get('table')}, policy {config.get('policy')}, calibration "
        f"{config.get('calibration')}: {run.steps:,} steps of {config.get('prompts')} questions, "
        f"{config.get('group')} rollouts each."
    )
    if config.get("policy") == "network":  # it cannot be unreadable
        rows = [{key: v for key, v in row.items() if not key.endswith("/form")} for row in rows]
    score, learning, signal = run.file("score.json"), _charts(rows, LEARNING), _signal(rows)
    sections: list[tuple[str, Sequence[Figure | str]]] = []
    if score:
        sections.append(("On questions it did not see", _score(score, str(run.folder / "score.json"))))
    sections.append(("Learning", learning or ["Nothing was logged yet."]))
    if signal:
        sections.append(("What the learning signal is made of", signal))
    return RunPage("Router", intro, sections)


write_run_page = run_page("routing", _describe)


def _score(score: Mapping[str, Any], where: str) -> list[Figure]:
    policy, baselines = score.get("policy"), score.get("baselines", {})
    arms = {"this policy": policy, **(baselines if isinstance(baselines, dict) else {"": None})}
    if not all(_is_score(arm) for arm in arms.values()):
        raise DataError(
            "damaged", where=where, mend="give the command of the training again, which writes it"
        )
    assert isinstance(policy, dict)
    columns = {
        "macro": "macro accuracy",
        "micro": "micro accuracy",
        "cost": "cost a question",
        "regret": "regret to the oracle",
        "availability": "available",
    }
    columns |= {name: name for name in ("form", "calls") if policy.get(name) is not None}
    sets = list(policy["accuracy"])
    figures = [[name, *(arm.get(key) for key in columns)] for name, arm in arms.items()]
    accuracy = [[name, *(arm["accuracy"].get(n) for n in sets)] for name, arm in arms.items()]
    return [
        Figure.table("Beside the baselines", ["router", *columns.values()], figures),
        Figure.table("Accuracy by data set", ["router", *sets], accuracy),
    ]


def _is_score(arm: Any) -> bool:
    """Whether a record of a score has numbers, or null, where a page shows them."""
    if not isinstance(arm, dict) or not isinstance(arm.get("accuracy"), dict):
        return False
    shown = [*arm["accuracy"].values(), *(value for name, value in arm.items() if name != "accuracy")]
    return all(value is None or isinstance(value, int | float) for value in shown)


def _signal(rows: Rows) -> list[Figure]:
    def named(start: str) -> dict[str, str]:
        keys = dict.fromkeys(key for row in rows for key in row if key.startswith(start))
        return {key: key.removeprefix(start) or "(no name)" for key in keys}

    components, sets = named("calibration/share/"), named("calibration/energy/")
    weights, dead = named("calibration/weight/"), named("calibration/dead/")
    plain = "1 where the calibration has none."
    adds = "What each component adds to the learning signal."
    even = "Even shares are 1 over the number of data sets."
    charts = (
        ("Shares of the advantage", components, "share of Σ |advantage|", adds),
        ("Conflict, dead groups, trivial groups", SHARES, "share", ""),
        ("Effective weight", WEIGHTS, "variance weight", f"Of groups; {plain}"),
        ("Shares of the gradient by data set", sets, "share of Σ advantage²", even),
        ("Effective weight by data set", weights, "mean variance weight", plain),
        ("Dead groups by data set", dead, "share of groups", ""),
    )
    return _charts(rows, charts, window=10)


def _charts(
    rows: Rows, charts: Sequence[tuple[str, dict[str, str], str, str]], window: int = 1
) -> list[Figure]:
    """Charts of what the log has; running means over a window, since a batch's shares are noisy."""
    figures = []
    for title, names, label, caption in charts:
        points = _smooth(series(rows, names), window)
        if points:
            figures.append(Figure.chart(title, lines(points, y=label), caption))
    return figures


def _smooth(points: Sequence[dict[str, Any]], window: int) -> list[dict[str, Any]]:
    values: dict[str, list[float]] = {}
    smooth = []
    for point in points:
        values.setdefault(point["name"], []).append(point["value"])
        recent = values[point["name"]][-window:]
        smooth.append(point | {"value": sum(recent) / len(recent)})
    return smooth
