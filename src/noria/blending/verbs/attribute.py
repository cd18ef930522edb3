"""The job behind `noria blending attribute`: accounts, returns, an A/B read-out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Displaced, displace, lift, shapley
from noria.blending.accounting.cells import Books, accounts, amount
from noria.blending.accounting.returns import PlanReturn, plan_returns, worst_plan
from noria.blending.boosting.scoring import hits
from noria.blending.columns import Coded
from noria.blending.logs.gathering import Gathered, parquet_files
from noria.blending.logs.replay import CandidateLog, absent_columns, read_candidates, replay
from noria.blending.snapshot import Snapshot
from noria.blending.verbs.fit import gathered_logs
from noria.blending.verbs.results import Done, Engine, ends, finish, results_folder
from noria.blending.verbs.settings import BlendConfig
from noria.core.errors import ConfigError, DataError, require
from noria.core.progress import Progress

__all__ = ["attribute"]

Floats = NDArray[np.float64]

SHAPLEY_REQUESTS = 200
"""Requests of a log that Shapley values are worked out on."""


def attribute(
    snapshots: Path,
    candidates: Path | None,
    exposures: str | None,
    outcomes: str | None,
    output: str | None,
    config: BlendConfig,
    *,
    size: int,
    gain: str | None = None,
    cluster: str | None = None,
    users: Path | None = None,
    most: int | None = None,
    engine: Engine = "duckdb",
    memory: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Done:
    """What every plan cost and brought.

    Args:
        snapshots: a snapshot, or a folder of all that served; the newest is the one that candidates are ranked with.
        candidates: the log of whole requests, for displacement, returns and Shapley values.
        exposures, outcomes: logs, for the accounts and for what came of exposures.
        output: folder; `runs/blending/attribute` by default.
        config: how.
        size: K.
        gain: a column of the candidates with a prediction of the plans' own figure; observed gains replace it. By
            default the gain is the effective completion itself.
        cluster: a column of the candidates whose values are independent, such as the user.
        users: one row a user, for an A/B read-out.
        most: rows of candidates to read.
        engine, memory: what reads the logs.
        seed: of resamples.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = results_folder(output, "attribute")
    if candidates is None and exposures is None and users is None:
        raise ConfigError("nothing to attribute", mend="give --candidates, --exposures or --users")
    served = _snapshots(snapshots)
    newest = max(served.values(), key=lambda one: one.version)
    results: dict[str, Any] = {"snapshots": len(served), "size": size}
    with progress or Progress(quiet=True) as said:
        if exposures is not None:
            came = None if outcomes is None else parquet_files(outcomes)
            gathered = gathered_logs(parquet_files(exposures), came, config, engine, None, memory, said)
            results["books"] = _books(gathered, served)
        if candidates is not None:
            log = read_candidates(candidates, most=most)
            observed = None
            if exposures is not None and outcomes is not None:
                observed = _observed(parquet_files(exposures), parquet_files(outcomes), config, log)
            results["returns"] = _returns(log, newest, config, size, gain, cluster, observed, seed)
        if users is not None:
            results["experiment"] = _experiment(users)
        return finish(folder, "attribute", results)


