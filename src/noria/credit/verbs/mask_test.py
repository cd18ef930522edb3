"""`noria credit mask-test`: whether the answer depends on the tokens that a score calls important."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import Field, model_validator

from noria.core.errors import DataError
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.credit.config import CreditConfig, MaskSettings
from noria.credit.verbs.options import QuestionOptions, load_policy, results_of, show_files, write_results
from noria.verbs.command import command as make_command
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.core.statistics.intervals import Interval
    from noria.credit.inspection.masking import MaskTest

MASKED = {"hide": "hidden from attention", "replace": "replaced by padding", "delete": "deleted"}
"""The words for each operator of a mask test."""
KINDS = {"changed": "answer changes", "flipped": "correctness flips"}
"""The words for each rate of a mask test."""


class MaskTestConfig(MaskSettings, QuestionOptions):
    """Settings of `noria credit mask-test`; `credit_settings` apply to each of the named credits."""

    names: list[str] = Field(
        ["flow", "attention", "random"], description="Credits whose scores are tested; random always is."
    )
    own: bool = Field(False, description="Test the responses in the data instead of the model's own.")

    @property
    def credits(self) -> dict[str, CreditConfig]:
        """The credits that are tested, by name, without `random`, the baseline of every test.

        Raises:
            ConfigError: a name or a setting is unknown.
        """
        return self.named(*(name for name in self.names if name != "random"))

    @model_validator(mode="after")
    def _known(self) -> MaskTestConfig:
        if "ktae" in {credit.signal for credit in self.credits.values()}:
            raise ValueError(
                "ktae compares the rollouts of a group, and here is one a question: leave it out"
            )
        return self


@make_command(MaskTestConfig, extra="credit", needs=("torch", "transformers"))
def command(config: MaskTestConfig) -> None:
    """Mask the top and the bottom share of reasoning by each score, and count the answers that change.

    This is the paper's causal test, on any model and data, against as many tokens at random.
    """
    results, page = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(results, indent=1))
        return
    lines = [["score", "masked", "answer changes", "95 %", "correctness flips", "95 %"]]
    for row in results["rows"]:
        cells = [part for kind in KINDS for part in _percent(row[kind])]
        lines.append([row["name"], row["end"], *cells])
    click.echo(table(lines, names=2))
    left_out = "".join(f", {n} left out ({reason})" for reason, n in results["left_out"].items())
    click.echo(
        f"\n{results['questions']} questions, {results['right']:.0%} right with nothing masked, "
        f"{results['tokens']:.0f} reasoning tokens each{left_out}"
    )
    if not results["right"]:
        click.echo("no answer was right before: a flip can only be for the better, and means little here")
    show_files(page)


def run(config: MaskTestConfig, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Test scores by masking and write `mask-test.html`, with `mask-test.json` beside it.

    Returns:
        The results in `mask-test.json`, and the page.

    Raises:
        NoriaError: a user can mend the input; nothing was written then.
    """
    from noria.credit.inspection.masking import answered_responses, mask_test
    from noria.credit.responses.answers import finder
    from noria.credit.tasks.answering import prompts_and_responses
    from noria.credit.tasks.files import read_questions

    find, credits = finder(config.answer), config.credits
    folder = results_of(config, "mask-test")
    questions = read_questions(config.data, number=config.number, seed=config.seed)
    if config.own and not all(question.given for question in questions):
        raise DataError(
            "a record has no response", where=config.data, mend="leave --own out, or give a response in each"
        )
    policy = load_policy(config, credits.values())
    with progress:
        prompts, responses = prompts_and_responses(
            policy, questions, max_new_tokens=config.max_new_tokens, own=config.own, progress=progress
        )
        rows, left_out = answered_responses(questions, prompts, responses, policy.tokenizer, find)
        if not rows:
            reasons = ", ".join(f"{reason} in {n}" for reason, n in left_out.items())
            raise DataError(
                f"none of {len(questions)} responses can be tested: {reasons}",
                where=config.data,
                mend="give an --answer that finds it, or more --max-new-tokens",
            )
        task = progress.task("mask", len(rows) * (2 + len(credits) * len(config.ends)))
        settings = config.part(MaskSettings)
        result = mask_test(policy.model, policy.tokenizer, rows, credits, settings, on_batch=task.at)
        task.done()
    record = mask_record(result)
    record["left_out"] = left_out | record["left_out"]
    results = json_values({"model": config.model, "data": config.data, **record})
    write_results(folder / "mask-test.json", results)
    return results, write_mask_page(folder / "mask-test.html", results)


