"""`noria blending import-legacy`: plans that keep the shares of another system's boosts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import numpy as np
from pydantic import Field

from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs import figures, output
from noria.blending.verbs.options import CandidateOptions
from noria.core.config import Argument, Option
from noria.core.errors import DataError
from noria.core.yaml_values import yaml_text
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import table


class ImportConfig(CandidateOptions, OutputOption, JsonOption):
    """Settings of `noria blending import-legacy`."""

    source: Annotated[Path, Argument()] = Field(
        description="Multipliers (.yaml) or function_score query (.json)."
    )
    snapshot: Annotated[Path, Option(metavar="FILE")] = Field(
        description="Snapshot whose alignment gives scores their unit."
    )


@make_command(ImportConfig, extra="blending")
def command(config: ImportConfig) -> None:
    """Write plans that keep the shares of SOURCE, another system's boosts."""
    output.show(run(config), config.as_json, _print)


def _print(result: output.VerbResult) -> None:
    r = result.results
    lines = [["plan", "bias", "exposures before", "after"]]
    lines += [[p["plan"], output.cell(p["bias"]), f"{p['before']:,}", f"{p['after']:,}"] for p in r["plans"]]
    click.echo(table(lines))
    for name, unit in (("value", "of a place"), ("boosts", "of a place, beyond what all have in common")):
        before, after = map(output.cell, r[name])
        click.echo(f"{name:<9} {before} before, {after} after {unit}")
    click.echo(f"plans     {result.folder / 'plans.yaml'}\nsnapshot  {result.folder / 'snapshot.json'}")
    click.echo(f"report    {result.report}")


def run(config: ImportConfig) -> output.VerbResult:
    """Write plans that keep the shares of another system's boosts, without what those have in common.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.blending.logs.comparison import ends
    from noria.blending.logs.replay import absent_columns, replay
    from noria.blending.migration.legacy import read_legacy
    from noria.blending.migration.migrate import aligned_after, migrate
    from noria.core.statistics.intervals import paired_difference

    folder = output.folder_of(config.output, "import-legacy")
    legacy = read_legacy(config.source)
    served = Snapshot.load(config.snapshot)
    empty = Snapshot.of(served.alignment, legacy.plans())
    log = config.read()
    absent = absent_columns(log, empty)
    if absent:
        raise DataError(
            f"there is no column {absent[0]!r}, which a boost is for", where=str(config.candidates)
        )
    replayed = replay(log, empty, config.size)
    requests, rows = replayed.requests, replayed.rows
    score = log.score[rows]
    if (score <= 0).any():
        raise DataError("a score that is not above 0 has no multiple", where=str(config.candidates))
    boosted = legacy.boosted(log.score, log.columns)[rows]
    sources = log.source.codes[rows].astype(np.int64)
    old, lifted = aligned_after(score, boosted, requests.value, sources, names=log.source.names)
    moved = migrate(requests, old, lifted, len(replayed.plans), config.size, sources=sources)
    plans = Plans(
        plans=tuple(
            plan.model_copy(update={"bias": float(f"{bias:.6g}")})
            for plan, bias in zip(empty.plans.plans, moved.solved.tables.bias.tolist(), strict=True)
        )
    )
    places = max(1, int(np.minimum(np.diff(requests.start), config.size).sum()))
    results = {
        "requests": len(log),
        "sampled": log.sampled,
        "exposures": places,
        "size": config.size,
        "boosts": [float(side.sum()) / places for side in moved.boosted],
        "gap": moved.gap,
        "value": [value / places for value in moved.value],
        "gain": ends(paired_difference(moved.requests[1], moved.requests[0])),
        "sources": [
            {"source": name, "before": float(before), "after": float(after)}
            for name, before, after in zip(log.source.names, *moved.boosted, strict=False)
        ],
        "plans": [
            {
                "plan": plan.id,
                "when": plan.when,
                "bias": plan.bias,
                "before": int(before),
                "after": int(after),
            }
            for plan, before, after in zip(plans.plans, *moved.exposures, strict=True)
        ],
    }
    text = yaml_text(plans.model_dump(mode="json", exclude_defaults=True))
    snapshot = served.next(created=served.created, plans=plans, settings={})
    return output.finish(folder, "import-legacy", results, PAGE, plans__yaml=text, snapshot__json=snapshot)


# -- the page ---------------------------------------------------------------------------------------------------------


def sections(r: output.Results) -> output.Sections:
    """Sections of the page, from the results."""
    before, after = (figures.dash(value) for value in r["value"])
    boosts = [figures.dash(amount) for amount in r["boosts"]]
    blocks: output.Blocks = [
        f"{r['requests']:,} requests at unchanged shares (largest difference {figures.dash(r['gap'])}). Value of a "
        f"place {before} before, {after} after; {figures.signed(r['gain'])} completions a request. Boosts of a place "
        f"{boosts[0]} before, beyond what all have in common and what moves nothing, and {boosts[1]} after.",
        figures.table(
            "Plans",
            r["plans"],
            "plan | for: when | bias | exposures before: before | after",
        ),
        figures.table(
            "Boosts by source, completions, beyond what all have in common",
            r["sources"],
            "source | before | after",
        ),
    ]
    return [("Boosts brought over", blocks)]


PAGE = output.Page("Boosts brought over", sections)
