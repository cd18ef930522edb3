"""`noria skills gate`: a decision about a candidate from scores of both sides, for a pull request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import CheckError, DataError
from noria.core.files import write_atomic
from noria.skills.stages.gates import GateSettings
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption


class GateVerbConfig(GateSettings, JsonOption):
    """Settings of `noria skills gate`."""

    parent: Annotated[Path, Argument()] = Field(description="Scores of the parent, from evaluate --scores.")
    candidate: Annotated[Path, Argument()] = Field(
        description="Scores of the candidate on the same requests."
    )
    metric: Literal["route", "score"] = Field("score", description="Column that decides.")
    round: int = Field(1, ge=1, description="Number of the comparison; later ones have less of alpha.")
    skills: Path | None = Field(
        None, description="Folder of the candidate's skills, to check by the standard, too."
    )
    junit: Path | None = Field(None, description="File for the verdict as JUnit XML.")
    sarif: Path | None = Field(None, description="File for the verdict as SARIF.")


@make_command(GateVerbConfig)
def command(config: GateVerbConfig) -> None:
    """Accept or reject a candidate; exits with 1 where it is rejected or there is too little evidence."""
    receipt, problems = run(config)
    broken = sum(p.severity == "error" for p in problems)
    if config.as_json:
        click.echo(json.dumps(receipt.to_json() | {"problems": [vars(p) for p in problems]}, indent=2))
    else:
        for rule in receipt.rules:
            click.echo(f"{rule.outcome:8}{rule.name}: {rule.found}")
        for problem in problems:
            click.echo(f"{problem.severity:8}{problem}")
        click.echo("accepted" if receipt.accepted and not broken else "rejected")
    if broken or not receipt.accepted:
        raise CheckError("the candidate is rejected", where=str(config.candidate))


def run(config: GateVerbConfig) -> tuple[Any, list[Any]]:
    """Decide, and write the verdicts that are asked for: the receipt, and problems of the skills.

    Raises:
        DataError: the scores cannot be read, or are of other requests.
    """
    import numpy as np

    from noria.core.experiments.gates import PairedScores
    from noria.skills.bank.reading import read_skills
    from noria.skills.stages.gates import decide
    from noria.skills.stages.verdicts import junit, sarif

    sides = [_read(path, config.metric) for path in (config.parent, config.candidate)]
    if sides[0].keys() != sides[1].keys():
        odd = sorted(sides[0].keys() ^ sides[1].keys())
        raise DataError(
            f"{len(odd)} requests are on one side only, such as {odd[0][:40]!r}",
            where=str(config.candidate),
            mend="score both on the same",
        )
    ids = list(sides[0])
    before, after = sides
    scores = PairedScores(
        ids,
        [before[i][0] for i in ids],
        np.array([before[i][2] for i in ids], float),
        np.array([after[i][2] for i in ids], float),
        [before[i][1] for i in ids],
        np.array([before[i][3] for i in ids], bool),
        np.array([after[i][3] for i in ids], bool),
    )
    receipt = decide(scores, config.part(GateSettings), number=config.round)
    problems = (
        [p for v in read_skills(config.skills) for p in v.problems] if config.skills is not None else []
    )
    if config.junit is not None:
        write_atomic(config.junit, junit(receipt, problems))
    if config.sarif is not None:
        write_atomic(config.sarif, sarif(receipt, problems))
    return receipt, problems


def _read(path: Path, metric: str) -> dict[str, tuple[str, str, float, bool]]:
    """Group, slice, score and safety of each request; NaN for a score that is null."""
    from noria.core.records import json_records

    found: dict[str, tuple[str, str, float, bool]] = {}
    for where, row in json_records(path):
        value = row.get(metric)
        if not isinstance(row.get("id"), str) or not isinstance(row.get("group"), str):
            raise DataError("a line needs id and group as text", where=where)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{metric} is no number", where=where)
        if value is not None and not 0 <= value <= 1:
            raise DataError(
                f"{metric} is {value}",
                where=where,
                mend="give shares from 0 to 1, as evaluate --scores writes them",
            )
        if row["id"] in found:
            raise DataError(f"the id {row['id'][:40]!r} is there twice", where=where)
        number = float("nan") if value is None else float(value)
        found[row["id"]] = (
            row["group"],
            str(row.get("slice", "all")),
            number,
            bool(row.get("unsafe", False)),
        )
    return found
