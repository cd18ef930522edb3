"""`noria mtp evaluate`: how many drafts each rule would accept, from text alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import Field, field_validator

from noria.core.files import write_atomic
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.mtp.config import SourceOptions
from noria.mtp.types import MAX_GAMMA, Rule
from noria.mtp.verbs.scores import TextOptions, acceptance_figures, finish_score, interval_text, read_text
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

RULES: tuple[Rule, ...] = get_args(Rule)


class EvaluateConfig(TextOptions, SourceOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria mtp evaluate`."""

    gamma: int = Field(3, ge=1, le=MAX_GAMMA, description="Drafts of a round.")
    rules: list[Rule] = Field(list(RULES), description="Rules of verification, apart by commas.")
    batch_size: int = Field(8, ge=1, description="Rows scored together.")

    @field_validator("rules", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Names apart by commas, with dashes or without; none is all."""
        if not isinstance(value, list):
            return value
        words = [word.strip().replace("-", "_") for text in value for word in str(text).split(",")]
        for word in filter(None, words):
            if word not in RULES:
                raise ValueError(f"no rule {word!r}: choose from {', '.join(RULES)}")
        return list(dict.fromkeys(filter(None, words))) or list(RULES)


@make_command(EvaluateConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: EvaluateConfig) -> None:
    """Score a head from text alone: how many drafts each rule would accept.

    The text must be the policy's own, drawn with the same temperature and filters.
    """
    results, page = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(results, indent=1))
        return
    places = [f"A{n}" for n in range(1, config.gamma + 1)]
    lines = [["rule", "accept length", "95 %", *places, "over positions"]]
    for rule, score in results["rules"].items():
        length, alike = score["accept_length"], score["over_positions"]["accept_length"]
        rates = [f"{rate['mean']:.3f}" for rate in score["prefix_rates"]]
        cells = [f"{length['mean']:.3f}", interval_text(length), *rates, f"{alike['mean']:.3f}"]
        lines.append([rule.replace("_", "-"), *cells])
    click.echo(table(lines))
    click.echo(
        "\naccept length: tokens a round of a decoder; An: rounds whose first n drafts are all accepted;\n"
        "over positions: the accept length if every token of the text counted the same"
    )
    click.echo(
        f"{results['chains']:,} chains; entropy {results['target_entropy']:.3f} nats of the policy, "
        f"{results['draft_entropy']:.3f} of the head"
    )
    click.echo(f"report  {page}\ndata    {page.with_suffix('.json')}")


def run(config: EvaluateConfig, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Score a head and write `evaluation.html`, with `evaluation.json` beside it.

    Returns:
        The results as they are in `evaluation.json`, and the page.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.mtp.heads.loading import open_policy
    from noria.mtp.training.evaluate import evaluate_head

    source = open_policy(config)
    source.check_gamma(config.gamma)
    assert source.head is not None
    label = f"evaluation-{Path(source.name).stem or 'model'}"
    folder = results_folder("mtp", config.output, label)
    params = source.sampling_params(config)
    with progress:
        samples = read_text(config.data, source.policy, config.length, progress)
        task = progress.task("score", len(samples.rows))
        score = evaluate_head(
            source.policy.model,
            source.head,
            samples.rows,
            gamma=config.gamma,
            rules=config.rules,
            params=params,
            vocab=source.policy.vocab,
            batch_size=config.batch_size,
            on_rows=task.at,
        )
        finish_score(task, score)
    results = json_values(
        score.to_json()
        | {
            "name": source.name,
            "step": source.step,
            "data": str(config.data),
            "documents": samples.documents,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "evaluation.json", json.dumps(results, indent=1) + "\n")
    return results, write_score_page(folder / "evaluation.html", results)


def write_score_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of one score.

    Raises:
        RunError: the disk refuses.
    """
    write_page(
        path,
        f"Acceptance: {results['name']}",
        [("Acceptance", acceptance_figures(results))],
        intro=f"{results['chains']:,} chains of {results['gamma']} drafts in {results['data']}, temperature "
        f"{results['temperature']:g}. An interval takes a document as one observation.",
        footer="Made by noria mtp evaluate.",
    )
    return path
