"""Speed of ranking, isotonic fits, plan accounts and the service, each against what a user would otherwise run.

`SECTIONS` are the functions that measure; each returns rows, so that another part of the system adds its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.blending.proof.bench_memory import memory_rows
from noria.blending.proof.bench_service import service_rows

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark, Row

CANDIDATES, PLANS, PLACES = 500, 10, 50
SCORES = 10_000_000
EXPOSURES = 5_000_000
CALLS = 2000
"""Rankings of a turn."""


def benchmarks(*, rounds: int = 8) -> Benchmark:
    """Every section's figures.

    Args:
        rounds: timed turns of each side.
    """
    from noria.core.proofs.bench import Benchmark

    return Benchmark("blending", [row for section in SECTIONS for row in section(rounds)])


def ranking(rounds: int) -> list[Row]:
    """One request of 500 candidates under ten plans: the best 50 with every plan's contribution.

    The peer is the NumPy that a user would write for one request: the mask matrix made once, contributions as a matrix,
    `argpartition`, and a sort of the best.
    """
    from noria.blending.boosting.scoring import PlanTables, members, ranked
    from noria.blending.compiled import kernels
    from noria.core.proofs.bench import Row, alternate

    rng = np.random.default_rng(0)
    y = rng.random(CANDIDATES)
    mask = np.zeros(CANDIDATES, np.uint64)
    for bit in range(PLANS):
        mask |= (rng.random(CANDIDATES) < 0.2).astype(np.uint64) << np.uint64(bit)
    tables = PlanTables.of((rng.random(PLANS) * 0.2).tolist(), (rng.random(PLANS) * 0.1).tolist())
    weight, bias, hit = tables.weight, tables.bias, members(mask, PLANS)

    def numpy() -> Any:
        s = hit * (y[:, None] * weight + bias)
        r = y + s.sum(axis=1)
        best = np.argpartition(-r, PLACES)[:PLACES]
        best = best[np.argsort(-r[best], kind="stable")]
        return best, r[best], y[best], s[best]

    def numpy_of_masks() -> Any:
        s = members(mask, PLANS) * (y[:, None] * weight + bias)
        r = y + s.sum(axis=1)
        best = np.argpartition(-r, PLACES)[:PLACES]
        best = best[np.argsort(-r[best], kind="stable")]
        return best, r[best], y[best], s[best]

    def ours() -> Any:
        return ranked(y, mask, tables, PLACES)

    assert numpy()[0].tolist() == ours()[0].tolist()
    np.testing.assert_allclose(ours()[4], numpy()[3], atol=1e-12)
    how = "compiled" if kernels() is not None else "NumPy, without numba"
    rows = []
    for name, peer, goal in (
        (f"ranking {CANDIDATES} candidates, {PLANS} plans, top {PLACES} ({how})", numpy, 3.0),
        (f"the same from the plans' bit masks ({how})", numpy_of_masks, 3.0),
    ):
        # Processor time: other processes do not count.
        timing = alternate(_many(ours), _many(peer), rounds=rounds, clock=time.process_time)
        sides = [[1e6 * seconds / CALLS for seconds in side] for side in (timing.ours, timing.theirs)]
        rows.append(Row.of(name, "numpy", "us", *sides, better="lower", goal=goal))
    return rows


def isotonic(rounds: int) -> list[Row]:
    """An isotonic fit on ten million scores: tallying and fitting, against scikit-learn."""
    from noria.blending.alignment.curves import fit_aligner
    from noria.blending.alignment.tallies import Tallies
    from noria.core.errors import require
    from noria.core.proofs.bench import Row, alternate

    peer: Any = require("sklearn.isotonic", "proof")
    rng = np.random.default_rng(1)
    x = rng.beta(2, 5, size=SCORES)
    a = (rng.random(SCORES) < x**0.7).astype(np.float64)
    last: dict[str, Any] = {}

    def ours() -> None:
        tallies = Tallies()
        tallies.add(x, a, source="s")
        last["ours"] = fit_aligner("isotonic", tallies.binned(None, tallies.cells))

    def theirs() -> None:
        last["theirs"] = peer.IsotonicRegression(out_of_bounds="clip").fit(x, a)

    timing = alternate(ours, theirs, rounds=max(2, rounds // 4))
    gap = float(np.abs(last["ours"].transform(x[:1_000_000]) - last["theirs"].predict(x[:1_000_000])).mean())
    name = f"isotonic fit, {SCORES:,} scores (mean difference {gap:.1e})"
    return [Row.of(name, "scikit-learn", "s", timing.ours, timing.theirs, better="lower", goal=40.0)]


def books(rounds: int) -> list[Row]:
    """Spend of ten plans over five million exposures in memory, in all, and by day and source.

    Ours reads value and mask and leaves books from which any plan's account is read, at any price. Polars works on the
    log as a user would hold it, a flag a plan; and on ours, grouped by mask, which is the same idea.
    """
    from noria.blending.accounting.cells import BookKey, Books, accounts, book_sums
    from noria.blending.columns import NameColumn
    from noria.core.errors import require
    from noria.core.proofs.bench import Row, alternate

    polars: Any = require("polars", "proof")
    rng = np.random.default_rng(2)
    sources, names = ("organic", "live", "ads"), [f"p{p}" for p in range(PLANS)]
    weight, bias = rng.random(PLANS) * 0.2, rng.random(PLANS) * 0.1
    day, source = rng.integers(20_000, 20_007, size=EXPOSURES), rng.integers(3, size=EXPOSURES)
    y, mask = rng.random(EXPOSURES), rng.integers(1 << PLANS, size=EXPOSURES, dtype=np.int64)
    zero, missing = (np.broadcast_to(value, EXPOSURES) for value in (0.0, np.nan))
    flags = {name: (mask >> p & 1).astype(np.bool_) for p, name in enumerate(names)}
    by = {"day": day, "source": polars.Series(sources)[source].cast(polars.Categorical)}
    wide = polars.DataFrame({"y": y, **by, **flags})
    narrow = polars.DataFrame({"y": y, "mask": mask, **by})
    one, coded = (
        NameColumn(("",), np.zeros(EXPOSURES, np.int32)),
        NameColumn(sources, source.astype(np.int32)),
    )
    nobody = np.zeros(EXPOSURES, np.bool_)
    priced = {"": list(zip(names, weight.tolist(), bias.tolist(), strict=True))}
    last: dict[str, Any] = {}

    def totals() -> None:
        sums, _ = book_sums(mask, 1 << PLANS, y, y, zero, missing, missing)
        result = Books({BookKey(0, "", "", "", "", False, m): cell for m, cell in enumerate(sums.T.tolist())})
        last["ours"] = [account.spend for account in accounts(result, priced)[0]]

    def flagged(table: Any) -> Any:
        spends = [
            ((polars.col("y") * weight[p] + bias[p]) * polars.col(name)).sum().alias(name)
            for p, name in enumerate(names)
        ]
        return table.agg(spends) if hasattr(table, "agg") else table.select(spends)

    def polars_totals() -> None:
        last["theirs"] = flagged(wide).row(0)

    def polars_by_mask() -> None:
        table = narrow.group_by("mask").agg(polars.len().alias("n"), polars.col("y").sum())
        key, n, total = (table[name].to_numpy() for name in ("mask", "n", "y"))
        last["theirs"] = [((key >> p & 1) * (weight[p] * total + bias[p] * n)).sum() for p in range(PLANS)]

    def daily() -> None:
        result = Books()
        result.add(
            day=day,
            scene=one,
            source=coded,
            version=one,
            snapshot=one,
            control=nobody,
            mask=mask.view(np.uint64),
            value=y,
            total=y,
            guard=zero,
            outcome=missing,
        )
        cells: dict[tuple[int, str], list[Any]] = {}
        for key in result.cells:
            cells.setdefault((key.day, key.source), []).append(key)
        record = {cell: accounts(result, priced, keep=keys)[0] for cell, keys in cells.items()}
        last["ours"] = [account.spend for cell in sorted(record) for account in record[cell]]

    def polars_daily() -> None:
        table = flagged(wide.group_by("day", polars.col("source").cast(polars.String))).sort("day", "source")
        last["theirs"] = table.select(names).to_numpy().ravel()

    rows = []
    for label, ours, theirs, goal in (
        ("in all; polars on a flag a plan", totals, polars_totals, 8.0),
        ("in all; polars grouping by mask", totals, polars_by_mask, 1.0),
        ("by day and source; polars on a flag a plan", daily, polars_daily, 1.0),
    ):
        timing = alternate(ours, theirs, rounds=max(2, rounds // 2))
        np.testing.assert_allclose(last["ours"], last["theirs"], rtol=1e-9)
        rates = [[EXPOSURES / 1e6 / seconds for seconds in side] for side in (timing.ours, timing.theirs)]
        name = f"spend of {PLANS} plans, {EXPOSURES:,} exposures, {label}"
        rows.append(Row.of(name, "polars", "M rows/s", *rates, better="higher", goal=goal))
    return rows


def _many(call: Callable[[], Any]) -> Callable[[], None]:
    """So many calls as one turn."""

    def turn() -> None:
        for _ in range(CALLS):
            call()

    return turn


SECTIONS: list[Callable[[int], list[Row]]] = [ranking, isotonic, books, memory_rows, service_rows]
