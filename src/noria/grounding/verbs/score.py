"""`noria grounding score`: every figure of a model, with its interval."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import output_path, write_atomic
from noria.core.records import json_values
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.verbs.options import OutputPath, SourceOptions
from noria.grounding.verbs.tables import figures_text, first_order_only, gap_lines, share
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, refuse_given


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
        summary, notes = official(config)
        for note in notes:
            click.echo(f"noria: warning: {note}", err=True)
        click.echo(json.dumps(summary, indent=2))
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
    for line in gap_lines(result):
        click.echo(line)
    if path:
        click.echo(f"scores  {path}")


def run(config: ScoreConfig) -> tuple[dict[str, Any], Path | None]:
    """Score a model's answers; the figures, and the file that they were written to, if any.

    Raises:
        DataError: the subset's file is none.
    """
    from noria.grounding.results.scores import score_source
    from noria.grounding.results.sources import open_source

    source = open_source(config.source, data=config.data, judge=config.judge, tags=config.reasoning_tags)
    path = config.source / "scores.json" if config.source.is_dir() else None
    path = output_path(config.output) if config.output else path
    result = score_source(source, config.part(ScoreSettings), subset=config.subset)
    if path is not None:
        write_atomic(path, json.dumps(json_values(result), indent=1, ensure_ascii=False) + "\n")
    return result, path


def official(config: ScoreConfig) -> tuple[dict[str, Any], list[str]]:
    """The released scorer's summary of a run or a file, and what it passed over.

    Raises:
        ConfigError: a setting that the released scorer does not have.
        DataError: a value that would end it, or no video that is in the annotations.
    """
    from noria.grounding.results.sources import open_source
    from noria.grounding.scoring.official import read_lines, read_truth, score_official
    from noria.grounding.scoring.predictions import save_predictions

    strict = ("bins", "polarity", "draws", "seed", "level", "method", "subset", "output")
    refuse_given(config, *strict, because="the released scorer has no such setting")
    theta = config.thresholds
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        if config.source.is_file():
            refuse_given(
                config, "judge", "reasoning_tags", because="it is for run folders, and this is a file"
            )
            path, data = config.source, config.data
            if data is None:
                mend = "give --data"
                raise ConfigError("a file of predictions needs its annotations", where=str(path), mend=mend)
        else:
            source = open_source(
                config.source, data=config.data, judge=config.judge, tags=config.reasoning_tags
            )
            path, data = Path(folder) / "predictions.jsonl", source.data
            save_predictions(path, source.sets[0].values())
            notes += first_order_only(source)
        skipped: list[int] = []
        lines = read_lines(path, skipped)
        truth = read_truth(data)
    if skipped:
        notes.append(
            f"{config.source}: {len(skipped):,} lines are skipped, the first of them line {skipped[0]}"
        )
    if absent := len(truth.keys() - lines.keys()):
        notes.append(f"{absent:,} of {len(truth):,} videos have no prediction, and leave every figure")
    thresholds = float(theta.rating), float(theta.reasoning), float(theta.grounding)
    return score_official(truth, lines, thresholds=thresholds), notes
