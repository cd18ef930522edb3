"""`noria blending fit`: outcomes in, the snapshot that serves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import numpy as np
from pydantic import Field

from noria.blending.logs.conversion import LATEST
from noria.blending.plans.plans import Plans, load_plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs import figures, output
from noria.blending.verbs.options import FeedOptions, FeedSettings, FileOption, FolderOption
from noria.core.config import Option
from noria.core.errors import ConfigError, DataError, require
from noria.core.files import check_input, decoding
from noria.core.pages.charts import Figure, number
from noria.core.progress import Progress
from noria.core.records import json_object
from noria.core.yaml_values import yaml_text
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.blending.alignment.config import FitConfig
    from noria.blending.alignment.fitting import FitNote
    from noria.blending.alignment.tallies import Tallies
    from noria.blending.logs.gathering import GatherConfig, GatherResult

KINDS = ("mean", "affine", "platt", "beta", "sir", "isotonic")


class FitVerbConfig(FeedOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria blending fit`."""

    exposures: Annotated[str, Option(metavar="PATH")] = Field(
        description="Log of exposures: file, folder or pattern."
    )
    outcomes: Annotated[str, Option(metavar="PATH")] = Field(
        description="Log of outcomes: file, folder or pattern."
    )
    plans: FileOption = Field(None, description="Plan file (default: that of --previous).")
    previous: FileOption = Field(None, description="Snapshot before this one, to fall back on.")
    state: FolderOption = Field(None, description="Folder of an earlier fit, whose outcomes are added.")
    now: Annotated[float | None, Option(metavar="SECONDS")] = Field(
        None, ge=0, lt=LATEST, description="Seconds since 1970 (default: the last exposure's)."
    )


@make_command(FitVerbConfig, extra="blending")
def command(config: FitVerbConfig) -> None:
    """Fit an aligner for every scene, source and model version.

    Settings are KEY=VALUE, such as fit.aligner=auto or gather.absent=zero; they beat the file.
    """
    output.show(run(config, Progress(quiet=config.quiet)), config.as_json, _print)


def _print(result: output.VerbResult) -> None:
    lines = [["scene", "source", "version", "aligner", "from", "fitted on", "exposures", "rate"]]
    for key in result.results["keys"]:
        names = [key[name] or "-" for name in ("scene", "source", "version", "kind", "origin", "population")]
        lines.append([*names, f"{key['exposures']:,.0f}", output.cell(key["rate"])])
    click.echo(table(lines, names=6))
    output.leftovers(result.results["dropped"])
    digest = result.results["digest"][:12]
    click.echo(
        f"\nsnapshot  {result.folder / 'snapshot.json'}   version {result.results['version']}, {digest}"
    )
    click.echo(f"report    {result.report}")


def run(config: FitVerbConfig, progress: Progress) -> output.VerbResult:
    """Align scores on outcomes and write the snapshot that serves.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.blending.alignment.fitting import check_fit, fit_alignment
    from noria.blending.logs.gathering import row_blocks
    from noria.blending.logs.reading import log_files

    folder = output.folder_of(config.output, "fit")
    before = Snapshot.load(config.previous) if config.previous is not None else None
    if config.plans is None and before is None:
        raise ConfigError("there is no plan file", where="--plans", mend="give one, or a --previous snapshot")
    plans = load_plans(config.plans) if config.plans is not None else before.plans if before else Plans()
    earlier = _read_state(config.state) if config.state is not None else None
    shown, came = log_files(config.exposures), log_files(config.outcomes)
    with progress:
        sample = config.sample(shown, came)
        config = config.model_copy(update={"gather": _with_thresholds(sample, config.gather)})
        gathered = config.gathered(shown, came, progress, now=config.now)
        if earlier is not None:
            gathered = gathered.merge(earlier)
        if not gathered.tallies.cells:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in gathered.dropped.items())
            raise DataError(
                f"no exposure has an outcome that counts ({reasons})",
                where=config.outcomes,
                mend="give their outcomes",
            )
        now = gathered.now if config.now is None else config.now
        fitting = config.fitting
        alignment, notes = fit_alignment(
            gathered.tallies,
            fitting,
            now=now,
            previous=before.alignment if before else None,
            jump=plans.guards.jump if before else np.inf,
        )
        sources = {cell.source for cell in gathered.tallies.cells} | {
            key.source for key in gathered.books.cells
        }
        check_fit(notes, alignment, sources, fitting)
        snapshot = Snapshot.of(
            alignment,
            plans,
            settings=before.settings_for(plans) if before else {},
            version=before.version + 1 if before else 1,
            created=now,
        )
        curves = [_curve(gathered.tallies, note, fitting) for note in notes if note.key.version != "*"]
        settings = config.model_copy(update={"fit": fitting}).part(FeedSettings).model_dump(mode="json")
        results = {
            "exposures": gathered.rows,
            "dropped": dict(gathered.dropped),
            "mean_value": alignment.mean_value,
            "now": now,
            "version": snapshot.version,
            "digest": snapshot.digest,
            "keys": [_note(note) for note in notes],
            "curves": [curve for curve in curves if curve],
            "anchors": [] if sample is None else _audit(sample, config.gather),
            "config": settings,
        }
        return output.finish(
            folder,
            "fit",
            results,
            PAGE,
            snapshot__json=snapshot,
            state__parquet=row_blocks(gathered),
            settings__yaml=yaml_text(settings),
        )


def _with_thresholds(rows: dict[str, Any] | None, config: GatherConfig) -> GatherConfig:
    """The settings with the anchor's thresholds, fitted on the control bucket where there is one.

    They stand in `settings.yaml` beside the snapshot: later fits should go by the same, so that the unit stays what
    it is.
    """
    anchor = config.anchor
    if anchor.fitted or rows is None:
        return config
    from noria.blending.alignment.anchors import fit_thresholds

    watch, duration, control = (np.asarray(rows[name]) for name in ("watch", "duration", "control"))
    chosen = control if control.any() else np.ones(len(control), np.bool_)
    fitted = fit_thresholds(watch[chosen], duration[chosen], quantile=anchor.quantile, seconds=anchor.seconds)
    return config.model_copy(update={"anchor": fitted})


def _read_state(folder: Path) -> GatherResult:
    from noria.blending.logs.gathering import BLOCK, from_rows

    parquet = require("pyarrow.parquet", "blending")
    path = folder / "state.parquet"
    check_input(path)
    with decoding(path, "the state of an earlier fit"):
        now = float(json_object(folder / "results.json", "the results of a fit")["now"])
        with parquet.ParquetFile(path) as file:
            parts = [from_rows(batch.to_pydict(), now) for batch in file.iter_batches(BLOCK)]
    if not parts:
        raise DataError("no state of an earlier fit: it is empty", where=str(path))
    return parts[0].merge(*parts[1:])


def _note(note: FitNote) -> dict[str, Any]:
    return {
        **note.key._asdict(),
        **{name: value for name, value in asdict(note).items() if name != "key"},
        "error": note.error,
    }


def _curve(tallies: Tallies, note: FitNote, config: FitConfig) -> dict[str, Any] | None:
    """A key's outcomes by tenths of its scores, and what every kind of aligner makes of them."""
    from noria.blending.alignment.diagnosis import diagnose

    cells = [one for one in tallies.cells if one.key == note.key]
    if not cells:
        return None
    result = diagnose(tallies, cells, config, rate=note.rate)
    return {
        **note.key._asdict(),
        "kind": note.kind,
        "advice": result.advice,
        "p_value": result.p_value,
        "losses": dict(result.losses),
        "deciles": [asdict(decile) for decile in result.deciles],
    }