def _snapshots(path: Path) -> dict[str, Snapshot]:
    """Snapshots by digest."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError("no snapshot is there", where=str(path))
    loaded = [Snapshot.load(file) for file in files]
    return {one.digest: one for one in loaded}


def _books(gathered: Gathered, served: Mapping[str, Snapshot]) -> dict[str, Any]:
    plans = {
        digest: [(plan, *one.weight_and_bias(plan)) for plan in one.plans.ids]
        for digest, one in served.items()
    }
    told, unknown = accounts(gathered.books, plans)
    days = sorted({key.day for key in gathered.books.cells})
    daily = []
    for day in days:
        keep = [key for key in gathered.books.cells if key.day == day]
        for account in accounts(gathered.books, plans, keep=keep)[0]:
            daily.append(
                {"day": day, "plan": account.plan, "spend": account.spend, "exposures": account.exposures}
            )
    whole = np.sum([list(map(float, sums)) for sums in gathered.books.cells.values()], axis=0)
    value = sum(amount(sums, "value") for sums in gathered.books.cells.values())
    moved = sum(amount(sums, "moved") for sums in gathered.books.cells.values())
    return {
        "exposures": int(whole[0]) if len(gathered.books.cells) else 0,
        "value": value,
        "inflation": moved / value if value > 0 else None,
        "guard": sum(amount(sums, "guard") for sums in gathered.books.cells.values()),
        "by_source": _by_source(gathered.books),
        "plans": [asdict(account) | {"price": account.price} for account in told],
        "daily": daily,
        "unknown": unknown,
        "dropped": dict(gathered.dropped),
    }


def _by_source(books: Books) -> list[dict[str, Any]]:
    found = []
    for source in sorted({key.source for key in books.cells}):
        cells = [sums for key, sums in books.cells.items() if key.source == source]
        value, moved = (sum(amount(sums, name) for sums in cells) for name in ("value", "moved"))
        found.append(
            {
                "source": source,
                "exposures": sum(sums[0] for sums in cells),
                "value": value,
                "inflation": moved / value if value > 0 else None,
            }
        )
    return found


def _observed(
    shown: list[str], came: list[str], config: BlendConfig, log: CandidateLog
) -> tuple[Floats, Floats]:
    """[rows of the log] outcome and gain where the candidate was shown and they are known, else NaN."""
    from noria.blending.integrations import duckdb

    requests = {name: number for number, name in enumerate(log.request)}
    items = {name: code for code, name in enumerate(log.item.names)}
    row_request = np.repeat(np.arange(len(log)), np.diff(log.start))
    keys = row_request * max(1, len(items)) + log.item.codes
    order = np.argsort(keys)
    outcome, gain = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
    for batch in duckdb.rows(shown, came, config.gather):
        place = [
            np.array([known.get(name, -1) for name in batch[column].names], np.int64)
            for known, column in ((requests, "request"), (items, "item"))
        ]
        request, item = (
            part[batch[column].codes] for part, column in zip(place, ("request", "item"), strict=True)
        )
        there = np.flatnonzero((request >= 0) & (item >= 0) & (np.asarray(batch["copy"]) == 1))
        wanted = request[there] * max(1, len(items)) + item[there]
        at = np.searchsorted(keys[order], wanted)
        hit = at < len(keys)
        hit[hit] = keys[order[at[hit]]] == wanted[hit]
        rows = order[at[hit]]
        delay = np.asarray(batch["outcome_time"]) - np.asarray(batch["time"])
        with np.errstate(invalid="ignore"):
            good = (delay >= -config.gather.skew) & (delay <= config.gather.horizon)
        a, _ = config.gather.anchor.outcome(
            np.where(good, batch["watch"], np.nan), np.where(good, batch["duration"], np.nan)
        )
        outcome[rows] = a[there][hit]
        gain[rows] = np.where(good, batch["gain"], np.nan)[there][hit]
    return outcome, gain


def _returns(
    log: CandidateLog,
    snapshot: Snapshot,
    config: BlendConfig,
    size: int,
    gain: str | None,
    cluster: str | None,
    observed: tuple[Floats, Floats] | None,
    seed: int,
) -> dict[str, Any]:
    served = replay(log, snapshot, size)
    requests = served.requests
    predicted, real = requests.value, None if observed is None else observed[0][served.rows]
    if gain is not None:
        column = log.columns.get(gain)
        if not isinstance(column, np.ndarray):
            raise DataError(f"there is no column {gain!r} of numbers", where="candidates")
        predicted = column[served.rows].astype(np.float64)
        real = None if observed is None else observed[1][served.rows]
    figure = predicted if real is None else np.where(np.isfinite(real), real, predicted)
    found = displace(requests, served.tables, size)
    gains, unknown = lift(requests, found, figure)
    clusters = _clusters(log, cluster)
    days = np.floor(log.time / 86_400).astype(int).tolist()
    rng = np.random.default_rng(seed)
    told = plan_returns(
        found,
        served.plans,
        gains,
        generator=rng,
        unknown=unknown.tolist(),
        clusters=clusters,
        days=days,
        rule=config.retire.rule(),
    )
    chosen = np.sort(rng.permutation(len(requests))[:SHAPLEY_REQUESTS])
    worth = shapley(requests.take(chosen), served.tables, size, generator=rng)
    surplus = _surplus(
        requests.mask, requests.value, found, real if gain is None else None, len(served.plans)
    )
    worst = worst_plan(told)
    return {
        "absent": absent_columns(log, snapshot),
        "requests": len(requests),
        "exposures": int((found.lists >= 0).sum()),
        "value": float(found.value.sum()),
        "inflation": found.inflation,
        "guard": float(found.guard.sum()),
        "gain": gain or "effective completion",
        "observed": 0 if real is None else int(np.isfinite(real).sum()),
        "advice": gain is not None,
        "violations": int(((found.regret < -1e-9) | (found.regret > found.bound + 1e-9)).sum()),
        "plans": [
            _plan_return(plan)
            | {
                # Completions are no figure of the plan's own: against regret they always pay.
                "retire": plan.retire and gain is not None,
                "shapley": float(worth.value[:, bit].sum() / max(1, len(chosen))),
                "shapley_error": float(np.sqrt((worth.error[:, bit] ** 2).sum()) / max(1, len(chosen))),
                "surplus": surplus[bit],
            }
            for bit, plan in enumerate(told)
        ],
        "shapley_requests": len(chosen),
        "worst": None if worst is None else served.plans[worst],
        "rule": config.retire.model_dump(),
    }


def _surplus(
    mask: NDArray[np.uint64], value: Floats, found: Displaced, real: Floats | None, plans: int
) -> list[float | None]:
    """Σ (a − y) over each plan's exposures with an outcome; None where there is none."""
    if real is None:
        return [None] * plans
    rows = found.lists[found.lists >= 0]
    told: list[float | None] = []
    for bit in range(plans):
        mine = rows[hits(mask[rows], bit) & np.isfinite(real[rows])]
        told.append(float((real[mine] - value[mine]).sum()) if len(mine) else None)
    return told


