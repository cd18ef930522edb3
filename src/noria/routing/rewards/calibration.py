"""Reward calibration: from rewards by component to one advantage a rollout, comparable across prompts and data sets.

    1a  eligibility   e[k]: which rewards count (`noria.routing.rewards.components`)
    1b  component     A[k] = (r[k] − μ[k]) / (σ[k] + ε) over the eligible rows of a group, else 0
    2a  variance      w = low + (high − low) · sigmoid(κ (σ − σ̄_d)), on the answer's advantage or on all
    sum               A = Σ_k λ[k] w A[k]
    2b  data set      Â = A / (s_d + ε), log s_d = (N_d log √(S_d/N_d) + N₀ log s) / (N_d + N₀)

σ is the deviation of the answer's reward within a group, before anything is divided by it, and σ̄_d its running mean
over data set d. S_d and N_d are the running sum of squares and the count of the rows of d that have a signal; s is the
root mean square of this batch, of which N₀ rows' worth steadies a data set that is rarely seen. They are mixed as
logarithms: as squares, the loudest data set would drown the others. Group-centred advantages have mean zero, so only
their scale is touched.

Provenance. That there are these two stages is stated by ReCal (arXiv 2606.12479); its equations could not be read. 1b
is step 1 of GDPO (arXiv 2601.05242), 2a is HERO's published form with its defaults (arXiv 2510.07242), 1a, 2b and the
order are reconstructed. Dividing by a group's σ inflates near-trivial groups (one success of eight scores +2.47, four
of eight ±0.94), and 2a is what undoes that. GRPO, Dr.GRPO, GDPO and DAPO are points of the same space: `PRESETS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noria.core.errors import CheckpointError
from noria.core.records import json_values
from noria.core.training.rl import group_moments, group_numbers
from noria.routing.rewards.components import eligible
from noria.routing.rewards.config import CalibrationConfig

__all__ = ["CalibrationResult", "CalibrationState", "calibrate"]


TINY = 1e-30
Sums: TypeAlias = tuple[Tensor, Tensor, Tensor]


COLUMNS = ("sigma", "squares", "count", "rows")
"""Columns of a state."""


@dataclass
class CalibrationState:
    """Memory of each data set, by its number; data sets that were never seen come at the end.

    Attributes:
        sigma: running mean of σ, NaN where none was seen: [data sets].
        squares, count: running sum of squared advantages, and of rows.
        rows: running count of all rows, with a signal or not.
    """

    sigma: Tensor
    squares: Tensor
    count: Tensor
    rows: Tensor

    @classmethod
    def empty(cls) -> CalibrationState:
        """The memory of no data sets."""
        return cls(*(torch.zeros(0, dtype=torch.float64) for _ in COLUMNS))

    def grown(self, size: int) -> CalibrationState:
        """The same memory, for at least so many data sets."""
        more = max(0, size - len(self.sigma))
        pads = dict.fromkeys(COLUMNS, 0.0) | {"sigma": torch.nan}
        new = {name: torch.full((more,), pad, dtype=torch.float64) for name, pad in pads.items()}
        return CalibrationState(**{name: torch.cat([getattr(self, name), new[name]]) for name in COLUMNS})

    def state_dict(self) -> dict[str, list[float | None]]:
        """JSON values; NaN is null."""
        return {name: json_values(getattr(self, name)) for name in COLUMNS}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> CalibrationState:
        """Restore what `state_dict` gave.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            columns = [
                torch.tensor([torch.nan if v is None else float(v) for v in state[name]], dtype=torch.float64)
                for name in COLUMNS
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("no state of a calibration", where="calibration") from error
        if len({len(column) for column in columns}) != 1:
            raise CheckpointError("columns of different lengths", where="calibration")
        return cls(*columns)


@dataclass(frozen=True)
class CalibrationResult:
    """Advantages of a batch, and what they are made of.

    Attributes:
        advantages: [rows], single precision.
        parts: [rows, components]: what each component adds to them.
        eligible: [rows, components]: which rewards counted.
        alive: [rows]: whether any component gave the row a signal.
        weight: [rows]: w of the row's group.
        scale: [data sets]: s_d; 1 where nothing is scaled.
        state: memory for the next batch.
    """

    advantages: Tensor
    parts: Tensor
    eligible: Tensor
    alive: Tensor
    weight: Tensor
    scale: Tensor
    state: CalibrationState


@dataclass(frozen=True)
class _Batch:
    """Rewards as the stages read them: `table` is 0 where `mask` is not set; `index` numbers the row's group."""

    table: Tensor
    mask: Tensor
    given: Tensor
    index: Tensor
    groups: int
    dataset: Tensor
    names: Sequence[str]
    config: CalibrationConfig


def calibrate(
    rewards: Tensor,
    group: Tensor,
    dataset: Tensor,
    *,
    names: Sequence[str],
    config: CalibrationConfig,
    state: CalibrationState | None = None,
    update: bool = True,
    lengths: Tensor | None = None,
) -> CalibrationResult:
    """Turn rewards of rollouts into advantages.

    Args:
        rewards: [rows, components] of any real type; NaN and the infinities were not given.
        group: [rows]: number of the prompt. Rows are compared within a group of one data set.
        dataset: [rows]: number of the data set, from 0; at or beyond the end of the state's for a new one.
        names: names of the columns.
        config: settings of the calibration.
        state: memory of the batches before.
        update: whether to remember this batch; not in an evaluation.
        lengths: [rows] tokens, for `whiten: tokens`.

    Raises:
        ConfigError: the columns and the components do not go together.
        ValueError: the shapes do not.
    """
    rows = {len(rewards), len(group), len(dataset)}
    if rewards.ndim != 2 or rewards.shape[1] != len(names) or len(rows) > 1:
        raise ValueError(f"rewards {list(rewards.shape)} of {len(names)} components, {len(group)} rows")
    state = state or CalibrationState.empty()
    before = state.grown(int(dataset.max()) + 1 if len(dataset) else 0)
    mask, given = eligible(rewards, names, config.components), rewards.isfinite()
    index, groups = _groups(group, dataset, len(before.sigma))
    precision = torch.float32 if rewards.device.type == "mps" else torch.float64
    table = torch.where(mask, rewards, 0.0).to(precision)
    batch = _Batch(table, mask, given, index, groups, dataset, names, config)

    parts, alive = _components(batch)
    weight, sigma = _variance(batch, before)
    if config.variance.kind != "none":
        if config.variance.on == "all" or config.combine == "sum_then_normalize":
            parts = parts * weight[:, None]
        else:
            column = names.index(config.variance.target)
            parts[:, column] = parts[:, column] * weight
    parts = _whitened(parts, given.any(1), lengths, config)
    parts, scale, sums = _scaled(parts, alive, batch, before)
    return CalibrationResult(
        advantages=parts.sum(1).float(),
        parts=parts.float(),
        eligible=mask,
        alive=alive,
        weight=weight.float(),
        scale=scale,
        state=_remembered(before, sigma, sums, config) if update else before,
    )


def _groups(group: Tensor, dataset: Tensor, sets: int) -> tuple[Tensor, int]:
    """Groups of one data set each: [rows] from 0, and how many."""
    if sets <= 1 or not len(group):
        return group_numbers(group)
    if int(group.abs().max()) < 2**62 // sets:
        return group_numbers(group * sets + dataset)
    return group_numbers(group_numbers(group)[0] * sets + dataset)


# -- the stages -------------------------------------------------------------------------------------------------------


def _components(batch: _Batch) -> tuple[Tensor, Tensor]:
    """λ A of each component [rows, components], and which rows are of a group with a signal [rows]."""
    table, index, groups, config = batch.table, batch.index, batch.groups, batch.config
    weights = table.new_tensor([config.components[name].weight for name in batch.names])
    if config.combine == "normalize_then_sum":
        counted = batch.given if config.gate == "zero" else batch.mask
        moments = group_moments(table, index, groups, counted)
        gap = (table - moments.mean[index]) * weights
        factor, signal = _factor(table, moments.std, counted, index, config)
        signal &= weights != 0  # what earns nothing keeps no group alive
    else:
        # Of a sum, what was not given adds nothing, and a row of which nothing was given is no row. The sum's advantage
        # is the components' distances from their means, over the deviation of the sum.
        counted = batch.given.any(1, keepdim=True)
        values = table * weights
        gap = values - group_moments(values, index, groups, counted.expand_as(values)).mean[index]
        total = values.sum(1, keepdim=True)
        spread = group_moments(total, index, groups, counted).std
        factor, signal = _factor(total, spread, counted, index, config)
    return torch.where(signal, gap * factor, 0.0), signal.any(1)


def _factor(
    values: Tensor, std: Tensor, counted: Tensor, index: Tensor, config: CalibrationConfig
) -> tuple[Tensor, Tensor]:
    """What a centred reward is multiplied by, and where there is a signal: [rows, columns] both."""
    signal = counted & (std > config.flat)[index]
    if config.scale == "none":
        return torch.ones_like(values), signal
    if config.scale == "batch":
        std = group_moments(values, torch.zeros_like(index), 1, counted).std
        return (1 / (std + config.epsilon)).expand_as(values), signal
    return 1 / (std[index] + config.epsilon), signal


def _variance(batch: _Batch, before: CalibrationState) -> tuple[Tensor, Tensor]:
    """W of each row, and the mean σ of each data set in this batch (NaN where there is none)."""
    table, index, rule, sets = batch.table, batch.index, batch.config.variance, len(before.sigma)
    if rule.kind == "none" or not len(table):
        return table.new_ones(len(table)), torch.full((sets,), torch.nan, dtype=torch.float64)
    column = [batch.names.index(rule.target)]
    moments = group_moments(table[:, column], index, batch.groups, batch.mask[:, column])
    sigma, count = moments.std[:, 0], moments.count[:, 0]
    known = count > 1
    of = index.new_zeros(batch.groups).index_copy_(0, index, batch.dataset)
    zeros = table.new_zeros(sets)
    total = zeros.index_add(0, of, torch.where(known, sigma, 0.0))
    number = zeros.index_add(0, of, known.to(table))
    seen = torch.where(number > 0, total / number.clamp(min=1), torch.nan)
    running = before.sigma.to(table)
    level = torch.where(running.isnan(), seen, running)
    if rule.kind == "sigmoid":
        gap = sigma - torch.nan_to_num(level, nan=0.0)[of]
        gap = gap if rule.direction == "up" else -gap
        w = rule.low + (rule.high - rule.low) * torch.sigmoid(rule.kappa * gap)
    else:
        # σ_max of a reward in [0, 1] with n samples is ½ √(n/(n − 1)).
        largest = 0.5 * (count / (count - 1).clamp(min=1)).sqrt()
        share = (sigma / largest.clamp(min=1e-12)).clamp(0, 1)
        w = (share if rule.direction == "up" else 1 - share) ** rule.power
    w = torch.where(known, w, 1.0)
    return w[index], seen.cpu().double()


def _whitened(parts: Tensor, given: Tensor, lengths: Tensor | None, config: CalibrationConfig) -> Tensor:
    """(A − mean) / (std + ε) over the rows that were scored, the mean taken from the components in equal shares."""
    if config.whiten == "none" or len(parts) < 2:
        return parts
    counts = given.to(parts)
    if config.whiten == "tokens":
        if lengths is None:
            raise ValueError("whiten: tokens needs the lengths of the rows")
        counts = counts * lengths.to(parts)
    total, number = parts.sum(1), counts.sum()
    mean = (total * counts).sum() / number.clamp(min=1)
    variance = (((total - mean) ** 2) * counts).sum() / (number - 1).clamp(min=1)
    white = (parts - mean / parts.shape[1]) / (variance.sqrt() + config.epsilon)
    return torch.where(given[:, None], white, 0.0)


def _scaled(
    parts: Tensor, alive: Tensor, batch: _Batch, before: CalibrationState
) -> tuple[Tensor, Tensor, Sums]:
    """Stage 2b: parts, s_d, and the sums of this batch that are remembered: squares, count, rows."""
    config, dataset, rule = batch.config, batch.dataset, batch.config.dataset
    zeros = parts.new_zeros(len(before.sigma))
    square = parts.sum(1) ** 2
    squares = zeros.index_add(0, dataset, torch.where(alive, square, 0.0))
    count = zeros.index_add(0, dataset, alive.to(parts))
    rows = zeros.index_add(0, dataset, torch.ones_like(square))
    scale = torch.ones_like(zeros)
    if rule.kind == "rms" and len(parts):
        s = squares + rule.memory * before.squares.to(parts)
        n = count + rule.memory * before.count.to(parts)
        level = (squares.sum() / count.sum().clamp(min=1)).clamp(min=TINY).log()
        own = (s / n.clamp(min=TINY)).clamp(min=TINY).log()
        mixed = (n * own + rule.prior * level) / (n + rule.prior).clamp(min=TINY)
        scale = torch.where(n > 0, (mixed / 2).exp(), 1.0)
        parts = parts / (scale[dataset] + config.epsilon)[:, None]
    if rule.weight != "proportional" and len(parts):
        often = rows + rule.memory * before.rows.to(parts)
        seen = rows > 0
        w = torch.where(seen, often.clamp(min=1e-12) ** (-1.0 if rule.weight == "uniform" else -0.5), 0.0)
        w = w * len(parts) / (w * rows).sum()  # the mean weight of a row is 1
        parts = parts * w[dataset][:, None]
    sums = (squares.cpu().double(), count.cpu().double(), rows.cpu().double())
    return parts, scale.float(), sums


def _remembered(
    before: CalibrationState, sigma: Tensor, sums: Sums, config: CalibrationConfig
) -> CalibrationState:
    beta, memory = config.variance.momentum, config.dataset.memory
    mixed = torch.where(before.sigma.isnan(), sigma, (1 - beta) * before.sigma + beta * sigma)
    squares, count, rows = sums
    return CalibrationState(
        torch.where(sigma.isnan(), before.sigma, mixed),
        memory * before.squares + squares,
        memory * before.count + count,
        memory * before.rows + rows,
    )
