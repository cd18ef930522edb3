"""Comparison of trainings by credit, paired by seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError, DataError
from noria.core.files import decoding
from noria.core.records import json_values
from noria.core.runs.run import read_config, read_metrics
from noria.core.statistics.intervals import paired_difference

NOT_COMPARED = {"name", "credit", "credit_settings", "seed", "steps", "checkpoint_every", "data_fingerprint"}


@dataclass(frozen=True)
class _Training:
    credit: str
    seed: int
    rewards: list[float]
    seconds: float
    config: dict[str, Any]


def compare_runs(folders: Sequence[Path], *, baseline: str | None = None) -> dict[str, Any]:
    """Compare trainings by credit, paired by seed.

    Args:
        folders: two or more run folders of `noria credit train`.
        baseline: credit that the others are compared with; `none` where there is one, else the first run's.

    Returns:
        JSON values: rewards by credit, gains on the baseline with their intervals, curves, settings that differ.

    Raises:
        DataError: a folder is missing or holds no such run, or two runs share credit and seed.
        ConfigError: there are fewer than two runs, or none of the baseline.
    """
    if len(folders) < 2:
        raise ConfigError(
            "there is nothing to compare one run with", where="compare", mend="give two runs or more"
        )
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise DataError("no such folder", where=", ".join(missing))
    runs = [_read(folder) for folder in folders]
    for (name, seed), number in Counter((run.credit, run.seed) for run in runs).items():
        if number > 1:
            raise DataError(
                f"{number} runs have the credit {name} and the seed {seed}",
                where="compare",
                mend="give one of each; runs are paired by seed",
            )
    names = list(dict.fromkeys(run.credit for run in runs))
    base = baseline or ("none" if "none" in names else names[0])
    if base not in names:
        raise ConfigError(
            f"no run has the credit {base!r}", where="--baseline", mend=f"choose from {', '.join(names)}"
        )
    steps = min(len(run.rewards) for run in runs)
    tenth = max(1, steps // 10)
    lowest = min(_mean(run.rewards[:tenth]) for run in runs)
    highest = max(_mean(run.rewards[:steps][-tenth:]) for run in runs)
    threshold = (lowest + highest) / 2
    by_credit = {name: [run for run in runs if run.credit == name] for name in names}
    fields = {field for run in runs for field in run.config} - NOT_COMPARED
    results: dict[str, Any] = json_values(
        {
            "runs": len(runs),
            "steps": steps,
            "cut": sorted({len(run.rewards) for run in runs} - {steps}),
            "baseline": base,
            "threshold": threshold,
            "credits": [_summary(name, own, steps, threshold) for name, own in by_credit.items()],
            "pairs": [
                pair
                for name, own in by_credit.items()
                if name != base and (pair := _gain(name, own, by_credit[base], steps))
            ],
            "curves": [point for name, own in by_credit.items() for point in _curve(name, own, steps)],
            "differences": sorted(
                field for field in fields if len({json.dumps(run.config.get(field)) for run in runs}) > 1
            ),
        }
    )
    return results


def _read(folder: Path) -> _Training:
    with decoding(folder, "a run of noria credit train"):
        return _training(folder, read_config(folder), read_metrics(folder))


def _training(folder: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> _Training:
    parts = [f"{part}_seconds" for part in ("rollout", "score", "learn")]
    rewards = [float(row["reward"]) for row in rows if row.get("reward") is not None]
    seconds = [sum(float(row.get(part) or 0) for part in parts) for row in rows]
    settings = dict(config.get("credit_settings") or {}).items()
    seed = int(config.get("seed", 0))
    if "credit" not in config or not rewards:
        raise DataError("no run of noria credit train, or nothing was logged yet", where=str(folder))
    credit = " ".join([str(config["credit"]), *(f"{key}={value}" for key, value in settings)])
    return _Training(credit, seed, rewards, _mean(seconds), config)


def _summary(name: str, runs: Sequence[_Training], steps: int, threshold: float) -> dict[str, Any]:
    rewards = [run.rewards[:steps] for run in runs]
    return {
        "credit": name,
        "runs": len(runs),
        "area": _mean([_mean(own) for own in rewards]),
        "last": _mean([_mean(own[-max(1, steps // 10) :]) for own in rewards]),
        "reached": _mean([float(_reached(own, threshold)) for own in rewards]),
        "seconds": _mean([run.seconds for run in runs]),
    }


def _gain(
    name: str, runs: Sequence[_Training], baseline: Sequence[_Training], steps: int
) -> dict[str, Any] | None:
    """The gain in mean reward over the seeds that both have; None where they share none."""
    ours, theirs = ({run.seed: _mean(run.rewards[:steps]) for run in part} for part in (runs, baseline))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    gain = paired_difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    return {"credit": name, "seeds": len(seeds), "gain": gain.effect, "low": gain.low, "high": gain.high}


def _curve(name: str, runs: Sequence[_Training], steps: int) -> list[dict[str, Any]]:
    """Mean reward by step, each a mean of the last fortieth of the training."""
    smooth = max(1, steps // 40)
    return [
        {
            "step": step,
            "value": _mean([_mean(run.rewards[max(0, step - smooth) : step]) for run in runs]),
            "name": name,
        }
        for step in range(1, steps + 1)
    ]


def _reached(rewards: Sequence[float], threshold: float) -> int:
    """The first step at which the mean of ten steps reaches the threshold; the last step where none does."""
    for step in range(len(rewards)):
        if _mean(rewards[max(0, step - 9) : step + 1]) >= threshold:
            return step + 1
    return len(rewards)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
