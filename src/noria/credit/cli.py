"""The verbs of `noria credit`. They parse, call a job, and print what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.errors import require
from noria.core.progress import Progress
from noria.credit.config import NAMES
from noria.verbs import DOWNLOAD, JSON, PATH, QUIET, SETTINGS, output, plain_warnings, table

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["group"]

REMOTE = click.option("--trust-remote-code", is_flag=True, help="Let code that comes with the model run.")
SEED = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is made or drawn."
)
PRECISION = click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", help="Of the weights."
)
ANSWER = click.option(
    "--answer",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Finder of answers: auto, boxed, tag, tag:NAME, hash, last-number, regex:PATTERN.",
)


def data(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--data`."""
    told = "Questions: .jsonl or .parquet, chains, or gym:FAMILY of reasoning-gym."
    return click.option("--data", required=True, metavar="SOURCE", help=told)(command)


@click.group(context_settings=SETTINGS)
def group() -> None:
    """Credit for the tokens that carry a question to its answer (FlowTracer).

    MODEL is a model folder, a hub id, a .gguf file, or "small", a model of 740,000 parameters that ships and reasons in
    steps.
    """
    plain_warnings()


@group.command(short_help="Show what flows from question to answer in a response.")
@click.argument("model")
@data
@click.option(
    "--credit", default="flow", show_default=True, metavar="NAME", help="A credit whose signal is flow."
)
@ANSWER
@click.option(
    "--number", "-n", type=click.IntRange(1), default=3, show_default=True, help="Responses traced."
)
@click.option(
    "--share", type=float, default=0.8, show_default=True, help="Of the flow that the backbone carries."
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Of a response written here.",
)
@SEED
@PRECISION
@output("Folder of the page (default trace-MODEL).")
@JSON
@DOWNLOAD
@REMOTE
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def trace(
    model: str,
    data: str,
    credit: str,
    answer: str,
    number: int,
    share: float,
    max_new_tokens: int,
    seed: int,
    precision: str,
    output: str | None,
    as_json: bool,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Trace responses and write a page: tokens shaded by throughput, the backbone as a graph, the hubs.

    A record's own response is traced where it has one; otherwise the model answers. Settings are KEY=VALUE, such as
    layers=15-25 or emission=0.25.
    """
    from noria.credit.settings import resolve_credit

    config = resolve_credit(credit, [f"answer={json.dumps(answer)}", *settings])
    found, page = _jobs().trace_responses(
        model,
        data,
        output,
        config,
        number=number,
        share=share,
        max_new_tokens=max_new_tokens,
        seed=seed,
        precision=precision,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    if as_json:
        click.echo(page.with_suffix(".json").read_text(), nl=False)
        return
    lines = [["response", "tokens", "edges for the share", "of", "path length", "question lost", "hub"]]
    for name, one in found:
        kept = one.backbone
        if one.fallback != "none":
            lines.append(
                [name, str(len(one.tokens)), f"no flow: {one.fallback.replace('_', ' ')}", "", "", "", ""]
            )
            continue
        hub = repr(one.tokens[one.hubs[0][0]].text.strip()) if one.hubs else ""
        lines.append(
            [
                name,
                str(len(one.tokens)),
                str(len(kept.edges)),
                f"{kept.edges_in_all:,}",
                f"{one.path_length:.2f}",
                f"{one.lost:.0%}",
                hub,
            ]
        )
    click.echo(table(lines))
    click.echo(f"\npage  {page}\ndata  {page.with_suffix('.json')}")


@group.command("mask-test", short_help="Does the answer hang on the tokens a score calls important?")
@click.argument("model")
@data
@click.option(
    "--names",
    default="flow,attention,random",
    show_default=True,
    metavar="LIST",
    help="Credits whose scores are tested.",
)
@click.option("--ends", default="top,bottom", show_default=True, metavar="LIST", help="Of each score.")
@ANSWER
@click.option(
    "--fraction", type=float, default=0.2, show_default=True, help="Of the reasoning tokens to mask."
)
@click.option(
    "--operator",
    type=click.Choice(["hide", "replace", "delete"]),
    default="hide",
    show_default=True,
    help="How a token is masked.",
)
@click.option("--number", "-n", type=click.IntRange(1), default=100, show_default=True, help="Questions.")
@click.option("--own", is_flag=True, help="Test the responses in the data, not the model's own.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Of a response written here.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Answers written together."
)
@SEED
@PRECISION
@output("Folder of the results (default mask-test-MODEL).")
@JSON
@DOWNLOAD
@REMOTE
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def mask_test(
    model: str,
    data: str,
    names: str,
    ends: str,
    answer: str,
    fraction: float,
    operator: Any,
    number: int,
    own: bool,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    precision: str,
    output: str | None,
    as_json: bool,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Mask the top and the bottom share of reasoning by each score, and count the answers that change.

    The paper's causal test, on any model and data, against as many tokens at random. Settings are KEY=VALUE of every
    credit, such as layers=all.
    """
    from noria.credit.settings import resolve_credit

    wanted = [name for name in _words(names) if name != "random"]  # which is tested in any case
    for name in wanted:
        resolve_credit(name, settings)
    results, page = _jobs().mask(
        model,
        data,
        output,
        names=wanted,
        ends=_words(ends),
        answer=answer,
        overrides=settings,
        fraction=fraction,
        operator=operator,
        number=number,
        own=own,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    if as_json:
        click.echo(json.dumps(results, indent=1))
        return
    lines = [["score", "masked", "answer changes", "95 %", "correctness flips", "95 %"]]
    for row in results["rows"]:
        cells = [part for kind in ("changed", "flipped") for part in _rate(row[kind])]
        lines.append([row["name"], row["end"], *cells])
    click.echo(table(lines, names=2))
    left = "".join(f", {n} left out ({reason})" for reason, n in results["left_out"].items())
    click.echo(
        f"\n{results['questions']} questions, {results['right']:.0%} right with nothing masked, "
        f"{results['tokens']:.0f} reasoning tokens each{left}"
    )
    if not results["right"]:
        click.echo("none was right before: a flip can only be for the better, and says little here")
    click.echo(f"page  {page}\ndata  {page.with_suffix('.json')}")


@group.command(short_help="Train a policy by GRPO with credit of tokens.")
@click.option("--model", metavar="MODEL", help='Model folder, hub id, .gguf file, "small" or "small-start".')
@click.option("--data", metavar="SOURCE", help="Questions: .jsonl or .parquet, chains, or gym:FAMILY.")
@click.option("--credit", metavar="NAME", help=f"One of {', '.join(NAMES)} (default flow).")
@click.option("--config", type=PATH, metavar="FILE", help="YAML file of settings.")
@output("Run folder (default runs/credit/NAME).")
@DOWNLOAD
@REMOTE
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(
    model: str | None,
    data: str | None,
    credit: str | None,
    config: Path | None,
    output: str | None,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Train a policy; the same command goes on with a run that was stopped.

    Settings are KEY=VALUE, such as lr=1e-6 or credit_settings.gamma=2; they beat the file.
    """
    from noria.credit.settings import resolve_training

    named = [] if credit is None else [f"credit={credit}"]
    resolved, folder = resolve_training(
        model=model, data=data, file=config, output=output, overrides=[*named, *settings]
    )
    done = _jobs().train(
        resolved,
        folder,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    click.echo(f"run     {done.folder}   {done.step:,} steps")
    if done.reward is not None:
        click.echo(f"reward  {done.reward:.3f} in the last tenth of them")
    click.echo(f"model   {done.model or 'in its checkpoints only: weights of its kind cannot be written'}")
    click.echo(f"report  {done.report}")
    click.echo(
        f"next    noria credit train with another --credit or seed=, then noria credit compare {folder} OTHER"
    )


@group.command(short_help="Compare trainings by credit, paired by seed.")
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "--baseline", metavar="CREDIT", help="What the others are compared with (default none, or the first)."
)
@output("Folder of the results (default compare).")
@JSON
def compare(runs: tuple[Path, ...], baseline: str | None, output: str | None, as_json: bool) -> None:
    """Lay trainings side by side: rewards by credit, and what each gained on the baseline with the same seeds."""
    results, page = _jobs().compare(runs, output, baseline=baseline)
    if as_json:
        click.echo(json.dumps(results, indent=1))
        return
    pairs = {pair["credit"]: pair for pair in results["pairs"]}
    lines = [
        [
            "credit",
            "runs",
            "area",
            "last tenth",
            "steps to threshold",
            f"gain on {results['baseline']}",
            "95 %",
        ]
    ]
    for row in results["credits"]:
        pair = pairs.get(row["credit"])
        gain = ["", ""] if pair is None else [f"{pair['gain']:+.3f}", _span(pair)]
        lines.append(
            [
                row["credit"],
                str(row["runs"]),
                f"{row['area']:.3f}",
                f"{row['last']:.3f}",
                f"{row['reached']:.0f}",
                *gain,
            ]
        )
    click.echo(table(lines))
    if results["cut"]:
        longer = ", ".join(map(str, results["cut"]))
        click.echo(f"\nover the first {results['steps']} steps, which all runs have (others have {longer})")
    if results["differences"]:
        click.echo(f"\nalso different: {', '.join(results['differences'])}")
    click.echo(f"\npage  {page}\ndata  {page.with_suffix('.json')}")


# -- small things -----------------------------------------------------------------------------------------------------


def _jobs() -> ModuleType:
    for module in ("torch", "transformers"):
        require(module, "credit")
    return require("noria.credit.jobs", "credit")


def _words(text: str) -> list[str]:
    return [part for part in text.replace(",", " ").split() if part]


def _rate(rate: dict[str, Any]) -> list[str]:
    return [f"{rate['mean']:.1%}", "" if rate["low"] is None else f"{rate['low']:.1%}-{rate['high']:.1%}"]


def _span(pair: dict[str, Any]) -> str:
    return "one seed" if pair["low"] is None else f"{pair['low']:+.3f} to {pair['high']:+.3f}"