def mask_record(result: MaskTest) -> dict[str, Any]:
    """The results of a mask test as JSON values, with bootstrap intervals drawn from its seed."""
    import numpy as np

    generator = np.random.default_rng(result.config.seed)
    return {
        "questions": result.questions,
        "left_out": dict(result.left_out),
        "fraction": result.config.fraction,
        "operator": result.config.operator,
        "right": result.right,
        "tokens": result.tokens,
        "rows": [
            {
                "name": row.name,
                "end": row.end,
                "changed": _interval(row.rate("changed", generator)),
                "flipped": _interval(row.rate("flipped", generator)),
            }
            for row in result.rows
        ],
        "against_random": {
            row.name: _interval(result.against_random(row.name))
            for row in result.rows
            if row.end == "top" and row.name != "random"
        },
    }


def _interval(value: Interval) -> dict[str, float | int]:
    return {"mean": value.effect, "low": value.low, "high": value.high, "n": value.n}


def _percent(rate: Mapping[str, Any]) -> list[str]:
    return [f"{rate['mean']:.1%}", "" if rate["low"] is None else f"{rate['low']:.1%}-{rate['high']:.1%}"]


# -- the page ---------------------------------------------------------------------------------------------------------


def write_mask_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of a mask test from its results.

    Raises:
        RunError: the file cannot be written.
    """
    intro = (
        f"{results['questions']:,} responses of {results['model']} to {results['data']}, with "
        f"{results['tokens']:.0f} reasoning tokens on average. {results['fraction']:.0%} of these tokens are "
        f"{MASKED[results['operator']]}, and the model writes the answer again. With nothing masked "
        f"{results['right']:.0%} are right."
    )
    if results["left_out"]:
        reasons = ", ".join(f"{n} ({reason})" for reason, n in results["left_out"].items())
        intro += f" Left out: {reasons}."
    rates = [
        [row["name"], _end(row), *_cells(row["changed"]), *_cells(row["flipped"])] for row in results["rows"]
    ]
    blocks: list[Figure | str] = [
        Figure.chart("What masking does", _chart(results)),
        Figure.table(
            "Rates",
            ["score", "masked", KINDS["changed"], "from", "to", KINDS["flipped"], "from", "to"],
            rates,
            "Shares of questions, with bootstrap intervals of 95 % over questions.",
        ),
    ]
    if results["against_random"]:
        blocks.append(
            Figure.table(
                "Top of each score against random",
                ["score", "more answers changed", "from", "to"],
                [[name, *_cells(rate)] for name, rate in results["against_random"].items()],
                "Difference in the share of questions, paired by question, with Student's t interval of 95 %.",
            )
        )
    footer = "Made by noria credit mask-test."
    write_page(path, "Mask test of token scores", [("Masking", blocks)], intro=intro, footer=footer)
    return path


def _chart(results: Mapping[str, Any]) -> Any:
    """A dot and its interval for each rate."""
    import altair as alt

    values = [
        {
            "score": "random" if row["name"] == "random" else f"{row['name']}, {row['end']}",
            "kind": words,
            **row[kind],
        }
        for row in results["rows"]
        for kind, words in KINDS.items()
    ]
    names = list(dict.fromkeys(value["score"] for value in values))
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("score:N", sort=names, title=None),
        yOffset=alt.YOffset("kind:N"),
        color=alt.Color("kind:N", title=None),
    )
    axis = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    scale = alt.Scale(
        domain=[-0.01, 1.01], nice=False
    )  # wider than the shares, so that dots at both ends are whole
    x = alt.X("mean:Q", title="share of questions", axis=axis, scale=scale)
    dots = base.mark_point(filled=True, size=60).encode(x=x)
    bars = base.mark_rule().encode(x="low:Q", x2="high:Q")
    return (bars + dots).properties(width="container", height=34 * len(names))


def _end(row: Mapping[str, Any]) -> str:
    return "any" if row["name"] == "random" else str(row["end"])


def _cells(rate: Mapping[str, Any]) -> list[Any]:
    return [rate["mean"], rate["low"], rate["high"]]
