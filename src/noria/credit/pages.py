"""The pages of the verbs: a trace, a mask test, a training, a comparison of trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure, Piece, lines, series
from noria.core.pages.report import write_page, write_run_report
from noria.core.runs.run import read_config, read_metrics
from noria.credit.trace import Trace

__all__ = ["write_compare_page", "write_mask_page", "write_run_page", "write_trace_page"]

Rows = list[dict[str, Any]]
DRAWN = 60
"""Edges of a backbone that are drawn."""
MASKED = {"hide": "hidden from attention", "replace": "replaced by padding", "delete": "deleted"}
"""What each operator of a mask test does."""


# -- a trace ----------------------------------------------------------------------------------------------------------


def write_trace_page(path: Path, traces: Sequence[tuple[str, Trace]], *, intro: str) -> Path:
    """Write the page of traced responses.

    Args:
        path: of the page.
        traces: a heading and a trace each.
        intro: what was traced, and how.

    Raises:
        RunError: the disk refuses.
    """
    sections: list[tuple[str, Sequence[Figure | str]]] = [(name, _trace(found)) for name, found in traces]
    write_page(
        path, "Where the answer comes from", sections, intro=intro, footer="Made by noria credit trace."
    )
    return path


def _trace(trace: Trace) -> list[Figure | str]:
    if trace.fallback != "none":
        reason = trace.fallback.replace("_", " ")
        return [f"There is no flow to show: {reason}. All tokens get the same credit.", _text(trace)]
    kept = trace.backbone
    drawn = kept.edges[:DRAWN]
    told = (
        f"{len(kept.edges):,} of {kept.edges_in_all:,} edges carry {kept.carried:.0%} of the flow"
        + (f"; the strongest {DRAWN} are drawn" if len(kept.edges) > DRAWN else "")
        + ". The wider an arc, the more flows along it. Flow ends where the answer is predicted from, one token before "
        "each of its own; the spine follows the strongest edge back from the one of them that takes in most."
    )
    rows: list[list[str | float | None]] = [
        [place, _shown(trace, place), value, trace.tokens[place].weight] for place, value in trace.hubs
    ]
    facts: list[list[str | float | None]] = [
        ["mass that arrives at the answer", trace.arrived],
        ["share of the question that cannot reach it", trace.lost],
        ["mean tokens on a path", trace.path_length],
        ["layers read", ", ".join(map(str, trace.layers))],
    ]
    return [
        _text(trace),
        Figure.chart("Backbone from question to answer", _graph(trace, drawn), told),
        Figure.table(
            "Hubs",
            ["place", "token", "throughput", "weight"],
            rows,
            "Reasoning tokens that most flow passes, but for those that the answer is predicted from, where it ends; "
            "place counts from the first token of the prompt.",
        ),
        Figure.table("The flow in numbers", ["figure", "value"], facts),
    ]


def _text(trace: Trace) -> Figure:
    """The text, reasoning shaded by throughput."""
    most = trace.hubs[0][1] if trace.hubs else 0.0  # rows that predict the answer take in all there is
    shown = []
    words = (
        "The darker a token of the reasoning, the more flow passes it; underlined ones get more credit. Point at one "
        "for its numbers."
        if trace.fallback == "none"
        else ""
    )
    for place, token in enumerate(trace.tokens):
        shade = min(1.0, token.throughput / most) if most > 0 and token.part == "reasoning" else None
        note = f"{place}: {token.part}"
        if token.part in ("reasoning", "answer") and most > 0:
            note += f", throughput {token.throughput:.4f}, reach {token.reach:.4f}, weight {token.weight:.2f}"
        shown.append(Piece(token.text, shade, note, mark=token.chosen))
    return Figure.shaded(
        "Tokens by throughput",
        shown,
        words,
    )


def _graph(trace: Trace, edges: Sequence[Any]) -> Any:
    """Arcs over the tokens of the drawn edges and the spine, in the order of the text."""
    import altair as alt

    spine = list(zip(trace.backbone.spine, trace.backbone.spine[1:], strict=False))
    places = sorted({p for e in edges for p in (e.source, e.target)} | set(trace.backbone.spine))
    order = {place: n for n, place in enumerate(places)}
    flows = {(e.source, e.target): e.flow for e in edges}
    points: Rows = []
    for number, ((source, target), flow) in enumerate({**dict.fromkeys(spine, 0.0), **flows}.items()):
        left, right = order[source], order[target]
        kind = "spine" if (source, target) in spine else "edge"
        for step in range(17):
            share = step / 16
            points.append(
                {
                    "edge": number,
                    "x": left + (right - left) * (1 - math.cos(math.pi * share)) / 2,
                    "y": math.sqrt(right - left) * math.sin(math.pi * share),
                    "flow": flow,
                    "kind": kind,
                    "between": f"{_shown(trace, source)} → {_shown(trace, target)}",
                }
            )
    nodes = [
        {
            "x": order[place],
            "y": 0,
            "token": _shown(trace, place),
            "place": place,
            "part": trace.tokens[place].part,
            "throughput": trace.tokens[place].throughput,
        }
        for place in places
    ]
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.7, len(places) - 0.3], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(nice=False, padding=6))
    arcs = (
        alt.Chart(alt.Data(values=points))
        .mark_line(opacity=0.75, interpolate="basis")
        .encode(
            x=x,
            y=y,
            detail="edge:N",
            size=alt.Size(
                "flow:Q",
                legend=None,
                scale=alt.Scale(domain=[0, max(flows.values(), default=1.0)], range=[0.4, 7]),
            ),
            color=alt.Color("kind:N", title=None, sort=["edge", "spine"]),
            tooltip=["between:N", "flow:Q"],
        )
    )
    dots = (
        alt.Chart(alt.Data(values=nodes))
        .mark_point(size=60, filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            shape=alt.Shape("part:N", title=None, sort=["question", "reasoning", "answer"]),
            tooltip=["token:N", "place:Q", "part:N", "throughput:Q"],
        )
    )
    names = (
        alt.Chart(alt.Data(values=nodes))
        .mark_text(angle=90, align="left", baseline="middle", dx=9, fontSize=11)
        .encode(x=x, y=y, text="token:N")
    )
    return (arcs + dots + names).properties(width="container", height=300)


def _shown(trace: Trace, place: int) -> str:
    """A token that is seen: blanks and line ends too."""
    text = trace.tokens[place].text.replace("\n", "↵").replace("\t", "⇥")
    return (text.replace(" ", "␣") if not text.strip() else text.strip()) or "·"


# -- a mask test ------------------------------------------------------------------------------------------------------


def write_mask_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of a mask test from its results.

    Raises:
        RunError: the disk refuses.
    """
    import altair as alt

    values = [
        {
            "score": "random" if row["name"] == "random" else f"{row['name']}, {row['end']}",
            "rate": row[kind]["mean"],
            "kind": words,
            **_ends(row[kind]),
        }
        for row in results["rows"]
        for kind, words in (("changed", "answer changes"), ("flipped", "correctness flips"))
    ]
    names = list(dict.fromkeys(v["score"] for v in values))
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("score:N", sort=names, title=None),
        yOffset=alt.YOffset("kind:N"),
        color=alt.Color("kind:N", title=None),
    )
    dots = base.mark_point(filled=True, size=60).encode(
        x=alt.X("rate:Q", title="share of questions", scale=alt.Scale(domain=[0, 1]))
    )
    bars = base.mark_rule().encode(x="low:Q", x2="high:Q")
    table = [
        [row["name"], row["end"], *_cells(row["changed"]), *_cells(row["flipped"])] for row in results["rows"]
    ]
    intro = (
        f"{results['questions']:,} responses of {results['model']} to {results['data']}; {results['fraction']:.0%} of "
        f"their reasoning tokens ({results['tokens']:.0f} on average) are {MASKED[results['operator']]}, and the "
        f"answer is written anew. With nothing masked {results['right']:.0%} are right."
    )
    left = results["left_out"]
    if left:
        intro += " Left out: " + ", ".join(f"{n} ({reason})" for reason, n in left.items()) + "."
    blocks: list[Figure | str] = [
        Figure.chart(
            "What masking does", (bars + dots).properties(width="container", height=34 * len(names))
        ),
        Figure.table(
            "Rates",
            ["score", "masked", "changed", "from", "to", "flipped", "from", "to"],
            table,
            "Bootstrap intervals of 95 % over questions.",
        ),
    ]
    if results["against_random"]:
        rows = [
            [name, found["mean"], found["low"], found["high"]]
            for name, found in results["against_random"].items()
        ]
        blocks.append(
            Figure.table(
                "Top of each score against random",
                ["score", "more answers changed", "from", "to"],
                rows,
                "Paired by question.",
            )
        )
    write_page(
        path,
        "Does the answer hang on it?",
        [("Masking", blocks)],
        intro=intro,
        footer="Made by noria credit mask-test.",
    )
    return path


