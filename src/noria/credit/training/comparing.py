"""Trainings compared by credit, paired by seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError, DataError
from noria.core.records import json_values
from noria.core.runs.run import read_config, read_metrics
from noria.core.statistics.intervals import paired_difference

__all__ = ["compare_runs"]

NOT_COMPARED = {"name", "credit", "credit_settings", "seed", "steps", "checkpoint_every", "data_fingerprint"}


def compare_runs(folders: Sequence[Path], *, baseline: str | None = None) -> dict[str, Any]:
    """Compare trainings by credit, paired by seed.

    Args:
        folders: run folders of `noria credit train`, two or more.
        baseline: the credit that others are compared with; `none` where there is one, else the first run's.

    Returns:
        JSON values: rewards by credit, gains on the baseline with their intervals, curves, settings that differ.

    Raises:
        DataError: a folder is missing or no such run, or two runs share credit and seed.
        ConfigError: fewer than two runs, or none of the baseline.
    """
    if len(folders) < 2:
        raise ConfigError(
            "there is nothing to compare one run with", where="compare", mend="give two runs or more"
        )
    if lost := [str(folder) for folder in folders if not folder.is_dir()]:
        raise DataError("no such folder", where=", ".join(lost))
    runs: list[tuple[str, int, list[float], float]] = []
    configs = []
    for folder in folders:
        config, rows = read_config(folder), read_metrics(folder)
        rewards = [float(row["reward"]) for row in rows if row.get("reward") is not None]
        if "credit" not in config or not rewards:
            raise DataError("no run of noria credit train, or nothing was logged yet", where=str(folder))
        seconds = [
            sum(float(row.get(f"{part}_seconds") or 0) for part in ("rollout", "score", "learn"))
            for row in rows
        ]
        runs.append((_credit_of(config), int(config["seed"]), rewards, sum(seconds) / len(seconds)))
        configs.append(config)
    for which, number in Counter((name, seed) for name, seed, *_ in runs).items():
        if number > 1:
            raise DataError(
                f"{number} runs have the credit {which[0]} and the seed {which[1]}",
                where="compare",
                mend="give one of each; runs are paired by seed",
            )
    names = list(dict.fromkeys(name for name, *_ in runs))
    base = baseline or ("none" if "none" in names else names[0])
    if base not in names:
        raise ConfigError(
            f"no run has the credit {base!r}", where="--baseline", mend=f"choose from {', '.join(names)}"
        )
    steps = min(len(rewards) for _, _, rewards, _ in runs)
    lowest = min(_mean(rewards[: max(1, steps // 10)]) for _, _, rewards, _ in runs)
    highest = max(_mean(rewards[:steps][-max(1, steps // 10) :]) for _, _, rewards, _ in runs)
    threshold = (lowest + highest) / 2
    credits, pairs = [], []
    areas = {name: {seed: _mean(r[:steps]) for n, seed, r, _ in runs if n == name} for name in names}
    for name in names:
        own = [(rewards[:steps], seconds) for n, _, rewards, seconds in runs if n == name]
        credits.append(
            {
                "credit": name,
                "runs": len(own),
                "area": _mean([_mean(rewards) for rewards, _ in own]),
                "last": _mean([_mean(rewards[-max(1, steps // 10) :]) for rewards, _ in own]),
                "reached": _mean([float(_reached(rewards, threshold)) for rewards, _ in own]),
                "seconds": _mean([seconds for _, seconds in own]),
            }
        )
        seeds = sorted(areas[name].keys() & areas[base].keys())
        if name != base and seeds:
            gain = paired_difference([areas[name][s] for s in seeds], [areas[base][s] for s in seeds])
            pairs.append(
                {"credit": name, "seeds": len(seeds), "gain": gain.effect, "low": gain.low, "high": gain.high}
            )
    smooth = max(1, steps // 40)
    curves = [
        {
            "step": step,
            "value": _mean([_mean(r[max(0, step - smooth) : step]) for n, _, r, _ in runs if n == name]),
            "name": name,
        }
        for name in names
        for step in range(1, steps + 1)
    ]
    fields = {field for config in configs for field in config} - NOT_COMPARED
    results: dict[str, Any] = json_values(
        {
            "runs": len(runs),
            "steps": steps,
            "cut": sorted({len(rewards) for _, _, rewards, _ in runs} - {steps}),
            "baseline": base,
            "threshold": threshold,
            "credits": credits,
            "pairs": pairs,
            "curves": curves,
            "differences": sorted(f for f in fields if len({json.dumps(c.get(f)) for c in configs}) > 1),
        }
    )
    return results


def _credit_of(config: dict[str, Any]) -> str:
    settings = config.get("credit_settings") or {}
    return " ".join([str(config["credit"]), *(f"{key}={value}" for key, value in settings.items())])


def _reached(rewards: Sequence[float], threshold: float) -> int:
    """The first step from which a mean of ten is at the threshold; all of them where it never is."""
    for step in range(len(rewards)):
        if _mean(rewards[max(0, step - 9) : step + 1]) >= threshold:
            return step + 1
    return len(rewards)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
