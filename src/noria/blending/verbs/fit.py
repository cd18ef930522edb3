"""The job behind `noria blending fit`: outcomes in, the snapshot that serves out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from noria.blending.alignment.anchors import audit_anchors, fit_thresholds
from noria.blending.alignment.config import FitConfig
from noria.blending.alignment.diagnosis import Diagnosis, diagnose
from noria.blending.alignment.fitting import FitNote, fit_alignment
from noria.blending.alignment.tallies import Tallies
from noria.blending.logs.gathering import Gathered, from_rows, parquet_files, to_rows
from noria.blending.plans.plans import Plans, load_plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs.results import Done, Engine, finish, results_folder
from noria.blending.verbs.settings import BlendConfig
from noria.core.errors import ConfigError, DataError, require
from noria.core.progress import Progress

__all__ = ["fit", "gathered_logs"]

AUDITED = 100_000
"""Exposures that the anchor is audited on."""


def fit(
    exposures: str,
    outcomes: str,
    plans: Path | None,
    output: str | None,
    config: BlendConfig,
    *,
    previous: Path | None = None,
    state: Path | None = None,
    engine: Engine = "duckdb",
    now: float | None = None,
    memory: str | None = None,
    progress: Progress | None = None,
) -> Done:
    """Align scores on outcomes and write the snapshot that serves.

    Args:
        exposures, outcomes: Parquet.
        plans: the plan file; that of `previous` by default.
        output: folder; `runs/blending/fit` by default.
        config: how.
        previous: the snapshot before this one: what to fall back on, and against which a jump is measured.
        state: an earlier fit's folder, whose outcomes are added to these.
        engine: what reads the logs.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        memory: that DuckDB may take.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = results_folder(output, "fit")
    before = Snapshot.load(previous) if previous is not None else None
    if plans is None and before is None:
        raise ConfigError("there is no plan file", where="--plans", mend="give one, or a --previous snapshot")
    plan_file = load_plans(plans) if plans is not None else before.plans if before is not None else Plans()
    earlier = _read_state(state) if state is not None else None
    shown, came = parquet_files(exposures), parquet_files(outcomes)
    with progress or Progress(quiet=True) as said:
        config = _with_thresholds(shown, came, config)
        gathered = gathered_logs(shown, came, config, engine, now, memory, said)
        if earlier is not None:
            gathered = gathered.merge(earlier)
        moment = gathered.now if now is None else now
        fitting = config.fitting
        alignment, notes = fit_alignment(
            gathered.tallies,
            fitting,
            now=moment,
            previous=before.alignment if before else None,
            jump=plan_file.guards.jump if before else np.inf,
        )
        kept = {} if before is None else {p: s for p, s in before.settings.items() if p in plan_file.ids}
        snapshot = Snapshot.of(
            alignment, plan_file, settings=kept, version=before.version + 1 if before else 1, created=moment
        )
        curves = [_curve(gathered.tallies, note, fitting) for note in notes if note.key.version != "*"]
        audit = _audit(shown, came, config) if engine == "duckdb" else []
        results = {
            "exposures": gathered.rows,
            "dropped": dict(gathered.dropped),
            "mean_value": alignment.mean_value,
            "now": moment,
            "version": snapshot.version,
            "digest": snapshot.digest,
            "keys": [_note(note) for note in notes],
            "curves": [curve for curve in curves if curve],
            "anchors": audit,
            "config": config.model_dump(mode="json"),
        }
        frozen = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        rows = to_rows(gathered)
        return finish(
            folder, "fit", results, snapshot__json=snapshot, state__parquet=rows, settings__yaml=frozen
        )


def _with_thresholds(shown: list[str], came: list[str], config: BlendConfig) -> BlendConfig:
    """The settings with the anchor's thresholds, fitted on the control bucket where there is one.

    They stand in `settings.yaml` beside the snapshot: later fits should go by the same, so that the unit stays what
    it is.
    """
    anchor = config.gather.anchor
    if anchor.fitted:
        return config
    from noria.blending.integrations import duckdb

    rows = duckdb.sample(shown, came, config.gather, AUDITED)
    watch, duration, control = (np.asarray(rows[name]) for name in ("watch", "duration", "control"))
    chosen = control if control.any() else np.ones(len(control), np.bool_)
    fitted = fit_thresholds(watch[chosen], duration[chosen], quantile=anchor.quantile, seconds=anchor.seconds)
    return config.model_copy(update={"gather": config.gather.model_copy(update={"anchor": fitted})})


def gathered_logs(
    shown: list[str],
    came: list[str] | None,
    config: BlendConfig,
    engine: Engine,
    now: float | None,
    memory: str | None,
    said: Progress,
) -> Gathered:
    """Tallies and books of logs, by the engine that is asked for.

    Raises:
        ConfigError: the anchor's thresholds are still to be fitted.
    """
    if not config.gather.anchor.fitted:
        raise ConfigError(
            "the anchor's thresholds are not fitted",
            where="gather.anchor",
            mend="give --config settings.yaml of the fit that serves",
        )
    if engine == "spark":
        from noria.blending.integrations import spark

        return spark.gather(shown, came, config.gather, now=now)
    from noria.blending.integrations import duckdb

    return duckdb.gather(shown, came, config.gather, now=now, memory=memory, progress=said)


def _read_state(folder: Path) -> Gathered:
    parquet = require("pyarrow.parquet", "blending")
    path = folder / "state.parquet"
    try:
        table = parquet.read_table(path).to_pydict()
        now = float(json.loads((folder / "results.json").read_bytes())["now"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"no state of an earlier fit ({type(error).__name__})", where=str(path)) from None
    return from_rows(table, now)


def _note(note: FitNote) -> dict[str, Any]:
    return {
        **note.key._asdict(),
        **{name: value for name, value in asdict(note).items() if name != "key"},
        "error": note.error,
    }


def _curve(tallies: Tallies, note: FitNote, config: FitConfig) -> dict[str, Any] | None:
    """A key's outcomes by tenths of its scores, and what every kind of aligner makes of them."""
    cells = [cell for cell in tallies.cells if cell.key == note.key]
    if not cells:
        return None
    found: Diagnosis = diagnose(tallies, cells, config, rate=note.rate)
    return {
        **note.key._asdict(),
        "kind": note.kind,
        "advice": found.advice,
        "p_value": found.p_value,
        "losses": dict(found.losses),
        "deciles": [asdict(decile) for decile in found.deciles],
    }


def _audit(shown: list[str], came: list[str], config: BlendConfig) -> list[dict[str, Any]]:
    """The anchor beside other figures that could be one, on a sample of the log."""
    from noria.blending.integrations import duckdb

    rows = duckdb.sample(shown, came, config.gather, AUDITED)
    watch, duration = (np.asarray(rows[name], np.float64) for name in ("watch", "duration"))
    known = np.isfinite(watch)
    outcome, _ = config.gather.anchor.outcome(watch, duration)
    delay = (np.asarray(rows["outcome_time"], np.float64) - np.asarray(rows["time"], np.float64)) / 60
    figures = {
        "effective completion": outcome,
        "watched 3 s": np.where(known, watch >= 3, np.nan),
        "watched to the end": np.where(known & np.isfinite(duration), watch >= 0.95 * duration, np.nan),
        "watch time": watch,
    }
    audited = audit_anchors(
        figures,
        day=np.floor(np.asarray(rows["time"], np.float64) / 86_400).tolist(),
        duration=duration,
        source=rows["source"].decode(),
        delay=dict.fromkeys(figures, delay),
    )
    return [asdict(one) for one in audited]
