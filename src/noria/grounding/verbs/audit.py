"""`noria grounding audit`: what is wrong with a benchmark's questions and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.grounding.corpus.types import CATEGORIES, LETTERS, TRAITS
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.verbs.tables import figures_text, share, summary
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, SeedOption
from noria.verbs.tables import table


class AuditConfig(SeedOption, OutputOption, JsonOption, QuietOption):
    """Settings of `noria grounding audit`."""

    data: Annotated[Path, Argument()] = Field(description="Folder of the annotations.")
    blind: bool = Field(True, description="Train the blind classifiers.")
    ladder: bool = Field(
        False, description="Score the reference readers: constant, leak, blind, transcript, oracle."
    )


@make_command(AuditConfig, extra="grounding")
def command(config: AuditConfig) -> None:
    """Letters, lengths, leaks, labels, and who answers without seeing; and the subset that is clean."""
    result, page = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(result, indent=2))
        return
    constant, leaks = result["constant"], result["leaks"]
    click.echo(f"always Medium: T1 {share(constant['T1'])}, passes the rating {share(constant['r1'])}")
    click.echo(f"levels told by the questions: {leaks['pairs']}, right {share(leaks['pairs_right'])}")
    click.echo(f"T1 of reading them alone: {share(leaks['T1_of_reading_them'])}")
    click.echo(f"neuroticism looks {result['polarity']['verdict'].replace('_', ' ')}")
    if result["blind"]:
        rows = [["answered without seeing, %", *result["blind"]["accuracy"]["all"]]]
        for name, row in result["blind"]["accuracy"].items():
            rows.append([name, *("-" if v is None else f"{100 * v:.1f}" for v in row.values())])
        click.echo(table(rows))
    if result["ladder"]:
        click.echo(figures_text(result["ladder"]))
    click.echo(f"clean: {clean_words(result)}\naudit  {page}")


def clean_words(result: Mapping[str, Any]) -> str:
    """Number of clean questions, and what they were tested by, in words."""
    clean = result["clean"]
    words = f"{clean['questions']:,} of {result['questions']:,} questions"
    if clean["untested"] is None:
        return f"{words} by their words and lengths alone; no blind classifier was trained"
    if clean["untested"]:
        from noria.grounding.audit.adversary import FEWEST, FOLDS

        least = f"fewer than {FEWEST} questions or {FOLDS} sources"
        return f"{words}; {clean['untested']:,} could not be tested, for their category has {least}"
    return words


def run(config: AuditConfig, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Audit annotations; write `audit.json`, `clean.json` and `audit.html`, and give the findings and the page.

    Raises:
        ConfigError: the ladder without the classifiers that it needs.
        DataError: the annotations cannot be read.
    """
    from noria.grounding.audit.adversary import blind_accuracy
    from noria.grounding.audit.findings import audit, clean_subset
    from noria.grounding.audit.readers import score_ladder
    from noria.grounding.corpus.files import load_corpus

    if config.ladder and not config.blind:
        mend = "leave --no-blind out"
        raise ConfigError("its reader of options is a blind classifier", where="--ladder", mend=mend)
    folder = results_folder("grounding", config.output, f"audit-{config.data.resolve().name}")
    corpus, blind = load_corpus(config.data), None
    if config.blind:
        with progress:
            task = progress.task("blind classifiers", total=len(CATEGORIES))
            blind = blind_accuracy(corpus, seed=config.seed, on_category=lambda c: task.advance(note=c))
            task.done()
    result = audit(corpus, blind=blind)
    result["ladder"] = None
    if config.ladder:
        scores = score_ladder(corpus, blind, ScoreSettings(bins="official"), seed=config.seed)
        result["ladder"] = [{"name": name} | score for name, score in scores.items()]
    write_atomic(folder / "audit.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_atomic(folder / "clean.json", json.dumps(clean_subset(corpus, blind), indent=0) + "\n")
    write_audit_page(folder / "audit.html", result)
    return result, folder / "audit.html"


# -- the page ---------------------------------------------------------------------------------------------------------


def write_audit_page(path: Path, results: Mapping[str, Any]) -> None:
    """Write the page of an audit.

    Raises:
        RunError: the disk refuses.
    """
    leaks, boundaries, polarity, constant = (
        results[key] for key in ("leaks", "boundaries", "polarity", "constant")
    )
    words = [
        ("Always Medium: T1", constant["T1"]),
        ("Always Medium: passes the rating", constant["r1"]),
        ("Stems that name a level", leaks["stems"]),
        ("… and it is right", leaks["stems_right"]),
        ("Levels told by stems or options", leaks["pairs"]),
        ("… and they are right", leaks["pairs_right"]),
        ("T1 of reading them, else Medium", leaks["T1_of_reading_them"]),
        ("Scores on which the two binnings differ", boundaries["binnings_differ"]),
        ("Analyses whose level is not their score's", boundaries["analyses_disagree"]),
        ("Questions with an option over 15 % off the mean length", results["lengths"]["rule_broken_share"]),
        ("Questions that are there twice", results["duplicates"]["questions_repeated"]),
    ]
    sections: list[tuple[str, Sequence[Figure | str]]] = [
        ("Findings", [Figure.table("Findings", ["", "value"], [list(row) for row in words])])
    ]
    if results["problems"]:
        rows = [list(row) for row in results["problems"].items()]
        sections.append(("Faults of records", [Figure.table("Faults", ["kind", "how many"], rows)]))
    letters = [
        [name, *row["counts"], row["p"], row["always_best"]] for name, row in results["letters"].items()
    ]
    header = ["category", *LETTERS, "p (even)", "best letter"]
    sections.append(("Letters", [Figure.table("Right letters", header, letters)]))
    if results["blind"]:
        sections.append(("Who answers without seeing", _blind(results["blind"])))
    if polarity["correlations"]:
        rows = [[t, polarity["correlations"].get(t)] for t in TRAITS if t in polarity["correlations"]]
        rows.append(["smiles in the observations", polarity["smiles"]])
        correlations = Figure.table("Correlation of the neuroticism score", ["with", "r"], rows)
        verdict = (
            f"Verdict: {polarity['verdict'].replace('_', ' ')}. Neuroticism goes against the other four in people and "
            "raters; a score that goes with them, and with smiles, looks like emotional stability."
        )
        sections.append(("Polarity of neuroticism", [correlations, verdict]))
    if results.get("ladder"):
        sections.append(("Readers that see nothing", [summary(results["ladder"])]))
    rules = "they name no level, and their options are within 15 % of their mean length"
    if results["blind"]:
        rules += "; fewer than three of five blind classifiers answer them"
    intro = (
        f"{results['videos']:,} videos. Clean: {clean_words(results)}. A question is clean whose words pass: {rules}. "
        "`clean.json` lists them; score on them with --subset."
    )
    title = "Audit of the questions and labels"
    write_page(path, title, sections, intro=intro, footer="Made by noria grounding audit.")


def _blind(blind: Mapping[str, Any]) -> list[Figure | str]:
    auditors = list(next(iter(blind["accuracy"].values())))
    rows = [
        [name, blind["questions"][name], *(None if v is None else 100 * v for v in row.values())]
        for name, row in blind["accuracy"].items()
    ]
    text = (
        "Accuracy in per cent of classifiers that read questions only, cross-validated with sources kept together; a "
        "guess is 16.7. They learn from the set's own statistics, so they bound artefacts that can be exploited."
    )
    blocks: list[Figure | str] = [
        Figure.table("Blind classifiers", ["category", "questions", *auditors], rows, text)
    ]
    if all(value is None for value in blind["accuracy"]["all"].values()):
        return [*blocks, "There are too few questions to train on."]
    solved = f"{blind['artefact_solvable']:,} questions are answered by at least three of the first five."
    return [*blocks, solved]
