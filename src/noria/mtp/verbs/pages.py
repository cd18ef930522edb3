"""The pages that a training and a score leave behind, drawn from what is in the folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import write_page, write_run_report
from noria.core.runs.run import read_config, read_metrics

__all__ = ["write_rl_page", "write_run_page", "write_score_page"]

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
        f"A head for {config.get('model')}, trained on {config.get('data')} with the loss {config.get('loss')}: "
        f"{done:,} steps of {config.get('batch_size')} rows, {config.get('train_gamma')} drafts deep."
    )
    sections: list[tuple[str, Sequence[Figure | str]]] = []
    score = _read(folder / "score.json")
    if score:
        sections.append((f"Acceptance on {score['text']}", _score(score)))
    sections.append(("While training", _training(rows) or ["Nothing was logged yet."]))
    return write_run_report(folder, "mtp", str(config.get("loss")), sections, intro=intro, stopped=stopped)


def write_score_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of one score.

    Raises:
        RunError: the disk refuses.
    """
    intro = (
        f"{results['chains']:,} chains of {results['gamma']} drafts in {results['data']}, temperature "
        f"{results['temperature']:g}. An interval takes a document as one observation."
    )
    write_page(
        path,
        f"Acceptance: {results['name']}",
        [("Acceptance", _score(results))],
        intro=intro,
        footer="Made by noria mtp eval.",
    )
    return path


def write_rl_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of a reinforcement-learning run's accept length against its entropy.

    Raises:
        RunError: the disk refuses.
    """
    steps: Rows = results["steps"]
    blocks: list[Figure | str] = [results["verdict"]]
    points = [s for s in steps if s["entropy"] is not None and s["accept_length"] is not None]
    blocks.append(
        Figure.chart(
            "Accept length against entropy",
            _scatter(points, results["regression"]),
            "A point is a step. The line is the least-squares fit over all of them.",
        )
    )
    if results["decomposition"]["identifiable"]:
        parts = {
            "change": "change",
            "entropy_part": "explained by entropy",
            "mismatch": "mismatch of the head",
        }
        blocks.append(
            Figure.chart(
                "What changed the accept length",
                lines(series(steps, parts), y="tokens a round"),
                "ΔL = b (H − H₀) + mismatch (Bebop, Eq. 16).",
            )
        )
    write_page(
        path,
        f"Acceptance over {results['name']}",
        [("Entropy and acceptance", blocks)],
        footer="Made by noria mtp rl-report.",
    )
    return path


# -- figures ----------------------------------------------------------------------------------------------------------


def _score(score: Mapping[str, Any]) -> list[Figure | str]:
    import altair as alt

    values = [
        {
            "rule": rule.replace("_", " "),
            "draft": number,
            "low": rate["low"],
            "mean": rate["mean"],
            "high": rate["high"],
        }
        for rule, found in score["rules"].items()
        for number, rate in enumerate(found["prefix_rates"], start=1)
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("draft:O", title="the first … drafts are all accepted", axis=alt.Axis(labelAngle=0)),
        color=alt.Color("rule:N", title=None),
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("mean:Q", title="prefix rate", scale=alt.Scale(domain=[0, 1])),
        tooltip=["rule:N", "draft:O", "mean:Q", "low:Q", "high:Q"],
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    chart = (bars + line).properties(width="container", height=280)
    table = [
        [
            rule.replace("_", " "),
            *(found["accept_length"][end] for end in ("mean", "low", "high")),
            found["over_positions"]["accept_length"]["mean"],
        ]
        for rule, found in score["rules"].items()
    ]
    gamma = score["gamma"]
    warning = [f"Warning: {score['warning']}."] if score.get("warning") else []
    return [
        *warning,
        Figure.table(
            "Accept length",
            ["rule", "tokens a round", "95 % from", "to", "over positions"],
            table,
            f"1 … {gamma + 1} tokens a round of {gamma} drafts, averaged over the rounds of a decoder, which "
            "stand where less is accepted; over positions, every token of the text counts the same. Mean entropy "
            f"{score['target_entropy']:.3f} nats of the policy, {score['draft_entropy']:.3f} of the head.",
        ),
        Figure.chart("Prefix rates", chart),
    ]


def _training(rows: Rows) -> list[Figure | str]:
    steps = sorted({name for row in rows for name in row if name.startswith("conditional_rate_")})
    groups = (
        ("Loss", {"loss": "loss"}),
        (
            "Conditional rate of each draft, over the positions of the batches",
            {n: f"draft {n.removeprefix('conditional_rate_')}" for n in steps},
        ),
        ("Gradient norm before clipping", {"grad_norm": "gradient"}),
    )
    return [Figure.chart(title, lines(points)) for title, names in groups if (points := series(rows, names))]


def _scatter(points: Rows, line: Mapping[str, Any]) -> Any:
    import altair as alt

    dots = (
        alt.Chart(alt.Data(values=points))
        .mark_circle(size=50)
        .encode(
            x=alt.X("entropy:Q", title="policy entropy, nats", scale=alt.Scale(zero=False)),
            y=alt.Y("accept_length:Q", title="accept length, tokens a round", scale=alt.Scale(zero=False)),
            tooltip=["step:Q", "entropy:Q", "accept_length:Q"],
        )
    )
    slope, start = line["slope"], line["intercept"]
    if slope is None or start is None:
        return dots.properties(width="container", height=300)
    ends = [min(p["entropy"] for p in points), max(p["entropy"] for p in points)]
    values = [{"entropy": h, "accept_length": start + slope * h} for h in ends]
    fit = alt.Chart(alt.Data(values=values)).mark_line().encode(x="entropy:Q", y="accept_length:Q")
    return (dots + fit).properties(width="container", height=300)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