def _clusters(log: CandidateLog, cluster: str | None) -> list[Any] | None:
    if cluster is None:
        return None
    column = log.columns.get(cluster)
    if column is None:
        raise DataError(f"there is no column {cluster!r}", where="candidates")
    rows = log.start[:-1]
    if isinstance(column, np.ndarray):
        return list(column[rows].tolist())
    if not isinstance(column, Coded):
        raise DataError("lists of names are no clusters", where=f"column {cluster!r}")
    return list(column.take(rows).decode())


def _plan_return(plan: PlanReturn) -> dict[str, Any]:
    fields = {name: value for name, value in vars(plan).items() if name not in ("roi", "roi_spend")}
    price = 1000 * plan.spend / plan.exposures if plan.exposures else None
    return fields | {"roi": ends(plan.roi), "roi_spend": ends(plan.roi_spend), "price": price}


def _experiment(path: Path) -> dict[str, Any]:
    """An A/B read-out of every column of numbers but `user`; with CUPED where there is a `NAME_before`."""
    from noria.blending.accounting.experiments import Measure, read_out
    from noria.blending.logs.replay import arrow_column

    parquet = require("pyarrow.parquet", "blending")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError("cannot be read as Parquet", where=str(path)) from error
    if "variant" not in table.column_names:
        raise DataError("there is no column 'variant'", where=str(path))
    columns = {name: arrow_column(table.column(name), name) for name in table.column_names}
    numbers = [n for n, c in columns.items() if isinstance(c, np.ndarray) and c.dtype == np.float64]
    measures = {
        name: Measure(name, before=f"{name}_before" if f"{name}_before" in numbers else None)
        for name in numbers
        if name != "user" and not name.endswith("_before")
    }
    given: dict[str, Any] = {name: columns[name] for name in numbers}
    variant = columns["variant"]
    if not isinstance(variant, Coded):
        raise DataError("not names", where=f"{path}, column 'variant'")
    given["variant"] = variant.decode()
    found = read_out(given, measures)
    return {
        "users": found.users,
        "split_p_value": found.split_p_value,
        "effects": [
            asdict(effect) | {"cuped": measures[effect.name].before is not None} for effect in found.effects
        ],
    }
