"""`noria blending import-legacy`: plans that keep the shares of another system's boosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
import numpy as np
import yaml
from pydantic import Field

from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs import figures, output
from noria.blending.verbs.options import CandidateOptions, warn_sampled
from noria.core.config import Argument, Option
from noria.core.errors import DataError
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
    result = run(config)
    warn_sampled(result.results["sampled"])
    if config.as_json:
        click.echo(json.dumps(result.results, indent=1))
        return
    r = result.results
    lines = [["plan", "bias", "exposures before", "after"]]
    lines += [[p["plan"], output.cell(p["bias"]), f"{p['before']:,}", f"{p['after']:,}"] for p in r["plans"]]
    click.echo(table(lines))
    removed = "" if r["removed"] is None else f"{100 * r['removed']:.1f} % of the boosts' magnitude is gone; "
    click.echo(
        f"\n{removed}value of a place {output.cell(r['value'][0])} before, {output.cell(r['value'][1])} after"
    )
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
        "removed": moved.removed,
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
    text = yaml.safe_dump(
        plans.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
    snapshot = served.next(created=served.created, plans=plans, settings={})
    return output.finish(folder, "import-legacy", results, PAGE, plans__yaml=text, snapshot__json=snapshot)


# -- the page ---------------------------------------------------------------------------------------------------------


def sections(r: output.Results) -> output.Sections:
    """Sections of the page, from the results."""
    before, after = (figures.dash(value) for value in r["value"])
    blocks: output.Blocks = [
        f"{r['requests']:,} requests: {figures.percent(r['removed'])} of the boosts' magnitude is gone at "
        f"unchanged shares (largest difference {figures.dash(r['gap'])}). Value of a place {before} before, {after} "
        f"after; {figures.signed(r['gain'])} completions a request. Most of what is gone is what all boosts had in "
        "common, which never moved anything.",
        figures.table(
            "Plans",
            r["plans"],
            "plan | for: when | bias | exposures before: before | after",
        ),
        figures.table(
            "Boosts by source, completions",
            r["sources"],
            "source | before | after",
        ),
    ]
    return [("Boosts brought over", blocks)]


PAGE = output.Page("Boosts brought over", sections)
