"""Options of the verbs that score responses to questions, and the work that these verbs share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.files import write_atomic
from noria.core.models.config import ModelOptions
from noria.core.runs.outputs import results_folder
from noria.credit.config import CreditConfig, CreditSettings
from noria.verbs.options import JsonOption, OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.core.models.loading import LanguageModel

__all__ = ["QuestionOptions", "load_policy", "results_of", "show_files", "write_results"]


class QuestionOptions(CreditSettings, ModelOptions, OutputOption, JsonOption, QuietOption):
    """The model, the questions and the output of a verb that scores responses."""

    model: Annotated[str, Argument()] = Field(description='Model folder, hub id, .gguf file, or "small".')
    data: Annotated[str, Option(metavar="SOURCE")] = Field(
        description="Questions: .jsonl or .parquet, chains, or gym:FAMILY of reasoning-gym."
    )
    number: Annotated[int, Option("-n")] = Field(100, ge=1, description="Number of questions.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens of a response that the model writes.")


def results_of(config: QuestionOptions, verb: str) -> Path:
    """The folder of a verb's results.

    Raises:
        ConfigError: it may not be written to.
    """
    return results_folder(config.output, f"{verb}-{Path(config.model).stem or 'model'}", system="credit")


def load_policy(config: QuestionOptions, credits: Iterable[CreditConfig]) -> LanguageModel:
    """Load the model, and refuse one that lacks the layers that the credits read.

    Raises:
        ModelError: there is no such model, or it lacks the layers.
    """
    from noria.credit.credit import TokenCredit
    from noria.credit.loading import open_policy

    policy = open_policy(config.model, config)
    for credit in credits:
        TokenCredit(credit).check(policy.model)
    return policy


def write_results(path: Path, results: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write JSON values to a file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(results, indent=indent, ensure_ascii=False) + "\n")


def show_files(page: Path) -> None:
    """Print the paths of a page and of the data beside it."""
    click.echo(f"page  {page}\ndata  {page.with_suffix('.json')}")