def _ends(rate: Mapping[str, Any]) -> dict[str, Any]:
    return {"low": rate["low"], "high": rate["high"]}


def _cells(rate: Mapping[str, Any]) -> list[Any]:
    return [rate["mean"], rate["low"], rate["high"]]


# -- a training -------------------------------------------------------------------------------------------------------


def write_run_page(folder: Path, *, stopped: str = "") -> Path:
    """Write `report.html` of a training from its settings and metrics.

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
        f"{config.get('model')} trained on {config.get('data')} with the credit {config.get('credit')}: {done:,} steps "
        f"of {config.get('prompts')} × {config.get('group')} rollouts."
    )
    groups = (
        ("Reward", {"reward": "reward", "answered": "has an answer"}),
        (
            "Credit",
            {"credit/mean_weight": "mean weight", "credit/advantage_on_chosen": "advantage on the chosen"},
        ),
        ("Fallback", {"credit/fallback": "share of rollouts"}),
        ("Flow", {"credit/concentration": "concentration", "credit/lost": "question lost"}),
        ("Length of a response", {"length": "tokens"}),
        ("Entropy", {"entropy": "nats a token"}),
        (
            "Seconds of a step",
            {"rollout_seconds": "rollout", "score_seconds": "scoring", "learn_seconds": "learning"},
        ),
    )
    figures = [
        Figure.chart(title, lines(points)) for title, names in groups if (points := series(rows, names))
    ]
    return write_run_report(
        folder,
        "credit",
        str(config.get("credit")),
        [("While training", figures or ["Nothing was logged yet."])],
        intro=intro,
        stopped=stopped,
    )


def write_compare_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of trainings side by side.

    Raises:
        RunError: the disk refuses.
    """
    told = f"Over the first {results['steps']} steps, which all runs have." if results["cut"] else ""
    figures: list[Figure | str] = [
        Figure.chart("Reward over training", lines(results["curves"], height=320), told)
    ]
    figures.append(
        Figure.table(
            "By credit",
            ["credit", "runs", "area under the curve", "last tenth", "steps to threshold", "seconds a step"],
            [
                [row["credit"], row["runs"], row["area"], row["last"], row["reached"], row["seconds"]]
                for row in results["credits"]
            ],
            f"Means over runs. Threshold: {results['threshold']:.2f}, midway between the lowest start and the highest "
            "end; a run that never reaches it counts with all of its steps.",
        )
    )
    if results["pairs"]:
        figures.append(
            Figure.table(
                f"Against {results['baseline']}, paired by seed",
                ["credit", "seeds", "area gained", "from", "to"],
                [[p["credit"], p["seeds"], p["gain"], p["low"], p["high"]] for p in results["pairs"]],
                "Student's t interval of 95 %.",
            )
        )
    if results["differences"]:
        figures.append(
            "Settings that differ besides credit and seed: " + ", ".join(results["differences"]) + "."
        )
    write_page(
        path,
        "Trainings compared",
        [("Reward", figures)],
        intro=f"{results['runs']} runs of {len(results['credits'])} credits.",
        footer="Made by noria credit compare.",
    )
    return path