def _audit(rows: dict[str, Any], config: GatherConfig) -> list[dict[str, Any]]:
    """The anchor beside other figures that could be one, on a sample of the log."""
    from noria.blending.alignment.anchors import audit_anchors

    watch, duration = (np.asarray(rows[name], np.float64) for name in ("watch", "duration"))
    known = np.isfinite(watch)
    outcome, _ = config.anchor.outcome(watch, duration)
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


# -- the page ---------------------------------------------------------------------------------------------------------


def sections(r: output.Results) -> output.Sections:
    """Sections of the page, from the results."""
    alignment: output.Blocks = [
        f"{r['exposures']:,} exposures; {number(r['mean_value'])} effective completions an exposure; snapshot version "
        f"{r['version']}, digest {r['digest'][:12]}.",
        figures.table(
            "Aligners",
            r["keys"],
            "scene | source | version | kind | from: origin | population | exposures | rate | known to | "
            "share above 1: above_one | why",
            "From: its own outcomes, or what stands in for them: its parent's aligner, one held back because it "
            "jumped, the last good one. Known to: the standard error of the rate, relative to it.",
            computed={
                "exposures": lambda k: round(k["exposures"]),
                "known to": lambda k: None if k["error"] is None else figures.percent(k["error"]),
            },
        ),
    ]
    points = [
        {"key": f"{c['source']} {c['version']}".strip(), **d} for c in r["curves"] for d in c["deciles"]
    ]
    losses = {f"loss, {kind}": _loss(kind) for kind in KINDS}
    calibration: output.Blocks = []
    if points:
        calibration.append(
            Figure.chart(
                "Outcomes against aligned values, under mean scaling",
                _calibration(points),
                "A point is a tenth of a key's exposures by score, with its 95 % interval. On the line the value is "
                "right; a bend asks for another aligner.",
            )
        )
    calibration.append(
        figures.table(
            "Which aligner the outcomes ask for",
            r["curves"],
            "source | version | fitted: kind | advised: advice | p of mean scaling: p_value | "
            + " | ".join(losses),
            "Mean squared error on folds that were not fitted on. Advised is the simplest kind within one standard "
            "error of the best.",
            computed=losses,
        )
    )
    result: output.Sections = [("Alignment", alignment), ("Calibration", calibration)]
    if r["anchors"]:
        anchors = figures.table(
            "Figures that could be the anchor",
            r["anchors"],
            "figure: name | from day to day: stability | by duration | by source | minutes to 95 %: maturity | "
            "coverage | north star | unbeaten: pareto",
            "Spreads are standard deviations over means; low is good. Unbeaten: no other figure is at least as good in "
            "everything.",
        )
        result.append(("Anchor", [anchors]))
    return [*result, ("Left out", [figures.dropped(r["dropped"])])]


def _loss(kind: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda curve: curve["losses"].get(kind)


def _calibration(points: list[dict[str, Any]]) -> Any:
    import altair as alt

    ends = [pick(p["value"] for p in points) for pick in (min, max)]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("value:Q", title="mean value of the tenth", scale=alt.Scale(zero=False)),
        color=alt.Color("key:N", title=None),
        tooltip=["key:N", "value:Q", "rate:Q", "low:Q", "high:Q"],
    )
    rate = alt.Y("rate:Q", title="effective completions an exposure", scale=alt.Scale(zero=False))
    line = (
        alt.Chart(alt.Data(values=[{"value": end, "rate": end} for end in ends]))
        .mark_line(strokeDash=[4, 4], color="#888888", strokeWidth=1)
        .encode(x="value:Q", y="rate:Q")
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    return (line + bars + base.mark_line(point=True).encode(y=rate)).properties(width="container", height=320)


PAGE = output.Page("Alignment", sections)
