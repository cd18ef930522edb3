"""`noria credit trace`: what flows from question to answer, as a page and as data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.core.models.config import ModelOptions
from noria.core.pages.charts import Figure, Piece
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.credit.config import NAMES, CreditChoice
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.credit.inspection.trace import Trace

__all__ = ["TraceConfig", "command", "run", "write_trace_page"]

DRAWN = 60
"""Number of a backbone's edges that are drawn."""


class TraceConfig(CreditChoice, ModelOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria credit trace`."""

    model: Annotated[str, Argument()] = Field(description='Model folder, hub id, .gguf file, or "small".')
    data: Annotated[str, Option(metavar="SOURCE")] = Field(
        description="Questions: .jsonl or .parquet, chains, or gym:FAMILY of reasoning-gym."
    )
    number: Annotated[int, Option("-n")] = Field(3, ge=1, description="Number of responses to trace.")
    share: float = Field(0.8, gt=0, le=1, description="Share of the flow that the backbone carries.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens of a response that is written here.")


@make_command(TraceConfig, extra="credit", needs=("torch", "transformers"))
def command(config: TraceConfig) -> None:
    """Trace responses and write a page: tokens shaded by throughput, the backbone as a graph, the hubs.

    A record's own response is traced where it has one; otherwise the model answers.
    """
    traces, page = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(page.with_suffix(".json").read_text(), nl=False)
        return
    lines = [["response", "tokens", "edges for the share", "of", "path length", "question lost", "hub"]]
    for name, one in traces:
        start = [name, str(len(one.tokens))]
        if one.fallback != "none":
            lines.append([*start, f"no flow: {one.fallback.replace('_', ' ')}", "", "", "", ""])
            continue
        edges = [str(len(one.backbone.edges)), f"{one.backbone.edges_in_all:,}"]
        hub = repr(one.tokens[one.hubs[0][0]].text.strip()) if one.hubs else ""
        lines.append([*start, *edges, f"{one.path_length:.2f}", f"{one.lost:.0%}", hub])
    click.echo(table(lines))
    click.echo(f"\npage  {page}\ndata  {page.with_suffix('.json')}")


def run(config: TraceConfig, progress: Progress) -> tuple[list[tuple[str, Trace]], Path]:
    """Trace responses and write `trace.html`, with `trace.json` beside it.

    Returns:
        Traces by heading, and the page.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.credit.credit import TokenCredit
    from noria.credit.inspection.trace import trace
    from noria.credit.loading import open_policy
    from noria.credit.responses.answers import finder, token_span
    from noria.credit.tasks.answering import prompts_and_responses
    from noria.credit.tasks.files import read_questions

    credit = config.credit_config
    if credit.signal != "flow":
        raise ConfigError(
            f"{credit.signal} has no flow to trace",
            where="--credit",
            mend=f"choose from {', '.join(n for n in NAMES if n.startswith('flow'))}",
        )
    folder = results_folder(config.output, f"trace-{Path(config.model).stem or 'model'}", system="credit")
    questions = read_questions(config.data, number=config.number, seed=config.seed)
    policy = open_policy(config.model, config)
    find = finder(credit.answer)
    TokenCredit(credit).check(policy.model)
    traces: list[tuple[str, Trace]] = []
    with progress:
        prompts, responses = prompts_and_responses(
            policy, questions, max_new_tokens=config.max_new_tokens, own=True, progress=progress
        )
        task = progress.task("trace", len(questions))
        for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True), start=1):
            span = token_span(response, policy.tokenizer, find)
            one = trace(policy.model, policy.tokenizer, prompt, response, credit, span, share=config.share)
            traces.append((f"Response {place}", one))
            task.advance()
        task.done()
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"model": config.model, "data": config.data}
    record |= {"settings": credit.model_dump(mode="json"), "traces": [one.to_json() for _, one in traces]}
    write_atomic(folder / "trace.json", json.dumps(json_values(record), ensure_ascii=False) + "\n")
    page = write_trace_page(
        folder / "trace.html",
        traces,
        intro=f"Responses to {config.data}, read by {config.model}: the attention of layers "
        f"{', '.join(map(str, traces[0][1].layers))}, followed from the question to the answer.",
    )
    return traces, page


# -- the page ---------------------------------------------------------------------------------------------------------


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
    points: list[dict[str, Any]] = []
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
