"""Shared by the verbs that score a head: text is read, and acceptance is drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from noria.core.config import Option
from noria.core.pages.charts import Figure
from noria.core.progress import Progress, Task
from noria.mtp.config import SamplingOptions

if TYPE_CHECKING:
    from noria.core.models.loading import LanguageModel
    from noria.mtp.data import Samples
    from noria.mtp.training.evaluate import HeadScore


class TextOptions(SamplingOptions):
    """Text that a head is scored on, and how it was drawn."""

    data: Annotated[Path, Option(metavar="FILE")] = Field(
        description="Text that the policy wrote with these settings: .jsonl or .parquet."
    )
    length: int = Field(1024, ge=4, description="Tokens of a packed row.")


def read_text(path: Path, policy: LanguageModel, length: int, progress: Progress) -> Samples:
    """Read and pack text, and show how much of it there is."""
    from noria.mtp.data import read_samples

    began = time.perf_counter()
    task = progress.task("read")
    samples = read_samples(path, policy.tokenizer, length=length, vocab=policy.vocab, on_document=task.at)
    task.done()
    notes = [f"{samples.documents:,} documents in {len(samples.rows):,} rows of {length}"]
    if samples.cut:
        notes.append(f"{samples.cut:,} cut at {length} tokens")
    if samples.short:
        notes.append(f"{samples.short:,} without anything to train on left out")
    progress.say(f"{', '.join(notes)} ({time.perf_counter() - began:.1f} s)")
    return samples


def finish_score(task: Task, score: HeadScore) -> None:
    """Close the task of a score, and show why the text cannot be the policy's own, if it cannot."""
    task.done()
    if (warning := score.warning) is not None:
        task.progress.say(f"warning: {warning}")


def interval_text(values: Mapping[str, float | None], *, digits: int = 3) -> str:
    """Ends of an interval as a cell of a table; a dash where one is not known."""
    low, high = values["low"], values["high"]
    return "-" if low is None or high is None else f"{low:.{digits}f} … {high:.{digits}f}"


def acceptance_figures(
    score: Mapping[str, Any], *, before: Mapping[str, Any] | None = None
) -> list[Figure | str]:
    """Draw accept lengths and prefix rates by rule, from the JSON values of a score.

    Args:
        score: values of the score.
        before: those of the head before it was trained, to show beside.
    """
    table = []
    for rule, values in score["rules"].items():
        started = (before or {}).get("rules", {}).get(rule)
        lengths = [values["accept_length"][end] for end in ("mean", "low", "high")]
        first = [started["accept_length"]["mean"]] if started else []
        row = [rule.replace("_", " "), *first, *lengths, values["over_positions"]["accept_length"]["mean"]]
        table.append(row)
    gamma = score["gamma"]
    warning = [f"Warning: {score['warning']}."] if score.get("warning") else []
    return [
        *warning,
        Figure.table(
            "Accept length",
            [
                "rule",
                *(["before training"] if before else []),
                "tokens a round",
                "95 % from",
                "to",
                "over positions",
            ],
            table,
            f"1 … {gamma + 1} tokens a round of {gamma} drafts, averaged over the rounds of a decoder, which "
            "stand where less is accepted; over positions, every token of the text counts the same. Mean entropy "
            f"{score['target_entropy']:.3f} nats of the policy, {score['draft_entropy']:.3f} of the head.",
        ),
        Figure.chart(
            "Prefix rates",
            _prefix_rates(score, before),
            "Dashed: the head before training." if before else "",
        ),
    ]


def _prefix_rates(score: Mapping[str, Any], before: Mapping[str, Any] | None) -> Any:
    import altair as alt

    points = [
        {
            "rule": rule.replace("_", " "),
            "head": head,
            "draft": number,
            "low": rate["low"],
            "mean": rate["mean"],
            "high": rate["high"],
        }
        for head, scored in (("before training", before or {}), ("the head", score))
        for rule, values in scored.get("rules", {}).items()
        for number, rate in enumerate(values["prefix_rates"], start=1)
    ]
    dash = alt.Scale(domain=["the head", "before training"], range=[[1, 0], [5, 4]])
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("draft:O", title="the first … drafts are all accepted", axis=alt.Axis(labelAngle=0)),
        color=alt.Color("rule:N", title=None),
        strokeDash=alt.StrokeDash("head:N", title=None, scale=dash, legend=None),
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("mean:Q", title="prefix rate", scale=alt.Scale(domain=[0, 1])),
        tooltip=["rule:N", "head:N", "draft:O", "mean:Q", "low:Q", "high:Q"],
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    return (bars + line).properties(width="container", height=280)
