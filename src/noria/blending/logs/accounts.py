"""Accounts of plans read from logs, as plain records: books of all exposures, and returns on replayed requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Displacement, displace, lift, shapley
from noria.blending.accounting.cells import BookKey, accounts, amount
from noria.blending.accounting.returns import PlanReturn, RetireRule, plan_returns, worst_plan
from noria.blending.boosting.scoring import hits
from noria.blending.columns import NameColumn
from noria.blending.logs.candidates import CandidateLog
from noria.blending.logs.comparison import ends
from noria.blending.logs.gathering import GatherConfig, GatherResult
from noria.blending.logs.replay import ReplayResult, absent_columns, replay
from noria.blending.snapshot import Snapshot
from noria.core.config import Config
from noria.core.errors import DataError

Floats = NDArray[np.float64]

SHAPLEY_REQUESTS = 200
"""Most requests of a log that Shapley values are computed on."""


# -- all exposures ----------------------------------------------------------------------------------------------------


def book_record(gathered: GatherResult, served: Mapping[str, Snapshot]) -> dict[str, Any]:
    """Accounts of all exposures: in all, by source, by plan, and by plan and day.

    Args:
        gathered: tallies and books of a log.
        served: snapshots by digest.
    """
    books = gathered.books
    plans = {
        digest: [(plan, *one.weight_and_bias(plan)) for plan in one.plans.ids]
        for digest, one in served.items()
    }
    booked, unknown = accounts(books, plans)
    if books.cells and all(key.snapshot not in plans for key in books.cells):
        raise DataError(
            f"all {sum(unknown.values()):,} exposures are of snapshots that were not given",
            where="exposures",
            mend="give the folder of the snapshots that served",
        )
    daily = []
    for day in sorted({key.day for key in books.cells}):
        keys = [key for key in books.cells if key.day == day]
        for account in accounts(books, plans, keep=keys)[0]:
            daily.append(
                {"day": day, "plan": account.plan, "spend": account.spend, "exposures": account.exposures}
            )
    sources = sorted({key.source for key in books.cells})
    return {
        **_inflation(gathered, list(books.cells)),
        "guard": sum(amount(sums, "guard") for sums in books.cells.values()),
        "by_source": [
            {"source": source, **_inflation(gathered, [key for key in books.cells if key.source == source])}
            for source in sources
        ],
        "plans": [asdict(account) | {"price": account.price} for account in booked],
        "daily": daily,
        "unknown": unknown,
        "dropped": dict(gathered.dropped),
    }


def _inflation(gathered: GatherResult, keys: list[BookKey]) -> dict[str, Any]:
    """Exposures and value of some cells, and boosts over value."""
    cells = [gathered.books.cells[key] for key in keys]
    value, moved = (sum(amount(sums, name) for sums in cells) for name in ("value", "moved"))
    inflation = moved / value if value > 0 else None
    return {"exposures": sum(sums[0] for sums in cells), "value": value, "inflation": inflation}


# -- replayed requests ------------------------------------------------------------------------------------------------


class ReturnsConfig(Config):
    """Settings of returns on a log.

    Attributes:
        size: number of places K of a list.
        gain: column of the candidates with a prediction of the plans' own figure; the effective completion itself
            where there is none.
        cluster: column of the candidates whose values are independent, such as the user.
        rule: rule of retirement.
        seed: seed of the resamples.
    """

    size: int
    gain: str | None = None
    cluster: str | None = None
    rule: RetireRule = RetireRule()
    seed: int = 0


def observed(
    batches: Iterable[Mapping[str, Any]], config: GatherConfig, log: CandidateLog
) -> tuple[Floats, Floats]:
    """[rows of the log] outcome and gain where the candidate was shown and they are known, else NaN.

    Args:
        batches: exposures joined with their outcomes, as columns of `gathering.JOINED` and `item`.
        config: rules by which rows become outcomes.
        log: logged candidates.
    """
    requests = {name: number for number, name in enumerate(log.request)}
    items = {name: code for code, name in enumerate(log.item.names)}
    many = max(1, len(items))
    keys = np.repeat(np.arange(len(log)), np.diff(log.start)) * many + log.item.codes
    order = np.argsort(keys)
    outcome, gain = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
    for batch in batches:
        request, item = batch["request"].codes_in(requests), batch["item"].codes_in(items)
        there = np.flatnonzero((request >= 0) & (item >= 0) & (np.asarray(batch["copy"]) == 1))
        wanted = request[there] * many + item[there]
        at = np.searchsorted(keys, wanted, sorter=order)
        hit = at < len(keys)
        hit[hit] = keys[order[at[hit]]] == wanted[hit]
        rows = order[at[hit]]
        delay = np.asarray(batch["outcome_time"]) - np.asarray(batch["time"])
        with np.errstate(invalid="ignore"):
            good = (delay >= -config.skew) & (delay <= config.horizon)
        a, _ = config.anchor.outcome(
            np.where(good, batch["watch"], np.nan), np.where(good, batch["duration"], np.nan)
        )
        outcome[rows] = a[there][hit]
        gain[rows] = np.where(good, batch["gain"], np.nan)[there][hit]
    return outcome, gain


def returns_record(
    log: CandidateLog, snapshot: Snapshot, config: ReturnsConfig, seen: tuple[Floats, Floats] | None
) -> dict[str, Any]:
    """A record of what every plan displaced, cost and brought on the requests of a log.

    Args:
        log: logged candidates.
        snapshot: what ranks them.
        config: settings of the returns.
        seen: outcomes and gains as `observed` gives them; predictions alone where there are none.

    Raises:
        DataError: a configured column is absent or of another kind.
    """
    served = replay(log, snapshot, config.size)
    requests = served.requests
    figure, real = _gain(log, served, config.gain, seen)
    displaced = displace(requests, served.tables, config.size)
    gains, unknown = lift(requests, displaced, figure)
    generator = np.random.default_rng(config.seed)
    returns = plan_returns(
        displaced,
        served.plans,
        gains,
        generator=generator,
        unknown=unknown.tolist(),
        clusters=_clusters(log, config.cluster),
        days=np.floor(log.time / 86_400).astype(int).tolist(),
        rule=config.rule,
    )
    chosen = np.sort(generator.permutation(len(requests))[:SHAPLEY_REQUESTS])
    worth = shapley(requests.take(chosen), served.tables, config.size, generator=generator)
    share = max(1, len(chosen))
    surplus = _surplus(served, displaced, real if config.gain is None else None)
    worst = worst_plan(returns)
    return {
        "absent": absent_columns(log, snapshot),
        "requests": len(requests),
        "sampled": log.sampled,
        "dropped": dict(served.dropped),
        "exposures": int((displaced.lists >= 0).sum()),
        "value": float(displaced.value.sum()),
        "inflation": displaced.inflation,
        "guard": float(displaced.guard.sum()),
        "gain": config.gain or "effective completion",
        "observed": 0 if real is None else int(np.isfinite(real).sum()),
        "advice": config.gain is not None,
        "violations": int(((displaced.regret < -1e-9) | (displaced.regret > displaced.bound + 1e-9)).sum()),
        "plans": [
            _plan_record(plan)
            | {
                # Completions are no figure of the plan's own: against regret they always pay.
                "retire": plan.retire and config.gain is not None,
                "shapley": float(worth.value[:, bit].sum() / share),
                "shapley_error": float(np.sqrt((worth.error[:, bit] ** 2).sum()) / share),
                "surplus": surplus[bit],
            }
            for bit, plan in enumerate(returns)
        ],
        "shapley_requests": len(chosen),
        "worst": None if worst is None else served.plans[worst],
        "rule": config.rule.model_dump(),
    }


def _gain(
    log: CandidateLog, served: ReplayResult, gain: str | None, seen: tuple[Floats, Floats] | None
) -> tuple[Floats, Floats | None]:
    """[rows of the requests] gains, observed where they are known; and the observed ones alone."""
    if gain is None:
        predicted, real = served.requests.value, None if seen is None else seen[0][served.rows]
    else:
        column = log.columns.get(gain)
        if not isinstance(column, np.ndarray) or column.dtype != np.float64:
            raise DataError(f"there is no column {gain!r} of numbers", where="candidates")
        predicted = column[served.rows].astype(np.float64)
        real = None if seen is None else seen[1][served.rows]
    return (predicted if real is None else np.where(np.isfinite(real), real, predicted)), real


def _surplus(served: ReplayResult, displaced: Displacement, real: Floats | None) -> list[float | None]:
    """Σ (a − y) over each plan's exposures with an outcome; None where there is none."""
    if real is None:
        return [None] * len(served.plans)
    mask, value = served.requests.mask, served.requests.value
    rows = displaced.lists[displaced.lists >= 0]
    sums: list[float | None] = []
    for bit in range(len(served.plans)):
        mine = rows[hits(mask[rows], bit) & np.isfinite(real[rows])]
        sums.append(float((real[mine] - value[mine]).sum()) if len(mine) else None)
    return sums


def _clusters(log: CandidateLog, cluster: str | None) -> list[Any] | None:
    if cluster is None:
        return None
    column = log.columns.get(cluster)
    if column is None:
        raise DataError(f"there is no column {cluster!r}", where="candidates")
    rows = log.start[:-1]
    if isinstance(column, np.ndarray):
        return list(column[rows].tolist())
    if not isinstance(column, NameColumn):
        raise DataError("lists of names are no clusters", where=f"column {cluster!r}")
    return list(column.take(rows).decode())


def _plan_record(plan: PlanReturn) -> dict[str, Any]:
    fields = {name: value for name, value in vars(plan).items() if name not in ("roi", "roi_spend")}
    price = 1000 * plan.spend / plan.exposures if plan.exposures else None
    return fields | {"roi": ends(plan.roi), "roi_spend": ends(plan.roi_spend), "price": price}
