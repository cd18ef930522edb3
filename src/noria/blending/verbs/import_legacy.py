"""The verb `import`: plans that keep the shares of another system's boosts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from noria.blending.logs.replay import absent_columns, read_candidates, replay
from noria.blending.migration.legacy import Legacy, read_legacy
from noria.blending.migration.migrate import migrate
from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs.results import Done, ends, finish, results_folder
from noria.core.errors import DataError
from noria.core.statistics.intervals import paired_difference

__all__ = ["import_legacy"]


# -- import -----------------------------------------------------------------------------------------------------------


def import_legacy(
    source: Path, snapshot: Path, candidates: Path, output: str | None, *, size: int, most: int | None = None
) -> Done:
    """Plans that keep the shares of another system's boosts, without what those have in common.

    Args:
        source: a table of multipliers (.yaml) or a function_score query (.json).
        snapshot: whose alignment gives scores their unit.
        candidates: a log of whole requests, with the columns that the boosts are targeted on.
        output: folder; `runs/blending/import` by default.
        size: K.
        most: rows of candidates to read.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = results_folder(output, "import")
    legacy: Legacy = read_legacy(source)
    served = Snapshot.load(snapshot)
    empty = Snapshot.of(served.alignment, legacy.plans())
    log = read_candidates(candidates, most=most)
    absent = absent_columns(log, empty)
    if absent:
        raise DataError(f"there is no column {absent[0]!r}, which a boost is for", where=str(candidates))
    found = replay(log, empty, size)
    x, y = log.score[found.rows], found.requests.value
    z = legacy.boosted(log.score, log.columns)[found.rows]
    if (x <= 0).any():
        raise DataError("a score that is not above 0 has no multiple", where=str(candidates))
    scale = y / x
    source_codes = log.source.codes[found.rows].astype(np.int64)
    kept = np.isfinite(z)
    means = [
        np.bincount(source_codes[kept], weights=one[kept], minlength=len(log.source.names)) for one in (x, z)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        after = scale * (means[0] / means[1])[source_codes] * z  # the old system aligns after boosting
    done = migrate(
        found.requests,
        np.where(kept, after, -np.inf),
        np.where(kept, scale * z - y, 0.0),
        len(found.plans),
        size,
        sources=source_codes,
    )
    biases = done.solved.tables.bias
    plans = Plans(
        plans=tuple(
            plan.model_copy(update={"bias": float(f"{bias:.6g}")})
            for plan, bias in zip(empty.plans.plans, biases.tolist(), strict=True)
        )
    )
    gap = paired_difference(done.requests[1], done.requests[0])
    places = max(1, int(np.minimum(np.diff(found.requests.start), size).sum()))
    results = {
        "requests": len(log),
        "exposures": places,
        "size": size,
        "removed": done.removed,
        "gap": done.gap,
        "value": [done.value[0] / places, done.value[1] / places],
        "gain": ends(gap),
        "sources": [
            {"source": name, "before": float(done.boosted[0][n]), "after": float(done.boosted[1][n])}
            for n, name in enumerate(log.source.names)
            if n < len(done.boosted[0])
        ],
        "plans": [
            {
                "plan": plan.id,
                "when": plan.when,
                "bias": plan.bias,
                "before": int(done.exposures[0][bit]),
                "after": int(done.exposures[1][bit]),
            }
            for bit, plan in enumerate(plans.plans)
        ],
    }
    text = yaml.safe_dump(
        plans.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
    return finish(
        folder,
        "import",
        results,
        plans__yaml=text,
        snapshot__json=served.next(created=served.created, plans=plans, settings={}),
    )
