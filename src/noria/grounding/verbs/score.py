"""`noria grounding score`: every figure of a model, with its interval."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.files import output_path, write_atomic
from noria.core.records import json_values
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.rates import Theta
from noria.grounding.verbs.options import OutputPath, SourceOptions
from noria.grounding.verbs.tables import figures_text, share
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption

if TYPE_CHECKING:
    from noria.grounding.results.sources import Source


class ScoreConfig(ScoreSettings, SourceOptions, OutputOption, JsonOption):
    """Settings of `noria grounding score`."""

    source: Annotated[Path, Argument()] = Field(description="Run folder, or file of predictions.")
    compat: Literal["official"] | None = Field(
        None, description="Whose definitions to score by: the released scorer's."
    )
    subset: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="File of the questions to keep: clean.json of the audit."
    )
    output: OutputPath = Field(
        None, description="File of the scores (default: scores.json in the run folder)."
    )


@make_command(ScoreConfig, extra="grounding")
def command(config: ScoreConfig) -> None:
    """Print every figure with its interval, and write scores.json."""
    if config.compat:
        from noria.grounding.results.sources import open_source

        source = open_source(config.source, data=config.data, judge=config.judge)
        click.echo(json.dumps(official(source, config.thresholds), indent=2))
        return
    result, path = run(config)
    if config.as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(figures_text([result]))
    guess, gaps = result["references"], result["counts"]
    click.echo(
        f"\nreferences: one level for all T1 {share(guess['T1_constant'])}, best letter T3 "
        f"{share(guess['T3_letter'])}, a guesser's PR {share(guess['PR_guess'])}"
    )
    click.echo(
        f"missing: {gaps['levels_missing']} of {gaps['levels']} levels, {gaps['answers_missing']} of "
        f"{gaps['questions']} answers, {gaps['rationales_missing']} rationales, "
        f"{gaps['judgements_missing']} judgements"
    )
    if states := _unanswered(result.get("samples")):
        click.echo(f"samples: {states}; what was not answered counts as wrong")
    if path:
        click.echo(f"scores  {path}")


def _unanswered(samples: Mapping[str, Any] | None) -> str:
    """How many samples are in each state; empty where all of them are answered."""
    if samples is None or not (set(samples["states"]) - {"ok"} or samples["never_asked"]):
        return ""
    states = [*sorted(samples["states"].items()), ("never asked", samples["never_asked"])]
    return ", ".join(f"{n:,} {state}" for state, n in states if n)


def run(config: ScoreConfig) -> tuple[dict[str, Any], Path | None]:
    """Score a model's answers; the figures, and the file that they were written to, if any.

    Raises:
        DataError: the subset's file is none.
    """
    from noria.grounding.results.scores import score_source
    from noria.grounding.results.sources import open_source

    source = open_source(config.source, data=config.data, judge=config.judge)
    path = config.source / "scores.json" if config.source.is_dir() else None
    path = output_path(config.output) if config.output else path
    result = score_source(source, config.part(ScoreSettings), subset=config.subset)
    if path is not None:
        write_atomic(path, json.dumps(json_values(result), indent=1, ensure_ascii=False) + "\n")
    return result, path


def official(source: Source, theta: Theta) -> dict[str, Any]:
    """The released scorer's summary.

    Raises:
        DataError: an answer that would end it.
    """
    from noria.grounding.corpus.files import load_keys
    from noria.grounding.scoring.official import read_lines, read_truth, score_official
    from noria.grounding.scoring.predictions import save_predictions

    home = load_keys(source.data).folder
    assert home is not None
    thresholds = float(theta.rating), float(theta.reasoning), float(theta.grounding)
    with tempfile.TemporaryDirectory() as folder:
        path = source.path
        if not path.is_file():
            path = Path(folder) / "predictions.jsonl"
            save_predictions(path, source.sets[0].values())
        return score_official(read_truth(home), read_lines(path), thresholds=thresholds)
