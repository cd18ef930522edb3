"""The log of an RL run: entropy and accept length as frameworks write them, and a diagnosis of what changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.records import Record, json_record, lines, read_records
from noria.core.statistics.intervals import Interval
from noria.mtp.acceptance.regression import Decomposition, Regression, decompose, regress

STEP = ("step", "global_step", "training/global_step")
ENTROPY = ("entropy", "actor/entropy", "policy/entropy", "train/entropy")
LENGTH = (
    "accept_length",
    "rollout/accept_length",
    "spec_accept_length",
    "rollout/spec_accept_length",
    "mtp/accept_length",
    "spec/mean_accept_length",
    "rollout/accepted_length",
    "drafter/spec_decode/mean_acceptance_length",
)
"""Names under which our own runs, TRL, verl, verl-speco, slime and economize log them."""


@dataclass(frozen=True)
class RLLog:
    """A run, step by step; NaN is missing.

    Attributes:
        steps: numbers of the steps.
        entropy: mean of the policy's entropy, nats.
        length: mean accept length, tokens a round.
    """

    steps: Sequence[int]
    entropy: Sequence[float]
    length: Sequence[float]


@dataclass(frozen=True)
class RLDiagnosis:
    """Why the accept length of a run changed.

    Attributes:
        regression: regression of accept length on entropy.
        decomposition: entropy's part of the change, and the rest.
        text: the diagnosis in words.
    """

    regression: Regression
    decomposition: Decomposition
    text: str


def read_rl_log(path: Path, *, entropy: str | None = None, length: str | None = None) -> RLLog:
    """Read a log of `.jsonl` or `.parquet`, one record a step, or the `trainer_state.json` of transformers and TRL.

    Args:
        path: the file.
        entropy: field of the entropy; by default the first usual name that is there.
        length: field of the accept length; by default the first usual name that is there.

    Raises:
        DataError: with file and line: malformed, not a number, or no record has one of the two.
        MissingExtra: Parquet without pyarrow.
    """
    names = {
        "entropy": (entropy,) if entropy else ENTROPY,
        "accept length": (length,) if length else LENGTH,
    }
    columns: dict[str, list[float]] = {what: [] for what in names}
    steps: list[int] = []
    seen: set[str] = set()
    for number, (where, record) in enumerate(_records(path), start=1):
        seen |= record.keys()
        values = {what: _number(record, fields, where) for what, fields in names.items()}
        if all(math.isnan(v) for v in values.values()):
            continue  # a line about something else
        step = _number(record, STEP, where)
        steps.append(number if math.isnan(step) else int(step))
        for what, value in values.items():
            columns[what].append(value)
    for what, fields in names.items():
        if all(math.isnan(v) for v in columns[what]):
            option = "--length-field" if what == "accept length" else "--entropy-field"
            raise DataError(
                f"no record has the {what} ({', '.join(fields)}); there are {', '.join(sorted(seen)[:8]) or 'none'}",
                where=str(path),
                mend=f"name it with {option}",
            )
    return RLLog(steps, columns["entropy"], columns["accept length"])


def _records(path: Path) -> Iterator[Record]:
    """Records of a log that is lines or rows, or the list in a trainer's state."""
    if path.suffix.lower() != ".json":
        yield from read_records(path, "a training log")
        return
    history = json_record("\n".join(line for _, line in lines(path)), str(path)).get("log_history")
    if not isinstance(history, list) or not all(isinstance(record, dict) for record in history):
        raise DataError(
            "no log_history in it", where=str(path), mend="give a trainer_state.json, or one record a line"
        )
    for number, record in enumerate(history):
        yield f"{path}: log_history[{number}]", record


def diagnose(log: RLLog, *, early: int | None = None, slope: float | None = None) -> RLDiagnosis:
    """Say whether entropy moved the accept length, and how much is left for the head to answer for.

    Args:
        log: log of the run.
        early: number of first steps that the slope is fitted on.
        slope: slope in tokens a nat, instead of fitting it.

    Raises:
        DataError: no step has both numbers.
        ConfigError: `early` out of range.
    """
    fit = regress(log.entropy, log.length)
    parts = decompose(log.entropy, log.length, early=early, slope=slope)
    words = [_slope(fit)]
    if parts.identifiable:
        last = max(n for n, change in enumerate(parts.change) if not math.isnan(change))
        words.append(
            f"By step {log.steps[last]} the accept length has changed by {parts.change[last]:+.3f} tokens: "
            f"{parts.entropy_part[last]:+.3f} by entropy and {parts.mismatch[last]:+.3f} by a mismatch of the head"
            + ("" if math.isnan(parts.margin[last]) else f" (± {parts.margin[last]:.3f} between the two)")
            + f"; {parts.reason}."
        )
    else:
        words.append(f"How much of the change is entropy's cannot be told: {parts.reason}.")
    return RLDiagnosis(fit, parts, " ".join(words))


def _slope(fit: Regression) -> str:
    slope = fit.slope
    if math.isnan(slope.effect):
        return f"{fit.n} steps are too few, or entropy never moved, for a slope."
    return (
        f"Accept length moves by {_with_ends(slope)} tokens a nat of entropy over {fit.n} steps "
        f"(r = {fit.correlation:.2f}, entropy spread {fit.spread:.3f} nats)."
    )


def _with_ends(value: Interval) -> str:
    if math.isnan(value.low):
        return f"{value.effect:+.2f}"
    return f"{value.effect:+.2f} ({value.low:+.2f} … {value.high:+.2f})"


def _number(record: Mapping[str, Any], fields: Sequence[str], where: str) -> float:
    for field in fields:
        value = record.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{field} is {value!r}, not a number", where=where)
        if math.isinf(value):
            raise DataError(f"{field} is infinite", where=where, mend="leave it out where it is missing")
        return float(value)
    return math.nan
