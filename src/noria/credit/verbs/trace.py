"""`noria credit trace`: the flow from question to answer, as a page and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.pages.charts import PALETTE, Figure, Piece
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.credit.config import NAMES, CreditChoice
from noria.credit.verbs.options import QuestionOptions, load_policy, results_of, show_files, write_results
from noria.verbs.command import command as make_command
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.credit.inspection.trace import Trace

__all__ = ["TraceConfig", "command", "run", "write_trace_page"]

DRAWN = 60
"""Most edges of a backbone that are drawn."""


class TraceConfig(CreditChoice, QuestionOptions):
    """Settings of `noria credit trace`."""

    number: Annotated[int, Option("-n")] = Field(3, ge=1, description="Number of responses to trace.")
    share: float = Field(0.8, gt=0, le=1, description="Share of the flow that the backbone carries.")


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
    for name, trace in traces:
        cells = [name, str(len(trace.tokens))]
        if trace.fallback != "none":
            lines.append([*cells, f"no flow: {_reason(trace)}", "", "", "", ""])
            continue
        cells += [str(len(trace.backbone.edges)), f"{trace.backbone.edges_in_all:,}"]
        hub = repr(trace.tokens[trace.hubs[0][0]].text.strip()) if trace.hubs else ""
        lines.append([*cells, f"{trace.path_length:.2f}", f"{trace.lost:.0%}", hub])
    click.echo(f"{table(lines)}\n")
    show_files(page)


def run(config: TraceConfig, progress: Progress) -> tuple[list[tuple[str, Trace]], Path]:
    """Trace responses and write `trace.html`, with `trace.json` beside it.

    Returns:
        Traces by heading, and the page.

    Raises:
        NoriaError: a user can mend the input; nothing was written then.
    """
    from noria.credit.inspection.trace import trace
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
    folder, find = results_of(config, "trace"), finder(credit.answer)
    questions = read_questions(config.data, number=config.number, seed=config.seed)
    policy = load_policy(config, [credit])
    model, tokenizer = policy.model, policy.tokenizer
    traces: list[tuple[str, Trace]] = []
    with progress:
        prompts, responses = prompts_and_responses(
            policy, questions, max_new_tokens=config.max_new_tokens, own=True, progress=progress
        )
        task = progress.task("trace", len(questions))
        for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True), start=1):
            span = token_span(response, tokenizer, find)
            one = trace(model, tokenizer, prompt, response, credit, span, share=config.share)
            traces.append((f"Response {place}", one))
            task.advance()
        task.done()
    record = {
        "model": config.model,
        "data": config.data,
        "settings": credit.model_dump(mode="json"),
        "traces": [one.to_json() for _, one in traces],
    }
    write_results(folder / "trace.json", json_values(record), indent=None)
    layers = ", ".join(map(str, traces[0][1].layers))
    page = write_trace_page(
        folder / "trace.html",
        traces,
        intro=f"Responses to {config.data}, read by {config.model}: the attention of layers {layers}, followed from "
        "the question to the answer.",
    )
    return traces, page


def _reason(trace: Trace) -> str:
    return trace.fallback.replace("_", " ")


# -- the page ---------------------------------------------------------------------------------------------------------


def write_trace_page(path: Path, traces: Sequence[tuple[str, Trace]], *, intro: str) -> Path:
    """Write the page of traced responses.

    Args:
        path: file of the page.
        traces: a heading and a trace for each section.
        intro: first paragraph: what was traced, and how.

    Raises:
        RunError: the file cannot be written.
    """
    sections = [(name, _blocks(trace)) for name, trace in traces]
    write_page(
        path, "Where the answer comes from", sections, intro=intro, footer="Made by noria credit trace."
    )
    return path


def _blocks(trace: Trace) -> list[Figure | str]:
    if trace.fallback != "none":
        return [
            f"There is no flow to show: {_reason(trace)}. All tokens get the same credit.",
            Figure.shaded("Tokens", _pieces(trace)),
        ]
    backbone = trace.backbone
    drawn = f"; the strongest {DRAWN} are drawn" if len(backbone.edges) > DRAWN else ""
    return [
        Figure.shaded(
            "Tokens by throughput",
            _pieces(trace),
            "The darker a token of the reasoning, the more flow passes it; underlined tokens get more credit. Point at "
            "a token for its numbers.",
        ),
        Figure.chart(
            "Backbone from question to answer",
            _graph(trace),
            f"{len(backbone.edges):,} of {backbone.edges_in_all:,} edges carry {backbone.carried:.0%} of the "
            f"flow{drawn}. The wider an arc, the more flows along it. Flow ends one token before each token of the "
            "answer, where that token is predicted; the spine follows the strongest edge back from the end that takes "
            "in most.",
        ),
        Figure.table(
            "Hubs",
            ["place", "token", "throughput", "weight"],
            [[place, _shown(trace, place), value, trace.tokens[place].weight] for place, value in trace.hubs],
            "Reasoning tokens that most flow passes, without those where it ends; place counts from the first token of "
            "the prompt.",
        ),
        Figure.table(
            "The flow in numbers",
            ["figure", "value"],
            [
                ["mass that arrives at the answer", trace.arrived],
                ["share of the question that cannot reach the answer", trace.lost],
                ["mean number of tokens on a path", trace.path_length],
            ],
        ),
    ]


def _pieces(trace: Trace) -> list[Piece]:
    """The text in tokens, those of the reasoning shaded by throughput."""
    most = (
        trace.hubs[0][1] if trace.hubs else 0.0
    )  # not the maximum: rows that predict the answer take in all flow
    pieces = []
    for place, token in enumerate(trace.tokens):
        shade = min(1.0, token.throughput / most) if most > 0 and token.part == "reasoning" else None
        note = f"{place}: {token.part}"
        if token.part in ("reasoning", "answer") and most > 0:
            note += f", throughput {token.throughput:.4f}, reach {token.reach:.4f}, weight {token.weight:.2f}"
        pieces.append(Piece(token.text, shade, note, mark=token.chosen))
    return pieces


def _graph(trace: Trace) -> Any:
    """Arcs over the tokens of the drawn edges and the spine, in the order of the text."""
    import altair as alt

    spine = trace.backbone.spine
    flows = {(edge.source, edge.target): edge.flow for edge in trace.backbone.edges[:DRAWN]}
    arcs = dict.fromkeys(pairwise(spine), 0.0)
    kinds = {**dict.fromkeys(flows, "edge"), **dict.fromkeys(arcs, "spine")}
    arcs |= flows
    places = sorted({place for arc in arcs for place in arc} | set(spine))
    order = {place: n for n, place in enumerate(places)}
    points = [
        {
            "edge": number,
            **_on_arc(order[source], order[target], step / 16),
            "flow": flow,
            "kind": kinds[source, target],
            "between": f"{_shown(trace, source)} → {_shown(trace, target)}",
        }
        for number, ((source, target), flow) in enumerate(arcs.items())
        for step in range(17)
    ]
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
    widths = alt.Scale(domain=[0, max(flows.values(), default=1.0)], range=[0.4, 7])
    lines = (
        alt.Chart(alt.Data(values=points))
        .mark_line(opacity=0.75, interpolate="basis")
        .encode(
            x=x,
            y=y,
            detail="edge:N",
            size=alt.Size("flow:Q", legend=None, scale=widths),
            color=alt.Color("kind:N", title=None, sort=["edge", "spine"]),
            tooltip=["between:N", "flow:Q"],
        )
    )
    tokens = alt.Chart(alt.Data(values=nodes)).encode(x=x, y=y)
    dots = tokens.mark_point(size=80, filled=True, opacity=1, color=PALETTE["light"][4]).encode(
        shape=alt.Shape("part:N", title=None, sort=["question", "reasoning", "answer"]),
        tooltip=["token:N", "place:Q", "part:N", "throughput:Q"],
    )
    if max((len(str(node["token"])) for node in nodes), default=0) <= 4:
        names = tokens.mark_text(baseline="top", dy=9, fontSize=11)
    else:  # longer tokens would overlap
        names = tokens.mark_text(angle=90, align="left", baseline="middle", dx=9, fontSize=11)
    return (lines + dots + names.encode(text="token:N")).properties(width="container", height=300)


def _on_arc(left: int, right: int, share: float) -> dict[str, float]:
    """The point at a share of the way along the arc between two places."""
    return {
        "x": left + (right - left) * (1 - math.cos(math.pi * share)) / 2,
        "y": math.sqrt(right - left) * math.sin(math.pi * share),
    }


def _shown(trace: Trace, place: int) -> str:
    """The text of a token with blanks and line ends made visible."""
    text = trace.tokens[place].text.replace("\n", "↵").replace("\t", "⇥")
    return (text.replace(" ", "␣") if not text.strip() else text.strip()) or "·"
