"""`noria credit mask-test`: does the answer hang on the tokens that a score calls important?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field, model_validator

from noria.core.config import Argument, Option
from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.core.models.config import ModelOptions
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.credit.config import CreditConfig, CreditSettings
from noria.credit.types import Operator
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.core.statistics.intervals import Interval
    from noria.credit.inspection.masking import MaskTest

__all__ = ["MaskTestConfig", "command", "mask_record", "run", "write_mask_page"]

MASKED = {"hide": "hidden from attention", "replace": "replaced by padding", "delete": "deleted"}
"""What each operator of a mask test does."""


class MaskTestConfig(CreditSettings, ModelOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria credit mask-test`; `credit_settings` go over each of the named credits."""

    model: Annotated[str, Argument()] = Field(description='Model folder, hub id, .gguf file, or "small".')
    data: Annotated[str, Option(metavar="SOURCE")] = Field(
        description="Questions: .jsonl or .parquet, chains, or gym:FAMILY of reasoning-gym."
    )
    names: list[str] = Field(
        ["flow", "attention", "random"], description="Credits whose scores are tested; random always is."
    )
    ends: list[Literal["top", "bottom"]] = Field(
        ["top", "bottom"], min_length=1, description="Ends of each score that are masked."
    )
    fraction: float = Field(0.2, gt=0, lt=1, description="Share of the reasoning tokens to mask.")
    operator: Operator = Field("hide", description="How a token is masked.")
    number: Annotated[int, Option("-n")] = Field(100, ge=1, description="Number of questions.")
    own: bool = Field(False, description="Test the responses in the data, not the model's own.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens of a response that is written here.")
    batch_size: int = Field(32, ge=1, description="Answers written together.")

    @property
    def credits(self) -> dict[str, CreditConfig]:
        """The credits that are tested, by name; `random` is a baseline of the test and not among them.

        Raises:
            ConfigError: a name or a setting is unknown.
        """
        return {name: self.named(name) for name in self.names if name != "random"}

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

    The paper's causal test, on any model and data, against as many tokens at random.
    """
    results, page = run(config, Progress(quiet=config.quiet))
    if config.as_json:
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


def run(config: MaskTestConfig, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Test scores by masking and write `mask-test.html`, with `mask-test.json` beside it.

    Returns:
        The results as they are in `mask-test.json`, and the page.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.credit.credit import TokenCredit
    from noria.credit.inspection.masking import mask_test, reasoned
    from noria.credit.loading import open_policy
    from noria.credit.responses.answers import finder
    from noria.credit.tasks.answering import prompts_and_responses
    from noria.credit.tasks.files import read_questions

    find, credits = finder(config.answer), config.credits
    folder = results_folder(config.output, f"mask-test-{Path(config.model).stem or 'model'}", system="credit")
    questions = read_questions(config.data, number=config.number, seed=config.seed)
    if config.own and not all(question.given for question in questions):
        raise DataError(
            "a record has no response", where=config.data, mend="leave --own out, or give a response in each"
        )
    policy = open_policy(config.model, config)
    for credit in credits.values():
        TokenCredit(credit).check(policy.model)
    with progress:
        prompts, responses = prompts_and_responses(
            policy, questions, max_new_tokens=config.max_new_tokens, own=config.own, progress=progress
        )
        rows, left_out = reasoned(questions, prompts, responses, policy.tokenizer, find)
        if not rows:
            reasons = ", ".join(f"{reason} in {n}" for reason, n in left_out.items())
            raise DataError(
                f"none of {len(questions)} responses can be tested: {reasons}",
                where=config.data,
                mend="give an --answer that finds it, or more --max-new-tokens",
            )
        task = progress.task("mask", len(rows) * (2 + len(credits) * len(config.ends)))
        result = mask_test(
            policy.model,
            policy.tokenizer,
            rows,
            credits,
            ends=config.ends,
            find=find,
            fraction=config.fraction,
            operator=config.operator,
            left_out=left_out,
            batch_size=config.batch_size,
            seed=config.seed,
            on_batch=lambda written: task.at(written),
        )
        task.done()
    results = json_values({"model": config.model, "data": config.data, **mask_record(result, config.seed)})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "mask-test.json", json.dumps(results, indent=1) + "\n")
    return results, write_mask_page(folder / "mask-test.html", results)


def mask_record(result: MaskTest, seed: int) -> dict[str, Any]:
    """JSON values of a mask test."""
    import numpy as np

    generator = np.random.default_rng(seed)
    return {
        "questions": result.questions,
        "left_out": dict(result.left_out),
        "fraction": result.fraction,
        "operator": result.operator,
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


def _rate(rate: dict[str, Any]) -> list[str]:
    return [f"{rate['mean']:.1%}", "" if rate["low"] is None else f"{rate['low']:.1%}-{rate['high']:.1%}"]


# -- the page ---------------------------------------------------------------------------------------------------------


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
            [name, rate["mean"], rate["low"], rate["high"]]
            for name, rate in results["against_random"].items()
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
